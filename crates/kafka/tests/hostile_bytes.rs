//! Any bytes at all as a request: nothing panics, and none takes more memory than its bytes bear out (T47). The same ground
//! as the fuzz target `kafka_request`, on every test run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use highwater_allocations::{Counting, peak_of};
use highwater_kafka::{SUPPORTED, can_be_read, read_frames};
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

const FRAME_BYTES_MAX: usize = 1 << 20;

/// Bytes as a network brings them: so many at a time, over and over.
struct Pieces {
    bytes: Bytes,
    sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
}

impl tokio::io::AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let size = self.sizes.next().unwrap_or(1).min(into.remaining()).min(self.bytes.len());
        into.put_slice(&self.bytes.split_to(size));
        Poll::Ready(Ok(()))
    }
}

fn read(bytes: Vec<u8>, sizes: Vec<usize>) -> (Vec<Bytes>, bool) {
    let pieces = Pieces { bytes: bytes.into(), sizes: sizes.into_iter().cycle() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(read_frames(pieces, FRAME_BYTES_MAX))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn frames_come_out_whole_whatever_pieces_they_come_in(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 8..200), 0..6),
        large in proptest::option::of(30_000..200_000usize),
        sizes in proptest::collection::vec(1..70_000usize, 1..5),
        cut in 0..12usize,
    ) {
        let mut frames = frames;
        frames.extend(large.map(|length| vec![7; length]));
        let mut bytes: Vec<u8> =
            frames.iter().flat_map(|frame| [&(frame.len() as u32).to_be_bytes()[..], frame].concat()).collect();
        let is_cut = cut > 0 && !frames.is_empty();
        if is_cut {
            bytes.truncate(bytes.len() - cut);
            frames.pop();
        }
        let (found, ended_well) = read(bytes, sizes);
        prop_assert_eq!(ended_well, !is_cut);
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn trap_47_a_frame_holds_what_came_of_it_and_not_what_it_announces(
        announced: u32,
        came in 0..100_000usize,
        size in 1..70_000usize,
    ) {
        let mut bytes = announced.to_be_bytes().to_vec();
        bytes.resize(4 + came, 1);
        let peak = peak_of(|| _ = read(bytes, vec![size]));
        // A buffer that grows is there twice; and the runtime.
        prop_assert!(peak <= 4 * came + (256 << 10), "{peak} bytes for {came} of {announced}");
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
