//! Any bytes at all: no decoder panics, none takes more memory than its bounds say (T47). The same ground as the fuzz
//! targets in /fuzz, on every test run.

#![allow(clippy::unwrap_used, reason = "a test or bench fails by panicking")]

mod common;

use bytes::Bytes;
use common::{build, compression, records};
use highwater_allocations::{Counting, peak_of};
use highwater_record::*;
use proptest::prelude::*;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 64 << 10,
    record_bytes_max: 32 << 10,
    decompressed_bytes_max: 128 << 10,
    keys_required: false,
};

/// Every decoder, on the same bytes. What comes out is walked through to its end.
fn decode_all(bytes: &Bytes) {
    let _ = BatchHeader::parse(bytes);
    let _ = validate_produce(bytes.clone(), &LIMITS);
    for batches in [split(bytes.clone()), split_prefix(bytes.clone())].into_iter().flatten() {
        batches.iter().for_each(walk);
    }
    if let Ok(batch) = Batch::from_bytes_unchecked_crc(bytes.clone()) {
        walk(&batch);
    }
}

fn walk(batch: &Batch) {
    let Ok(records) = batch.records(LIMITS.decompressed_bytes_max) else { return };
    for record in records.flatten() {
        assert!(record.offset >= batch.header().base_offset && record.offset <= batch.header().last_offset());
        let _ = EndTransactionMarker::parse(&record);
    }
}

/// Decompressed bytes (twice while a buffer grows), what a batch header in a list costs, the codecs' own tables, and
/// the headers of one record: 64 bytes each, for at least two bytes of input.
fn bound(input: usize) -> usize {
    4 * LIMITS.decompressed_bytes_max + 40 * input + (256 << 10)
}

fn with_right_crcs(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut start = 0;
    while bytes.len() >= start + HEADER_LEN {
        let length = i32::from_be_bytes([bytes[start + 8], bytes[start + 9], bytes[start + 10], bytes[start + 11]]);
        let Some(end) = usize::try_from(length).ok().and_then(|l| (start + LENGTH_PREFIX).checked_add(l)) else {
            break;
        };
        if end > bytes.len() || end < start + HEADER_LEN {
            break;
        }
        let crc = crc32c::crc32c(&bytes[start + 21..end]);
        bytes[start + 17..start + 21].copy_from_slice(&crc.to_be_bytes());
        start = end;
    }
    bytes
}

#[track_caller]
fn check(bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    let peak = peak_of(|| decode_all(&bytes));
    assert!(peak <= bound(bytes.len()), "{} bytes of input took {peak}", bytes.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn t47_random_bytes_harm_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(bytes);
    }

    #[test]
    fn t47_random_records_behind_a_good_header_harm_nobody(
        codec in 0u8..8,
        count in prop_oneof![0i32..20, any::<i32>()],
        delta in prop_oneof![0i32..20, any::<i32>()],
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[16] = 2;
        bytes[22] = codec;
        bytes[23..27].copy_from_slice(&delta.to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(&body);
        let length = (bytes.len() - LENGTH_PREFIX) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        check(with_right_crcs(bytes));
    }

    #[test]
    fn t47_mutated_batches_harm_nobody(
        parts in proptest::collection::vec((compression(), records()), 1..3),
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        recount: bool,
    ) {
        let mut bytes: Vec<u8> = parts.iter().flat_map(|(codec, records)| build(*codec, records)).collect();
        for (position, byte) in hits {
            let position = position.index(bytes.len());
            bytes[position] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        check(if recount { with_right_crcs(bytes) } else { bytes });
    }
}

#[test]
fn t47_bombs_take_no_more_than_the_limit() {
    for codec in Compression::ALL {
        let mut builder = BatchBuilder::new(codec, None);
        builder.append(highwater_types::TimestampMs::new(0), None, Some(&vec![0; 32 << 20]), &[]).unwrap();
        let bytes = builder.build().unwrap();
        let peak = peak_of(|| {
            let _ = Batch::from_bytes(bytes.clone()).unwrap().records(LIMITS.decompressed_bytes_max);
            let wide = ProduceLimits { batch_bytes_max: 64 << 20, ..LIMITS };
            assert!(validate_produce(bytes.clone(), &wide).is_err());
        });
        assert!(peak <= 1 << 20, "{codec} took {peak}");
    }
}
