//! Administration of what more than one topic or broker is about: elections, and data dirs.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use highwater_metadata::{ClusterImage, Command, CommandResponse, Election, ElectionOutcome};
use highwater_protocol::v1::{
    BrokerLogDirs, DescribeLogDirsRequest, DescribeLogDirsResponse, ElectLeadersRequest, ElectLeadersResponse,
    Error as WireError, PartitionElected,
};
use highwater_protocol::{PartitionKey as _, error_from_status, status_from_error, topic_id_bytes, v1};
use highwater_types::{BrokerId, ErrorCode, TopicPartition};
use tonic::Status;

use super::admin::{AdminService, FORWARD_TIMEOUT, forwarded, no_answer, unexpected};

/// Bound of what a client may wait for an unclean election.
const ELECTION_WAIT_MAX: Duration = Duration::from_secs(60);

impl AdminService {
    pub(super) async fn elect(&self, request: ElectLeadersRequest) -> Result<ElectLeadersResponse, Status> {
        let election = if request.unclean { Election::Unclean } else { Election::Preferred };
        let partitions = request.partitions.iter().map(|asked| asked.topic_partition());
        let partitions: BTreeSet<TopicPartition> =
            partitions.collect::<Result<_, _>>().map_err(|error| status_from_error(error.into()))?;
        let mut outcomes = match self.execute(Command::ElectLeaders { election, partitions }).await? {
            CommandResponse::LeadersElected { partitions } => partitions,
            other => return Err(unexpected(&other)),
        };
        let wait = Duration::from_millis(request.timeout_ms.into()).min(ELECTION_WAIT_MAX);
        // Whoever still waits then is told that it is awaited.
        let _ = tokio::time::timeout(wait, self.elections_end(&outcomes)).await;
        let image = self.link.image();
        for (partition, outcome) in &mut outcomes {
            if *outcome == ElectionOutcome::Awaited && !is_awaited(&image, *partition) {
                *outcome = ended(&image, *partition);
            }
        }
        let told = outcomes.into_iter().map(|(partition, outcome)| PartitionElected {
            topic_id: topic_id_bytes(partition.topic),
            partition: partition.partition.get(),
            outcome: outcome_to_wire(outcome).into(),
        });
        Ok(ElectLeadersResponse { partitions: told.collect() })
    }

    /// Resolves when no election that is awaited goes on, or the broker ends.
    async fn elections_end(&self, outcomes: &[(TopicPartition, ElectionOutcome)]) {
        let awaited = outcomes.iter().filter(|(_, outcome)| *outcome == ElectionOutcome::Awaited);
        let awaited: Vec<TopicPartition> = awaited.map(|(partition, _)| *partition).collect();
        let mut images = self.link.subscribe();
        // An error: the link has ended.
        let _ = images.wait_for(|image| awaited.iter().all(|partition| !is_awaited(image, *partition))).await;
    }

    /// Of these brokers, or of all; one that was asked by another answers for itself alone.
    pub(super) async fn all_log_dirs(&self, brokers: &[u32], is_forwarded: bool) -> DescribeLogDirsResponse {
        let image = self.link.image();
        let me = self.link.broker();
        let asked: BTreeSet<BrokerId> = match brokers {
            _ if is_forwarded => BTreeSet::from([me]),
            [] => image.brokers.keys().copied().collect(),
            some => some.iter().copied().map(BrokerId::new).collect(),
        };
        let dirs = asked.into_iter().map(|id| self.log_dirs_of(&image, id));
        DescribeLogDirsResponse { brokers: join_all(dirs).await }
    }

    async fn log_dirs_of(&self, image: &ClusterImage, id: BrokerId) -> BrokerLogDirs {
        let described = BrokerLogDirs { broker_id: id.get(), ..BrokerLogDirs::default() };
        if id == self.link.broker() {
            return BrokerLogDirs { dirs: self.local.log_dirs(), ..described };
        }
        let failed = |error| BrokerLogDirs { error: Some(error), ..described.clone() };
        let Some(broker) = image.broker(id) else {
            return failed(WireError::new(ErrorCode::InvalidRequest, format!("no broker {id} is registered")));
        };
        let mut peer = self.peer(&broker.internal_endpoint);
        let request = forwarded(DescribeLogDirsRequest { brokers: vec![id.get()] });
        match tokio::time::timeout(FORWARD_TIMEOUT, peer.describe_log_dirs(request)).await {
            Ok(Ok(answer)) => answer.into_inner().brokers.pop().unwrap_or(described),
            Ok(Err(status)) => failed(error_from_status(&status)),
            Err(_) => failed(no_answer(&broker.internal_endpoint)),
        }
    }
}

fn is_awaited(image: &ClusterImage, partition: TopicPartition) -> bool {
    image.partition(partition).is_some_and(|state| state.unclean_asked)
}

fn ended(image: &ClusterImage, partition: TopicPartition) -> ElectionOutcome {
    match image.partition(partition) {
        None => ElectionOutcome::UnknownPartition,
        Some(state) if state.leader.is_some() => ElectionOutcome::Elected,
        // It led, and is gone again.
        Some(_) => ElectionOutcome::NoReplicaAvailable,
    }
}

const fn outcome_to_wire(outcome: ElectionOutcome) -> v1::ElectionOutcome {
    match outcome {
        ElectionOutcome::Elected => v1::ElectionOutcome::Elected,
        ElectionOutcome::NotNeeded => v1::ElectionOutcome::NotNeeded,
        ElectionOutcome::PreferredNotAvailable => v1::ElectionOutcome::PreferredNotAvailable,
        ElectionOutcome::NoReplicaAvailable => v1::ElectionOutcome::NoReplicaAvailable,
        ElectionOutcome::Awaited => v1::ElectionOutcome::Awaited,
        ElectionOutcome::UnknownPartition => v1::ElectionOutcome::UnknownPartition,
    }
}
