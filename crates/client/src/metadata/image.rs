//! The cluster as this client knows it. Immutable: each change makes a new one that shares what did not change.
//!
//! Invariants: a partition's leader epoch never goes back within one topic id; versions never go back within one
//! cluster id.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_protocol::v1;
use highwater_types::{BrokerId, LeaderEpoch, MetadataVersion, PartitionId, TopicConfig, TopicId, TopicName};

use crate::NodeAddress;

/// The cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct ClusterMetadata {
    version: MetadataVersion,
    cluster_id: String,
    brokers: BTreeMap<BrokerId, BrokerMetadata>,
    topics: BTreeMap<TopicName, Arc<TopicMetadata>>,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerMetadata {
    /// Its id.
    pub id: BrokerId,
    /// Where clients reach it.
    pub address: NodeAddress,
    /// Its rack, if it has one.
    pub rack: Option<String>,
    /// A fenced broker leads nothing.
    pub fenced: bool,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Identifies its data: a topic deleted and created again has another.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// By index.
    pub partitions: Vec<PartitionMetadata>,
    /// What was set on the topic; the defaults are not listed.
    pub configs: BTreeMap<String, String>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Its index.
    pub id: PartitionId,
    /// Who leads; `None`: nobody can, now.
    pub leader: Option<BrokerId>,
    /// The reign of that leader.
    pub leader_epoch: LeaderEpoch,
    /// Brokers that hold it, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Those in sync.
    pub isr: Vec<BrokerId>,
    /// Those not in sync that still hold all that is committed (KIP-966).
    pub elr: Vec<BrokerId>,
}

impl ClusterMetadata {
    /// Grows with each change of the cluster.
    pub fn version(&self) -> MetadataVersion {
        self.version
    }
    /// The cluster's id; empty until it is known.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }
    /// Every broker that is registered.
    pub fn brokers(&self) -> impl Iterator<Item = &BrokerMetadata> {
        self.brokers.values()
    }
    /// The broker of this id.
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerMetadata> {
        self.brokers.get(&id)
    }
    /// Every topic, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicMetadata>> {
        self.topics.values()
    }
    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicMetadata>> {
        self.topics.get(name)
    }

    /// The image after `update`; `None` if it brings nothing new.
    pub(crate) fn updated(&self, update: &v1::MetadataUpdate) -> Option<Self> {
        let version = MetadataVersion::new(update.version);
        let other_cluster =
            !self.cluster_id.is_empty() && !update.cluster_id.is_empty() && self.cluster_id != update.cluster_id;
        if version < self.version && !other_cluster {
            return None;
        }
        let mut next = if update.snapshot || other_cluster {
            Self { cluster_id: self.cluster_id.clone(), ..Self::default() }
        } else {
            self.clone()
        };
        next.version = version;
        if !update.cluster_id.is_empty() {
            next.cluster_id.clone_from(&update.cluster_id);
        }
        for id in &update.removed_brokers {
            next.brokers.remove(&BrokerId::new(*id));
        }
        for broker in update.brokers.iter().filter_map(broker_from_wire) {
            next.brokers.insert(broker.id, broker);
        }
        for removed in &update.removed_topics {
            let id = TopicId::from_slice(&removed.topic_id);
            if next.topics.get(removed.name.as_str()).is_some_and(|topic| id.is_none_or(|id| topic.id == id)) {
                next.topics.remove(removed.name.as_str());
            }
        }
        for info in &update.topics {
            let known = if other_cluster { None } else { self.topics.get(info.name.as_str()) };
            if let Some(topic) = topic_from_wire(info, known, update.snapshot) {
                next.topics.insert(topic.name.clone(), Arc::new(topic));
            }
        }
        Some(next)
    }

    /// The image with what an error said of who leads; `None` if that is no news.
    pub(crate) fn hinted(&self, topic: TopicId, partition: PartitionId, hint: &v1::LeaderHint) -> Option<Self> {
        let leader = BrokerId::new(u32::try_from(hint.node_id).ok()?);
        let known = self.topics.values().find(|known| known.id == topic)?;
        let place = known.partitions.get(partition.get() as usize)?;
        if hint.leader_epoch <= place.leader_epoch.get() {
            return None;
        }
        let mut next = self.clone();
        if let std::collections::btree_map::Entry::Vacant(entry) = next.brokers.entry(leader) {
            let port = u16::try_from(hint.port).ok().filter(|port| *port != 0 && !hint.host.is_empty())?;
            let address = NodeAddress { host: hint.host.clone(), port };
            entry.insert(BrokerMetadata { id: leader, address, rack: None, fenced: false });
        }
        let mut changed = TopicMetadata::clone(known);
        let place = &mut changed.partitions[partition.get() as usize];
        place.leader = Some(leader);
        place.leader_epoch = LeaderEpoch::new(hint.leader_epoch);
        next.topics.insert(changed.name.clone(), Arc::new(changed));
        Some(next)
    }
}

impl TopicMetadata {
    /// The partition of this index.
    pub fn partition(&self, id: PartitionId) -> Option<&PartitionMetadata> {
        self.partitions.get(id.get() as usize)
    }

    /// Largest batch that the topic takes, in bytes.
    pub fn batch_bytes_max(&self) -> usize {
        let set = self.configs.get("max.message.bytes").and_then(|text| text.parse().ok());
        set.unwrap_or(TopicConfig::default().max_message_bytes as usize)
    }
}

pub(crate) fn broker_from_wire(info: &v1::BrokerInfo) -> Option<BrokerMetadata> {
    let endpoint = info.endpoint.as_ref()?;
    Some(BrokerMetadata {
        id: BrokerId::new(info.broker_id),
        address: NodeAddress { host: endpoint.host.clone(), port: u16::try_from(endpoint.port).ok()? },
        rack: Some(info.rack.clone()).filter(|rack| !rack.is_empty()),
        fenced: info.fenced,
    })
}

/// The topic as `info` states it, over what is known of the same topic id: a change may state only the partitions that
/// changed, and never brings an older leader epoch back.
pub(crate) fn topic_from_wire(
    info: &v1::TopicInfo,
    known: Option<&Arc<TopicMetadata>>,
    whole: bool,
) -> Option<TopicMetadata> {
    let id = TopicId::from_slice(&info.topic_id)?;
    let name = TopicName::new(&info.name).ok()?;
    let known = known.filter(|known| known.id == id);
    let mut stated: BTreeMap<u32, PartitionMetadata> = BTreeMap::new();
    if let Some(known) = known.filter(|_| !whole) {
        stated.extend(known.partitions.iter().map(|p| (p.id.get(), p.clone())));
    }
    for partition in &info.partitions {
        let brokers = |ids: &[u32]| ids.iter().copied().map(BrokerId::new).collect();
        let mut new = PartitionMetadata {
            id: PartitionId::new(partition.partition),
            leader: partition.leader.map(BrokerId::new),
            leader_epoch: LeaderEpoch::new(partition.leader_epoch),
            replicas: brokers(&partition.replicas),
            isr: brokers(&partition.isr),
            elr: brokers(&partition.elr),
        };
        if let Some(old) = known.and_then(|known| known.partition(new.id))
            && old.leader_epoch > new.leader_epoch
        {
            (new.leader, new.leader_epoch) = (old.leader, old.leader_epoch);
        }
        stated.insert(partition.partition, new);
    }
    // Indexes from 0 without a gap: what lies beyond one is not there yet.
    let partitions = stated.into_values().enumerate().take_while(|(index, p)| p.id.get() as usize == *index);
    let partitions = partitions.map(|(_, partition)| partition).collect();
    let configs = info.configs.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    Some(TopicMetadata { id, name, partitions, configs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(index: u32, leader: u32, epoch: i32) -> v1::PartitionInfo {
        v1::PartitionInfo { partition: index, leader: Some(leader), leader_epoch: epoch, ..Default::default() }
    }

    fn topic(id: u8, name: &str, partitions: Vec<v1::PartitionInfo>) -> v1::TopicInfo {
        v1::TopicInfo { topic_id: vec![id; 16].into(), name: name.into(), partitions, ..Default::default() }
    }

    fn snapshot(version: u64, topics: Vec<v1::TopicInfo>) -> v1::MetadataUpdate {
        v1::MetadataUpdate { version, snapshot: true, topics, cluster_id: "c".into(), ..Default::default() }
    }

    #[test]
    fn a_change_states_only_what_changed_and_old_news_is_ignored() {
        let image = ClusterMetadata::default();
        let image = image.updated(&snapshot(5, vec![topic(1, "t", vec![partition(0, 1, 3), partition(1, 2, 3)])]));
        let image = image.unwrap();
        let delta = v1::MetadataUpdate {
            version: 6,
            topics: vec![topic(1, "t", vec![partition(1, 3, 4)])],
            ..Default::default()
        };
        let image = image.updated(&delta).unwrap();
        let leaders: Vec<_> = image.topic("t").unwrap().partitions.iter().map(|p| p.leader.unwrap().get()).collect();
        assert_eq!(leaders, [1, 3]);
        assert!(image.updated(&snapshot(5, vec![])).is_none());
    }

    #[test]
    fn t21_a_topic_created_again_takes_nothing_from_its_namesake() {
        let image = ClusterMetadata::default();
        let image = image.updated(&snapshot(1, vec![topic(1, "t", vec![partition(0, 1, 9), partition(1, 1, 9)])]));
        let again = v1::MetadataUpdate {
            version: 2,
            removed_topics: vec![v1::RemovedTopic { topic_id: vec![1; 16].into(), name: "t".into() }],
            topics: vec![topic(2, "t", vec![partition(0, 2, 0)])],
            ..Default::default()
        };
        let image = image.unwrap().updated(&again).unwrap();
        let topic = image.topic("t").unwrap();
        assert_eq!((topic.partitions.len(), topic.partitions[0].leader_epoch.get()), (1, 0));
    }

    #[test]
    fn a_leader_hint_holds_until_metadata_catches_up_with_it() {
        let image = ClusterMetadata::default();
        let first = snapshot(1, vec![topic(1, "t", vec![partition(0, 1, 3)])]);
        let image = image.updated(&first).unwrap();
        let hint = v1::LeaderHint { node_id: 7, host: "h".into(), port: 9, leader_epoch: 4 };
        let id = TopicId::from_bytes([1; 16]);
        let image = image.hinted(id, PartitionId::new(0), &hint).unwrap();
        assert_eq!(image.broker(BrokerId::new(7)).unwrap().address.to_string(), "h:9");
        assert!(image.hinted(id, PartitionId::new(0), &hint).is_none());
        let late = image.updated(&first).unwrap();
        assert_eq!(late.topic("t").unwrap().partitions[0].leader, Some(BrokerId::new(7)));
        let newer = late.updated(&snapshot(2, vec![topic(1, "t", vec![partition(0, 2, 5)])])).unwrap();
        assert_eq!(newer.topic("t").unwrap().partitions[0].leader, Some(BrokerId::new(2)));
    }

    #[test]
    fn another_cluster_at_the_same_address_starts_anew() {
        let image = ClusterMetadata::default().updated(&snapshot(50, vec![topic(1, "t", vec![])])).unwrap();
        let other = v1::MetadataUpdate { cluster_id: "d".into(), ..snapshot(2, vec![]) };
        let image = image.updated(&other).unwrap();
        assert!(image.topic("t").is_none());
        assert_eq!(image.cluster_id(), "d");
    }
}
