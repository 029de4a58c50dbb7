//! Records as property tests make them up.

use bytes::Bytes;
use highwater_record::{BatchBuilder, Compression, Header, Record};
use highwater_types::{Offset, TimestampMs};
use proptest::prelude::*;

fn blob() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from),
        (any::<u8>(), 0usize..5000).prop_map(|(byte, n)| Bytes::from(vec![byte; n])),
    ]
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    let header = (blob(), proptest::option::of(blob())).prop_map(|(name, value)| Header { name, value });
    proptest::collection::vec(header, 0..4)
}

/// Records from offset 0 on, with timestamps that a producer may state.
pub fn records() -> impl Strategy<Value = Vec<Record>> {
    let one = (0i64..1 << 50, proptest::option::of(blob()), proptest::option::of(blob()), headers());
    proptest::collection::vec(one, 1..40).prop_map(|many| {
        let number = |(offset, (timestamp, key, value, headers))| Record {
            offset: Offset::new(offset),
            timestamp: TimestampMs::new(timestamp),
            key,
            value,
            headers,
        };
        (0i64..).zip(many).map(number).collect()
    })
}

pub fn compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(Compression::ALL.to_vec())
}

pub fn builder(compression: Compression, records: &[Record]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(compression, None);
    for record in records {
        let headers = record.headers.iter().map(|h| (&h.name[..], h.value.as_deref()));
        builder.append_with(record.timestamp, record.key.as_deref(), record.value.as_deref(), headers).unwrap();
    }
    builder
}

pub fn build(compression: Compression, records: &[Record]) -> Bytes {
    builder(compression, records).build().unwrap()
}
