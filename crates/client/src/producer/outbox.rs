//! The body of a Produce stream: requests as gRPC frames, without copying their batches.
//!
//! tonic's own encoder copies every message into one buffer. Here a request is a small head and, as frames of their own,
//! the `Bytes` of its batches; the server sees an ordinary gRPC message. The body also counts which requests the
//! transport has taken: one that it has not taken was certainly not written anywhere.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use highwater_protocol::{MESSAGE_SIZE_MAX, v1};
use http_body::Frame;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tokio::sync::Notify;
use tonic::codegen::{Service, http};
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use v1::data_client::DataClient;

/// Batches smaller than this are copied into the head: a frame of their own costs more.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// Where requests wait for the transport.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    taken: AtomicU64,
    /// Fires when a request was taken.
    pub progress: Notify,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Queued>,
    end: Option<End>,
    waker: Option<Waker>,
}

struct Queued {
    bytes: Bytes,
    request: u64,
    /// The first of its request's frames, and the last.
    begins: bool,
    ends: bool,
}

enum End {
    Orderly,
    Broken,
}

impl Outbox {
    /// Queues a request, whose id is greater than any before. `batches` go where `partitions` leave their records empty.
    pub fn push(&self, request: &v1::ProduceRequest, batches: &[Vec<Bytes>]) {
        let frames = encode(request, batches);
        let last = frames.len() - 1;
        self.change(|state| {
            let request = request.request_id;
            let queued = |(i, bytes)| Queued { bytes, request, begins: i == 0, ends: i == last };
            state.frames.extend(frames.into_iter().enumerate().map(queued));
        });
    }

    /// Takes a request back, if the transport has taken nothing of it. Then it is certain that it is never sent.
    pub fn retract(&self, request: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = state.frames.iter().any(|frame| frame.request == request && frame.begins);
        if whole {
            state.frames.retain(|frame| frame.request != request);
        }
        whole
    }

    /// The id of the last request that the transport has taken whole.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// Ends the stream after what is queued.
    pub fn finish(&self) {
        self.change(|state| state.end = Some(End::Orderly));
    }

    /// Breaks the stream off; nothing more is taken.
    pub fn abort(&self) {
        self.change(|state| {
            state.frames.clear();
            state.end = Some(End::Broken);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct OutboxBody(Arc<Outbox>);

impl http_body::Body for OutboxBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = state.frames.pop_front() {
            if frame.ends {
                self.0.taken.store(frame.request, Ordering::Release);
                self.0.progress.notify_one();
            }
            return Poll::Ready(Some(Ok(Frame::data(frame.bytes))));
        }
        match state.end {
            Some(End::Orderly) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(Status::cancelled("given up by the producer")))),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A channel that sends this body instead of the request's own.
struct WithBody {
    channel: Channel,
    body: Option<tonic::body::Body>,
}

impl Service<http::Request<tonic::body::Body>> for WithBody {
    type Response = http::Response<tonic::body::Body>;
    type Error = <Channel as Service<http::Request<tonic::body::Body>>>::Error;
    type Future = <Channel as Service<http::Request<tonic::body::Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<tonic::body::Body>>::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let body = self.body.take();
        self.channel.call(request.map(|own| body.unwrap_or(own)))
    }
}

/// Opens a Produce stream that sends what is pushed into `outbox`.
pub(crate) async fn open(channel: Channel, outbox: Arc<Outbox>) -> Result<Streaming<v1::ProduceResponse>, Status> {
    let body = Some(tonic::body::Body::new(OutboxBody(outbox)));
    let mut client = DataClient::new(WithBody { channel, body }).max_decoding_message_size(MESSAGE_SIZE_MAX);
    client.produce(tokio_stream::empty::<v1::ProduceRequest>()).await.map(tonic::Response::into_inner)
}

const PRODUCE_REQUEST_PARTITIONS: u32 = 4;
const PRODUCE_PARTITION_RECORDS: u32 = 4;
const GRPC_PREFIX: usize = 5;

/// The frames of one gRPC message.
fn encode(request: &v1::ProduceRequest, batches: &[Vec<Bytes>]) -> Vec<Bytes> {
    let head = v1::ProduceRequest { partitions: Vec::new(), ..request.clone() };
    let entries = request.partitions.iter().zip(batches);
    let entry_len = |partition: &v1::ProducePartition, batches: &[Bytes]| {
        let records: usize = batches.iter().map(Bytes::len).sum();
        (partition.encoded_len() + 1 + encoded_len_varint(records as u64) + records, records)
    };
    let body_len: usize = entries.clone().fold(head.encoded_len(), |sum, (partition, batches)| {
        let (len, _) = entry_len(partition, batches);
        sum + 1 + encoded_len_varint(len as u64) + len
    });

    let mut frames = Vec::new();
    let mut buffer = BytesMut::with_capacity(GRPC_PREFIX + 64 * (1 + request.partitions.len()));
    buffer.put_u8(0);
    // Bounded by `request_bytes_max` and the one batch that always goes, far below 4 GiB.
    buffer.put_u32(body_len as u32);
    put(&mut buffer, &head);
    for (partition, batches) in entries {
        let (len, records) = entry_len(partition, batches);
        encode_key(PRODUCE_REQUEST_PARTITIONS, WireType::LengthDelimited, &mut buffer);
        encode_varint(len as u64, &mut buffer);
        put(&mut buffer, partition);
        encode_key(PRODUCE_PARTITION_RECORDS, WireType::LengthDelimited, &mut buffer);
        encode_varint(records as u64, &mut buffer);
        for batch in batches {
            if batch.len() < COPIED_BYTES_MAX {
                buffer.extend_from_slice(batch);
            } else {
                frames.push(buffer.split().freeze());
                frames.push(batch.clone());
            }
        }
    }
    if !buffer.is_empty() {
        frames.push(buffer.freeze());
    }
    frames
}

fn put(buffer: &mut BytesMut, message: &impl prost::Message) {
    // `BytesMut` grows: encoding into it can't fail for want of room.
    let encoded = message.encode(buffer);
    debug_assert!(encoded.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(partitions: u32) -> v1::ProduceRequest {
        let partition = |partition| v1::ProducePartition {
            topic_id: vec![7; 16].into(),
            partition,
            leader_epoch: -1,
            records: Bytes::new(),
        };
        v1::ProduceRequest {
            transactional_id: String::new(),
            request_id: 300,
            acks: v1::Acks::All.into(),
            timeout_ms: 1000,
            partitions: (0..partitions).map(partition).collect(),
        }
    }

    #[test]
    fn frames_are_one_grpc_message_that_any_decoder_reads() {
        for sizes in [vec![], vec![vec![10]], vec![vec![100_000, 5, 9000], vec![0], vec![8192, 1]]] {
            let mut request = request(sizes.len() as u32);
            let batches: Vec<Vec<Bytes>> = sizes
                .iter()
                .map(|sizes| sizes.iter().map(|&size| Bytes::from(vec![size as u8; size])).collect())
                .collect();
            let message: Vec<u8> = encode(&request, &batches).concat();
            assert_eq!(message[0], 0);
            assert_eq!(u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize, message.len() - 5);
            for (partition, batches) in request.partitions.iter_mut().zip(&batches) {
                partition.records = batches.concat().into();
            }
            assert_eq!(v1::ProduceRequest::decode(&message[5..]).unwrap(), request);
        }
    }

    #[test]
    fn a_request_is_taken_back_only_while_the_transport_has_nothing_of_it() {
        let outbox = Arc::new(Outbox::default());
        for id in [1, 2, 3] {
            let request = v1::ProduceRequest { request_id: id, ..request(1) };
            outbox.push(&request, &[vec![Bytes::from(vec![1; 100_000])]]);
        }
        let mut body = OutboxBody(Arc::clone(&outbox));
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || http_body::Body::poll_frame(Pin::new(&mut body), &mut cx);
        assert!(poll().is_ready());
        assert!(!outbox.retract(1));
        assert!(outbox.retract(2) && !outbox.retract(2));
        while poll().is_ready() {}
        assert_eq!(outbox.taken(), 3);
        assert!(!outbox.retract(3));
    }

    #[test]
    fn large_batches_are_not_copied() {
        let batch = Bytes::from(vec![1; 100_000]);
        let frames = encode(&request(1), &[vec![batch.clone()]]);
        assert!(frames.iter().any(|frame| frame.as_ptr() == batch.as_ptr()));
    }
}
