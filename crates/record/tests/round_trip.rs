//! What a producer builds is what a consumer reads.

#![allow(clippy::unwrap_used, reason = "a test or bench fails by panicking")]

mod common;

use bytes::Bytes;
use common::{build, builder, compression, records};
use highwater_record::*;
use highwater_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use proptest::prelude::*;

const LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 8 << 20,
    record_bytes_max: 1 << 20,
    decompressed_bytes_max: 8 << 20,
    keys_required: false,
};

fn read(batch: &Batch) -> Vec<Record> {
    batch.records(LIMITS.decompressed_bytes_max).unwrap().map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn records_come_back_as_they_were(codec in compression(), records in records()) {
        let bytes = build(codec, &records);
        let batches = validate_produce(bytes.clone(), &LIMITS).unwrap();
        prop_assert_eq!(batches.len(), 1);
        // Sent as a producer should: nothing had to be corrected.
        prop_assert_eq!(batches[0].bytes(), &bytes);
        prop_assert_eq!(batches[0].header().record_count as usize, records.len());
        let newest = records.iter().map(|r| r.timestamp).max();
        prop_assert_eq!(Some(batches[0].header().max_timestamp), newest);
        prop_assert_eq!(read(&batches[0]), records);
    }

    #[test]
    fn batches_come_back_from_one_stream(
        parts in proptest::collection::vec((compression(), records()), 1..5),
        base in 0i64..1 << 60,
        epoch in 0i32..1000,
    ) {
        let mut stream = Vec::new();
        let mut next = base;
        for (codec, records) in &parts {
            let mut bytes = build(*codec, records).to_vec();
            stamp(&mut bytes, Offset::new(next), LeaderEpoch::new(epoch));
            stream.extend_from_slice(&bytes);
            next += records.len() as i64;
        }
        let batches = split(Bytes::from(stream)).unwrap();
        prop_assert_eq!(batches.len(), parts.len());
        let mut next = Offset::new(base);
        for (batch, (_, records)) in batches.iter().zip(&parts) {
            prop_assert_eq!(batch.header().base_offset, next);
            prop_assert_eq!(batch.header().leader_epoch, LeaderEpoch::new(epoch));
            for (found, sent) in read(batch).iter().zip(records) {
                prop_assert_eq!(found.offset, next.plus(sent.offset.get()));
                prop_assert_eq!(&found.value, &sent.value);
            }
            next = batch.header().next_offset();
        }
    }

    #[test]
    fn headers_round_trip(id in 0i64.., epoch in 0i16.., sequence in 0i32.., transactional: bool) {
        let mut builder = BatchBuilder::new(Compression::None, None);
        builder.set_producer(ProducerId::new(id), ProducerEpoch::new(epoch), Sequence::new(sequence));
        builder.set_transactional(transactional);
        builder.append(TimestampMs::new(1), None, None, &[]).unwrap();
        let batch = validate_produce(builder.build().unwrap(), &LIMITS).unwrap().remove(0);
        let header = batch.header();
        prop_assert_eq!(header.producer_id.get(), id);
        prop_assert_eq!(header.producer_epoch.get(), epoch);
        prop_assert_eq!(header.base_sequence.get(), sequence);
        prop_assert_eq!(header.attributes.is_transactional(), transactional);
        prop_assert!(!header.attributes.is_control());
    }

    #[test]
    fn sizes_are_told_beforehand(records in records()) {
        let mut expected = HEADER_LEN;
        let mut so_far = BatchBuilder::new(Compression::None, None);
        for record in &records {
            let names: Vec<String> = record.headers.iter().map(|h| h.name_str().into_owned()).collect();
            let headers: Vec<(&str, Option<&[u8]>)> =
                names.iter().zip(&record.headers).map(|(name, h)| (name.as_str(), h.value.as_deref())).collect();
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            expected += BatchBuilder::record_bytes_max(key, value, &headers);
            so_far.append(record.timestamp, key, value, &headers).unwrap();
            prop_assert!(so_far.estimated_bytes() <= expected);
        }
        let size = so_far.estimated_bytes();
        prop_assert_eq!(so_far.build().unwrap().len(), size);
        prop_assert_eq!(builder(Compression::None, &records).len(), records.len());
    }
}

#[test]
fn nothing_can_not_be_built_and_far_timestamps_are_refused() {
    let mut builder = BatchBuilder::new(Compression::None, None);
    assert!(builder.is_empty());
    assert!(matches!(builder.clone().build(), Err(BatchError::Builder { .. })));
    builder.append(TimestampMs::new(i64::MAX), None, None, &[]).unwrap();
    let before = builder.estimated_bytes();
    assert!(builder.append(TimestampMs::new(-2), None, None, &[]).is_err());
    assert_eq!((builder.len(), builder.estimated_bytes()), (1, before));
}
