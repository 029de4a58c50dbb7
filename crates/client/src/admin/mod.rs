//! Administration: any broker takes a request and passes it on to whoever can do it.
//!
//! Reads are asked again, of another broker, until the client's request timeout. Changes are asked again only while the
//! answer says that nothing was done, or where twice is the same as once; otherwise the error says that the outcome is
//! unknown.

mod groups;
mod topic;
mod transactions;
mod types;

pub use groups::{GroupDescription, GroupListing, GroupProtocol, MemberDescription, PartitionLag};
pub use transactions::{HangingTransaction, ProducerDescription, TransactionDescription};

pub use topic::NewTopic;
pub use types::{
    ClusterDescription, ControllerDescription, PartitionDescription, ReplicaProgress, TopicAlteration, TopicConfigEntry,
};

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_protocol::{MESSAGE_SIZE_MAX, topic_id_bytes, v1};
use highwater_types::{ControllerId, ErrorCode, IsolationLevel, Offset, Outcome, PartitionId, TopicId};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};
use v1::admin_client::AdminClient;
use v1::metadata_client::MetadataClient;

use crate::ask::ask;
use crate::client::ClientInner;
use crate::metadata::{TopicMetadata, topic_from_wire};
use crate::offsets::{self, Lookup};
use crate::{AdminError, NodeAddress, OffsetAt, TimestampedOffset};

/// An admin client. Cloning is cheap.
#[derive(Clone)]
pub struct Admin {
    client: Arc<ClientInner>,
}

/// How long a change may take to show in this client's own metadata.
const VISIBLE_WAIT: Duration = Duration::from_secs(5);

impl Admin {
    pub(crate) fn new(client: Arc<ClientInner>) -> Self {
        Self { client }
    }

    /// Creates a topic. Once it returns, this client knows the topic and who leads its partitions (other clients may
    /// take some milliseconds more).
    ///
    /// It is asked for again after an answer was lost. A topic of that name that is there then, with the very settings
    /// asked for, counts as created by this call, whoever created it.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicMetadata, AdminError> {
        let what = format!("create topic {:?}", topic.name);
        let validate_only = topic.validate_only;
        let request = topic.into_wire();
        let in_doubt = AtomicBool::new(false);
        let send = |channel| {
            let request = request.clone();
            async move { admin(channel).create_topic(request).await }
        };
        let may_repeat = |error: &AdminError| {
            in_doubt.fetch_or(!is_not_applied(error), Ordering::Relaxed);
            true
        };
        let created = match self.ask(&what, send, may_repeat).await {
            Ok(created) => topic_answer(&what, created.topic.as_ref())?,
            Err(error) if error.code == ErrorCode::TopicAlreadyExists && in_doubt.load(Ordering::Relaxed) => {
                let known = self.describe_topic(&request.name).await?;
                if !topic::is_as_asked(&known, &request) {
                    return Err(error);
                }
                known
            }
            Err(mut error) => {
                // Not what the last attempt met alone.
                if in_doubt.load(Ordering::Relaxed) {
                    error.outcome = Outcome::Unknown;
                }
                return Err(error);
            }
        };
        if !validate_only {
            let known = |id: TopicId, count| {
                self.visible(created.name.as_str(), move |topic| {
                    let led = topic.partitions.iter().filter(|p| p.leader.is_some()).count();
                    topic.id == id && led >= count
                })
            };
            known(created.id, created.partitions.len()).await;
        }
        Ok(created)
    }

    /// Deletes a topic and its data.
    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        let what = format!("delete topic {name:?}");
        let request = v1::DeleteTopicRequest { name: name.to_owned(), ..v1::DeleteTopicRequest::default() };
        let send = |channel| {
            let request = request.clone();
            async move { admin(channel).delete_topic(request).await }
        };
        let deleted = self.change(&what, send).await?;
        let id = TopicId::from_slice(&deleted.topic_id);
        let gone = self.client.image_when(|image| image.topic(name).is_none_or(|topic| Some(topic.id) != id));
        // Only a convenience: the topic is deleted either way.
        let _ = timeout(VISIBLE_WAIT, gone).await;
        Ok(())
    }

    /// Changes configs and grows the number of partitions: both or neither.
    pub async fn alter_topic(&self, name: &str, change: TopicAlteration) -> Result<TopicMetadata, AdminError> {
        let what = format!("alter topic {name:?}");
        let request = change.into_wire(name);
        let send = |channel| {
            let request = request.clone();
            async move { admin(channel).alter_topic(request).await }
        };
        let altered = self.change(&what, send).await?;
        let altered = topic_answer(&what, altered.topic.as_ref())?;
        let count = altered.partitions.len();
        self.visible(name, move |topic| topic.partitions.iter().filter(|p| p.leader.is_some()).count() >= count).await;
        Ok(altered)
    }

    /// Every topic, by name.
    pub async fn list_topics(&self) -> Result<Vec<TopicMetadata>, AdminError> {
        let update = self.get_metadata("list topics", Vec::new()).await?;
        let mut topics: Vec<_> = update.topics.iter().filter_map(|info| topic_from_wire(info, None, true)).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// One topic: partitions, leaders, replicas, and what is set on it.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicMetadata, AdminError> {
        let what = format!("describe topic {name:?}");
        let update = self.get_metadata(&what, vec![name.to_owned()]).await?;
        let mut topics = update.topics.iter().filter(|info| info.name == name);
        topics.find_map(|info| topic_from_wire(info, None, true)).ok_or_else(|| unknown_topic(&what, name))
    }

    /// Every config of a topic: its value, and whether it was set on the topic.
    pub async fn describe_topic_configs(&self, name: &str) -> Result<Vec<TopicConfigEntry>, AdminError> {
        let what = format!("describe the configs of topic {name:?}");
        let request = v1::DescribeTopicConfigsRequest { name: name.to_owned() };
        let send = |channel| {
            let request = request.clone();
            async move { admin(channel).describe_topic_configs(request).await }
        };
        let answer = self.read(&what, send).await?;
        Ok(answer.configs.into_iter().map(TopicConfigEntry::from).collect())
    }

    /// Offsets, size and replica progress of each partition of a topic, from its leader.
    pub async fn describe_partitions(&self, name: &str) -> Result<Vec<PartitionDescription>, AdminError> {
        let what = format!("describe the partitions of topic {name:?}");
        let topic = self.describe_topic(name).await?;
        let request = v1::DescribePartitionsRequest { topic_id: topic_id_bytes(topic.id), partitions: Vec::new() };
        let send = |channel| {
            let request = request.clone();
            async move { admin(channel).describe_partitions(request).await }
        };
        let answer = self.read(&what, send).await?;
        let mut partitions: Vec<_> = answer.partitions.into_iter().map(PartitionDescription::from).collect();
        partitions.sort_by_key(|partition| partition.partition);
        Ok(partitions)
    }

    /// Brokers, controllers, and how many partitions are short of replicas.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, AdminError> {
        let send = |channel| async move { admin(channel).describe_cluster(v1::DescribeClusterRequest {}).await };
        self.read("describe the cluster", send).await.map(ClusterDescription::from)
    }

    /// Where each partition of a topic has the first record, the end, or the first record from a time on.
    pub async fn list_offsets(
        &self,
        name: &str,
        at: OffsetAt,
    ) -> Result<Vec<(PartitionId, TimestampedOffset)>, AdminError> {
        self.list_offsets_as(name, at, IsolationLevel::ReadUncommitted).await
    }

    /// As [`list_offsets`](Self::list_offsets), for such a reader: with [`IsolationLevel::ReadCommitted`] a partition ends
    /// where the oldest open transaction begins.
    pub async fn list_offsets_as(
        &self,
        name: &str,
        at: OffsetAt,
        isolation: IsolationLevel,
    ) -> Result<Vec<(PartitionId, TimestampedOffset)>, AdminError> {
        let what = format!("list offsets of topic {name:?}");
        let topic = self.client.topic(name).await.ok_or_else(|| unknown_topic(&what, name))?;
        let asked = topic.partitions.iter().map(|p| Lookup { topic: Arc::clone(&topic), partition: p.id, at });
        let found = offsets::look_up(&self.client, asked.collect(), isolation).await;
        found.into_iter().map(|(lookup, result)| result.map(|found| (lookup.partition, found))).collect()
    }

    /// Moves a partition's log start offset forward to `before`, or to the end of what is committed for `None`; the
    /// records below are gone for readers at once. Returns the new log start offset.
    pub async fn delete_records(
        &self,
        name: &str,
        partition: PartitionId,
        before: Option<Offset>,
    ) -> Result<Offset, AdminError> {
        let what = format!("delete records of {name}-{partition}");
        let topic = self.client.topic(name).await.ok_or_else(|| unknown_topic(&what, name))?;
        let request = v1::DeleteRecordsRequest {
            topic_id: topic_id_bytes(topic.id),
            partition: partition.get(),
            before_offset: before.map_or(-1, Offset::get),
        };
        let send = |channel| {
            let request = request.clone();
            async move { admin(channel).delete_records(request).await }
        };
        // Deleting up to an offset twice is the same as once, so it may be asked again like a read.
        let answer = match before {
            Some(_) => self.read(&what, send).await,
            None => self.change(&what, send).await,
        };
        Ok(Offset::new(answer?.log_start_offset))
    }

    /// Moves leadership back to the first replica of each partition of these topics (none: all) where it is in sync.
    /// Returns how many partitions moved.
    pub async fn elect_preferred_leaders(&self, topics: &[&str]) -> Result<u32, AdminError> {
        let request =
            v1::ElectPreferredLeadersRequest { topics: topics.iter().map(|&topic| topic.to_owned()).collect() };
        let send = |channel| {
            let request = request.clone();
            async move { admin(channel).elect_preferred_leaders(request).await }
        };
        self.change("elect preferred leaders", send).await.map(|answer| answer.moved)
    }

    /// Adds a controller, which runs and waits to be added, as a voter.
    pub async fn add_controller(&self, id: ControllerId, address: NodeAddress) -> Result<(), AdminError> {
        let endpoint = v1::Endpoint { host: address.host, port: address.port.into() };
        let request = v1::AddControllerRequest { controller_id: id.get(), endpoint: Some(endpoint) };
        let send = |channel| {
            let request = request.clone();
            async move { admin(channel).add_controller(request).await }
        };
        self.change(&format!("add controller {id}"), send).await.map(drop)
    }

    /// Removes a controller from the quorum.
    pub async fn remove_controller(&self, id: ControllerId) -> Result<(), AdminError> {
        let request = v1::RemoveControllerRequest { controller_id: id.get() };
        let send = |channel| async move { admin(channel).remove_controller(request).await };
        self.change(&format!("remove controller {id}"), send).await.map(drop)
    }

    async fn get_metadata(&self, what: &str, topics: Vec<String>) -> Result<v1::MetadataUpdate, AdminError> {
        let request = v1::GetMetadataRequest { topics };
        let send = |channel| {
            let request = request.clone();
            async move {
                let mut client = MetadataClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX);
                client.get_metadata(request).await
            }
        };
        self.read(what, send).await
    }

    async fn visible(&self, name: &str, holds: impl Fn(&TopicMetadata) -> bool) {
        let seen = self.client.image_when(|image| image.topic(name).is_some_and(|topic| holds(topic)));
        // Only a convenience: the change is made either way.
        let _ = timeout(VISIBLE_WAIT, seen).await;
    }

    async fn read<T, F, Fut>(&self, what: &str, send: F) -> Result<T, AdminError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(what, send, |_| true).await
    }

    async fn change<T, F, Fut>(&self, what: &str, send: F) -> Result<T, AdminError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(what, send, is_not_applied).await
    }

    async fn ask<T, F, Fut>(
        &self,
        what: &str,
        send: F,
        may_repeat: impl Fn(&AdminError) -> bool,
    ) -> Result<T, AdminError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        ask(&self.client, what, Instant::now() + self.client.request_timeout, send, may_repeat).await
    }
}

fn is_not_applied(error: &AdminError) -> bool {
    error.outcome == Outcome::NotApplied
}

fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX)
}

fn unknown_topic(what: &str, name: &str) -> AdminError {
    AdminError::new(what, ErrorCode::UnknownTopic, format!("there is no topic {name:?}; create it, or check the name"))
}

fn topic_answer(what: &str, info: Option<&v1::TopicInfo>) -> Result<TopicMetadata, AdminError> {
    let topic = info.and_then(|info| topic_from_wire(info, None, true));
    topic.ok_or_else(|| AdminError::new(what, ErrorCode::Internal, "the broker's answer has no topic in it"))
}
