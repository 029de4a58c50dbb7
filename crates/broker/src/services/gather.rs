//! gRPC answers whose payload is not copied: a message goes to the wire as a few small buffers with the log's own bytes between
//! them. tonic's encoder copies every payload into one buffer per message; a stock client can't tell the difference.
//!
//! **Invariant**: what is sent is the encoding of the message that was meant, byte for byte one that `prost` decodes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

/// Pieces below this are copied: a frame of its own costs more.
const COPY_BELOW_BYTES: usize = 4 << 10;
/// The gRPC prefix of a message: not compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// One message, as pieces.
#[derive(Debug, Default)]
pub struct Gathered {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Gathered {
    /// An empty message, to which fields are added.
    pub fn new() -> Self {
        Self::default()
    }

    /// A message without a payload to hand on.
    pub fn of(message: &impl Message) -> Self {
        let mut this = Self::new();
        this.fields(message);
        this
    }

    /// Adds the fields of `message`.
    pub fn fields(&mut self, message: &impl Message) {
        self.len += message.encoded_len();
        // A BytesMut grows as needed.
        let _ = message.encode(&mut self.tail);
    }

    /// Adds field number `tag`, a message that has the fields of `message` and, as field number `payload_tag`, `payload`,
    /// which `message` leaves out.
    pub fn field_with_payload(&mut self, tag: u32, message: &impl Message, payload_tag: u32, payload: &[Bytes]) {
        let payload_len: usize = payload.iter().map(Bytes::len).sum();
        let mut payload_head = BytesMut::with_capacity(16);
        if payload_len > 0 {
            put_key(&mut payload_head, payload_tag);
            prost::encoding::encode_varint(payload_len as u64, &mut payload_head);
        }
        let message_len = message.encoded_len() + payload_head.len() + payload_len;
        let before = self.tail.len();
        put_key(&mut self.tail, tag);
        prost::encoding::encode_varint(message_len as u64, &mut self.tail);
        let _ = message.encode(&mut self.tail);
        self.tail.extend_from_slice(&payload_head);
        self.len += self.tail.len() - before + payload_len;
        for piece in payload {
            if piece.len() < COPY_BELOW_BYTES {
                self.tail.extend_from_slice(piece);
            } else {
                self.end_piece();
                self.pieces.push_back(piece.clone());
            }
        }
    }

    fn end_piece(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// With its gRPC prefix.
    fn into_frames(mut self) -> VecDeque<Bytes> {
        self.end_piece();
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES + self.pieces.front().map_or(0, Bytes::len));
        prefix.put_u8(0);
        // A message of 4 GiB can't be asked for.
        prefix.put_u32(u32::try_from(self.len).unwrap_or(u32::MAX));
        // The first piece is small as a rule; together they are one frame.
        if let Some(first) = self.pieces.front().filter(|first| first.len() < COPY_BELOW_BYTES) {
            prefix.extend_from_slice(first);
            self.pieces.pop_front();
        }
        self.pieces.push_front(prefix.freeze());
        self.pieces
    }
}

/// The key of a length-delimited field.
fn put_key(out: &mut BytesMut, tag: u32) {
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, out);
}

/// A whole gRPC response with the messages of `stream`; an error ends it with its status.
pub(crate) fn response(stream: impl Stream<Item = Result<Gathered, Status>> + Send + 'static) -> http::Response<Body> {
    let body = GatherBody { stream: Box::pin(stream), frames: VecDeque::new(), state: BodyState::Open };
    let mut response = http::Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[derive(PartialEq, Eq)]
enum BodyState {
    Open,
    Ended,
}

struct GatherBody {
    stream: Pin<Box<dyn Stream<Item = Result<Gathered, Status>> + Send>>,
    frames: VecDeque<Bytes>,
    state: BodyState,
}

impl http_body::Body for GatherBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.state == BodyState::Ended {
            return Poll::Ready(None);
        }
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let status = match ready!(self.stream.as_mut().poll_next(cx)) {
            Some(Ok(message)) => {
                self.frames = message.into_frames();
                // There is always the prefix.
                let first = self.frames.pop_front().unwrap_or_default();
                return Poll::Ready(Some(Ok(Frame::data(first))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.state = BodyState::Ended;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.state == BodyState::Ended
    }
}

#[cfg(test)]
mod tests {
    use highwater_protocol::v1::{FetchPartitionResult, FetchResponse};

    use super::*;

    fn result(partition: u32, records: Vec<u8>) -> FetchPartitionResult {
        FetchPartitionResult {
            topic_id: Bytes::from_static(&[7; 16]),
            partition,
            high_watermark: 12,
            log_start_offset: 3,
            records: records.into(),
            leader_epoch: -1,
            ..FetchPartitionResult::default()
        }
    }

    /// Payloads of no, one and several pieces, small and large.
    #[test]
    fn what_is_gathered_decodes_to_the_message_that_was_meant() {
        let sizes: &[&[usize]] = &[&[], &[1], &[100, 5000], &[70_000], &[5000, 3, 4, 9000, 1], &[4096, 4095]];
        let (mut gathered, mut meant) = (Gathered::new(), FetchResponse { request_id: 99, ..FetchResponse::default() });
        gathered.fields(&meant);
        for (i, sizes) in sizes.iter().enumerate() {
            let pieces: Vec<Bytes> = sizes.iter().map(|n| Bytes::from(vec![i as u8 + 1; *n])).collect();
            meant.partitions.push(result(i as u32, pieces.concat()));
            gathered.field_with_payload(2, &result(i as u32, Vec::new()), 7, &pieces);
        }
        let len = gathered.len;
        let wire: Vec<u8> = gathered.into_frames().into_iter().flatten().collect();
        assert_eq!(wire[0], 0);
        assert_eq!(u32::from_be_bytes(wire[1..5].try_into().unwrap()) as usize, len);
        assert_eq!(wire.len(), len + PREFIX_BYTES);
        assert_eq!(FetchResponse::decode(&wire[5..]).unwrap(), meant);
    }

    #[test]
    fn large_pieces_are_handed_on_and_not_copied() {
        let piece = Bytes::from(vec![1; 64 << 10]);
        let mut gathered = Gathered::new();
        gathered.field_with_payload(2, &result(0, Vec::new()), 7, std::slice::from_ref(&piece));
        let frames = gathered.into_frames();
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[1].as_ptr(), piece.as_ptr());
    }
}
