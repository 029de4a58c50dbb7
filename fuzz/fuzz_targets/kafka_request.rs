//! Whatever a stranger sends, reading it does not panic.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    highwater_kafka::can_be_read(Bytes::copy_from_slice(frame));
});
