//! Values that carry their record's id.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::RecordId;

const MAGIC: &[u8; 4] = b"hwid";
const HEAD: usize = 4 + 4 + 8;

/// A value of `size` bytes (16 at least) that carries `id`, the rest filled from it.
pub fn payload(id: RecordId, size: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(size.max(HEAD));
    bytes.put_slice(MAGIC);
    bytes.put_u32(id.writer);
    bytes.put_u64(id.number);
    let mut state = id.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(id.writer) | 1;
    while bytes.len() < size {
        // xorshift: does not compress, and differs from record to record.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let left = (size - bytes.len()).min(8);
        bytes.put_slice(&state.to_be_bytes()[..left]);
    }
    bytes.freeze()
}

/// The id that `value` carries, if it is one of [`payload`]'s.
pub fn record_id(value: &[u8]) -> Option<RecordId> {
    let rest = value.strip_prefix(MAGIC)?;
    let writer = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    let number = u64::from_be_bytes(rest.get(4..12)?.try_into().ok()?);
    Some(RecordId { writer, number })
}

/// The checksum of a record's key and value; no key and an empty key differ.
pub fn checksum(key: Option<&[u8]>, value: Option<&[u8]>) -> u32 {
    let mut sum = 0;
    for part in [key, value] {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        sum = crc32c::crc32c_append(sum, &length.to_be_bytes());
        sum = crc32c::crc32c_append(sum, part.unwrap_or_default());
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_again_in_its_payload() {
        for size in [0, 16, 17, 1000] {
            let id = RecordId { writer: 7, number: u64::MAX - size as u64 };
            let value = payload(id, size);
            assert_eq!(value.len(), size.max(16));
            assert_eq!(record_id(&value), Some(id));
        }
        assert_eq!(record_id(b"hwid"), None);
        assert_eq!(record_id(b""), None);
    }

    #[test]
    fn no_key_and_an_empty_key_differ() {
        assert_ne!(checksum(None, Some(b"v")), checksum(Some(b""), Some(b"v")));
        assert_ne!(checksum(Some(b"a"), Some(b"bc")), checksum(Some(b"ab"), Some(b"c")));
    }
}
