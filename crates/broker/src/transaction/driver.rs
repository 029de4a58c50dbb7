//! Has the end of a transaction written to all its partitions.
//!
//! The transaction is decided: there is no failure but to stop being its coordinator. Leaders come and go meanwhile, so each
//! round asks whoever leads by the newest image, and what was not answered is asked again: a marker that is there already is a
//! success.
//!
//! A partition that the image does not have is deleted, and needs no marker. That holds because its coordinator adds only
//! partitions that it knows, and a coordinator that takes over knows what was known before it was elected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use highwater_coordination::ProducerIdentity;
use highwater_protocol::internal::transaction_markers_client::TransactionMarkersClient;
use highwater_protocol::internal::{TransactionMarker, WriteMarkersRequest};
use highwater_protocol::{code_of, error_from_status, topic_id_bytes, v1};
use highwater_record::TransactionResult;
use highwater_seams::Entropy;
use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, TopicId, TopicPartition};

use crate::backoff::Backoff;
use crate::cluster::Peers;
use crate::core::Core;

pub(super) const RETRY_FIRST: Duration = Duration::from_millis(20);
pub(super) const RETRY_MOST: Duration = Duration::from_secs(1);
/// For a leader to append and commit; it may have been replaced meanwhile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The end of one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markers {
    pub producer: ProducerIdentity,
    pub result: TransactionResult,
    pub coordinator_epoch: LeaderEpoch,
    pub partitions: Vec<TopicPartition>,
    /// See [`Action::WriteMarkers`](highwater_coordination::transaction::Action::WriteMarkers).
    pub keeps_epoch: bool,
}

/// Who takes the markers of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Leader(BrokerId),
    /// Now.
    NoLeader,
    Deleted,
}

/// What the leaders of a round answered: partition by partition, or that one could not be asked.
pub type Written = Result<Vec<(TopicPartition, Result<(), v1::Error>)>, v1::Error>;

/// The leaders of partitions, as the driver reaches them.
pub trait Leaders: Send + Sync {
    fn place(&self, tp: TopicPartition) -> Place;
    /// Answered once the markers are committed.
    fn write<'a>(&'a self, leader: BrokerId, markers: &'a Markers, to: Vec<TopicPartition>) -> BoxFuture<'a, Written>;
}

/// Goes on until every partition has its marker (or is deleted) and `report` was told so, or until `report` says that its shard
/// is gone, or a newer coordinator is at work. Dropping it loses nothing: the next coordinator begins anew.
pub async fn write_markers(
    leaders: Arc<dyn Leaders>,
    entropy: Arc<dyn Entropy>,
    markers: Markers,
    mut report: impl FnMut(Vec<TopicPartition>) -> BoxFuture<'static, bool>,
) {
    let mut left: BTreeSet<TopicPartition> = markers.partitions.iter().copied().collect();
    let mut pause = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        let Round { done, failed } = round(&*leaders, &markers, &left).await;
        if let Some((tp, error)) = &failed {
            if code_of(error) == ErrorCode::TransactionCoordinatorFenced {
                tracing::info!(%tp, error = error.message, "a newer coordinator writes this transaction's markers");
                return;
            }
            tracing::debug!(%tp, error = error.message, "a transaction's marker is not written yet");
        }
        if !done.is_empty() {
            done.iter().for_each(|tp| {
                left.remove(tp);
            });
            pause.reset();
            if !report(done).await {
                return;
            }
        }
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(pause.next(&*entropy)).await;
    }
}

struct Round {
    done: Vec<TopicPartition>,
    /// One of those that are not: a fenced coordinator before anything else.
    failed: Option<(TopicPartition, v1::Error)>,
}

async fn round(leaders: &dyn Leaders, markers: &Markers, left: &BTreeSet<TopicPartition>) -> Round {
    let mut round = Round { done: Vec::new(), failed: None };
    let mut by_leader: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
    for tp in left {
        let is_last = markers.partitions.len() > 1 && markers.partitions.last() == Some(tp);
        match leaders.place(*tp) {
            _ if is_last && mutation::is_on(Mutation::MarkerForgotten) => round.done.push(*tp),
            Place::Leader(leader) => by_leader.entry(leader).or_default().push(*tp),
            Place::NoLeader => {
                let error = v1::Error::new(ErrorCode::LeaderNotAvailable, "the partition has no leader now");
                round.failed = Some((*tp, error));
            }
            Place::Deleted => round.done.push(*tp),
        }
    }
    let asked = by_leader.into_iter().map(|(leader, to)| async move {
        let first = to.first().copied();
        (first, to.clone(), leaders.write(leader, markers, to).await)
    });
    for (first, to, written) in join_all(asked).await {
        let results = match written {
            Ok(results) => results,
            Err(error) => {
                round.fail(first, error);
                continue;
            }
        };
        for (tp, result) in results {
            match result {
                // Only what was asked counts.
                Ok(()) if to.contains(&tp) => round.done.push(tp),
                Ok(()) => {}
                Err(error) => round.fail(Some(tp), error),
            }
        }
    }
    round
}

impl Round {
    fn fail(&mut self, tp: Option<TopicPartition>, error: v1::Error) {
        let is_fenced = |error| code_of(error) == ErrorCode::TransactionCoordinatorFenced;
        let keep = self.failed.as_ref().is_some_and(|(_, before)| is_fenced(before) || !is_fenced(&error));
        if let (Some(tp), false) = (tp, keep) {
            self.failed = Some((tp, error));
        }
    }
}

/// The brokers of the cluster, this one among them.
pub struct ClusterLeaders {
    core: Arc<Core>,
    peers: Peers,
}

impl ClusterLeaders {
    pub fn new(core: Arc<Core>, peers: Peers) -> Self {
        Self { core, peers }
    }

    async fn ask(&self, leader: BrokerId, markers: &Markers, to: &[TopicPartition]) -> Written {
        let image = self.core.partitions.image();
        let Some(broker) = image.broker(leader) else {
            return Err(v1::Error::new(ErrorCode::UnknownBroker, format!("broker {leader} is not in the metadata")));
        };
        let mut client = TransactionMarkersClient::new(self.peers.channel(&broker.internal_endpoint));
        let request = WriteMarkersRequest { markers: vec![to_wire(markers, to)] };
        let asked = tokio::time::timeout(WRITE_TIMEOUT, client.write_markers(request)).await;
        let response = match asked {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(error_from_status(&status)),
            Err(_) => {
                let message = format!("broker {leader} did not answer within {WRITE_TIMEOUT:?}");
                return Err(v1::Error::new(ErrorCode::RequestTimedOut, message));
            }
        };
        let written = response.markers.into_iter().filter(|one| one.producer_id == markers.producer.id.get());
        Ok(written
            .filter_map(|one| {
                let tp = TopicPartition::new(TopicId::from_slice(&one.topic_id)?, PartitionId::new(one.partition));
                Some((tp, one.error.map_or(Ok(()), Err)))
            })
            .collect())
    }
}

impl Leaders for ClusterLeaders {
    fn place(&self, tp: TopicPartition) -> Place {
        match self.core.partitions.image().partition(tp) {
            None => Place::Deleted,
            Some(state) => state.leader.map_or(Place::NoLeader, Place::Leader),
        }
    }

    fn write<'a>(&'a self, leader: BrokerId, markers: &'a Markers, to: Vec<TopicPartition>) -> BoxFuture<'a, Written> {
        Box::pin(async move { self.ask(leader, markers, &to).await })
    }
}

fn to_wire(markers: &Markers, to: &[TopicPartition]) -> TransactionMarker {
    let mut partitions: BTreeMap<TopicId, Vec<u32>> = BTreeMap::new();
    for tp in to {
        partitions.entry(tp.topic).or_default().push(tp.partition.get());
    }
    let of_topic = |(topic, partitions)| v1::TopicPartitions { topic_id: topic_id_bytes(topic), partitions };
    TransactionMarker {
        producer_id: markers.producer.id.get(),
        producer_epoch: markers.producer.epoch.get().into(),
        commit: markers.result == TransactionResult::Commit,
        coordinator_epoch: markers.coordinator_epoch.get(),
        keeps_epoch: markers.keeps_epoch,
        partitions: partitions.into_iter().map(of_topic).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use highwater_seams::SeededEntropy;
    use highwater_types::{ProducerEpoch, ProducerId};

    use super::*;

    fn tp(n: u32) -> TopicPartition {
        TopicPartition::new(TopicId::from_u128(1), PartitionId::new(n))
    }

    fn markers() -> Markers {
        Markers {
            producer: ProducerIdentity { id: ProducerId::new(7), epoch: ProducerEpoch::new(3) },
            result: TransactionResult::Commit,
            coordinator_epoch: LeaderEpoch::new(5),
            partitions: vec![tp(0), tp(1), tp(2)],
            keeps_epoch: false,
        }
    }

    /// Round by round who leads each partition, and what leaders answer.
    #[derive(Default)]
    struct Scripted {
        places: Mutex<BTreeMap<TopicPartition, Vec<Place>>>,
        answers: Mutex<BTreeMap<BrokerId, Vec<Result<(), ErrorCode>>>>,
        asked: Mutex<Vec<(BrokerId, Vec<TopicPartition>)>>,
    }

    impl Leaders for Scripted {
        fn place(&self, tp: TopicPartition) -> Place {
            let mut places = self.places.lock().unwrap();
            let of = places.get_mut(&tp).expect("a partition of the transaction");
            if of.len() > 1 { of.remove(0) } else { of[0] }
        }

        fn write<'a>(&'a self, leader: BrokerId, _: &'a Markers, to: Vec<TopicPartition>) -> BoxFuture<'a, Written> {
            self.asked.lock().unwrap().push((leader, to.clone()));
            let mut answers = self.answers.lock().unwrap();
            let answer = answers.get_mut(&leader).filter(|of| !of.is_empty()).map_or(Ok(()), |of| of.remove(0));
            Box::pin(async move {
                let each = |tp| (tp, answer.map_err(|code| v1::Error::new(code, "scripted")));
                match answer {
                    Err(ErrorCode::Unavailable) => Err(v1::Error::new(ErrorCode::Unavailable, "scripted")),
                    _ => Ok(to.into_iter().map(each).collect()),
                }
            })
        }
    }

    fn scripted(places: [&[Place]; 3], answers: &[(u32, &[Result<(), ErrorCode>])]) -> Arc<Scripted> {
        Arc::new(Scripted {
            places: Mutex::new((0..).map(tp).zip(places.map(<[Place]>::to_vec)).collect()),
            answers: Mutex::new(answers.iter().map(|(id, of)| (BrokerId::new(*id), of.to_vec())).collect()),
            asked: Mutex::default(),
        })
    }

    const fn led_by(id: u32) -> Place {
        Place::Leader(BrokerId::new(id))
    }

    async fn reports(leaders: &Arc<Scripted>, takes: usize) -> Vec<Vec<TopicPartition>> {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&reports);
        let report = move |done| {
            let mut reports = to.lock().unwrap();
            reports.push(done);
            let goes_on = reports.len() < takes;
            Box::pin(std::future::ready(goes_on)) as BoxFuture<'static, bool>
        };
        let entropy = Arc::new(SeededEntropy::new(1));
        let leaders: Arc<dyn Leaders> = leaders.clone();
        tokio::spawn(write_markers(leaders, entropy, markers(), report)).await.unwrap();
        let reports = reports.lock().unwrap();
        reports.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn each_leader_is_asked_once_for_all_its_partitions() {
        let leaders = scripted([&[led_by(1)], &[led_by(2)], &[led_by(1)]], &[]);
        assert_eq!(reports(&leaders, usize::MAX).await, [vec![tp(0), tp(2), tp(1)]]);
        let asked = leaders.asked.lock().unwrap();
        assert_eq!(*asked, [(BrokerId::new(1), vec![tp(0), tp(2)]), (BrokerId::new(2), vec![tp(1)])]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_leader_changes_until_all_are_written_and_asks_no_one_twice_who_has() {
        let (refused, gone) = (Err(ErrorCode::NotLeader), Err(ErrorCode::Unavailable));
        let leaders = scripted(
            [&[led_by(1)], &[led_by(2), Place::NoLeader, led_by(3)], &[led_by(2), led_by(3), led_by(3)]],
            &[(2, &[refused]), (3, &[gone, Ok(())])],
        );
        assert_eq!(reports(&leaders, usize::MAX).await, [vec![tp(0)], vec![tp(1), tp(2)]]);
        let asked: Vec<_> = leaders.asked.lock().unwrap().iter().map(|(broker, _)| broker.get()).collect();
        assert_eq!(asked, [1, 2, 3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_partitions_need_no_marker() {
        let leaders = scripted([&[Place::Deleted], &[Place::NoLeader, Place::Deleted], &[led_by(1)]], &[]);
        assert_eq!(reports(&leaders, usize::MAX).await, [vec![tp(0), tp(2)], vec![tp(1)]]);
    }

    #[tokio::test(start_paused = true)]
    async fn trap_38_a_fenced_or_unloaded_coordinator_stops() {
        let fenced = Err(ErrorCode::TransactionCoordinatorFenced);
        let leaders = scripted([&[led_by(1)], &[Place::NoLeader], &[led_by(2)]], &[(1, &[fenced])]);
        assert!(reports(&leaders, usize::MAX).await.is_empty());
        let leaders = scripted([&[led_by(1)], &[Place::NoLeader], &[Place::NoLeader]], &[]);
        assert_eq!(reports(&leaders, 1).await, [vec![tp(0)]]);
    }
}
