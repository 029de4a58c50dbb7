//! Commands to records.

mod brokers;
mod leaders;
mod partitions;
mod topics;

use highwater_types::{BrokerEpoch, BrokerId, TopicPartition};

use crate::command::{Command, CommandResponse};
use crate::election::{self, Rules};
use crate::error::CommandError;
use crate::image::{BrokerState, ClusterImage, ControllerState, PartitionState, TopicState};
use crate::placement::mix;
use crate::record::Record;

pub use topics::{PARTITIONS_PER_TOPIC_MAX, REPLICATION_FACTOR_MAX};

/// What a command leads to. No records: nothing to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub records: Vec<Record>,
    pub response: CommandResponse,
}

impl Decision {
    fn new(records: Vec<Record>, response: CommandResponse) -> Self {
        Self { records, response }
    }
}

/// Decides `command` on `image`. The same arguments give the same decision; the records fit the image they were decided
/// on, and no other. `seed` serves topic ids and ties of placement.
pub fn decide(image: &ClusterImage, command: &Command, seed: u64) -> Result<Decision, CommandError> {
    match command {
        Command::CreateCluster { cluster_id } => create_cluster(image, cluster_id.as_deref(), seed),
        Command::RegisterBroker(registration) => brokers::register(image, registration),
        Command::FenceBroker { broker, broker_epoch } => brokers::fence(image, *broker, *broker_epoch),
        Command::UnfenceBroker { broker, broker_epoch } => brokers::unfence(image, *broker, *broker_epoch),
        Command::BeginControlledShutdown { broker, broker_epoch } => {
            brokers::begin_shutdown(image, *broker, *broker_epoch)
        }
        Command::AlterPartitions { broker, broker_epoch, partitions } => {
            partitions::alter(image, *broker, *broker_epoch, partitions)
        }
        Command::ElectPreferred { topics } => leaders::elect_preferred(image, topics),
        Command::ElectLeaders { election, partitions } => Ok(leaders::elect(image, *election, partitions)),
        Command::ReportLogEnds { broker, broker_epoch, ends } => {
            partitions::report_log_ends(image, *broker, *broker_epoch, ends)
        }
        Command::ReportUnusable { broker, broker_epoch, unusable, lost, doubtful } => {
            let copies = partitions::Copies { unusable, lost, doubtful };
            partitions::report_unusable(image, *broker, *broker_epoch, &copies)
        }
        Command::CreateTopic { name, partitions, replication_factor, configs, assignments, validate_only } => {
            let shape = topics::Shape { partitions: *partitions, replication_factor: *replication_factor, assignments };
            topics::create(image, name, &shape, configs, *validate_only, seed)
        }
        Command::DeleteTopic { name } => topics::delete(image, name),
        Command::DeleteTopicById { topic } => topics::delete_by_id(image, *topic),
        Command::AlterTopic {
            name,
            set_configs,
            unset_configs,
            list_changes,
            partitions,
            must_grow,
            assignments,
            validate_only,
        } => {
            let changes = topics::ConfigChanges { set: set_configs, unset: unset_configs, lists: list_changes };
            let growth = topics::Growth { partitions: *partitions, must_grow: *must_grow, assignments };
            let decided = topics::alter(image, name, &changes, &growth, seed)?;
            Ok(if *validate_only { Decision { records: Vec::new(), ..decided } } else { decided })
        }
        Command::AllocateProducerIds { broker, broker_epoch } => {
            brokers::allocate_producer_ids(image, *broker, *broker_epoch)
        }
        Command::AddController { controller, endpoint } => {
            let state = ControllerState { id: *controller, endpoint: endpoint.clone() };
            let known = image.controllers.get(controller) == Some(&state);
            let records = if known { Vec::new() } else { vec![Record::ControllerChanged { controller: state }] };
            Ok(Decision::new(records, CommandResponse::Done))
        }
        Command::RemoveController { controller } => {
            if !image.controllers.contains_key(controller) {
                return Err(CommandError::UnknownController { controller: *controller });
            }
            Ok(Decision::new(vec![Record::ControllerRemoved { controller: *controller }], CommandResponse::Done))
        }
    }
}

fn create_cluster(image: &ClusterImage, asked: Option<&str>, seed: u64) -> Result<Decision, CommandError> {
    let found = &image.cluster_id;
    let created = |cluster_id: String| CommandResponse::ClusterCreated { cluster_id };
    if !found.is_empty() {
        return match asked {
            Some(asked) if asked != found => {
                Err(CommandError::ClusterExists { asked: asked.to_owned(), found: found.clone() })
            }
            _ => Ok(Decision::new(Vec::new(), created(found.clone()))),
        };
    }
    let made_up = || format!("{:016x}{:016x}", mix(seed), mix(mix(seed)));
    let cluster_id = asked.filter(|id| !id.is_empty()).map_or_else(made_up, str::to_owned);
    Ok(Decision::new(vec![Record::ClusterCreated { cluster_id: cluster_id.clone() }], created(cluster_id)))
}

/// The broker of this epoch: whoever speaks for an older incarnation is refused.
fn broker_of_epoch(
    image: &ClusterImage,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<&BrokerState, CommandError> {
    let state = image.broker(broker).ok_or(CommandError::UnknownBroker { broker })?;
    if state.broker_epoch != broker_epoch {
        return Err(CommandError::StaleBrokerEpoch { broker, asked: broker_epoch, current: state.broker_epoch });
    }
    Ok(state)
}

/// The brokers as they will be once the decision being made is replayed.
struct Brokers<'a> {
    image: &'a ClusterImage,
    changed: Option<&'a BrokerState>,
}

impl<'a> Brokers<'a> {
    fn of(image: &'a ClusterImage) -> Self {
        Self { image, changed: None }
    }

    fn with(image: &'a ClusterImage, changed: &'a BrokerState) -> Self {
        Self { image, changed: Some(changed) }
    }

    fn get(&self, id: BrokerId) -> Option<&BrokerState> {
        self.changed.filter(|b| b.id == id).or_else(|| self.image.broker(id))
    }

    /// Settles every partition of which `prepare` says how: the ISR wished and the replicas lost, having changed other
    /// fields of the state as it likes. `None`: not concerned.
    fn settle_all(
        &self,
        mut prepare: impl FnMut(TopicPartition, &TopicState, &mut PartitionState) -> Option<Vec<BrokerId>>,
    ) -> Vec<Record> {
        let mut records = Vec::new();
        for topic in self.image.topics.values() {
            let mut rules = None;
            for (partition, old) in topic.iter() {
                let mut next = old.clone();
                let Some(lost) = prepare(partition, topic, &mut next) else { continue };
                let (min_insync_replicas, unclean) = *rules.get_or_insert_with(|| {
                    let config = topic.config();
                    (config.min_insync_replicas as usize, config.unclean_election)
                });
                let settled = self.settle(old, next, &old.isr, &lost, min_insync_replicas, unclean);
                records.extend(settled.map(|state| Record::PartitionChanged { partition, state }));
            }
        }
        records
    }

    fn settle(
        &self,
        old: &PartitionState,
        next: PartitionState,
        isr: &[BrokerId],
        lost: &[BrokerId],
        min_insync_replicas: usize,
        unclean: highwater_types::UncleanElection,
    ) -> Option<PartitionState> {
        let rules = Rules {
            unfenced: &|b| self.get(b).is_some_and(|b| !b.fenced),
            active: &|b| self.get(b).is_some_and(BrokerState::is_active),
            min_insync_replicas,
            unclean,
        };
        election::settle(old, next, isr, lost, &rules)
    }
}
