//! Decompression piece by piece, with little more memory than a piece takes.

use std::io::{Cursor, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::{Compression, DecompressError, Output, lz4, snappy, zstd};

/// What the codecs that could yield any number of bytes at a time yield at most.
const PIECE_LEN: usize = 64 * 1024;

/// What is left of compressed bytes. A piece has no more than 64 KiB (gzip, zstd), than a block of its frame, which is 4 MiB at most
/// (lz4), or than a block, which is 22 times the input at most (snappy).
pub(crate) enum Stream<B: AsRef<[u8]>> {
    Stored(Cursor<B>),
    Gzip(Box<MultiGzDecoder<Cursor<B>>>),
    Snappy(snappy::Blocks<B>),
    Lz4(lz4::Blocks<B>),
    Zstd(zstd::Pieces<B>),
}

impl Stream<Bytes> {
    pub fn open(codec: Compression, input: Bytes) -> Result<Self, DecompressError> {
        Ok(match codec {
            Compression::None => Self::Stored(Cursor::new(input)),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Cursor::new(input)))),
            Compression::Snappy => Self::Snappy(snappy::Blocks::new(input)?),
            Compression::Lz4 => Self::Lz4(lz4::Blocks::new(input)?),
            Compression::Zstd => Self::Zstd(zstd::pieces(input)?),
        })
    }
}

impl<B: AsRef<[u8]>> Stream<B> {
    /// Appends the next piece, perhaps an empty one, to `out`, which keeps its last [`WINDOW_LEN`](super::WINDOW_LEN) bytes from
    /// call to call. Not if it is larger than `left`. False: there is no more.
    pub fn next(&mut self, left: usize, out: &mut Output) -> Result<bool, DecompressError> {
        match self {
            Self::Stored(bytes) => read(bytes, left, out),
            Self::Gzip(decoder) => read(decoder, left, out),
            Self::Snappy(blocks) => blocks.next(left, out),
            Self::Lz4(blocks) => blocks.next(left, out),
            Self::Zstd(decoder) => read(decoder, left, out),
        }
    }
}

fn read(decoder: &mut impl Read, left: usize, out: &mut Output) -> Result<bool, DecompressError> {
    let (_, room) = out.room(PIECE_LEN.min(left.saturating_add(1)));
    let length = decoder.read(room).map_err(DecompressError::damaged)?;
    if length > left {
        return Err(DecompressError::TooLarge);
    }
    out.fill(length);
    Ok(length > 0)
}

/// Replaces `out` by all that is left, if that is at most `limit` bytes.
pub(super) fn whole(mut stream: Stream<&[u8]>, limit: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let mut output = Output::reusing(std::mem::take(out));
    let result = loop {
        match stream.next(limit - output.filled().len(), &mut output) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    *out = output.into_vec();
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{WINDOW_LEN, compress};
    use super::*;

    /// All of it, when as little as may be is kept from piece to piece.
    fn in_pieces(codec: Compression, packed: &[u8], limit: usize) -> Result<(Vec<u8>, usize), DecompressError> {
        let mut stream = Stream::open(codec, Bytes::copy_from_slice(packed))?;
        let (mut all, mut most, mut out) = (Vec::new(), 0, Output::default());
        loop {
            let before = out.filled().len();
            let more = stream.next(limit - all.len(), &mut out)?;
            all.extend_from_slice(&out.filled()[before..]);
            most = most.max(out.filled().len());
            if !more {
                return Ok((all, most));
            }
            out.forget(out.filled().len().saturating_sub(WINDOW_LEN));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_are_the_whole(part in proptest::collection::vec(any::<u8>(), 1..300_000), times in 1usize..8) {
            let input = part.repeat(times);
            for codec in Compression::ALL {
                let mut packed = Vec::new();
                compress(codec, None, &input, &mut packed).unwrap();
                let (all, most) = in_pieces(codec, &packed, input.len()).unwrap();
                prop_assert!(all == input, "{}", codec);
                prop_assert!(most <= WINDOW_LEN + PIECE_LEN, "{} kept {}", codec, most);
                prop_assert_eq!(in_pieces(codec, &packed, input.len() - 1), Err(DecompressError::TooLarge), "{}", codec);
                if codec == Compression::None {
                    continue;
                }
                let cut = in_pieces(codec, &packed[..packed.len() - 1], input.len());
                prop_assert!(matches!(cut, Err(DecompressError::Damaged(_))), "{} cut", codec);
            }
        }
    }

    #[test]
    fn frames_that_look_far_back_are_read() {
        use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
        use std::io::Write;
        let input: Vec<u8> = (0..1_500_000u32).flat_map(|n| (n % 50_021 * (n / 999)).to_le_bytes()).collect();
        for size in [BlockSize::Max64KB, BlockSize::Max4MB] {
            let info = FrameInfo::new().block_mode(BlockMode::Linked).block_size(size);
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&input).unwrap();
            let packed = encoder.finish().unwrap();
            assert!(in_pieces(Compression::Lz4, &packed, input.len()).unwrap().0 == input);
            // One frame after the other: the second must not look into the first.
            let twice = in_pieces(Compression::Lz4, &packed.repeat(2), 2 * input.len()).unwrap().0;
            assert!(twice == input.repeat(2));
        }
        // Zstandard, with the largest window that its levels have.
        let mut encoder = ::zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&input).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(in_pieces(Compression::Zstd, &packed, input.len()).unwrap().0 == input);
    }
}
