//! What a producer may not send: each its own error, and nothing accepted.

#![allow(clippy::unwrap_used, reason = "a test or bench fails by panicking")]

use bytes::Bytes;
use highwater_record::*;
use highwater_types::{
    ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType,
};

const LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 100_000,
    record_bytes_max: 50_000,
    decompressed_bytes_max: 200_000,
    keys_required: false,
};

fn batch(compression: Compression, values: &[&[u8]]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, None);
    for (index, value) in values.iter().enumerate() {
        builder.append(TimestampMs::new(1000 + index as i64), Some(b"k"), Some(value), &[("h", Some(b"v"))]).unwrap();
    }
    builder.build().unwrap().to_vec()
}

/// Puts `value` at `position` and makes the CRC right again.
fn patched(mut batch: Vec<u8>, position: usize, value: &[u8]) -> Vec<u8> {
    batch[position..position + value.len()].copy_from_slice(value);
    with_crc(batch)
}

fn with_crc(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A batch with `body` for records, however wrong.
fn with_body(body: &[u8], count: i32) -> Vec<u8> {
    let mut bytes = batch(Compression::None, &[b""]);
    bytes.truncate(HEADER_LEN);
    bytes.extend_from_slice(body);
    let length = bytes.len() as i32 - LENGTH_PREFIX as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    with_crc(bytes)
}

#[track_caller]
fn refused(bytes: Vec<u8>, code: ErrorCode, says: &str) -> BatchError {
    let error = validate_produce(bytes.into(), &LIMITS).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(says), "{error}");
    error
}

#[test]
fn empty_and_cut_input_is_refused() {
    refused(vec![], ErrorCode::InvalidRequest, "no record batch");
    let good = batch(Compression::None, &[b"one", b"two"]);
    for cut in 1..good.len() {
        refused(good[..cut].to_vec(), ErrorCode::CorruptBatch, "cut");
    }
}

#[test]
fn header_faults_are_told_apart() {
    let good = || batch(Compression::None, &[b"one", b"two"]);
    refused(patched(good(), 16, &[1]), ErrorCode::CorruptBatch, "magic 1");
    refused(patched(good(), 8, &48i32.to_be_bytes()), ErrorCode::CorruptBatch, "length of 48");
    refused(patched(good(), 8, &(-1i32).to_be_bytes()), ErrorCode::CorruptBatch, "length of -1");
    refused(patched(good(), 21, &5i16.to_be_bytes()), ErrorCode::UnsupportedCompression, "codec 5");
    refused(patched(good(), 0, &(-1i64).to_be_bytes()), ErrorCode::CorruptBatch, "base offset -1");
    refused(patched(good(), 0, &i64::MAX.to_be_bytes()), ErrorCode::CorruptBatch, "overflow");
    refused(patched(good(), 23, &(-1i32).to_be_bytes()), ErrorCode::CorruptBatch, "last offset delta -1");
    refused(patched(good(), 57, &3i32.to_be_bytes()), ErrorCode::CorruptBatch, "record count 3");
    refused(patched(good(), 57, &(-1i32).to_be_bytes()), ErrorCode::CorruptBatch, "record count -1");
    refused(patched(good(), 57, &1i32.to_be_bytes()), ErrorCode::CorruptBatch, "states 2 records, 1 are in it");
    let mut flipped = good();
    *flipped.last_mut().unwrap() ^= 0x10;
    refused(flipped, ErrorCode::CorruptBatch, "CRC-32C");
}

#[test]
fn what_only_the_broker_may_write_is_refused() {
    let good = || batch(Compression::None, &[b"one"]);
    let bits = |bits: i16| patched(good(), 21, &bits.to_be_bytes());
    refused(bits(1 << 5), ErrorCode::InvalidRecord, "control");
    refused(bits(1 << 3), ErrorCode::InvalidRecord, "append time");
    refused(bits(1 << 6), ErrorCode::InvalidRecord, "not in use");
    refused(bits(i16::MIN), ErrorCode::InvalidRecord, "not in use");
    refused(bits(1 << 4), ErrorCode::InvalidRecord, "no producer id");
    let marker = EndTransactionMarker { result: TransactionResult::Commit, coordinator_epoch: 0 };
    let marker = control_batch(marker, ProducerId::new(1), ProducerEpoch::FIRST, TimestampMs::new(0)).unwrap();
    refused(marker.to_vec(), ErrorCode::InvalidRecord, "control");
}

#[test]
fn a_producer_id_needs_an_epoch_and_a_sequence() {
    let with = |id, epoch, sequence| {
        let mut builder = BatchBuilder::new(Compression::None, None);
        builder.set_producer(ProducerId::new(id), ProducerEpoch::new(epoch), Sequence::new(sequence));
        builder.append(TimestampMs::new(0), None, None, &[]).unwrap();
        builder.build().unwrap().to_vec()
    };
    assert!(validate_produce(with(1, 0, 0).into(), &LIMITS).is_ok());
    refused(with(1, -1, 0), ErrorCode::InvalidRecord, "epoch or sequence");
    refused(with(1, 0, -1), ErrorCode::InvalidRecord, "epoch or sequence");
    refused(with(-2, 0, 0), ErrorCode::InvalidRecord, "negative");
}

#[test]
fn sizes_are_bounded_one_by_one() {
    let value = vec![b'x'; 49_900];
    for codec in Compression::ALL {
        assert!(validate_produce(batch(codec, &[&value]).into(), &LIMITS).is_ok());
        let error = refused(batch(codec, &[b"", &[b'x'; 50_000]]), ErrorCode::RecordTooLarge, "record 1");
        assert!(matches!(error, BatchError::RecordTooLarge { limit: 50_000, .. }));
    }
    let error = refused(batch(Compression::None, &[&value, &value, &value]), ErrorCode::BatchTooLarge, "100000");
    assert!(matches!(error, BatchError::BatchTooLarge { size, .. } if size > 149_000));
    // Told from the header alone, before the bytes are there.
    refused(batch(Compression::None, &[&value, &value, &value])[..70].to_vec(), ErrorCode::BatchTooLarge, "100000");
}

#[test]
fn t47_decompressed_bytes_are_bounded_over_all_batches_of_a_call() {
    let value = vec![0; 40_000];
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let one = batch(codec, &[&value]);
        assert!(validate_produce(one.repeat(4).into(), &LIMITS).is_ok());
        let error = refused(one.repeat(5), ErrorCode::BatchTooLarge, "more than the 200000 bytes");
        assert_eq!(error, BatchError::DecompressedTooLarge { at: one.len() * 4, limit: 200_000 });
        let many: Vec<&[u8]> = vec![&value; 6];
        refused(batch(codec, &many), ErrorCode::BatchTooLarge, "decompresses to more");
    }
}

#[test]
fn t47_what_unpacks_to_much_is_checked_as_well_by_many_threads_at_a_time() {
    let large = ProduceLimits {
        batch_bytes_max: 1 << 20,
        record_bytes_max: 48 << 20,
        decompressed_bytes_max: 100 << 20,
        keys_required: false,
    };
    let (much, little) = (vec![0; 40 << 20], vec![1; 10]);
    let batches =
        [batch(Compression::Zstd, &[&much]), batch(Compression::Lz4, &[&little]), batch(Compression::Gzip, &[&much])];
    let check = |times: usize| validate_produce(batches.concat().repeat(times).into(), &large);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                assert_eq!(check(1).unwrap().len(), 3);
                assert!(check(2).unwrap_err().to_string().contains("104857600"), "80 MiB fit, 160 do not");
            });
        }
    });
}

#[test]
fn records_are_checked_to_the_last_byte() {
    let corrupt = |body: &[u8], count, says| refused(with_body(body, count), ErrorCode::CorruptBatch, says);
    // A whole record: length 6, attributes, timestamp 0, offset 0, null key, null value, no headers.
    let good = [12, 0, 0, 0, 1, 1, 0];
    assert!(validate_produce(with_body(&good, 1).into(), &LIMITS).is_ok());
    corrupt(&[good, good].concat(), 1, "7 bytes after its last record");
    corrupt(&[good, good].concat(), 2, "offset delta is 0, not 1");
    corrupt(&[12, 0, 0, 2, 1, 1, 0], 1, "offset delta is 1, not 0");
    corrupt(&[14, 0, 0, 0, 1, 1, 0], 1, "end in the middle");
    corrupt(&[1, 0, 0, 0, 1, 1, 0], 1, "length -1");
    corrupt(&[10, 0, 0, 0, 1, 1, 0], 1, "end in the middle");
    corrupt(&[14, 0, 0, 0, 1, 1, 0, 0], 1, "1 bytes before");
    corrupt(&[12, 0, 0, 0, 3, 1, 0], 1, "the key has length -2");
    corrupt(&[12, 0, 0, 0, 1, 3, 0], 1, "the value has length -2");
    corrupt(&[12, 0, 0, 0, 1, 4, 0], 1, "end in the middle");
    corrupt(&[12, 0, 0, 0, 1, 1, 1], 1, "-1 headers");
    corrupt(&[12, 0, 0, 0, 1, 1, 2], 1, "1 headers");
    corrupt(&[16, 0, 0, 0, 1, 1, 2, 1, 1], 1, "name has length -1");
    corrupt(&[22, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0], 1, "2147483647 headers");
    corrupt(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0], 1, "variable-length");
    corrupt(&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0], 1, "end in the middle");
    corrupt(&[], 1, "record count 1");
    // In compression the count can't be told from the length.
    let two = batch(Compression::Zstd, &[b"one", b"two"]);
    let three = patched(patched(two, 23, &2i32.to_be_bytes()), 57, &3i32.to_be_bytes());
    refused(three, ErrorCode::CorruptBatch, "states 3 records, 2 are in it");
    let million = batch(Compression::Gzip, &[b"one"]);
    let million = patched(patched(million, 23, &999_999i32.to_be_bytes()), 57, &1_000_000i32.to_be_bytes());
    refused(million, ErrorCode::CorruptBatch, "states 1000000 records, 1 are in it");
}

#[test]
fn records_that_are_not_allowed_are_all_named_if_the_batch_is_sound_but_for_them() {
    let limits = ProduceLimits { keys_required: true, ..LIMITS };
    let made = |codec, without_key: &dyn Fn(u32) -> bool, count| {
        let mut builder = BatchBuilder::new(codec, None);
        for n in 0..count {
            let key = (!without_key(n)).then_some(&b"key"[..]);
            builder.append(TimestampMs::new(0), key, Some(b"value"), &[]).unwrap();
        }
        builder.build().unwrap()
    };
    for codec in Compression::ALL {
        assert_eq!(validate_produce(made(codec, &|_| false, 50), &limits).unwrap().len(), 1);
        let good = made(codec, &|_| false, 50);
        let bad = made(codec, &|n| n % 10 == 3, 50);
        let error = validate_produce([good.clone(), bad.clone()].concat().into(), &limits).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRecord);
        let BatchError::Refused { at, records } = &error else { panic!("{error:?}") };
        assert_eq!(*at, good.len());
        let expected: Vec<_> = [3, 13, 23, 33, 43].map(|index| (index, RecordProblem::NoKey)).into();
        assert_eq!((&records.named, records.more), (&expected, 0));
        assert!(error.to_string().contains("record 3: it has no key"), "{error}");
        assert!(error.to_string().ends_with("; and 4 more records that are not allowed"), "{error}");
        assert!(validate_produce(bad, &LIMITS).is_ok(), "where none is needed");
        // What is not sound is not a question of a record or another.
        let short = patched(made(Compression::None, &|n| n == 0, 2).to_vec(), 57, &3i32.to_be_bytes());
        let short = patched(short, 23, &2i32.to_be_bytes());
        let error = validate_produce(short.into(), &limits).unwrap_err();
        assert_eq!(error.code(), ErrorCode::CorruptBatch, "{error}");
    }
    // An answer is not larger than what it answers.
    let error = validate_produce(made(Compression::Zstd, &|_| true, 3_000), &limits).unwrap_err();
    let BatchError::Refused { records, .. } = &error else { panic!("{error:?}") };
    assert_eq!((records.named.len(), records.more), (1_000, 2_000));
    assert!(error.to_string().ends_with("; and 2999 more records that are not allowed"), "{error}");
}

#[test]
fn damage_inside_compression_is_told() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let mut bytes = batch(codec, &[&[7; 1000], &[8; 1000]]);
        let cut = bytes.len() - 5;
        bytes.truncate(cut);
        let length = (cut - LENGTH_PREFIX) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        refused(with_crc(bytes), ErrorCode::CorruptBatch, codec.name());
    }
}

#[test]
fn timestamps_out_of_range_are_refused_and_a_wrong_greatest_one_is_corrected() {
    let good = || batch(Compression::Lz4, &[b"one", b"two"]);
    refused(patched(good(), 27, &i64::MAX.to_be_bytes()), ErrorCode::InvalidRecord, "timestamp is out of range");
    refused(patched(good(), 27, &(-2i64).to_be_bytes()), ErrorCode::InvalidRecord, "timestamp is out of range");

    let unset = patched(good(), 35, &(-1i64).to_be_bytes());
    let corrected = validate_produce(unset.into(), &LIMITS).unwrap().remove(0);
    assert_eq!(corrected.header().max_timestamp, TimestampMs::new(1001));
    assert_eq!(corrected.bytes(), &Bytes::from(good()));
    assert_eq!(Batch::from_bytes(corrected.bytes().clone()).as_ref(), Ok(&corrected));
}

#[test]
fn one_bad_batch_refuses_all_and_its_place_is_told() {
    let good = batch(Compression::None, &[b"one"]);
    let mut bytes = good.repeat(3);
    bytes[good.len() * 2 - 1] ^= 1;
    let error = refused(bytes, ErrorCode::CorruptBatch, &format!("at byte {}", good.len()));
    assert!(matches!(error, BatchError::Crc { .. }));
    assert_eq!(validate_produce(good.repeat(3).into(), &LIMITS).unwrap().len(), 3);
}

#[test]
fn a_batch_emptied_by_compaction_is_read_but_not_taken_from_a_producer() {
    let mut bytes = patched(with_body(&[], 1), 57, &0i32.to_be_bytes());
    refused(bytes.clone(), ErrorCode::CorruptBatch, "states 1 records, 0 are in it");
    stamp(&mut bytes, Offset::new(5), LeaderEpoch::new(1));
    let batch = split(bytes.into()).unwrap().remove(0);
    assert_eq!(batch.header().next_offset(), Offset::new(6));
    assert_eq!(batch.records(0).unwrap().count(), 0);
}

#[test]
fn attributes_say_what_they_are() {
    let plain = Attributes::new(Compression::Zstd, TimestampType::LogAppendTime);
    assert_eq!(plain.bits(), 0b1100);
    assert_eq!(plain.transactional().control().bits(), 0b11_1100);
    assert_eq!(Attributes::from_bits(0b1100), Ok(plain));
    assert_eq!(Attributes::from_bits(7), Err(7));
    assert!(format!("{plain:?}").contains("Zstd"));
}
