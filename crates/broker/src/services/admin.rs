//! Administration. Any broker accepts: commands go on to the active controller, questions about a partition's log to
//! its leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::{
    ClusterImage, Command, CommandResponse, Endpoint, ListChange, PARTITIONS_PER_TOPIC_MAX, TopicState,
};
use highwater_protocol::v1::admin_client::AdminClient;
use highwater_protocol::v1::admin_server::Admin;
use highwater_protocol::v1::*;
use highwater_protocol::{
    MESSAGE_SIZE_MAX, PartitionKey, error_from_status, status_from_error, topic_id_bytes, v1::Error as WireError,
};
use highwater_types::{
    BrokerId, ErrorCode, Offset, PartitionId, TOPIC_CONFIG_KEYS, TopicId, TopicPartition, is_internal_topic,
};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::metadata::{broker_info, endpoint, topic_info};
use crate::cluster::ClusterLink;

/// Set on what one broker sends on to another, which then answers for itself or not at all.
const FORWARDED: &str = "highwater-forwarded";
/// For another broker's answer.
pub(super) const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The partitions whose logs are here, as far as administration needs them.
#[tonic::async_trait]
pub trait LocalPartitions: Send + Sync + 'static {
    /// `NotLeader` (or the like) where this broker does not lead the partition.
    fn describe(&self, partition: TopicPartition) -> Result<PartitionDescription, WireError>;

    /// The data dirs of this broker.
    fn log_dirs(&self) -> Vec<LogDir>;

    /// Moves the log start offset up to `before`, `None`: to the high watermark; answers where it is then.
    async fn delete_records(&self, partition: TopicPartition, before: Option<Offset>) -> Result<Offset, WireError>;
}

/// The Admin service.
#[derive(Clone)]
pub struct AdminService {
    pub(super) link: ClusterLink,
    pub(super) local: Arc<dyn LocalPartitions>,
}

fn refuse(code: ErrorCode, message: impl Into<String>) -> Status {
    status_from_error(WireError::new(code, message))
}

/// The cluster's own topics are for users to read, and for nothing else.
fn check_not_internal(name: &str) -> Result<(), Status> {
    if is_internal_topic(name) {
        let message =
            format!("topic names that begin with __ are the cluster's own: {name:?} can be read, and no more");
        return Err(refuse(ErrorCode::InvalidTopicName, message));
    }
    Ok(())
}

fn wire_topic_id(bytes: &[u8]) -> Result<TopicId, Status> {
    let wrong = || refuse(ErrorCode::InvalidRequest, format!("a topic id is 16 bytes long, this one {}", bytes.len()));
    TopicId::from_slice(bytes).ok_or_else(wrong)
}

fn unknown_topic(name: &str) -> Status {
    refuse(ErrorCode::UnknownTopic, format!("there is no topic {name:?}"))
}

impl AdminService {
    pub fn new(link: ClusterLink, local: Arc<dyn LocalPartitions>) -> Self {
        Self { link, local }
    }

    pub(super) async fn execute(&self, command: Command) -> Result<CommandResponse, Status> {
        let (response, _) = self.link.execute(&command).await.map_err(status_from_error)?;
        Ok(response)
    }

    async fn execute_for_topic(&self, command: Command) -> Result<TopicInfo, Status> {
        match self.execute(command).await? {
            CommandResponse::Topic { topic } => Ok(topic_info(&topic)),
            other => Err(unexpected(&other)),
        }
    }

    /// Where the leader of a partition is.
    fn leader_of(&self, image: &ClusterImage, partition: TopicPartition) -> Result<(BrokerId, Endpoint), WireError> {
        let topic = image.topic(partition.topic).ok_or_else(|| unknown_id(partition.topic))?;
        let state = topic.partition(partition.partition).ok_or_else(|| unknown_partition(topic, partition))?;
        let leader = state.leader.and_then(|leader| image.broker(leader));
        let leader = leader.ok_or_else(|| {
            let message = format!("partition {} of topic {} has no leader now", partition.partition, topic.name);
            WireError::new(ErrorCode::LeaderNotAvailable, message)
        })?;
        Ok((leader.id, leader.internal_endpoint.clone()))
    }

    pub(super) fn peer(&self, endpoint: &Endpoint) -> AdminClient<Channel> {
        AdminClient::new(self.link.peers().channel(endpoint)).max_decoding_message_size(MESSAGE_SIZE_MAX)
    }

    /// See [`ClusterLink::known_image`].
    async fn image(&self) -> Result<Arc<ClusterImage>, Status> {
        self.link.known_image().await.map_err(status_from_error)
    }

    /// Asks another leader for all its partitions of a topic at once.
    async fn describe_at(
        &self,
        endpoint: Endpoint,
        topic: TopicId,
        partitions: Vec<PartitionId>,
    ) -> Vec<PartitionDescription> {
        let wanted = partitions.iter().map(|p| p.get()).collect();
        let request = DescribePartitionsRequest { topic_id: topic_id_bytes(topic), partitions: wanted };
        let mut peer = self.peer(&endpoint);
        let answer = tokio::time::timeout(FORWARD_TIMEOUT, peer.describe_partitions(forwarded(request))).await;
        let error = match answer {
            Ok(Ok(response)) => return response.into_inner().partitions,
            Ok(Err(status)) => error_from_status(&status),
            Err(_) => no_answer(&endpoint),
        };
        partitions.into_iter().map(|partition| undescribed(partition, error.clone())).collect()
    }
}

fn replicas_of(assignment: ReplicaAssignment) -> Vec<BrokerId> {
    assignment.replicas.into_iter().map(BrokerId::new).collect()
}

pub(super) fn forwarded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    request.set_timeout(FORWARD_TIMEOUT);
    request
}

fn is_forwarded<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(FORWARDED)
}

pub(super) fn no_answer(endpoint: &Endpoint) -> WireError {
    let message = format!("the leader, at {endpoint}, did not answer within {FORWARD_TIMEOUT:?}");
    WireError::new(ErrorCode::RequestTimedOut, message)
}

fn unknown_id(topic: TopicId) -> WireError {
    WireError::new(ErrorCode::UnknownTopicId, format!("there is no topic with id {topic}; it may have been deleted"))
}

fn unknown_partition(topic: &TopicState, partition: TopicPartition) -> WireError {
    let (name, partitions) = (&topic.name, topic.partitions.len());
    let message = format!("topic {name} has {partitions} partitions, from 0, and no {}", partition.partition);
    WireError::new(ErrorCode::UnknownPartition, message)
}

fn undescribed(partition: PartitionId, error: WireError) -> PartitionDescription {
    PartitionDescription { partition: partition.get(), error: Some(error), ..PartitionDescription::default() }
}

pub(super) fn unexpected(response: &CommandResponse) -> Status {
    refuse(ErrorCode::Internal, format!("the controller's answer is of another kind: {response:?}"))
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<Response<CreateTopicResponse>, Status> {
        let request = request.into_inner();
        check_not_internal(&request.name)?;
        let topic = self.execute_for_topic(Command::CreateTopic {
            name: request.name,
            partitions: request.partitions,
            replication_factor: request.replication_factor,
            configs: request.configs.into_iter().collect(),
            assignments: request.assignments.into_iter().map(replicas_of).collect(),
            validate_only: request.validate_only,
        });
        Ok(Response::new(CreateTopicResponse { topic: Some(topic.await?) }))
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        let request = request.into_inner();
        let command = if request.topic_id.is_empty() {
            check_not_internal(&request.name)?;
            Command::DeleteTopic { name: request.name }
        } else {
            let topic = wire_topic_id(&request.topic_id)?;
            let image = self.image().await?;
            let known = image.topic(topic).ok_or_else(|| status_from_error(unknown_id(topic)))?;
            check_not_internal(known.name.as_str())?;
            if !request.name.is_empty() && request.name != known.name.as_str() {
                let message =
                    format!("topic id {topic} is of {}, not of {:?}; give one of the two", known.name, request.name);
                return Err(refuse(ErrorCode::InvalidRequest, message));
            }
            Command::DeleteTopicById { topic }
        };
        match self.execute(command).await? {
            CommandResponse::TopicDeleted { topic } => {
                Ok(Response::new(DeleteTopicResponse { topic_id: topic_id_bytes(topic) }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn alter_topic(&self, request: Request<AlterTopicRequest>) -> Result<Response<AlterTopicResponse>, Status> {
        let request = request.into_inner();
        check_not_internal(&request.name)?;
        let topic = self.execute_for_topic(Command::AlterTopic {
            name: request.name,
            set_configs: request.set_configs.into_iter().collect(),
            unset_configs: request.unset_configs.into_iter().collect(),
            list_changes: request
                .list_changes
                .into_iter()
                .map(|it| ListChange { key: it.key, items: it.items, add: !it.remove })
                .collect(),
            partitions: request.partitions,
            must_grow: request.must_grow,
            assignments: request.new_partitions.into_iter().map(replicas_of).collect(),
            validate_only: request.validate_only,
        });
        Ok(Response::new(AlterTopicResponse { topic: Some(topic.await?) }))
    }

    async fn delete_records(
        &self,
        request: Request<DeleteRecordsRequest>,
    ) -> Result<Response<DeleteRecordsResponse>, Status> {
        let is_forwarded = is_forwarded(&request);
        let request = request.into_inner();
        let partition = request.topic_partition().map_err(|error| status_from_error(error.into()))?;
        if let Some(topic) = self.image().await?.topic(partition.topic) {
            check_not_internal(topic.name.as_str())?;
        }
        let before = match request.before_offset {
            -1 => None,
            offset if offset >= 0 => Some(Offset::new(offset)),
            other => {
                let message =
                    format!("records can be deleted before an offset of 0 or more, or -1 for all, not {other}");
                return Err(refuse(ErrorCode::InvalidRequest, message));
            }
        };
        if !is_forwarded {
            let (leader, endpoint) = self.leader_of(&self.link.image(), partition).map_err(status_from_error)?;
            if leader != self.link.broker() {
                let mut peer = self.peer(&endpoint);
                let answer = tokio::time::timeout(FORWARD_TIMEOUT, peer.delete_records(forwarded(request))).await;
                return answer.unwrap_or_else(|_| Err(status_from_error(no_answer(&endpoint))));
            }
        }
        let start = self.local.delete_records(partition, before).await.map_err(status_from_error)?;
        Ok(Response::new(DeleteRecordsResponse { log_start_offset: start.get() }))
    }

    async fn describe_topic_configs(
        &self,
        request: Request<DescribeTopicConfigsRequest>,
    ) -> Result<Response<DescribeTopicConfigsResponse>, Status> {
        let name = request.into_inner().name;
        let image = self.image().await?;
        let topic = image.topic_by_name(&name).ok_or_else(|| unknown_topic(&name))?;
        let configs = TOPIC_CONFIG_KEYS.iter().map(|info| {
            let set = topic.configs.get(info.key);
            TopicConfigEntry {
                key: info.key.to_owned(),
                value: set.map_or_else(|| info.default.to_owned(), Clone::clone),
                overridden: set.is_some(),
                help: info.help.to_owned(),
            }
        });
        Ok(Response::new(DescribeTopicConfigsResponse { configs: configs.collect() }))
    }

    async fn describe_partitions(
        &self,
        request: Request<DescribePartitionsRequest>,
    ) -> Result<Response<DescribePartitionsResponse>, Status> {
        let is_forwarded = is_forwarded(&request);
        let request = request.into_inner();
        let image = self.image().await?;
        let topic = wire_topic_id(&request.topic_id)?;
        if request.partitions.len() > PARTITIONS_PER_TOPIC_MAX as usize {
            let message = format!("{} partitions were named; no topic has so many", request.partitions.len());
            return Err(refuse(ErrorCode::InvalidRequest, message));
        }
        let known = image.topic(topic).ok_or_else(|| status_from_error(unknown_id(topic)))?;
        let wanted: BTreeSet<u32> = if request.partitions.is_empty() {
            (0..).take(known.partitions.len()).collect()
        } else {
            request.partitions.into_iter().collect()
        };
        let mut described = Vec::with_capacity(wanted.len().min(known.partitions.len()));
        let mut elsewhere: BTreeMap<BrokerId, (Endpoint, Vec<PartitionId>)> = BTreeMap::new();
        for partition in wanted.into_iter().map(PartitionId::new) {
            let tp = TopicPartition::new(topic, partition);
            match self.leader_of(&image, tp) {
                Ok((leader, endpoint)) if leader != self.link.broker() && !is_forwarded => {
                    elsewhere.entry(leader).or_insert_with(|| (endpoint, Vec::new())).1.push(partition);
                }
                Ok(_) => {
                    let description = self.local.describe(tp);
                    described.push(description.unwrap_or_else(|error| undescribed(partition, error)));
                }
                Err(error) => described.push(undescribed(partition, error)),
            }
        }
        let asked = elsewhere.into_values().map(|(endpoint, partitions)| self.describe_at(endpoint, topic, partitions));
        described.extend(futures::future::join_all(asked).await.into_iter().flatten());
        described.sort_by_key(|description| description.partition);
        Ok(Response::new(DescribePartitionsResponse { partitions: described }))
    }

    async fn describe_cluster(
        &self,
        _request: Request<DescribeClusterRequest>,
    ) -> Result<Response<DescribeClusterResponse>, Status> {
        // Without an active controller the rest can still be told.
        let quorum = self.link.describe_quorum().await.ok();
        let image = self.link.image();
        let known = |state: &highwater_metadata::ControllerState| ControllerInfo {
            controller_id: state.id.get(),
            endpoint: Some(endpoint(&state.endpoint)),
            voter: false,
            matched_index: 0,
        };
        let count = |counted: usize| u32::try_from(counted).unwrap_or(u32::MAX);
        Ok(Response::new(DescribeClusterResponse {
            cluster_id: image.cluster_id.clone(),
            metadata_version: image.version.get(),
            brokers: image.brokers.values().map(broker_info).collect(),
            active_controller: quorum.as_ref().map(|quorum| quorum.active_controller),
            controllers: quorum.map_or_else(|| image.controllers.values().map(known).collect(), |q| q.controllers),
            topics: count(image.topics.len()),
            partitions: count(image.partitions().count()),
            under_replicated_partitions: count(image.partitions().filter(|(_, p)| p.is_under_replicated()).count()),
            offline_partitions: count(image.partitions().filter(|(_, p)| p.is_offline()).count()),
        }))
    }

    async fn elect_preferred_leaders(
        &self,
        request: Request<ElectPreferredLeadersRequest>,
    ) -> Result<Response<ElectPreferredLeadersResponse>, Status> {
        let topics = request.into_inner().topics.into_iter().collect();
        match self.execute(Command::ElectPreferred { topics }).await? {
            CommandResponse::PreferredElected { moved } => Ok(Response::new(ElectPreferredLeadersResponse { moved })),
            other => Err(unexpected(&other)),
        }
    }

    async fn elect_leaders(
        &self,
        request: Request<ElectLeadersRequest>,
    ) -> Result<Response<ElectLeadersResponse>, Status> {
        self.elect(request.into_inner()).await.map(Response::new)
    }

    async fn describe_log_dirs(
        &self,
        request: Request<DescribeLogDirsRequest>,
    ) -> Result<Response<DescribeLogDirsResponse>, Status> {
        let is_forwarded = is_forwarded(&request);
        Ok(Response::new(self.all_log_dirs(&request.into_inner().brokers, is_forwarded).await))
    }

    async fn add_controller(
        &self,
        request: Request<AddControllerRequest>,
    ) -> Result<Response<AddControllerResponse>, Status> {
        self.link.add_controller(request.into_inner()).await.map_err(status_from_error)?;
        Ok(Response::new(AddControllerResponse {}))
    }

    async fn remove_controller(
        &self,
        request: Request<RemoveControllerRequest>,
    ) -> Result<Response<RemoveControllerResponse>, Status> {
        self.link.remove_controller(request.into_inner()).await.map_err(status_from_error)?;
        Ok(Response::new(RemoveControllerResponse {}))
    }
}
