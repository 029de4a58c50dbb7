//! Any bytes at all as a request: nothing panics, and none takes more memory than its bytes bear out (T47). The same ground
//! as the fuzz target `kafka_request`, on every test run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use highwater_allocations::{Counting, peak_of};
use highwater_kafka::{SUPPORTED, can_be_read};
use proptest::prelude::*;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn peak_of_reading(frame: Vec<u8>) -> usize {
    let frame = Bytes::from(frame);
    peak_of(|| _ = can_be_read(frame))
}

/// What an element takes once decoded, for at least one byte; and messages of errors.
fn bound(input: usize) -> usize {
    256 * input + (64 << 10)
}

fn head(api_key: i16, version: i16) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(api_key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    // The correlation id, no client id, and no tagged fields where the header has them.
    frame.extend([0, 0, 0, 1, 0xff, 0xff]);
    frame
}

/// An API that there is, in a version that there is.
fn known_api() -> impl Strategy<Value = (i16, i16)> {
    proptest::sample::select(SUPPORTED).prop_flat_map(|api| (Just(api.key), api.first..=api.last))
}

/// Bytes that often are lengths, counts, nulls and tags.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(0), 2 => 1..4u8, 1 => Just(0xff), 1 => Just(0x7f), 1 => any::<u8>()];
    proptest::collection::vec(byte, 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn trap_47_no_request_takes_more_memory_than_its_bytes_bear_out((key, version) in known_api(), body in body()) {
        let mut frame = head(key, version);
        frame.extend(body);
        let length = frame.len();
        let peak = peak_of_reading(frame);
        prop_assert!(peak <= bound(length), "{peak} bytes for {length}");
    }

    #[test]
    fn bytes_without_any_sense_are_refused_within_bounds(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        let length = frame.len();
        let peak = peak_of_reading(frame);
        prop_assert!(peak <= bound(length), "{peak} bytes for {length}");
    }
}

#[test]
fn trap_47_four_bytes_of_metadata_do_not_ask_for_154_gigabytes() {
    let mut frame = head(3, 1);
    frame.extend(i32::MAX.to_be_bytes());
    assert!(!can_be_read(Bytes::from(frame.clone())));
    assert!(peak_of_reading(frame) < 64 << 10);
}

#[test]
fn a_plain_request_can_be_read() {
    assert!(can_be_read(Bytes::from(head(18, 0))));
    let mut metadata = head(3, 1);
    metadata.extend([0, 0, 0, 1, 0, 1, b't']);
    assert!(can_be_read(Bytes::from(metadata)));
}
