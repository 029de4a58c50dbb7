//! Requests come out of a connection as they went in, whatever pieces they come in; and nothing of what is not whole.
#![no_main]

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use highwater_kafka::read_frames;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

const FRAME_BYTES_MAX: usize = 1 << 20;

/// Pieces of sizes that the first byte of each of them says.
struct Pieces(Bytes);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let size = self.0.first().map_or(0, |first| usize::from(*first) + 1);
        let size = size.min(into.remaining()).min(self.0.len());
        into.put_slice(&self.0.split_to(size));
        Poll::Ready(Ok(()))
    }
}

/// The frames that `bytes` begin with, and whether they end with the last.
fn expected(mut bytes: &[u8]) -> (Vec<Bytes>, bool) {
    let mut frames = Vec::new();
    loop {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return (frames, bytes.is_empty()) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(8..=FRAME_BYTES_MAX).contains(&length) || rest.len() < length {
            return (frames, false);
        }
        let (frame, rest) = rest.split_at(length);
        frames.push(Bytes::copy_from_slice(frame));
        bytes = rest;
    }
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let found = runtime.block_on(read_frames(Pieces(Bytes::copy_from_slice(data)), FRAME_BYTES_MAX));
    assert_eq!(found, expected(data));
});
