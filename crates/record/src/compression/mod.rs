//! The codecs of a batch's records.
//!
//! Invariant: decompression never yields, and never reserves, more than the limit it is given plus a constant,
//! whatever the input claims about its own size. (A [`Stream`] of zstd reserves the window that its frame asks for, which takes
//! memory only as it is filled.)

mod gzip;
mod lz4;
mod output;
mod snappy;
mod stream;
mod zstd;

use std::fmt;
use std::str::FromStr;

pub(crate) use output::{Output, WINDOW_LEN};
pub(crate) use stream::Stream;

/// How the records of a batch are compressed. The ids are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// The name is none of the known codecs'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no compression {0:?}; known are none, gzip, snappy, lz4 and zstd")]
pub struct UnknownCompression(String);

impl Compression {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    pub const fn id(self) -> u8 {
        self as u8
    }
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;
    fn from_str(name: &str) -> Result<Self, UnknownCompression> {
        Self::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| UnknownCompression(name.to_owned()))
    }
}

/// Why decompression stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecompressError {
    TooLarge,
    Damaged(String),
}

impl DecompressError {
    fn damaged(reason: impl fmt::Display) -> Self {
        Self::Damaged(reason.to_string())
    }
}

/// Appends `input`, compressed, to `out`. A level means what the codec says; snappy and lz4 have none.
pub(crate) fn compress(codec: Compression, level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    match codec {
        Compression::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        Compression::Gzip => gzip::compress(level, input, out).map_err(|error| error.to_string()),
        Compression::Snappy => snappy::compress(input, out).map_err(|error| error.to_string()),
        Compression::Lz4 => lz4::compress(input, out).map_err(|error| error.to_string()),
        Compression::Zstd => zstd::compress(level, input, out).map_err(|error| error.to_string()),
    }
}

/// Replaces `out` by `input`, decompressed, if that is at most `limit` bytes.
pub(crate) fn decompress(
    codec: Compression,
    input: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), DecompressError> {
    out.clear();
    match codec {
        Compression::None if input.len() > limit => Err(DecompressError::TooLarge),
        Compression::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        Compression::Gzip => gzip::decompress(input, limit, out),
        Compression::Snappy => stream::whole(Stream::Snappy(snappy::Blocks::new(input)?), limit, out),
        Compression::Lz4 => stream::whole(Stream::Lz4(lz4::Blocks::new(input)?), limit, out),
        Compression::Zstd => zstd::decompress(input, limit, out),
    }
}

/// Makes `out[filled..]` at least `room` bytes long. What is there already is not cleared again.
fn make_room(out: &mut Vec<u8>, filled: usize, room: usize) {
    if out.len() < filled + room {
        out.resize(filled + room, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMPRESSED: [Compression; 4] = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn compressed(codec: Compression, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(codec, None, input, &mut out).unwrap();
        out
    }

    #[test]
    fn names_and_ids_round_trip() {
        for codec in Compression::ALL {
            assert_eq!(codec.name().parse(), Ok(codec));
            assert_eq!(Compression::from_id(codec.id()), Some(codec));
        }
        assert!("LZ4".parse::<Compression>().unwrap_err().to_string().contains("lz4"));
        assert_eq!(Compression::from_id(5), None);
    }

    #[test]
    fn t47_a_bomb_stops_at_the_limit_and_reserves_no_more() {
        let zeros = vec![0; 64 << 20];
        let limit = 1 << 20;
        for codec in COMPRESSED {
            let bomb = compressed(codec, &zeros);
            let mut out = Vec::new();
            assert_eq!(decompress(codec, &bomb, limit, &mut out), Err(DecompressError::TooLarge), "{codec}");
            assert!(out.capacity() <= 4 * limit, "{codec} reserved {}", out.capacity());
        }
    }

    #[test]
    fn the_limit_is_exact() {
        let input: Vec<u8> = (0..200_000u32).flat_map(|n| (n % 4099 * n / 7).to_le_bytes()).collect();
        for codec in Compression::ALL {
            let packed = compressed(codec, &input);
            let mut out = Vec::new();
            assert_eq!(decompress(codec, &packed, input.len(), &mut out), Ok(()), "{codec}");
            assert!(out == input, "{codec}");
            assert_eq!(
                decompress(codec, &packed, input.len() - 1, &mut out),
                Err(DecompressError::TooLarge),
                "{codec}"
            );
        }
    }

    #[test]
    fn no_limit_is_a_limit_too() {
        for codec in Compression::ALL {
            let mut out = Vec::new();
            decompress(codec, &compressed(codec, b"some"), usize::MAX, &mut out).unwrap();
            assert_eq!(out, b"some", "{codec}");
        }
    }

    #[test]
    fn every_cut_is_told() {
        let input: Vec<u8> = (0..5_000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for codec in COMPRESSED {
            let packed = compressed(codec, &input);
            for cut in (1..packed.len()).step_by(97).chain([packed.len() - 1]) {
                let mut out = Vec::new();
                let result = decompress(codec, &packed[..cut], 1 << 20, &mut out);
                assert!(matches!(result, Err(DecompressError::Damaged(_))), "{codec} cut at {cut}: {result:?}");
            }
        }
    }

    #[test]
    fn every_level_is_taken() {
        let input = b"level ".repeat(1000);
        for codec in COMPRESSED {
            for level in [i32::MIN, -1, 0, 1, 9, 22, i32::MAX] {
                let mut packed = Vec::new();
                // The highest level of zstd takes long and much memory; it is clamped like the rest.
                compress(codec, Some(level), &input, &mut packed).unwrap();
                let mut out = Vec::new();
                decompress(codec, &packed, input.len(), &mut out).unwrap();
                assert!(out == input, "{codec} {level}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(
            input in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..2000),
                (proptest::collection::vec(any::<u8>(), 1..50), 1usize..6000).prop_map(|(part, n)| part.repeat(n)),
            ],
        ) {
            for codec in Compression::ALL {
                let mut out = vec![1, 2, 3];
                prop_assert_eq!(decompress(codec, &compressed(codec, &input), input.len(), &mut out), Ok(()));
                prop_assert!(out == input, "{}", codec);
            }
        }

        #[test]
        fn damaged_input_gives_an_error_or_bounded_bytes(
            input in proptest::collection::vec(any::<u8>(), 1..500),
            hits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8),
            repeat in 1usize..100,
        ) {
            for codec in COMPRESSED {
                let mut packed = compressed(codec, &input.repeat(repeat));
                for &(position, byte) in &hits {
                    let position = position % packed.len();
                    packed[position] = byte;
                }
                let mut out = Vec::new();
                let _ = decompress(codec, &packed, 10_000, &mut out);
                prop_assert!(out.len() <= 10_000 + 65_536, "{}", codec);
                let _ = decompress(codec, &input, 10_000, &mut out);
            }
        }
    }
}
