//! The same as `kafka_request`, past the header: the first two bytes choose among the APIs and versions that there are.
#![no_main]

use bytes::{BufMut, Bytes, BytesMut};
use highwater_kafka::{SUPPORTED, can_be_read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [api, version, body @ ..] = data else { return };
    let api = SUPPORTED[usize::from(*api) % SUPPORTED.len()];
    let mut frame = BytesMut::new();
    frame.put_i16(api.key);
    frame.put_i16(api.first + i16::from(*version) % (api.last - api.first + 1));
    // The correlation id, and no client id.
    frame.put_i32(1);
    frame.put_i16(-1);
    frame.put_slice(body);
    can_be_read(Bytes::from(frame));
});
