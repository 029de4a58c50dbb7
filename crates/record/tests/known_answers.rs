//! Known answers: batches that were put together by hand (Python's struct, and the C libraries of the codecs), not by
//! this crate.

#![allow(clippy::unwrap_used, reason = "a test or bench fails by panicking")]

use bytes::Bytes;
use highwater_record::*;
use highwater_types::{ErrorCode, LeaderEpoch, Offset, TimestampMs, TimestampType};

// Four records; base timestamp 1700000000000:
//   +0    key "key", value "value"
//   -5    no key, empty value, headers h=1, h=null, ""=""
//   +1000 empty key, no value
//   +7    key "k", value "0123456789" six times
const NONE: &str = "\
    00000000000000000000009dffffffff02794eea2f0000000000030000018bcfe568000000018bcfe56be8ffffffffffffffffffffffff\
    ffff000000041c000000066b65790a76616c7565001e0009020100060268023102680100000e00d00f040001008601000e06026b783031\
    32333435363738393031323334353637383930313233343536373839303132333435363738393031323334353637383930313233343536\
    37383900";
const GZIP: &str = "\
    000000000000000000000081ffffffff02535bce220001000000030000018bcfe568000000018bcfe56be8ffffffffffffffffffffffff\
    ffff000000041f8b08000000000002039361606060cb4eade42a4bcc294d659063e06462646063ca603264ca606460e063b8c0cfc2c0c8\
    d0c6c8c0c7c6945d616068646c626a666e61493a8b01002f74c17a6c000000";
const SNAPPY_XERIAL: &str = "\
    000000000000000000000085ffffffff027810bc610002000000030000018bcfe568000000018bcfe56be8ffffffffffffffffffffffff\
    ffff0000000482534e41505059000000000100000001000000406ce01c000000066b65790a76616c7565001e0009020100060268023102\
    680100000e00d00f040001008601000e06026b7830313233343536373839c60a000000";
const SNAPPY_RAW: &str = "\
    000000000000000000000071ffffffff0215a8823c0002000000030000018bcfe568000000018bcfe56be8ffffffffffffffffffffffff\
    ffff000000046ce01c000000066b65790a76616c7565001e0009020100060268023102680100000e00d00f040001008601000e06026b78\
    30313233343536373839c60a000000";
const LZ4: &str = "\
    00000000000000000000008cffffffff026551cfd70003000000030000018bcfe568000000018bcfe56be8ffffffffffffffffffffffff\
    ffff0000000404224d185440ae44000000ff2a1c000000066b65790a76616c7565001e0009020100060268023102680100000e00d00f04\
    0001008601000e06026b78303132333435363738390a001b5036373839009fb2a69a000000004a5a9e33";
const ZSTD: &str = "\
    00000000000000000000007cffffffff0270e8ee8b0004000000030000018bcfe568000000018bcfe56be8ffffffffffffffffffffffff\
    ffff0000000428b52ffd206c150200a4031c000000066b65790a76616c7565001e0009020100060268023102680100000e00d00f040001\
    008601000e06026b783031323334353637383900010079a30205";

fn bytes(hex: &str) -> Bytes {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn header(name: &'static str, value: Option<&'static str>) -> Header {
    Header { name: name.into(), value: value.map(Bytes::from) }
}

fn expected() -> Vec<Record> {
    let record = |offset, delta: i64, key: Option<&'static str>, value: Option<String>, headers| Record {
        offset: Offset::new(offset),
        timestamp: TimestampMs::new(1_700_000_000_000 + delta),
        key: key.map(Bytes::from),
        value: value.map(Bytes::from),
        headers,
    };
    vec![
        record(0, 0, Some("key"), Some("value".into()), vec![]),
        record(1, -5, None, Some("".into()), vec![header("h", Some("1")), header("h", None), header("", Some(""))]),
        record(2, 1000, Some(""), None, vec![]),
        record(3, 7, Some("k"), Some("0123456789".repeat(6)), vec![]),
    ]
}

fn all() -> [(Compression, Bytes); 6] {
    [
        (Compression::None, bytes(NONE)),
        (Compression::Gzip, bytes(GZIP)),
        (Compression::Snappy, bytes(SNAPPY_XERIAL)),
        (Compression::Snappy, bytes(SNAPPY_RAW)),
        (Compression::Lz4, bytes(LZ4)),
        (Compression::Zstd, bytes(ZSTD)),
    ]
}

#[test]
fn known_batches_of_every_codec_are_read() {
    for (codec, bytes) in all() {
        let batches = validate_produce(bytes.clone(), &ProduceLimits::default()).unwrap();
        assert_eq!(batches.len(), 1);
        let header = batches[0].header();
        assert_eq!(header.attributes.compression(), codec);
        assert_eq!(header.attributes.timestamp_type(), TimestampType::CreateTime);
        assert_eq!(header.leader_epoch, LeaderEpoch::NONE);
        assert_eq!((header.record_count, header.last_offset_delta), (4, 3));
        assert_eq!(header.next_offset(), Offset::new(4));
        assert_eq!(header.total_len(), bytes.len());
        assert_eq!(header.base_timestamp, TimestampMs::new(1_700_000_000_000));
        assert_eq!(header.max_timestamp, TimestampMs::new(1_700_000_001_000));
        assert_eq!(batches[0].bytes(), &bytes);
        let records: Vec<Record> = batches[0].records(10_000).unwrap().map(Result::unwrap).collect();
        assert_eq!(records, expected(), "{codec}");
    }
}

#[test]
fn the_builder_gives_the_known_bytes() {
    let mut builder = BatchBuilder::new(Compression::None, None);
    for (index, record) in expected().iter().enumerate() {
        let headers = record.headers.iter().map(|h| (&h.name[..], h.value.as_deref()));
        let at = builder.append_with(record.timestamp, record.key.as_deref(), record.value.as_deref(), headers);
        assert_eq!(at, Ok(index as u32));
    }
    assert_eq!(builder.len(), 4);
    let size = builder.estimated_bytes();
    let built = builder.build().unwrap();
    assert_eq!(built, bytes(NONE));
    assert_eq!(built.len(), size);
}

#[test]
fn uncompressed_records_are_slices_of_the_batch() {
    let bytes = bytes(NONE);
    let range = bytes.as_ptr_range();
    let batch = Batch::from_bytes(bytes.clone()).unwrap();
    for record in batch.records(0).unwrap() {
        if let Some(value) = record.unwrap().value.filter(|v| !v.is_empty()) {
            assert!(range.contains(&value.as_ptr()));
        }
    }
}

#[test]
fn stamping_leaves_the_crc_right_and_append_time_renews_it() {
    let mut raw = bytes(NONE).to_vec();
    stamp(&mut raw, Offset::new(1 << 40), LeaderEpoch::new(7));
    let batch = Batch::from_bytes(raw.clone().into()).unwrap();
    assert_eq!(batch.header().base_offset, Offset::new(1 << 40));
    assert_eq!(batch.header().leader_epoch, LeaderEpoch::new(7));
    let offsets: Vec<i64> = batch.records(0).unwrap().map(|r| r.unwrap().offset.get() - (1 << 40)).collect();
    assert_eq!(offsets, [0, 1, 2, 3]);

    let now = TimestampMs::new(1_800_000_000_000);
    set_append_time(&mut raw, now);
    let batch = Batch::from_bytes(raw.into()).unwrap();
    assert_eq!(batch.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(batch.header().max_timestamp, now);
    assert!(batch.records(0).unwrap().all(|r| r.unwrap().timestamp == now));
}

#[test]
fn every_flipped_bit_under_the_crc_is_told() {
    for (codec, good) in all() {
        for bit in 21 * 8..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = split(bad.into()).unwrap_err();
            assert!(matches!(error, BatchError::Crc { at: 0, .. }), "{codec} bit {bit}: {error}");
            assert_eq!(error.code(), ErrorCode::CorruptBatch);
        }
    }
}

#[test]
fn split_says_where_the_batch_at_fault_starts() {
    let one = bytes(NONE);
    let mut many = one.repeat(3);
    assert_eq!(split(many.clone().into()).unwrap().len(), 3);
    assert!(split(Bytes::new()).unwrap().is_empty());

    many.truncate(one.len() * 3 - 1);
    let cut = split(many.clone().into()).unwrap_err();
    assert_eq!(cut, BatchError::Truncated { at: one.len() * 2, needed: one.len(), found: one.len() - 1 });
    assert!(cut.to_string().contains(&format!("at byte {}", one.len() * 2)));
    for keep in [0, 5, 16, 17, 60, one.len() - 1] {
        let prefix = Bytes::copy_from_slice(&many[..one.len() * 2 + keep]);
        assert_eq!(split_prefix(prefix.clone()).unwrap().len(), 2, "{keep}");
        assert_eq!(split(prefix).is_ok(), keep == 0);
    }

    let last = one.len() * 2 - 1;
    many[last] ^= 1;
    for result in [split(many.clone().into()), split_prefix(many.clone().into())] {
        assert!(matches!(result, Err(BatchError::Crc { at, .. }) if at == one.len()));
    }
    many[one.len() + 16] = 1;
    assert_eq!(split(many.into()).unwrap_err(), BatchError::Magic { at: one.len(), found: 1 });
}

#[test]
fn a_batch_followed_by_anything_is_not_one_batch() {
    let mut two = bytes(NONE).to_vec();
    two.push(0);
    assert_eq!(Batch::from_bytes(two.clone().into()).unwrap_err(), BatchError::Trailing { at: 0, extra: 1 });
    assert!(Batch::from_bytes_unchecked_crc(bytes(NONE)).is_ok());
    assert!(Batch::from_bytes_unchecked_crc(two.into()).is_err());
}
