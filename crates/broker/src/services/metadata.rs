//! What the cluster looks like, for clients: the broker's own image, in the client's words.
//!
//! A broker that has no image yet says so rather than show an empty cluster: a client would forget its topics (TRAPS
//! T48). One that has not heard from a controller for a while ends the streams of its clients: what it shows may be
//! old, and others may know better; a client that stayed would keep to a leader that has long been replaced.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use highwater_metadata::{BrokerState, ClusterImage, Endpoint, PartitionState, TopicState};
use highwater_protocol::v1::metadata_server::Metadata;
use highwater_protocol::v1::{
    BrokerInfo, GetMetadataRequest, MetadataUpdate, PartitionInfo, RemovedTopic, TopicInfo, WatchMetadataRequest,
};
use highwater_protocol::{status_from_error, topic_id_bytes, v1};
use highwater_types::{BrokerId, ErrorCode, MetadataVersion, TopicName};
use tonic::{Request, Response, Status};

use crate::cluster::{ClusterLink, ImageStep};

/// For the first image, when the broker has only just started.
const FIRST_IMAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than an election of controllers, so that clients don't change brokers for that; and short, for until then clients
/// of a broker that is cut off keep to leaders that are gone.
const ADRIFT_MAX: Duration = Duration::from_secs(2);
/// Names in one request.
const TOPICS_MAX: usize = 10_000;

/// The Metadata service.
#[derive(Clone)]
pub struct MetadataService {
    link: ClusterLink,
}

impl MetadataService {
    pub fn new(link: ClusterLink) -> Self {
        Self { link }
    }
}

#[tonic::async_trait]
impl Metadata for MetadataService {
    async fn get_metadata(&self, request: Request<GetMetadataRequest>) -> Result<Response<MetadataUpdate>, Status> {
        let filter = Filter::new(request.into_inner().topics)?;
        let first = self.link.reached(MetadataVersion::new(1));
        if tokio::time::timeout(FIRST_IMAGE_TIMEOUT, first).await.is_err() {
            let message = "this broker has not heard from a controller yet; ask another one, or try again";
            return Err(status_from_error(v1::Error::new(ErrorCode::ControllerNotAvailable, message)));
        }
        Ok(Response::new(whole(&self.link.image(), &filter)))
    }

    type WatchMetadataStream = Pin<Box<dyn Stream<Item = Result<MetadataUpdate, Status>> + Send>>;

    async fn watch_metadata(
        &self,
        request: Request<WatchMetadataRequest>,
    ) -> Result<Response<Self::WatchMetadataStream>, Status> {
        let filter = Filter::new(request.into_inner().topics)?;
        Ok(Response::new(Box::pin(updates(self.link.clone(), filter))))
    }
}

/// Which topics a client wants to hear of.
#[derive(Debug, Clone)]
struct Filter(BTreeSet<String>);

impl Filter {
    fn new(topics: Vec<String>) -> Result<Self, Status> {
        if topics.len() > TOPICS_MAX {
            let message =
                format!("{} topics were named; at most {TOPICS_MAX} are allowed, or none for all", topics.len());
            return Err(status_from_error(v1::Error::new(ErrorCode::InvalidRequest, message)));
        }
        for name in &topics {
            TopicName::new(name)
                .map_err(|error| status_from_error(v1::Error::new(ErrorCode::InvalidTopicName, error.to_string())))?;
        }
        Ok(Self(topics.into_iter().collect()))
    }

    fn wants(&self, topic: &TopicState) -> bool {
        self.0.is_empty() || self.0.contains(topic.name.as_str())
    }
}

/// A snapshot, then what changes; it ends once the broker is cut off from the controllers.
fn updates(link: ClusterLink, filter: Filter) -> impl Stream<Item = Result<MetadataUpdate, Status>> + Send {
    let images = link.watch();
    futures::stream::unfold((link, images, filter, true), |(link, mut images, filter, is_first)| async move {
        loop {
            let step = tokio::select! {
                biased;
                step = images.next() => step?,
                () = link.adrift(ADRIFT_MAX) => {
                    let message = "this broker has not heard from a controller for a while, and what it knows may be old; ask another one";
                    let error = status_from_error(v1::Error::new(ErrorCode::ControllerNotAvailable, message));
                    images.close();
                    return Some((Err(error), (link, images, filter, false)));
                }
            };
            let update = if is_first { Some(whole(&step.image, &filter)) } else { difference(&step, &filter) };
            if let Some(update) = update {
                return Some((Ok(update), (link, images, filter, false)));
            }
        }
    })
}

fn whole(image: &ClusterImage, filter: &Filter) -> MetadataUpdate {
    MetadataUpdate {
        version: image.version.get(),
        snapshot: true,
        brokers: image.brokers.values().map(broker_info).collect(),
        removed_brokers: Vec::new(),
        topics: image.topics.values().filter(|topic| filter.wants(topic)).map(|topic| topic_info(topic)).collect(),
        removed_topics: Vec::new(),
        cluster_id: image.cluster_id.clone(),
    }
}

/// `None`: nothing that the client wants to hear of.
fn difference(step: &ImageStep, filter: &Filter) -> Option<MetadataUpdate> {
    let ImageStep { before, image, changes } = step;
    let mut update = MetadataUpdate {
        version: image.version.get(),
        cluster_id: image.cluster_id.clone(),
        ..MetadataUpdate::default()
    };
    for id in &changes.brokers {
        match image.broker(*id) {
            Some(broker) => update.brokers.push(broker_info(broker)),
            None => update.removed_brokers.push(id.get()),
        }
    }
    for id in &changes.topics {
        if let Some(topic) = image.topic(*id) {
            update.topics.extend(filter.wants(topic).then(|| topic_info(topic)));
        } else if let Some(topic) = before.topic(*id).filter(|topic| filter.wants(topic)) {
            let name = topic.name.as_str().to_owned();
            update.removed_topics.push(RemovedTopic { topic_id: topic_id_bytes(topic.id), name });
        }
    }
    let is_empty = update.brokers.is_empty()
        && update.removed_brokers.is_empty()
        && update.topics.is_empty()
        && update.removed_topics.is_empty();
    (!is_empty).then_some(update)
}

pub(super) fn endpoint(endpoint: &Endpoint) -> v1::Endpoint {
    v1::Endpoint { host: endpoint.host.clone(), port: endpoint.port.into() }
}

pub(super) fn broker_info(broker: &BrokerState) -> BrokerInfo {
    BrokerInfo {
        broker_id: broker.id.get(),
        endpoint: Some(endpoint(&broker.client_endpoint)),
        rack: broker.rack.clone().unwrap_or_default(),
        fenced: broker.fenced,
    }
}

pub(super) fn topic_info(topic: &TopicState) -> TopicInfo {
    TopicInfo {
        topic_id: topic_id_bytes(topic.id),
        name: topic.name.as_str().to_owned(),
        partitions: (0..).zip(&topic.partitions).map(|(index, state)| partition_info(index, state)).collect(),
        configs: topic.configs.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

fn partition_info(partition: u32, state: &PartitionState) -> PartitionInfo {
    let numbers = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.get()).collect();
    PartitionInfo {
        partition,
        leader: state.leader.map(BrokerId::get),
        leader_epoch: state.leader_epoch.get(),
        partition_epoch: state.partition_epoch.get(),
        replicas: numbers(&state.replicas),
        isr: numbers(&state.isr),
        elr: numbers(&state.elr),
    }
}
