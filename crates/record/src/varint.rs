//! Variable-length numbers of the record format: zigzag, seven bits to a byte, the low ones first.

use crate::RecordProblem;

/// Bytes that are being read, front to back.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pub position: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    /// All of them, read or not.
    #[inline(always)]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline(always)]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The same bytes up to `end`, which must not be beyond them.
    #[inline]
    pub fn until(&self, end: usize) -> Self {
        Self { bytes: &self.bytes[..end], position: self.position }
    }

    #[inline(always)]
    pub fn byte(&mut self) -> Result<u8, RecordProblem> {
        let byte = *self.bytes.get(self.position).ok_or(RecordProblem::Truncated)?;
        self.position += 1;
        Ok(byte)
    }

    /// At most 5 bytes, and a value that fits.
    #[inline(always)]
    pub fn varint(&mut self) -> Result<i32, RecordProblem> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(unzigzag(first.into()) as i32);
        }
        let second = self.byte()?;
        if second < 0x80 {
            return Ok(unzigzag(u64::from(first & 0x7f) | u64::from(second) << 7) as i32);
        }
        self.position -= 2;
        let raw = self.unsigned(5)?;
        if raw > u64::from(u32::MAX) {
            return Err(RecordProblem::Varint);
        }
        Ok(unzigzag(raw) as i32)
    }

    /// At most 10 bytes, and a value that fits.
    #[inline(always)]
    pub fn varlong(&mut self) -> Result<i64, RecordProblem> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(unzigzag(first.into()));
        }
        self.position -= 1;
        self.unsigned(10).map(unzigzag)
    }

    #[cold]
    fn unsigned(&mut self, bytes_max: u32) -> Result<u64, RecordProblem> {
        let mut value = 0;
        for index in 0..bytes_max {
            let byte = self.byte()?;
            // The tenth byte has room for one bit only.
            if index == 9 && byte > 1 {
                return Err(RecordProblem::Varint);
            }
            value |= u64::from(byte & 0x7f) << (index * 7);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(RecordProblem::Varint)
    }

    /// Steps over `length` bytes and returns where they start.
    #[inline(always)]
    pub fn skip(&mut self, length: usize) -> Result<usize, RecordProblem> {
        if length > self.remaining() {
            return Err(RecordProblem::Truncated);
        }
        let start = self.position;
        self.position += length;
        Ok(start)
    }
}

#[inline]
fn unzigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Bytes that `value` takes. The same for a `varint` and a `varlong`.
#[inline]
pub(crate) fn length(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[inline]
pub(crate) fn put(out: &mut Vec<u8>, value: i64) {
    let raw = zigzag(value);
    if raw < 0x80 {
        return out.push(raw as u8);
    }
    if raw < 0x4000 {
        return out.extend_from_slice(&[raw as u8 | 0x80, (raw >> 7) as u8]);
    }
    put_long(out, raw);
}

#[cold]
fn put_long(out: &mut Vec<u8>, mut raw: u64) {
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_encodings() {
        for (value, bytes) in [
            (0, &[0u8][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(length(value), bytes.len(), "{value}");
        }
    }

    #[test]
    fn t47_overlong_and_overflowing_numbers_are_refused() {
        let varint = |bytes: &[u8]| Cursor::new(bytes, 0).varint();
        let varlong = |bytes: &[u8]| Cursor::new(bytes, 0).varlong();
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(RecordProblem::Varint));
        assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(RecordProblem::Varint));
        assert_eq!(varint(&[0x80, 0x80]), Err(RecordProblem::Truncated));
        assert_eq!(varint(&[]), Err(RecordProblem::Truncated));
        assert_eq!(varlong(&[0xff; 10]), Err(RecordProblem::Varint));
        let mut tenth = [0xff; 10];
        tenth[9] = 2;
        assert_eq!(varlong(&tenth), Err(RecordProblem::Varint));
    }

    proptest! {
        #[test]
        fn numbers_round_trip(value: i64, small: i32) {
            let mut out = Vec::new();
            put(&mut out, value);
            put(&mut out, small.into());
            prop_assert_eq!(out.len(), length(value) + length(small.into()));
            let mut cursor = Cursor::new(&out, 0);
            prop_assert_eq!(cursor.varlong(), Ok(value));
            prop_assert_eq!(cursor.varint(), Ok(small));
            prop_assert_eq!(cursor.remaining(), 0);
        }
    }
}
