//! The Data service: records in and out.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use highwater_protocol::{Inbound, MESSAGE_SIZE_MAX, PartitionKey, ProtocolError, topic_id_bytes, v1};
use highwater_types::{IsolationLevel, LeaderEpoch, TimestampMs};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::error::{invalid, to_wire};
use super::{fetch_session, gather, produce_session};
use crate::core::Core;
use crate::partition::{OffsetAt, PartitionError};

/// Routes the methods itself, because tonic's own server copies every payload that it takes or sends.
#[derive(Clone)]
pub(crate) struct DataService {
    core: Arc<Core>,
}

impl DataService {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl NamedService for DataService {
    const NAME: &'static str = "highwater.v1.Data";
}

fn grpc<Encode, Decode>() -> Grpc<ProstCodec<Encode, Decode>>
where
    Encode: prost::Message + Send + 'static,
    Decode: prost::Message + Default + Send + 'static,
{
    Grpc::new(ProstCodec::default()).apply_max_message_size_config(Some(MESSAGE_SIZE_MAX), None)
}

/// The messages of a request body.
pub(crate) fn messages<T: prost::Message + Default>(request: http::Request<Body>) -> Inbound<T> {
    Inbound::of_request(request.into_body(), MESSAGE_SIZE_MAX)
}

impl Service<http::Request<Body>> for DataService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let core = Arc::clone(&self.core);
        match request.uri().path() {
            "/highwater.v1.Data/Produce" => {
                Box::pin(async move { Ok(gather::response(produce_session::produce(core, messages(request)))) })
            }
            "/highwater.v1.Data/Fetch" => {
                Box::pin(async move { Ok(gather::response(fetch_session::fetch(core, messages(request)))) })
            }
            "/highwater.v1.Data/ListOffsets" => Box::pin(async move {
                let list = tower_fn(move |request: Request<v1::ListOffsetsRequest>| {
                    list_offsets(Arc::clone(&core), request.into_inner())
                });
                Ok(grpc().unary(list, request).await)
            }),
            "/highwater.v1.Data/OffsetsForLeaderEpoch" => Box::pin(async move {
                let epochs = tower_fn(move |request: Request<v1::OffsetsForLeaderEpochRequest>| {
                    let response = offsets_for_leader_epoch(&core, request.into_inner());
                    async move { response }
                });
                Ok(grpc().unary(epochs, request).await)
            }),
            _ => Box::pin(async move { Ok(Status::unimplemented("the Data service has no such method").into_http()) }),
        }
    }
}

/// A service of tonic out of a function.
fn tower_fn<F>(function: F) -> ServiceFn<F> {
    ServiceFn(function)
}

struct ServiceFn<F>(F);

impl<F, Message, Answer, Fut> Service<Request<Message>> for ServiceFn<F>
where
    F: FnMut(Request<Message>) -> Fut,
    Fut: Future<Output = Result<Response<Answer>, Status>> + Send + 'static,
{
    type Response = Response<Answer>;
    type Error = Status;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<Message>) -> Fut {
        (self.0)(request)
    }
}

fn check_count(core: &Core, asked: usize) -> Result<(), Status> {
    let max = core.config.limits.partitions_per_request_max;
    if asked > max {
        let error = invalid(format!("{asked} partitions in one request; at most {max} are allowed"));
        return Err(highwater_protocol::status_from_error(error));
    }
    Ok(())
}

fn malformed(error: ProtocolError) -> Status {
    highwater_protocol::status_from_error(error.into())
}

async fn list_offsets(
    core: Arc<Core>,
    request: v1::ListOffsetsRequest,
) -> Result<Response<v1::ListOffsetsResponse>, Status> {
    check_count(&core, request.partitions.len())?;
    let isolation = fetch_session::isolation(request.isolation_level);
    let isolation = isolation.map_err(highwater_protocol::status_from_error)?;
    let mut partitions = Vec::with_capacity(request.partitions.len());
    for asked in request.partitions {
        partitions.push(list_offset(&core, &asked, isolation).await?);
    }
    Ok(Response::new(v1::ListOffsetsResponse { partitions }))
}

async fn list_offset(
    core: &Core,
    asked: &v1::ListOffsetsPartition,
    isolation: IsolationLevel,
) -> Result<v1::ListOffsetsPartitionResult, Status> {
    use v1::list_offsets_partition::At;
    let tp = asked.topic_partition().map_err(malformed)?;
    let at = match asked.at {
        Some(At::Earliest(_)) => OffsetAt::Earliest,
        Some(At::Latest(_)) => OffsetAt::Latest,
        Some(At::TimestampMs(ms)) => OffsetAt::Timestamp(TimestampMs::new(ms)),
        Some(At::MaxTimestamp(_)) => OffsetAt::MaxTimestamp,
        None => return Err(malformed(ProtocolError::Missing("at"))),
    };
    let named = v1::ListOffsetsPartitionResult {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        error: None,
        offset: -1,
        timestamp_ms: TimestampMs::NONE.get(),
        leader_epoch: LeaderEpoch::NONE.get(),
    };
    let found = match core.partitions.find(tp) {
        Ok(partition) => partition.find_offset(LeaderEpoch::new(asked.leader_epoch), at, isolation).await,
        Err(error) => Err(error),
    };
    Ok(match found {
        Ok(found) => v1::ListOffsetsPartitionResult {
            offset: found.offset.map_or(-1, highwater_types::Offset::get),
            timestamp_ms: found.timestamp.get(),
            leader_epoch: found.leader_epoch.get(),
            ..named
        },
        Err(error) => {
            v1::ListOffsetsPartitionResult { error: Some(to_wire(&error, &core.partitions.image())), ..named }
        }
    })
}

fn offsets_for_leader_epoch(
    core: &Core,
    request: v1::OffsetsForLeaderEpochRequest,
) -> Result<Response<v1::OffsetsForLeaderEpochResponse>, Status> {
    check_count(core, request.partitions.len())?;
    let mut partitions = Vec::with_capacity(request.partitions.len());
    for asked in request.partitions {
        let tp = asked.topic_partition().map_err(malformed)?;
        let epoch_end = || -> Result<_, PartitionError> {
            let partition = core.partitions.find(tp)?;
            partition.epoch_end(LeaderEpoch::new(asked.current_leader_epoch), LeaderEpoch::new(asked.leader_epoch))
        };
        let (error, end) = match epoch_end() {
            Ok(end) => {
                let (epoch, offset) = end.map_or((-1, -1), |end| (end.epoch.get(), end.end.get()));
                (None, Some(v1::EpochEndOffset { leader_epoch: epoch, end_offset: offset }))
            }
            Err(error) => (Some(to_wire(&error, &core.partitions.image())), None),
        };
        let (topic_id, partition) = (topic_id_bytes(tp.topic), tp.partition.get());
        partitions.push(v1::EpochOfPartitionResult { topic_id, partition, error, end });
    }
    Ok(Response::new(v1::OffsetsForLeaderEpochResponse { partitions }))
}
