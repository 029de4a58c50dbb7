//! gzip (RFC 1952), one member or several.

use std::io::{self, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::DecompressError;

pub fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let level = level.map_or_else(flate2::Compression::default, |l| flate2::Compression::new(l.clamp(0, 9) as u32));
    let mut encoder = GzEncoder::new(out, level);
    encoder.write_all(input)?;
    encoder.finish()?;
    Ok(())
}

pub fn decompress(input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    // Deflate packs by 1032 to 1 at most; a typical batch by 3 to 5.
    out.reserve(input.len().saturating_mul(4).min(limit));
    let mut bounded = MultiGzDecoder::new(input).take((limit as u64).saturating_add(1));
    bounded.read_to_end(out).map_err(DecompressError::damaged)?;
    if out.len() > limit { Err(DecompressError::TooLarge) } else { Ok(()) }
}
