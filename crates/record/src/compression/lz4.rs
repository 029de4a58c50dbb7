//! The LZ4 frame format, written as Kafka's clients do (independent blocks of 64 KiB, no checksums: the batch has a
//! CRC), read with any block size, linked blocks and several frames. Dictionaries are not supported.
//!
//! The frame is handled here, and not by a streaming decoder, so that blocks go straight into the output and a short
//! input can't make a decoder prepare buffers for blocks of 4 MiB.

use lz4_flex::block::{
    CompressError, CompressTable, compress_into_with_table, decompress_into, decompress_into_with_dict,
    get_maximum_output_size,
};

use super::{DecompressError, Output, WINDOW_LEN, make_room};

const MAGIC: u32 = 0x184D_2204;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// Magic, flags (version 1, independent blocks), 64 KiB blocks, and the header checksum of just these two bytes.
const FRAME_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const BLOCK_LEN: usize = 64 * 1024;
const STORED: u32 = 1 << 31;
/// A byte of a match's length stands for 255 bytes at most.
const RATIO_MAX: usize = 255;

pub fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressError> {
    let mut table = CompressTable::default();
    out.reserve(FRAME_HEADER.len() + input.len() / 2);
    out.extend_from_slice(&FRAME_HEADER);
    let mut filled = out.len();
    for block in input.chunks(BLOCK_LEN) {
        make_room(out, filled, 4 + get_maximum_output_size(block.len()));
        let length = compress_into_with_table(block, &mut out[filled + 4..], &mut table)?;
        let (length, stored) = if length < block.len() { (length, 0) } else { (block.len(), STORED) };
        if stored != 0 {
            out[filled + 4..filled + 4 + length].copy_from_slice(block);
        }
        out[filled..filled + 4].copy_from_slice(&(length as u32 | stored).to_le_bytes());
        filled += 4 + length;
    }
    out.truncate(filled);
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

/// The blocks that are left of compressed bytes.
pub struct Blocks<B> {
    input: B,
    at: usize,
    /// That the next block is of.
    frame: Option<Frame>,
}

struct Frame {
    block_len_max: usize,
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    /// That it has yielded.
    length: usize,
}

impl<B: AsRef<[u8]>> Blocks<B> {
    pub fn new(input: B) -> Result<Self, DecompressError> {
        if input.as_ref().is_empty() {
            return Err(DecompressError::damaged("there is no frame"));
        }
        Ok(Self { input, at: 0, frame: None })
    }

    /// Appends the next block, or what is between blocks and yields nothing, to `out`.
    pub fn next(&mut self, left: usize, out: &mut Output) -> Result<bool, DecompressError> {
        let input = self.input.as_ref();
        let mut reader = Reader { rest: &input[self.at..] };
        match &mut self.frame {
            Some(frame) => {
                if !frame.block(&mut reader, left, out)? {
                    self.frame = None;
                }
            }
            None if reader.rest.is_empty() => return Ok(false),
            None => self.frame = frame_header(&mut reader, left)?,
        }
        self.at = input.len() - reader.rest.len();
        Ok(true)
    }
}

impl Frame {
    /// False: it ends here.
    fn block(&mut self, reader: &mut Reader<'_>, left: usize, out: &mut Output) -> Result<bool, DecompressError> {
        let word = reader.u32()?;
        if word == 0 {
            if self.content_checksum {
                reader.take(4)?;
            }
            return Ok(false);
        }
        let block = reader.take((word & !STORED) as usize)?;
        if block.len() > self.block_len_max {
            return Err(DecompressError::damaged("a block is larger than its frame allows"));
        }
        if self.block_checksums {
            reader.take(4)?;
        }
        let length = if word & STORED != 0 {
            if block.len() > left {
                return Err(DecompressError::TooLarge);
            }
            out.room(block.len()).1.copy_from_slice(block);
            block.len()
        } else {
            self.compressed(block, left, out)?
        };
        out.fill(length);
        self.length = self.length.saturating_add(length);
        Ok(true)
    }

    fn compressed(&self, block: &[u8], left: usize, out: &mut Output) -> Result<usize, DecompressError> {
        let could_be = self.block_len_max.min(block.len().saturating_mul(RATIO_MAX));
        let length_max = could_be.min(left);
        let (before, room) = out.room(length_max);
        let window = &before[before.len() - before.len().min(self.length).min(WINDOW_LEN)..];
        let result = if self.linked && !window.is_empty() {
            decompress_into_with_dict(block, room, window)
        } else {
            decompress_into(block, room)
        };
        result.map_err(|error| match error {
            lz4_flex::block::DecompressError::OutputTooSmall { .. } if length_max < could_be => {
                DecompressError::TooLarge
            }
            error => DecompressError::damaged(error),
        })
    }
}

/// `None` for a frame to skip. The checksums are stepped over, not compared: the batch's CRC covers the same bytes.
fn frame_header(reader: &mut Reader<'_>, left: usize) -> Result<Option<Frame>, DecompressError> {
    let magic = reader.u32()?;
    if magic & !0xf == SKIPPABLE_MAGIC {
        let length = reader.u32()?;
        reader.take(length as usize)?;
        return Ok(None);
    }
    if magic != MAGIC {
        return Err(DecompressError::damaged(format_args!("a frame can't start with {magic:#010x}")));
    }
    let flags = reader.take(1)?[0];
    let sizes = reader.take(1)?[0];
    if flags >> 6 != 1 {
        return Err(DecompressError::damaged("the frame's version is not 1"));
    }
    if flags & 0b1 != 0 {
        return Err(DecompressError::damaged("the frame needs a dictionary, which is not supported"));
    }
    let block_len_max = match sizes >> 4 & 0b111 {
        size @ 4..=7 => 1usize << (8 + 2 * size),
        _ => return Err(DecompressError::damaged("the frame's block size is none of 64 KiB to 4 MiB")),
    };
    if flags & 1 << 3 != 0 {
        let mut stated = [0; 8];
        stated.copy_from_slice(reader.take(8)?);
        if u64::from_le_bytes(stated) > left as u64 {
            return Err(DecompressError::TooLarge);
        }
    }
    reader.take(1)?;
    Ok(Some(Frame {
        block_len_max,
        linked: flags & 1 << 5 == 0,
        block_checksums: flags & 1 << 4 != 0,
        content_checksum: flags & 1 << 2 != 0,
        length: 0,
    }))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecompressError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| DecompressError::damaged("the frame is cut"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, DecompressError> {
        let mut word = [0; 4];
        word.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(word))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

    use super::super::{Compression, decompress};
    use super::*;

    fn sample() -> Vec<u8> {
        (0..300_000u32).flat_map(|n| (n % 5003 * n / 999).to_le_bytes()).collect()
    }

    #[test]
    fn an_independent_decoder_reads_what_is_written() {
        for input in [sample(), Vec::new(), b"x".to_vec()] {
            let mut out = Vec::new();
            compress(&input, &mut out).unwrap();
            let mut back = Vec::new();
            FrameDecoder::new(&out[..]).read_to_end(&mut back).unwrap();
            assert!(back == input);
        }
    }

    #[test]
    fn every_kind_of_frame_is_read() {
        let input = sample();
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
                for checks in [false, true] {
                    let info = FrameInfo::new()
                        .block_mode(mode)
                        .block_size(size)
                        .block_checksums(checks)
                        .content_checksum(checks)
                        .content_size(checks.then_some(input.len() as u64));
                    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                    encoder.write_all(&input).unwrap();
                    let packed = encoder.finish().unwrap();
                    let mut out = Vec::new();
                    decompress(Compression::Lz4, &packed, input.len(), &mut out).unwrap();
                    assert!(out == input, "{mode:?} {size:?} {checks}");
                }
            }
        }
    }

    #[test]
    fn skippable_and_further_frames_are_read() {
        let mut packed = vec![0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        compress(b"one ", &mut packed).unwrap();
        compress(b"two", &mut packed).unwrap();
        let mut out = Vec::new();
        decompress(Compression::Lz4, &packed, 100, &mut out).unwrap();
        assert_eq!(out, b"one two");
    }

    #[test]
    fn t47_a_short_frame_with_4_mib_blocks_reserves_little() {
        let info = FrameInfo::new().block_size(BlockSize::Max4MB);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(b"short").unwrap();
        let packed = encoder.finish().unwrap();
        let mut out = Vec::new();
        decompress(Compression::Lz4, &packed, 1 << 30, &mut out).unwrap();
        assert_eq!(out, b"short");
        assert!(out.capacity() < 16_384, "{}", out.capacity());
    }
}
