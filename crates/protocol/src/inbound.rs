//! The messages of a gRPC stream, taken from the pieces in which they arrive.
//!
//! tonic's own decoder copies every byte into one buffer, for which it reserves what the message's prefix claims. Here a
//! payload that came in one piece is a slice of that piece, and one that came in several is copied once.
//!
//! **Invariant**: memory is taken for bytes that have arrived, never for what a prefix claims (T47).

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderValue, header};
use http_body::Body as _;
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody};
use tonic::codegen::Service;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// The gRPC prefix of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A stream of messages: a server's requests, or a client's answers.
pub struct Inbound<T> {
    body: Body,
    arrived: Rope,
    message_bytes_max: usize,
    is_request: bool,
    ended: bool,
    message: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Inbound<T> {
    /// What a client sends.
    pub fn of_request(body: Body, message_bytes_max: usize) -> Self {
        Self::new(body, message_bytes_max, true)
    }

    /// What a server answers; fails if it answers with nothing but a status.
    pub fn of_response(response: http::Response<Body>, message_bytes_max: usize) -> Result<Self, Status> {
        if response.status() != http::StatusCode::OK {
            return Err(Status::unavailable(format!("the peer answers with HTTP status {}", response.status())));
        }
        if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
            return Err(status);
        }
        Ok(Self::new(response.into_body(), message_bytes_max, false))
    }

    /// Calls the streaming method at `path` (`/package.Service/Method`) with `requests`.
    pub async fn call<Q: Message + 'static>(
        mut channel: Channel,
        path: &'static str,
        requests: impl Stream<Item = Q> + Send + 'static,
        message_bytes_max: usize,
    ) -> Result<Self, Status> {
        let encoder = ProstCodec::<Q, ()>::default().encoder();
        let body = Body::new(EncodeBody::new_client(encoder, requests.map(Ok), None, None));
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let unreachable = |error: tonic::transport::Error| Status::from_error(Box::new(error));
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.map_err(unreachable)?;
        let response = channel.call(request).await.map_err(unreachable)?;
        Self::of_response(response, message_bytes_max)
    }

    fn new(body: Body, message_bytes_max: usize, is_request: bool) -> Self {
        let (arrived, message) = (Rope::default(), PhantomData);
        Self { body, arrived, message_bytes_max, is_request, ended: false, message }
    }

    /// The next message; `None` at the stream's end. After an error there is nothing more. Can be dropped and called again.
    pub async fn message(&mut self) -> Result<Option<T>, Status> {
        std::future::poll_fn(|cx| self.poll_message(cx)).await
    }

    /// See [`Inbound::message`].
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, Status>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let result = ready!(self.poll_next(cx));
        self.ended = !matches!(result, Ok(Some(_)));
        if self.ended {
            self.arrived = Rope::default();
        }
        Poll::Ready(result)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, Status>> {
        loop {
            if let Some(message) = self.take()? {
                return Poll::Ready(Ok(Some(message)));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                // The client took it back.
                Some(Err(status)) if self.is_request && status.code() == Code::Cancelled => {
                    return Poll::Ready(Ok(None));
                }
                Some(Err(status)) => return Poll::Ready(Err(status)),
                None if self.arrived.remaining() > 0 => {
                    return Poll::Ready(Err(Status::internal("the stream ended within a message")));
                }
                None => return Poll::Ready(Ok(None)),
            };
            match frame.into_data() {
                Ok(bytes) => self.arrived.push(bytes),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    match status.filter(|status| !self.is_request && status.code() != Code::Ok) {
                        Some(status) => return Poll::Ready(Err(status)),
                        None => continue,
                    }
                }
            }
        }
    }

    /// A message, if all of it has arrived.
    fn take(&mut self) -> Result<Option<T>, Status> {
        let Some((is_compressed, len)) = self.arrived.prefix() else { return Ok(None) };
        if is_compressed {
            return Err(Status::unimplemented(
                "compressed messages are not supported; compress record batches instead",
            ));
        }
        let max = self.message_bytes_max;
        if len > max {
            return Err(Status::out_of_range(format!("a message of {len} bytes; at most {max} are allowed")));
        }
        if self.arrived.remaining() < PREFIX_BYTES + len {
            return Ok(None);
        }
        self.arrived.advance(PREFIX_BYTES);
        let message = T::decode((&mut self.arrived).take(len));
        message.map(Some).map_err(|error| Status::invalid_argument(format!("a message can't be decoded: {error}")))
    }
}

/// Bytes in the pieces in which they came.
#[derive(Default)]
struct Rope {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Rope {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Whether the next message is compressed, and its length.
    fn prefix(&self) -> Option<(bool, usize)> {
        let mut head = self.pieces.iter().flatten();
        let mut next = || head.next().copied();
        let flag = next()?;
        let len = u32::from_be_bytes([next()?, next()?, next()?, next()?]);
        Some((flag != 0, len as usize))
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advanced past the end");
        self.len -= count;
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len, "taken past the end");
        match self.pieces.front_mut() {
            Some(first) if len < first.len() => {
                self.len -= len;
                first.split_to(len)
            }
            Some(first) if len == first.len() => {
                self.len -= len;
                self.pieces.pop_front().unwrap_or_default()
            }
            _ => {
                let mut whole = BytesMut::with_capacity(len);
                while whole.len() < len {
                    let chunk = self.chunk();
                    let count = chunk.len().min(len - whole.len());
                    whole.extend_from_slice(&chunk[..count]);
                    self.advance(count);
                }
                whole.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::BufMut;
    use http_body::Frame;

    use super::*;
    use crate::v1::{ProducePartition, ProduceRequest};

    struct Frames(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn request(id: u64, records: &[usize]) -> ProduceRequest {
        let partition = |(index, len): (usize, &usize)| ProducePartition {
            topic_id: Bytes::from_static(&[9; 16]),
            partition: index as u32,
            leader_epoch: -1,
            records: (0..*len).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into(),
        };
        let partitions = records.iter().enumerate().map(partition).collect();
        ProduceRequest { transactional_id: String::new(), request_id: id, acks: 3, timeout_ms: 10, partitions }
    }

    fn on_the_wire(requests: &[ProduceRequest]) -> Bytes {
        let mut wire = BytesMut::new();
        for request in requests {
            wire.put_u8(0);
            wire.put_u32(request.encoded_len() as u32);
            request.encode(&mut wire).unwrap();
        }
        wire.freeze()
    }

    fn inbound(pieces: Vec<Bytes>) -> Inbound<ProduceRequest> {
        let frames = pieces.into_iter().map(Frame::data).collect();
        Inbound::of_request(Body::new(Frames(frames)), 1 << 20)
    }

    async fn all(mut inbound: Inbound<ProduceRequest>) -> Result<Vec<ProduceRequest>, Status> {
        let mut messages = Vec::new();
        while let Some(message) = inbound.message().await? {
            messages.push(message);
        }
        assert!(inbound.message().await.unwrap().is_none(), "the end stays the end");
        Ok(messages)
    }

    #[tokio::test]
    async fn messages_are_the_same_however_the_bytes_are_cut() {
        let requests = [request(1, &[]), request(2, &[0, 3, 100]), request(3, &[40, 1]), ProduceRequest::default()];
        let wire = on_the_wire(&requests);
        assert_eq!(all(inbound(vec![wire.clone()])).await.unwrap(), requests);
        for cut in 0..=wire.len() {
            let pieces = vec![wire.slice(..cut), Bytes::new(), wire.slice(cut..)];
            assert_eq!(all(inbound(pieces)).await.unwrap(), requests, "cut at {cut}");
        }
        for size in [1, 2, 7, 64] {
            let pieces = wire.chunks(size).map(Bytes::copy_from_slice).collect();
            assert_eq!(all(inbound(pieces)).await.unwrap(), requests, "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn a_payload_in_one_piece_is_not_copied() {
        let wire = on_the_wire(&[request(1, &[5_000])]);
        let range = wire.as_ptr_range();
        let messages = all(inbound(vec![wire.clone()])).await.unwrap();
        assert!(range.contains(&messages[0].partitions[0].records.as_ptr()));
    }

    /// The bytes before it are a good message: it is handed out.
    #[tokio::test]
    async fn t47_what_is_too_large_compressed_cut_or_nonsense_ends_the_stream() {
        let good = on_the_wire(&[request(1, &[10])]);
        let claim = |flag: u8, len: u32| {
            let mut wire = BytesMut::from(good.as_ref());
            wire.put_u8(flag);
            wire.put_u32(len);
            wire
        };
        let mut nonsense = claim(0, 4);
        nonsense.put_slice(&[0xff; 4]);
        let cases = [
            (claim(0, u32::MAX), Code::OutOfRange),
            (claim(0, (1 << 20) + 1), Code::OutOfRange),
            (claim(1, 3), Code::Unimplemented),
            (claim(0, 3), Code::Internal),
            (BytesMut::from(&good[..good.len() - 1]), Code::Internal),
            (nonsense, Code::InvalidArgument),
        ];
        for (wire, code) in cases {
            let mut inbound = inbound(vec![wire.freeze()]);
            let mut messages = 0;
            let status = loop {
                match inbound.message().await {
                    Ok(Some(_)) => messages += 1,
                    Ok(None) => panic!("{code:?} was not told"),
                    Err(status) => break status,
                }
            };
            assert_eq!(status.code(), code);
            assert!(messages <= 1);
            assert!(inbound.message().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_status_in_headers_or_trailers_reaches_the_client() {
        let mut trailers = http::HeaderMap::new();
        Status::aborted("why").add_header(&mut trailers).unwrap();
        let only_status = http::Response::builder().header("grpc-status", "5").body(Body::default()).unwrap();
        let refused = Inbound::<ProduceRequest>::of_response(only_status, 100);
        assert_eq!(refused.err().unwrap().code(), Code::NotFound);
        let elsewhere = http::Response::builder().status(503).body(Body::default()).unwrap();
        assert_eq!(Inbound::<ProduceRequest>::of_response(elsewhere, 100).err().unwrap().code(), Code::Unavailable);
        let wire = on_the_wire(&[request(1, &[10])]);
        let frames = [Frame::data(wire), Frame::trailers(trailers)].into();
        let response = http::Response::new(Body::new(Frames(frames)));
        let mut inbound = Inbound::<ProduceRequest>::of_response(response, 1 << 20).unwrap();
        assert_eq!(inbound.message().await.unwrap().unwrap().request_id, 1);
        let status = inbound.message().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Aborted, "why"));
    }
}
