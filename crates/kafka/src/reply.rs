//! Answers as they go out: pieces that are written one behind the other, so that records are never copied.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Encodable;

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;

/// An answer that can't be encoded: a bug, or a value that this version has no field for.
#[derive(Debug, thiserror::Error)]
#[error("the answer can't be encoded: {0}")]
pub(crate) struct EncodeError(String);

/// What goes in front of every answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyHeader {
    pub correlation_id: i32,
    /// Whether it has tagged fields (of which there are none).
    pub is_flexible: bool,
}

impl ReplyHeader {
    const fn len(self) -> usize {
        4 + self.is_flexible as usize
    }

    fn put(self, out: &mut BytesMut) {
        out.put_i32(self.correlation_id);
        if self.is_flexible {
            out.put_u8(0);
        }
    }
}

/// The frame of a message.
pub(crate) fn message<M: Encodable>(header: ReplyHeader, message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let size = message.compute_size(version).map_err(|error| EncodeError(error.to_string()))?;
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + header.len() + size);
    out.put_bytes(0, LENGTH_BYTES);
    header.put(&mut out);
    message.encode(&mut out, version).map_err(|error| EncodeError(error.to_string()))?;
    let length = frame_length(out.len() - LENGTH_BYTES)?;
    out[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(out.freeze())
}

fn frame_length(length: usize) -> Result<i32, EncodeError> {
    i32::try_from(length).map_err(|_| EncodeError(format!("{length} bytes are more than a frame can have")))
}

/// A frame that is written by hand, around payloads that are not copied.
pub(crate) struct Gathered {
    pieces: Vec<Bytes>,
    open: BytesMut,
    length: usize,
}

impl Gathered {
    pub(crate) fn new(header: ReplyHeader) -> Self {
        let mut open = BytesMut::with_capacity(256);
        open.put_bytes(0, LENGTH_BYTES);
        header.put(&mut open);
        Self { pieces: Vec::new(), open, length: 0 }
    }

    /// To write what is not a payload.
    pub(crate) fn out(&mut self) -> &mut BytesMut {
        &mut self.open
    }

    pub(crate) fn payload(&mut self, payload: Bytes) {
        if !payload.is_empty() {
            let before = self.open.split().freeze();
            self.length += before.len() + payload.len();
            self.pieces.extend([before, payload]);
        }
    }

    pub(crate) fn finish(mut self) -> Result<Vec<Bytes>, EncodeError> {
        self.length += self.open.len();
        let length = frame_length(self.length - LENGTH_BYTES)?;
        match self.pieces.first_mut() {
            None => self.open[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes()),
            Some(first) => {
                // Nobody else has it: it is not copied.
                let mut head = BytesMut::from(std::mem::take(first));
                head[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
                *first = head.freeze();
            }
        }
        if !self.open.is_empty() {
            self.pieces.push(self.open.freeze());
        }
        Ok(self.pieces)
    }
}
