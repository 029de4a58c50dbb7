//! What a member of a group promises, against a coordinator made up for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use highwater_client::{
    ConsumeError, ConsumerConfig, ConsumerRecord, ErrorCode, GroupCommitter, GroupConfig, GroupConsumer,
    IsolationLevel, Offset, OffsetReset, OffsetToCommit, Outcome, PartitionId, RebalanceListener, Subscription,
    TopicName,
};

use crate::fake::{Fake, OnCall, OnFetch, error, soon, until};

fn config() -> GroupConfig {
    let fetching = ConsumerConfig { fetch_wait_max: Duration::from_millis(50), ..Default::default() };
    GroupConfig { consumer: fetching, auto_commit_interval: Duration::from_secs(3600), ..GroupConfig::new("g") }
}

/// Topic "t" with so many partitions of 100 records each.
async fn cluster(brokers: u32, partitions: u32) -> Arc<Fake> {
    let fake = Fake::start(brokers).await;
    fake.create_topic("t", &vec![1; partitions as usize]);
    for partition in 0..partitions {
        append(&fake, partition, 0..100);
    }
    fake
}

fn append(fake: &Fake, partition: u32, numbers: std::ops::Range<usize>) {
    let values: Vec<String> = numbers.map(|number| number.to_string()).collect();
    for batch in values.chunks(10) {
        let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
        fake.with_log("t", partition, |log| log.append_values(&batch));
    }
}

async fn member(fake: &Fake, config: GroupConfig) -> GroupConsumer {
    fake.client().await.group_consumer(config).unwrap()
}

async fn poll(consumer: &mut GroupConsumer) -> Vec<ConsumerRecord> {
    soon(consumer.poll(Duration::from_secs(10))).await.unwrap()
}

/// Committed offsets by partition.
fn committed(fake: &Fake) -> BTreeMap<u32, i64> {
    let state = fake.lock();
    let group = state.coordination.groups.get("g");
    group.map(|g| g.committed.iter().map(|((_, p), o)| (*p, o.offset)).collect()).unwrap_or_default()
}

fn members(fake: &Fake) -> usize {
    fake.lock().coordination.groups.get("g").map_or(0, |group| group.members.len())
}

#[tokio::test]
async fn a_member_reads_all_and_only_what_it_passed_is_committed_at_the_end() {
    let fake = cluster(1, 1).await;
    let mut fetching = config();
    fetching.consumer.poll_records_max = 10;
    let mut one = member(&fake, fetching.clone()).await;
    one.subscribe("t");
    for expected in [0, 10, 20] {
        assert_eq!(poll(&mut one).await[0].offset.get(), expected);
    }
    soon(one.close()).await.unwrap();
    assert_eq!((committed(&fake), members(&fake)), (BTreeMap::from([(0, 20)]), 0));
    let mut two = member(&fake, fetching).await;
    two.subscribe(["t"]);
    let mut next = 20;
    while next < 100 {
        let record = soon(two.next()).await.unwrap();
        assert_eq!(record.value.unwrap(), next.to_string());
        next += 1;
    }
    soon(two.close()).await.unwrap();
    assert_eq!(committed(&fake), BTreeMap::from([(0, 99)]));
}

#[tokio::test]
async fn what_the_application_committed_is_not_taken_back_at_the_end() {
    let fake = cluster(1, 1).await;
    let mut fetching = config();
    fetching.consumer.poll_records_max = 10;
    for (commits_itself, end) in [(false, 10), (true, 30)] {
        let mut one = member(&fake, fetching.clone()).await;
        one.subscribe("t");
        let last = poll(&mut one).await.pop().unwrap();
        if commits_itself {
            one.commit_sync(&[OffsetToCommit::after(&last)]).await.unwrap();
            poll(&mut one).await;
        }
        soon(one.commit()).await.unwrap();
        soon(one.close()).await.unwrap();
        assert_eq!(committed(&fake), BTreeMap::from([(0, end)]));
    }
}

#[tokio::test]
async fn positions_are_committed_with_their_epochs_and_t41_compared_with_the_log_when_reading_goes_on() {
    let fake = cluster(1, 1).await;
    let mut one = member(&fake, config()).await;
    one.subscribe("t");
    let records = poll(&mut one).await;
    let offset = OffsetToCommit { metadata: "so far".into(), ..OffsetToCommit::after(&records[41]) };
    soon(one.commit_sync(&[offset])).await.unwrap();
    let partitions = one.assignment();
    let found = soon(one.committed(&partitions)).await.unwrap();
    assert_eq!((found[0].position.offset.get(), found[0].metadata.as_str()), (42, "so far"));
    drop(one);
    until("it has left", || members(&fake) == 0).await;
    fake.lock().fetched.clear();
    let mut two = member(&fake, config()).await;
    two.subscribe("t");
    assert_eq!(poll(&mut two).await[0].offset.get(), 42);
    let asked = fake.lock().fetched[0].1.partitions[0].clone();
    assert_eq!((asked.fetch_offset, asked.last_fetched_epoch), (42, 5));
}

#[tokio::test]
async fn t41_a_commit_under_which_the_log_was_truncated_is_reported_and_not_reset() {
    let fake = cluster(1, 1).await;
    let mut one = member(&fake, config()).await;
    one.subscribe("t");
    let records = poll(&mut one).await;
    soon(one.commit_sync(&[OffsetToCommit::after(&records[89])])).await.unwrap();
    soon(one.close()).await.unwrap();
    fake.on_fetch([OnFetch::Diverge { leader_epoch: 4, end_offset: 50 }]);
    let mut two = member(&fake, GroupConfig { offset_reset: OffsetReset::Latest, ..config() }).await;
    two.subscribe("t");
    let error = soon(two.poll(Duration::from_secs(10))).await.unwrap_err();
    let ConsumeError::LogTruncated { diverged_at, .. } = error else { panic!("{error}") };
    soon(two.seek("t", 0, diverged_at)).await.unwrap();
    assert_eq!(poll(&mut two).await[0].offset.get(), 50);
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Event>>>);

/// What happened, and to which partitions.
type Event = (&'static str, Vec<u32>);

impl Events {
    fn note(&self, what: &'static str, partitions: &[(TopicName, PartitionId)]) {
        let mut partitions: Vec<u32> = partitions.iter().map(|(_, partition)| partition.get()).collect();
        partitions.sort_unstable();
        self.0.lock().unwrap().push((what, partitions));
    }
    fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }
}

#[highwater_client::async_trait]
impl RebalanceListener for Events {
    async fn assigned(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        self.note("assigned", partitions);
    }
    async fn revoked(&mut self, partitions: &[(TopicName, PartitionId)], committer: &GroupCommitter) {
        self.note("revoked", partitions);
        for (topic, partition) in partitions {
            let position = highwater_client::Position {
                offset: Offset::new(77),
                leader_epoch: highwater_client::LeaderEpoch::new(5),
            };
            let offset =
                OffsetToCommit { topic: topic.to_string(), partition: *partition, position, metadata: String::new() };
            committer.commit(&[offset]).await.unwrap();
        }
    }
    async fn lost(&mut self, partitions: &[(TopicName, PartitionId)]) {
        self.note("lost", partitions);
    }
}

#[tokio::test]
async fn a_second_member_takes_over_where_the_first_one_committed_while_it_still_held_the_partition() {
    let fake = cluster(1, 2).await;
    let events = Events::default();
    let mut one = member(&fake, GroupConfig { auto_commit: false, ..config() }).await;
    one.subscribe_with("t", events.clone());
    poll(&mut one).await;
    assert_eq!(events.all(), [("assigned", vec![0, 1])]);
    let mut two = member(&fake, config()).await;
    two.subscribe("t");
    let (taken, ()) = tokio::join!(poll(&mut two), async {
        while events.all().len() < 2 {
            soon(one.poll(Duration::from_millis(20))).await.unwrap();
        }
    });
    let moved = taken[0].partition.get();
    assert_eq!(events.all()[1], ("revoked", vec![moved]));
    // Committed by the listener, before it was given up.
    assert_eq!(taken[0].offset.get(), 77);
    assert_eq!(one.assignment().len(), 1);
    drop(two);
    until("the second one has left", || members(&fake) == 1).await;
    while one.assignment().len() < 2 {
        soon(one.poll(Duration::from_millis(20))).await.unwrap();
    }
    assert_eq!(events.all()[2], ("assigned", vec![moved]));
}

#[tokio::test]
async fn a_fenced_member_loses_its_partitions_and_joins_again() {
    let fake = cluster(1, 2).await;
    let events = Events::default();
    let mut one = member(&fake, config()).await;
    one.subscribe_with("t", events.clone());
    poll(&mut one).await;
    fake.lock().coordination.groups.get_mut("g").unwrap().members.clear();
    until("it has joined again", || members(&fake) == 1).await;
    while events.all().len() < 3 {
        soon(one.poll(Duration::from_millis(20))).await.unwrap();
    }
    assert_eq!(events.all()[1..], [("lost", vec![0, 1]), ("assigned", vec![0, 1])]);
}

/// Nobody can tell it, for the coordinator can't be reached: it knows by its own clock.
#[tokio::test]
async fn p5_a_member_has_lost_its_partitions_before_the_coordinator_gives_them_to_others() {
    let fake = cluster(1, 1).await;
    let events = Events::default();
    let mut one = member(&fake, config()).await;
    one.subscribe_with("t", events.clone());
    poll(&mut one).await;
    {
        let mut state = fake.lock();
        state.coordination.groups.get_mut("g").unwrap().session_timeout_ms = 500;
    }
    let heartbeats = |fake: &Fake| fake.lock().coordination.count("group_heartbeat");
    let before = heartbeats(&fake);
    until("it knows the time-out", || heartbeats(&fake) > before + 2).await;
    fake.lock().coordination.is_out = true;
    // The commit would be tried for the whole request timeout; what it is of is lost before.
    let cut_off = soon(one.commit()).await.unwrap_err();
    assert_eq!((cut_off.code, cut_off.outcome), (ErrorCode::UnknownMemberId, Outcome::Unknown));
    assert_eq!(soon(one.poll(Duration::ZERO)).await.unwrap(), []);
    assert_eq!(events.all(), [("assigned", vec![0]), ("lost", vec![0])]);
    fake.lock().coordination.is_out = false;
    // It was a member all the time, as it happens: it is given the same again, from the last commit.
    assert_eq!(poll(&mut one).await[0].offset.get(), 0);
    assert_eq!((members(&fake), events.all()[2].clone()), (1, ("assigned", vec![0])));
}

#[tokio::test]
async fn who_does_not_poll_leaves_the_group_and_comes_back_with_the_next_poll() {
    let fake = cluster(1, 1).await;
    let events = Events::default();
    let mut one = member(&fake, GroupConfig { max_poll_interval: Duration::from_millis(200), ..config() }).await;
    one.subscribe_with("t", events.clone());
    poll(&mut one).await;
    until("it has left", || members(&fake) == 0).await;
    assert_eq!(fake.lock().coordination.groups["g"].left, [-1]);
    let refused = soon(one.commit()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnknownMemberId);
    // What was not committed comes again.
    assert_eq!(poll(&mut one).await[0].offset.get(), 0);
    assert_eq!(events.all()[1..], [("lost", vec![0]), ("assigned", vec![0])]);
}

#[tokio::test]
async fn a_static_member_says_that_it_may_be_back() {
    let fake = cluster(1, 1).await;
    let mut one = member(&fake, GroupConfig { instance_id: Some("i".into()), ..config() }).await;
    one.subscribe("t");
    poll(&mut one).await;
    soon(one.close()).await.unwrap();
    let state = fake.lock();
    let group = &state.coordination.groups["g"];
    assert_eq!((group.left.clone(), group.heartbeats[0].instance_id.as_str()), (vec![-2], "i"));
}

#[tokio::test]
async fn t40_a_commit_in_the_epoch_just_left_is_made_in_the_next() {
    let fake = cluster(1, 1).await;
    let mut one = member(&fake, config()).await;
    one.subscribe("t");
    poll(&mut one).await;
    {
        let mut state = fake.lock();
        let state = &mut *state;
        state.coordination.on("commit_offsets", [OnCall::Refuse(error(ErrorCode::StaleMemberEpoch))]);
        state.coordination.groups.get_mut("g").unwrap().rebalance(&state.topics);
    }
    soon(one.commit()).await.unwrap();
    assert_eq!(committed(&fake), BTreeMap::from([(0, 100)]));
}

#[tokio::test]
async fn the_coordinator_is_followed_when_it_moves() {
    let fake = cluster(2, 1).await;
    let mut one = member(&fake, config()).await;
    one.subscribe("t");
    poll(&mut one).await;
    fake.lock().coordination.coordinator = 2;
    soon(one.commit()).await.unwrap();
    assert_eq!(committed(&fake), BTreeMap::from([(0, 100)]));
    let heartbeats =
        |fake: &Fake| fake.lock().coordination.calls.iter().filter(|c| **c == ("group_heartbeat", 2)).count();
    until("heartbeats go there too", || heartbeats(&fake) > 2).await;
    assert_eq!(members(&fake), 1);
}

#[tokio::test]
async fn a_refusal_for_good_is_returned_and_a_passing_one_is_not_noticed() {
    let fake = cluster(1, 1).await;
    let passing =
        [ErrorCode::CoordinatorLoadInProgress, ErrorCode::CoordinatorNotAvailable].map(error).map(OnCall::Refuse);
    fake.lock().coordination.on("group_heartbeat", passing);
    fake.lock().coordination.on("group_heartbeat", [OnCall::ServeThenFail(error(ErrorCode::Unavailable))]);
    let mut one = member(&fake, config()).await;
    one.subscribe("t");
    poll(&mut one).await;
    fake.lock().coordination.on("group_heartbeat", [OnCall::Refuse(error(ErrorCode::FencedInstanceId))]);
    let refused = loop {
        if let Err(error) = soon(one.poll(Duration::from_millis(20))).await {
            break error;
        }
    };
    assert!(matches!(refused, ConsumeError::Group { code: ErrorCode::FencedInstanceId, .. }), "{refused}");
    assert!(one.assignment().is_empty());
}

#[tokio::test]
async fn without_a_commit_the_policy_decides_where_to_begin() {
    let fake = cluster(1, 1).await;
    for (reset, first) in
        [(OffsetReset::Earliest, Some(0)), (OffsetReset::Latest, Some(100)), (OffsetReset::Error, None)]
    {
        let config = GroupConfig { offset_reset: reset, auto_commit: false, ..config() };
        let mut one = member(&fake, config).await;
        one.subscribe("t");
        let found = loop {
            match soon(one.poll(Duration::from_millis(20))).await {
                Ok(records) if !records.is_empty() => break Some(records[0].offset.get()),
                Ok(_) if one.position("t", 0).is_some_and(|at| at.offset.get() == 100) => break Some(100),
                Ok(_) => {}
                Err(error) => {
                    assert!(matches!(error, ConsumeError::NoOffset { .. }), "{error}");
                    break None;
                }
            }
        };
        assert_eq!(found, first, "{reset:?}");
        soon(one.close()).await.unwrap();
    }
}

#[tokio::test]
async fn auto_commit_follows_the_polls_and_the_stream_gives_every_record() {
    let fake = cluster(1, 1).await;
    let mut one = member(&fake, GroupConfig { auto_commit_interval: Duration::from_millis(20), ..config() }).await;
    one.subscribe(Subscription::pattern("t.*"));
    let values: Vec<_> = soon(one.stream().take(100).map(|record| record.unwrap().offset.get()).collect()).await;
    assert_eq!(values, (0..100).collect::<Vec<_>>());
    assert!(committed(&fake).get(&0).is_none_or(|at| *at <= 99), "the last one was not passed");
    let polling = async {
        while committed(&fake) != BTreeMap::from([(0, 100)]) {
            assert!(one.poll(Duration::from_millis(10)).await.unwrap().is_empty());
        }
    };
    soon(polling).await;
}

#[tokio::test]
async fn a_paused_partition_stays_assigned_and_silent_and_isolation_is_asked_for() {
    let fake = cluster(1, 2).await;
    let mut fetching = config();
    fetching.consumer.isolation = IsolationLevel::ReadCommitted;
    fetching.consumer.poll_records_max = 1;
    let mut one = member(&fake, fetching).await;
    one.subscribe("t");
    let first = poll(&mut one).await[0].clone();
    let (paused, other) = (first.partition.get(), 1 - first.partition.get());
    one.pause("t", paused).unwrap();
    for _ in 0..50 {
        assert_eq!(poll(&mut one).await[0].partition.get(), other);
    }
    assert_eq!((one.assignment().len(), one.position("t", paused).unwrap().offset.get()), (2, 1));
    one.resume("t", paused).unwrap();
    one.pause("t", other).unwrap();
    assert_eq!(poll(&mut one).await[0].offset.get(), 1);
    assert!(fake.lock().fetched.iter().all(|(_, request)| request.isolation_level == 1));
}
