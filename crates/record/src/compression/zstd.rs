//! Zstandard (RFC 8878).
//!
//! Decompression is in one pass into the output, which then serves as the window: a streaming decoder reserves the
//! window that the frame asks for, up to 128 MiB for a few bytes. So that is for what is large ([`pieces`]).

use std::io::{self, Cursor};

use zstd::bulk::{Compressor, Decompressor};
use zstd::stream::read::Decoder;

use super::DecompressError;

/// Above it a compressor takes hundreds of megabytes.
const LEVEL_MAX: i32 = 19;
const BLOCK_HEADER_LEN: usize = 3;
const BLOCK_LEN_MAX: usize = 128 * 1024;

pub fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let range = zstd::compression_level_range();
    let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL).clamp(*range.start(), LEVEL_MAX);
    let start = out.len();
    out.resize(start + zstd::zstd_safe::compress_bound(input.len()), 0);
    let length = Compressor::new(level)?.compress_to_buffer(input, &mut out[start..])?;
    out.truncate(start + length);
    Ok(())
}

pub fn decompress(input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    // A frame that yields more than this is refused by the codec; one that merely states more is not believed.
    let bound =
        Decompressor::upper_bound(input).ok_or_else(|| DecompressError::damaged("it is not made of whole frames"))?;
    let blocks_max = input.len() / BLOCK_HEADER_LEN + 1;
    out.reserve(bound.min(limit).min(blocks_max.saturating_mul(BLOCK_LEN_MAX)));
    // The codec takes the whole capacity, which may be beyond the limit.
    let result = Decompressor::new().and_then(|mut decoder| decoder.decompress_to_buffer(input, out));
    match result {
        Ok(length) if length <= limit => Ok(()),
        Ok(_) => Err(DecompressError::TooLarge),
        Err(error) if error.to_string() == TOO_SMALL && bound > limit => Err(DecompressError::TooLarge),
        Err(error) => Err(DecompressError::damaged(error)),
    }
}

pub type Pieces<B> = Decoder<'static, Cursor<B>>;

pub fn pieces<B: AsRef<[u8]>>(input: B) -> Result<Pieces<B>, DecompressError> {
    Decoder::with_buffer(Cursor::new(input)).map_err(DecompressError::damaged)
}

/// What the codec says when the output has no room; it gives no code through this interface.
const TOO_SMALL: &str = "Destination buffer is too small";
