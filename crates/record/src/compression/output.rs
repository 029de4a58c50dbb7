//! Where decompression puts what it yields.

/// How far back, from what it yields, a codec may look into what it yielded before: lz4 into this, the others into a window of their own.
pub(crate) const WINDOW_LEN: usize = 64 * 1024;

/// Bytes that are filled from the front, and forgotten from there.
#[derive(Default)]
pub(crate) struct Output {
    /// Behind what is filled: room that was cleared once and is not again.
    bytes: Vec<u8>,
    filled: usize,
}

impl Output {
    /// Keeps the memory of `bytes` and nothing in it.
    pub fn reusing(bytes: Vec<u8>) -> Self {
        Self { bytes, filled: 0 }
    }

    pub fn into_vec(mut self) -> Vec<u8> {
        self.bytes.truncate(self.filled);
        self.bytes
    }

    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// What is filled, and `length` bytes of room behind it.
    pub fn room(&mut self, length: usize) -> (&[u8], &mut [u8]) {
        super::make_room(&mut self.bytes, self.filled, length);
        let (filled, room) = self.bytes.split_at_mut(self.filled);
        (filled, &mut room[..length])
    }

    /// `length` bytes of the room were filled.
    pub fn fill(&mut self, length: usize) {
        self.filled += length;
    }

    /// The first `length` bytes are needed no more.
    pub fn forget(&mut self, length: usize) {
        self.bytes.copy_within(length..self.filled, 0);
        self.filled -= length;
    }
}
