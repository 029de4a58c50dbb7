//! The runtime with a small shard, on one broker whose followers are played by the test.

mod register;

use std::sync::Arc;
use std::time::Duration;

use highwater_coordination::ProducerIdentity;
use highwater_metadata::{PartitionState, Record, TopicState};
use highwater_record::{EndTransactionMarker, TransactionResult};
use highwater_storage::sim::SimDisk;
use highwater_types::*;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::register::{Refusal, Register, Request};
use super::{CallError, CoordinatorAction, CoordinatorRuntime, RuntimeConfig};
use crate::partition::{EndedBy, TransactionEnd};
use crate::tests::harness::{TestBroker, eventually, soon};

const TOPIC: &str = "__registers";
const P: PartitionId = PartitionId::new(0);
type Answer = Result<Option<String>, CallError<Refusal>>;

struct World {
    broker: TestBroker,
    tp: TopicPartition,
    runtime: Arc<CoordinatorRuntime<Register>>,
    actions: mpsc::UnboundedReceiver<CoordinatorAction<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    /// With one partition on brokers 1 (the leader) and 2; commits when broker 2 acknowledges.
    async fn start() -> Self {
        let mut broker = TestBroker::start().await;
        let id = TopicId::from_u128(0xc0);
        let replicas = vec![BrokerId::new(1), BrokerId::new(2)];
        let configs = [("durability".to_owned(), "replicated".to_owned())].into();
        let partitions = vec![PartitionState::new(replicas.clone(), replicas)];
        let topic = TopicState { id, name: TOPIC.parse().unwrap(), partitions, configs };
        broker.replay(Record::TopicCreated { topic });
        broker.apply().await;
        Self::on(broker, TopicPartition::new(id, P)).await
    }

    async fn on(broker: TestBroker, tp: TopicPartition) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let config = RuntimeConfig { topic: TOPIC, decompressed_bytes_max: 1 << 20 };
        let (clock, partitions) = (broker.core.clock.clone(), Arc::clone(&broker.core.partitions));
        let (runtime, actions) = CoordinatorRuntime::start(config, &tasks, &stop, clock, partitions, Register::default);
        Self { broker, tp, runtime, actions, tasks, stop }
    }

    async fn loaded(&self) {
        eventually(|| self.runtime.loaded() == [P]).await;
    }

    fn ask(&self, request: Request) -> JoinHandle<Answer> {
        let runtime = Arc::clone(&self.runtime);
        tokio::spawn(async move { runtime.call(P, request).await })
    }

    fn set(&self, key: &str, value: &str) -> JoinHandle<Answer> {
        self.ask(Request::Set(key.into(), value.into()))
    }

    fn get(&self, key: &str) -> JoinHandle<Answer> {
        self.ask(Request::Get(key.into()))
    }

    fn log_end(&self) -> i64 {
        self.broker.log_end(self.tp)
    }

    async fn appended(&self, end: i64) {
        eventually(|| self.log_end() == end).await;
    }

    /// The follower has everything.
    fn commit(&self) {
        self.broker.acknowledge(self.tp, 2, self.log_end());
    }

    /// Sets and commits.
    async fn put(&self, key: &str, value: &str) {
        let before = self.log_end();
        let set = self.set(key, value);
        self.appended(before + 1).await;
        self.commit();
        soon(set).await.unwrap().unwrap();
    }

    async fn lead(&mut self, leader: u32) {
        let tp = self.tp;
        self.broker.change(tp, |state| state.leader = Some(BrokerId::new(leader))).await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        soon(self.tasks.wait()).await;
    }
}

/// Whatever can happen without time or the follower has happened.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn is_lost(answer: &Answer) -> bool {
    matches!(answer, Err(error @ CallError::Lost { .. }) if error.code() == Ok(ErrorCode::NotCoordinator) && error.outcome_is_unknown())
}

#[tokio::test]
async fn answers_and_actions_leave_only_once_they_are_committed_reads_included() {
    let mut world = World::start().await;
    world.loaded().await;
    let set = world.set("a", "1");
    world.appended(1).await;
    let get = world.get("a");
    let refused = world.ask(Request::Refuse);
    settle().await;
    assert!(!set.is_finished() && !get.is_finished() && !refused.is_finished());
    assert!(world.actions.try_recv().is_err());
    world.commit();
    assert_eq!(soon(set).await.unwrap(), Ok(None));
    assert_eq!(soon(get).await.unwrap(), Ok(Some("1".into())));
    assert_eq!(soon(refused).await.unwrap(), Err(CallError::Shard(Refusal)));
    assert_eq!(soon(world.actions.recv()).await.unwrap().action, "set a");
    // With everything committed, a read waits for nothing.
    assert_eq!(soon(world.get("a")).await.unwrap(), Ok(Some("1".into())));
    world.end().await;
}

#[tokio::test]
async fn t38_a_leader_that_lost_its_place_answers_nobody_and_one_that_leads_again_reads_its_log() {
    let mut world = World::start().await;
    world.loaded().await;
    world.put("a", "1").await;
    let action = soon(world.actions.recv()).await.unwrap();
    let (set, get, waits) = (world.set("a", "2"), world.get("a"), world.ask(Request::AwaitChange("b".into())));
    world.appended(2).await;
    settle().await;
    world.lead(2).await;
    assert!(is_lost(&soon(set).await.unwrap()));
    assert!(is_lost(&soon(get).await.unwrap()), "what it read may be taken back");
    assert!(is_lost(&soon(waits).await.unwrap()));
    soon(action.unloaded.cancelled()).await;
    eventually(|| world.runtime.loaded().is_empty()).await;
    let refused = soon(world.get("a")).await.unwrap().unwrap_err();
    assert_eq!(refused.leader().map(|(leader, _)| leader), Some(BrokerId::new(2)));
    assert!(matches!(refused, CallError::NotCoordinator { .. }) && !refused.outcome_is_unknown());

    world.lead(1).await;
    settle().await;
    assert!(world.runtime.loaded().is_empty(), "what it finds in its log is not known to be committed");
    assert!(matches!(soon(world.get("a")).await.unwrap(), Err(CallError::Loading { .. })));
    world.commit();
    world.loaded().await;
    assert_eq!(soon(world.get("a")).await.unwrap(), Ok(Some("2".into())));
    world.end().await;
}

#[tokio::test]
async fn a_kill_and_restart_gives_the_same_state_markers_and_transactions_included() {
    let world = World::start().await;
    world.loaded().await;
    world.put("a", "1").await;
    let (committed, aborted) = (producer(7), producer(8));
    for (end, (of, commit)) in (2..).step_by(2).zip([(committed, true), (aborted, false)]) {
        let set = world.ask(Request::SetIn(of, format!("of-{}", of.id), "x".into()));
        world.appended(end).await;
        world.commit();
        soon(set).await.unwrap().unwrap();
        assert_eq!(soon(world.get(&format!("of-{}", of.id))).await.unwrap(), Ok(None), "not in force yet");
        let result = if commit { TransactionResult::Commit } else { TransactionResult::Abort };
        let marker = EndTransactionMarker { result, coordinator_epoch: 0 };
        let producer = ProducerIdentity { epoch: of.epoch.next(), ..of };
        let ended = TransactionEnd { producer, marker, by: EndedBy::Coordinator };
        let runtime = Arc::clone(&world.runtime);
        let marked = tokio::spawn(async move { runtime.append_marker(P, ended).await });
        world.appended(end + 1).await;
        settle().await;
        assert!(!marked.is_finished());
        world.commit();
        soon(marked).await.unwrap().unwrap();
    }
    let state = soon(world.ask(Request::Dump)).await.unwrap().unwrap();
    assert_eq!(state.as_deref(), Some("a=1 of-7=x"));

    let World { broker, tp, tasks, stop, .. } = world;
    stop.cancel();
    tasks.close();
    soon(tasks.wait()).await;
    let image = broker.image.clone();
    let disk: SimDisk = broker.kill().await;
    let world = World::on(TestBroker::start_with_image(disk, image, |_| {}).await, tp).await;
    world.commit();
    world.loaded().await;
    assert_eq!(soon(world.ask(Request::Dump)).await.unwrap().unwrap(), state);
    world.end().await;
}

#[tokio::test]
async fn t33_what_was_verified_before_its_transaction_ended_is_not_written_after_it() {
    let world = World::start().await;
    world.loaded().await;
    let of = producer(7);
    let set = |guard| {
        let (runtime, request) = (Arc::clone(&world.runtime), Request::SetIn(of, "a".into(), "1".into()));
        tokio::spawn(async move { runtime.call_guarded(P, request, guard).await })
    };
    // For all of these the transaction was open when its coordinator was asked. The producer goes on in the same epoch, so the log
    // can't tell one that is late; and nothing of the transaction is here, so its end leaves no marker.
    let late = world.runtime.guard(P, of).unwrap();
    let marker = EndTransactionMarker { result: TransactionResult::Abort, coordinator_epoch: 0 };
    let end = TransactionEnd { producer: of, marker, by: EndedBy::CoordinatorInEpoch };
    soon(world.runtime.append_marker(P, end)).await.unwrap();
    assert_eq!(soon(set(late)).await.unwrap(), Err(CallError::Outdated));
    assert_eq!(world.log_end(), 0);
    // Of the next transaction.
    let in_time = world.runtime.guard(P, of).unwrap();
    let written = set(in_time);
    world.appended(1).await;
    world.commit();
    soon(written).await.unwrap().unwrap();
    world.end().await;
}

fn producer(id: i64) -> ProducerIdentity {
    ProducerIdentity { id: ProducerId::new(id), epoch: ProducerEpoch::new(0) }
}

#[tokio::test]
async fn what_could_not_be_appended_does_not_reach_the_shard() {
    let mut world = World::start().await;
    world.loaded().await;
    world.put("a", "1").await;
    let tp = world.tp;
    world.broker.change(tp, |state| state.isr.retain(|id| id.get() == 1)).await;
    let refused = soon(world.set("a", "2")).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Ok(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.log_end(), 1);
    world.broker.change(tp, |state| state.isr = state.replicas.clone()).await;
    world.commit();
    assert_eq!(soon(world.get("a")).await.unwrap(), Ok(Some("1".into())));
    world.end().await;
}

#[tokio::test]
async fn after_a_failed_append_the_shard_is_read_back_and_who_waits_is_told() {
    let world = World::start().await;
    world.loaded().await;
    world.put("a", "1").await;
    let waits = world.ask(Request::AwaitChange("b".into()));
    settle().await;
    // More than the disk has room for, which only the write itself finds out.
    world.broker.disk.set_capacity(world.broker.disk.used_bytes());
    let set = world.set("a", &"x".repeat(8 << 20));
    assert!(is_lost(&soon(set).await.unwrap()));
    assert!(is_lost(&soon(waits).await.unwrap()));
    world.broker.disk.set_capacity(u64::MAX);
    world.loaded().await;
    assert_eq!((soon(world.get("a")).await.unwrap(), world.log_end()), (Ok(Some("1".into())), 1));
    world.put("a", "2").await;
    world.end().await;
}

#[tokio::test]
async fn a_record_that_can_t_be_read_makes_the_shard_refuse() {
    let mut world = World::start().await;
    world.loaded().await;
    world.put(register::POISON, "1").await;
    world.lead(2).await;
    world.lead(1).await;
    world.commit();
    let why = soon(async {
        loop {
            match world.get("a").await.unwrap() {
                Err(CallError::Unavailable { why }) => return why,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    })
    .await;
    assert!(why.contains("offset 0"), "{why}");
    world.end().await;
}

#[tokio::test]
async fn a_deleted_topic_unloads_its_coordinators() {
    let mut world = World::start().await;
    world.loaded().await;
    let waits = world.ask(Request::AwaitChange("b".into()));
    settle().await;
    world.broker.replay(Record::TopicDeleted { topic: world.tp.topic });
    world.broker.apply().await;
    assert!(is_lost(&soon(waits).await.unwrap()));
    eventually(|| world.runtime.loaded().is_empty()).await;
    let refused = soon(world.get("a")).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Ok(ErrorCode::CoordinatorNotAvailable));
    world.end().await;
}

#[tokio::test]
async fn timers_fire_and_topics_are_told() {
    let mut world = World::start().await;
    world.loaded().await;
    world.put("a", "1").await;
    let set = world.ask(Request::ExpireAfter("a".into(), Duration::from_millis(20)));
    soon(set).await.unwrap().unwrap();
    // The tombstone that the timer writes.
    world.appended(2).await;
    world.commit();
    assert_eq!(soon(world.get("a")).await.unwrap(), Ok(None));
    assert_eq!(
        soon(world.ask(Request::Topics)).await.unwrap(),
        Ok(Some(String::new())),
        "internal topics are not told"
    );
    world.broker.topic(1, &[1], &[]).await;
    let topics = soon(async {
        loop {
            let topics = world.ask(Request::Topics).await.unwrap().unwrap().unwrap();
            if !topics.is_empty() {
                return topics;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(topics.starts_with("topic-"), "{topics}");
    world.end().await;
}
