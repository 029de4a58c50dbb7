//! The newest offset of each key, by a 128-bit hash of the key, as Kafka's cleaner has it. The hash is SipHash-2-4 with 128 bits
//! (Aumasson and Bernstein).
//!
//! **Invariant**: it never holds more keys than it was made for, but for those of one batch.

use std::collections::BTreeMap;

use highwater_types::Offset;

pub(super) struct KeyMap {
    newest: BTreeMap<u128, Offset>,
    keys_max: usize,
}

impl KeyMap {
    pub(super) fn new(keys_max: usize) -> Self {
        Self { newest: BTreeMap::new(), keys_max }
    }

    /// Whether so many more keys fit, or it is empty, as the first batch is taken always.
    pub(super) fn has_room(&self, keys: usize) -> bool {
        self.newest.is_empty() || self.newest.len() + keys <= self.keys_max
    }

    pub(super) fn note(&mut self, key: &[u8], offset: Offset) {
        self.newest.insert(hash(key), offset);
    }

    pub(super) fn newest(&self, key: &[u8]) -> Option<Offset> {
        self.newest.get(&hash(key)).copied()
    }
}

/// Any will do, if it is always the same.
const KEY: (u64, u64) = (0x6869_6768_7761_7465, 0x7263_6f6d_7061_6374);

fn hash(bytes: &[u8]) -> u128 {
    sip128(KEY, bytes)
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

fn sip128((k0, k1): (u64, u64), bytes: &[u8]) -> u128 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    let mut take = |word: u64| {
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    };
    words.iter().for_each(|word| take(u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    take(u64::from_le_bytes(last));
    let mut end = |mark: u64, at: usize| {
        v[at] ^= mark;
        (0..4).for_each(|_| round(&mut v));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    };
    let (low, high) = (end(0xee, 2), end(0xdd, 1));
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the reference implementation (`vectors_sip128`).
    #[test]
    fn the_hash_is_siphash_2_4_128() {
        let key = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let of = |bytes: &[u8]| sip128(key, bytes).to_le_bytes();
        assert_eq!(
            of(&[]),
            [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93]
        );
        assert_eq!(
            of(&[0]),
            [0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45]
        );
    }

    #[test]
    fn it_is_full_when_it_says_so_and_takes_one_batch_always() {
        let mut map = KeyMap::new(2);
        assert!(map.has_room(100));
        map.note(b"a", Offset::new(1));
        map.note(b"a", Offset::new(4));
        assert!(map.has_room(1) && !map.has_room(2));
        assert_eq!((map.newest(b"a"), map.newest(b"b")), (Some(Offset::new(4)), None));
    }
}
