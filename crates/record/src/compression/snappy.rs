//! Snappy in the framing of xerial's snappy-java, which Kafka's own clients write; and, for reading, one raw snappy
//! block, which other clients write.
//!
//! The framing: 8 bytes of magic, version and lowest compatible version (1, 1), then for each block its compressed
//! length and a raw snappy block. Numbers are big-endian, 32 bit.

use super::{DecompressError, Output, make_room};

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const FRAME_HEADER_LEN: usize = 16;
const VERSION: [u8; 4] = 1i32.to_be_bytes();
/// The block size of snappy-java.
const BLOCK_LEN: usize = 32 * 1024;
/// No snappy element yields more than 64 bytes, and none that yields more than 11 is shorter than 3.
const RATIO_MAX: usize = 22;

pub fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), snap::Error> {
    let mut encoder = snap::raw::Encoder::new();
    out.reserve(FRAME_HEADER_LEN + input.len() / 2);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION);
    out.extend_from_slice(&VERSION);
    let mut filled = out.len();
    for block in input.chunks(BLOCK_LEN) {
        make_room(out, filled, 4 + snap::raw::max_compress_len(block.len()));
        let length = encoder.compress(block, &mut out[filled + 4..])?;
        out[filled..filled + 4].copy_from_slice(&(length as u32).to_be_bytes());
        filled += 4 + length;
    }
    out.truncate(filled);
    Ok(())
}

/// The blocks that are left of compressed bytes.
pub struct Blocks<B> {
    input: B,
    at: usize,
    /// What is left is one block, without framing.
    is_raw: bool,
}

impl<B: AsRef<[u8]>> Blocks<B> {
    pub fn new(input: B) -> Result<Self, DecompressError> {
        let bytes = input.as_ref();
        if !bytes.starts_with(&MAGIC) {
            return Ok(Self { input, at: 0, is_raw: true });
        }
        if bytes.len() < FRAME_HEADER_LEN {
            return Err(DecompressError::damaged("the framing's header is cut"));
        }
        Ok(Self { input, at: FRAME_HEADER_LEN, is_raw: false })
    }

    /// Appends the next block to `out`.
    pub fn next(&mut self, left: usize, out: &mut Output) -> Result<bool, DecompressError> {
        let rest = &self.input.as_ref()[self.at..];
        if std::mem::take(&mut self.is_raw) {
            self.at += rest.len();
            decompress_block(rest, left, out)?;
            return Ok(true);
        }
        if rest.is_empty() {
            return Ok(false);
        }
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            return Err(DecompressError::damaged("a block's length is cut"));
        };
        let length = u32::from_be_bytes(*length) as usize;
        let Some(block) = after.get(..length) else {
            return Err(DecompressError::damaged("a block is cut"));
        };
        self.at += 4 + length;
        decompress_block(block, left, out)?;
        Ok(true)
    }
}

fn decompress_block(block: &[u8], left: usize, out: &mut Output) -> Result<(), DecompressError> {
    let stated = snap::raw::decompress_len(block).map_err(DecompressError::damaged)?;
    if stated > block.len().saturating_mul(RATIO_MAX) {
        return Err(DecompressError::damaged("a block states more bytes than it can hold"));
    }
    if stated > left {
        return Err(DecompressError::TooLarge);
    }
    let (_, room) = out.room(stated);
    // Exactly as many bytes as stated, or an error.
    snap::raw::Decoder::new().decompress(block, room).map_err(DecompressError::damaged)?;
    out.fill(stated);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Compression, decompress};
    use super::*;

    #[test]
    fn a_raw_block_is_read_too() {
        let input = b"raw snappy ".repeat(9000);
        let raw = snap::raw::Encoder::new().compress_vec(&input).unwrap();
        let mut out = Vec::new();
        decompress(Compression::Snappy, &raw, input.len(), &mut out).unwrap();
        assert!(out == input);
    }

    #[test]
    fn the_frame_is_that_of_snappy_java() {
        let mut out = Vec::new();
        compress(&[7; BLOCK_LEN + 1], &mut out).unwrap();
        assert_eq!(out[..16], [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        let first = u32::from_be_bytes([out[16], out[17], out[18], out[19]]) as usize;
        assert_eq!(snap::raw::decompress_len(&out[20..20 + first]), Ok(BLOCK_LEN));
        assert_eq!(snap::raw::decompress_len(&out[24 + first..]), Ok(1));
    }

    #[test]
    fn t47_a_stated_length_beyond_the_bytes_is_not_believed() {
        // A varint that says 1 GiB, and one literal byte.
        let mut out = Vec::new();
        let result =
            decompress(Compression::Snappy, &[0x80, 0x80, 0x80, 0x80, 0x04, 0x00, 0x41], usize::MAX >> 1, &mut out);
        assert!(matches!(result, Err(DecompressError::Damaged(_))));
        assert_eq!(out.capacity(), 0);
    }
}
