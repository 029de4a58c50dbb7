//! The APIs: one file for each, or for each noun, and the one table of them.
//!
//! To add one: a type that is a [`Handler`], in a file of its own, and a row in [`APIS`]. What the table says is what
//! ApiVersions answers, and what is walked (`layout`) before it is decoded.

mod api_versions;
mod codes;
mod configs;
mod create_partitions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_log_dirs;
mod describe_topic_partitions;
mod elect_leaders;
pub(crate) mod fetch;
mod find_coordinator;
mod groups;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod offset_for_leader_epoch;
mod operations;
pub(crate) mod produce;
mod refusal;
pub(crate) mod topics;
mod transactions;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, FetchRequest, ProduceRequest};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

#[cfg(test)]
mod tests;

pub(crate) use api_versions::unsupported;
pub(crate) use codes::ErrorCodes;
use groups::{classic, consumer, describe, offsets};
use transactions::{end, join};

use crate::door::Door;
use crate::error::{self, By};
use crate::frame::{Frame, Header, Share};
use crate::layout::{Layout, LayoutError};
use crate::reply::{self, EncodeError, ReplyHeader};

/// Every API that works.
pub(crate) const APIS: &[Api] = &[
    Api::new::<ProduceRequest>(ApiKey::Produce, (3, 13), produce::LAYOUT, Run::Produce),
    Api::new::<FetchRequest>(ApiKey::Fetch, (4, 18), fetch::LAYOUT, Run::Call(fetch::run)),
    Api::of::<list_offsets::ListOffsets>(),
    Api::of::<metadata::Metadata>(),
    Api::of::<offsets::OffsetCommit>(),
    Api::of::<offsets::OffsetFetch>(),
    Api::of::<find_coordinator::FindCoordinator>(),
    Api::of::<classic::JoinGroup>(),
    Api::of::<classic::Heartbeat>(),
    Api::of::<classic::LeaveGroup>(),
    Api::of::<classic::SyncGroup>(),
    Api::of::<describe::DescribeGroups>(),
    Api::of::<describe::ListGroups>(),
    Api::of::<api_versions::ApiVersions>(),
    Api::of::<create_topics::CreateTopics>(),
    Api::of::<delete_topics::DeleteTopics>(),
    Api::of::<delete_records::DeleteRecords>(),
    Api::of::<init_producer_id::InitProducerId>(),
    Api::of::<offset_for_leader_epoch::OffsetForLeaderEpoch>(),
    Api::of::<join::AddPartitionsToTxn>(),
    Api::of::<join::AddOffsetsToTxn>(),
    Api::of::<end::EndTxn>(),
    Api::of::<join::TxnOffsetCommit>(),
    Api::of::<configs::DescribeConfigs>(),
    Api::of::<configs::AlterConfigs>(),
    Api::of::<describe_log_dirs::DescribeLogDirs>(),
    Api::of::<create_partitions::CreatePartitions>(),
    Api::of::<describe::DeleteGroups>(),
    Api::of::<elect_leaders::ElectLeaders>(),
    Api::of::<configs::IncrementalAlterConfigs>(),
    Api::of::<offsets::OffsetDelete>(),
    Api::of::<describe_cluster::DescribeCluster>(),
    Api::of::<transactions::describe::DescribeProducers>(),
    Api::of::<transactions::describe::DescribeTransactions>(),
    Api::of::<transactions::describe::ListTransactions>(),
    Api::of::<consumer::ConsumerGroupHeartbeat>(),
    Api::of::<describe::ConsumerGroupDescribe>(),
    Api::of::<describe_topic_partitions::DescribeTopicPartitions>(),
];

/// An API and its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supported {
    /// Its number.
    pub key: i16,
    /// The oldest version that is answered.
    pub first: i16,
    /// The newest.
    pub last: i16,
}

/// What ApiVersions answers.
pub const SUPPORTED: &[Supported] = &{
    let mut all = [Supported { key: 0, first: 0, last: 0 }; APIS.len()];
    let mut n = 0;
    while n < APIS.len() {
        all[n] = Supported { key: APIS[n].key as i16, first: APIS[n].first, last: APIS[n].last };
        n += 1;
    }
    all
};

/// Who is at the other end of a connection.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Of the connection, in this process.
    pub number: u64,
    pub peer: Option<IpAddr>,
    /// As the client's library says: its name and version.
    pub software: OnceLock<(StrBytes, StrBytes)>,
}

impl Client {
    /// Where it is, as administrators are told.
    pub(crate) fn host(&self) -> String {
        self.peer.map(|peer| format!("/{peer}")).unwrap_or_default()
    }
}

/// One request, as far as it is the same for all.
pub(crate) struct Call {
    pub door: Arc<Door>,
    pub client: Arc<Client>,
    pub client_id: Option<StrBytes>,
    pub version: i16,
    pub correlation_id: i32,
    pub is_flexible: bool,
    /// The request's share of the broker's budget, for as long as it is worked on.
    pub share: Share,
}

impl Call {
    /// What goes in front of the answer.
    pub(crate) fn reply_header(&self) -> ReplyHeader {
        ReplyHeader { correlation_id: self.correlation_id, is_flexible: self.is_flexible }
    }
}

/// Why there is no answer: the connection is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("there is no API {key}")]
    UnknownApi { key: i16 },
    #[error("{api:?} has no version {version} here; {first} to {last} are answered")]
    UnknownVersion { api: ApiKey, version: i16, first: i16, last: i16 },
    #[error("a request of {api:?} version {version} that is malformed: {source}")]
    Layout { api: ApiKey, version: i16, source: LayoutError },
    #[error("a request of {api:?} version {version} that is malformed: {message}")]
    Decode { api: ApiKey, version: i16, message: String },
    #[error("a request header that is malformed: {0}")]
    Header(LayoutError),
    #[error("{0}")]
    Encode(#[from] EncodeError),
    /// There is nothing true to say yet; the client tries another broker, or again.
    #[error("this broker has not heard from a controller yet")]
    NotReady,
    /// Without acknowledgements this is the only way to say so.
    #[error("records that nobody waits for were refused: {0}")]
    Refused(String),
}

/// An API whose answer is a message.
pub(crate) trait Handler {
    type Request: Decodable + Send;
    type Response: Encodable + ErrorCodes + Send;
    const KEY: ApiKey;
    /// The oldest and the newest version that really works.
    const VERSIONS: (i16, i16);
    const LAYOUT: Layout;
    /// Whether the answer's header may have tagged fields.
    const FLEXIBLE_REPLY_HEADER: bool = true;

    fn handle(call: &Call, request: Self::Request) -> impl Future<Output = Result<Self::Response, Broken>> + Send;
}

/// The frames of an answer, in pieces.
pub(crate) type Pieces = Vec<Bytes>;

/// How an API is carried out.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// By a future that yields the answer.
    Call(fn(Call, Bytes) -> BoxFuture<'static, Result<Pieces, Broken>>),
    /// By the connection's [`produce::Pipeline`].
    Produce,
}

/// A row of the table.
pub(crate) struct Api {
    pub key: ApiKey,
    pub first: i16,
    pub last: i16,
    pub layout: Layout,
    pub run: Run,
    try_decode: fn(&Api, i16, Bytes) -> Result<(), Broken>,
}

impl Api {
    const fn of<H: Handler>() -> Self {
        let (first, last) = H::VERSIONS;
        Self::new::<H::Request>(H::KEY, (first, last), H::LAYOUT, Run::Call(run::<H>))
    }

    const fn new<M: Decodable>(key: ApiKey, (first, last): (i16, i16), layout: Layout, run: Run) -> Self {
        let try_decode: fn(&Self, i16, Bytes) -> Result<(), Broken> =
            |api, version, body| decode::<M>(api.key, &api.layout, version, body).map(|_| ());
        Self { key, first, last, layout, run, try_decode }
    }

    /// The API of a request, if it and the version are known.
    pub(crate) fn find(key: i16, version: i16) -> Result<&'static Self, Broken> {
        let api = APIS.iter().find(|api| api.key as i16 == key).ok_or(Broken::UnknownApi { key })?;
        if version < api.first || version > api.last {
            let Self { key: api, first, last, .. } = *api;
            return Err(Broken::UnknownVersion { api, version, first, last });
        }
        Ok(api)
    }
}

/// What a coordinator answered, or why it did not.
pub(crate) fn answered<T>(result: Result<tonic::Response<T>, tonic::Status>) -> Result<T, ResponseError> {
    result.map(tonic::Response::into_inner).map_err(|status| error::of_status(By::Coordinator, &status).0)
}

/// A request, once it was walked through.
pub(crate) fn decode<M: Decodable>(api: ApiKey, layout: &Layout, version: i16, mut body: Bytes) -> Result<M, Broken> {
    layout.check(version, &body).map_err(|source| Broken::Layout { api, version, source })?;
    M::decode(&mut body, version).map_err(|error| Broken::Decode { api, version, message: error.to_string() })
}

/// Reads a request as a connection does, and does nothing with it: for tests with bytes of all kinds. `frame` is without its
/// length. Whether it can be carried out.
pub fn can_be_read(frame: Bytes) -> bool {
    let Some(frame) = Frame::of(frame, Share::default()) else { return false };
    let read = || {
        let api = Api::find(frame.api_key, frame.version)?;
        let header = Header::of(frame.rest, api.layout.is_flexible(frame.version)).map_err(Broken::Header)?;
        (api.try_decode)(api, frame.version, header.body)
    };
    read().is_ok()
}

fn run<H: Handler>(call: Call, body: Bytes) -> BoxFuture<'static, Result<Pieces, Broken>> {
    Box::pin(async move {
        let request = decode::<H::Request>(H::KEY, &H::LAYOUT, call.version, body)?;
        if H::KEY != ApiKey::ApiVersions {
            // T48: an empty cluster would make clients forget their topics, and call those unknown that they ask about.
            call.door.api.link.known_image().await.map_err(|_| Broken::NotReady)?;
        }
        let response = H::handle(&call, request).await?;
        call.door.metrics.answered(H::KEY, &response);
        let header = call.reply_header();
        let header = ReplyHeader { is_flexible: header.is_flexible && H::FLEXIBLE_REPLY_HEADER, ..header };
        Ok(vec![reply::message(header, &response, call.version)?])
    })
}
