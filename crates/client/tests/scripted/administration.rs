//! Groups and transactions, seen and repaired from outside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_client::{
    ErrorCode, GroupConfig, GroupProtocol, LeaderEpoch, Offset, OffsetAt, OffsetToCommit, PartitionId, Position,
    TopicName,
};
use highwater_protocol::v1;

use crate::fake::{Fake, soon, until};

/// Topic "t", two partitions of 100 records, each broker leads one; broker 2 coordinates.
async fn cluster() -> Arc<Fake> {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1, 2]);
    for partition in [0, 1] {
        let values: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        fake.with_log("t", partition, |log| log.append_values(&values));
    }
    fake.lock().coordination.coordinator = 2;
    fake
}

fn place(partition: u32) -> (TopicName, PartitionId) {
    (TopicName::new("t").unwrap(), PartitionId::new(partition))
}

fn offset(partition: u32, at: i64) -> OffsetToCommit {
    let position = Position { offset: Offset::new(at), leader_epoch: LeaderEpoch::NONE };
    OffsetToCommit { topic: "t".into(), partition: PartitionId::new(partition), position, metadata: String::new() }
}

#[tokio::test]
async fn t42_lag_is_never_negative_and_unknown_without_a_commit() {
    let fake = cluster().await;
    let client = fake.client().await;
    let admin = client.admin();
    soon(admin.alter_group_offsets("g", &[offset(0, 40)])).await.unwrap();
    let lags = |found: Vec<highwater_client::PartitionLag>| {
        found.into_iter().map(|lag| (lag.partition.get(), lag.end.map(Offset::get), lag.lag)).collect::<Vec<_>>()
    };
    assert_eq!(lags(soon(admin.group_lag("g")).await.unwrap()), [(0, Some(100), Some(60))]);
    soon(admin.alter_group_offsets("g", &[offset(0, 400)])).await.unwrap();
    assert_eq!(lags(soon(admin.group_lag("g")).await.unwrap()), [(0, Some(100), Some(0))]);

    let mut member = client.group_consumer(GroupConfig { auto_commit: false, ..GroupConfig::new("g") }).unwrap();
    member.subscribe("t");
    while member.assignment().len() < 2 {
        let _ = soon(member.poll(Duration::from_millis(20))).await;
    }
    let reported = |fake: &Fake| fake.lock().coordination.groups["g"].members.values().all(|m| m.owned.len() == 2);
    until("it has reported them", || reported(&fake)).await;
    let found = soon(admin.group_lag("g")).await.unwrap();
    assert!(found.iter().all(|lag| lag.member.is_some()));
    assert_eq!(lags(found), [(0, Some(100), Some(0)), (1, Some(100), None)]);
    let refused = soon(admin.alter_group_offsets("g", &[offset(0, 1)])).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnknownMemberId);
    assert_eq!(soon(admin.delete_group("g")).await.unwrap_err().code, ErrorCode::NonEmptyGroup);
    let described = soon(admin.describe_group("g")).await.unwrap();
    assert_eq!((described.coordinator, described.members[0].assignment.clone()), (2, vec![place(0), place(1)]));
    assert_eq!((described.group.protocol, described.group.state.as_str()), (GroupProtocol::Consumer, "Stable"));
}

#[tokio::test]
async fn groups_are_listed_reset_and_deleted() {
    let fake = cluster().await;
    let admin = fake.client().await.admin();
    let times = |at| OffsetAt::Timestamp(highwater_client::TimestampMs::new(at));
    // Timestamps are 1000 and the offset.
    for (at, expected) in [(OffsetAt::Earliest, 0), (times(1070), 70), (times(9999), 100), (OffsetAt::Latest, 100)] {
        let new = soon(admin.reset_group_offsets("g", "t", &[], at)).await.unwrap();
        assert_eq!(new.iter().map(|(_, offset)| offset.get()).collect::<Vec<_>>(), [expected; 2], "{at:?}");
    }
    let one = [PartitionId::new(1)];
    soon(admin.reset_group_offsets("g", "t", &one, OffsetAt::Earliest)).await.unwrap();
    let found = soon(admin.group_offsets("g")).await.unwrap();
    let found: BTreeMap<_, _> = found.iter().map(|o| (o.partition.get(), o.position.offset.get())).collect();
    assert_eq!(found, BTreeMap::from([(0, 100), (1, 0)]));
    let refused = soon(admin.reset_group_offsets("g", "t", &[PartitionId::new(7)], OffsetAt::Earliest)).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::UnknownPartition);
    soon(admin.delete_group_offsets("g", &[place(0)])).await.unwrap();
    assert_eq!(soon(admin.group_offsets("g")).await.unwrap().len(), 1);
    assert_eq!(soon(admin.list_groups()).await.unwrap()[0].group_id, "g");
    soon(admin.delete_group("g")).await.unwrap();
    assert!(soon(admin.list_groups()).await.unwrap().is_empty());
    assert_eq!(soon(admin.describe_group("g")).await.unwrap_err().code, ErrorCode::GroupIdNotFound);
}

#[tokio::test]
async fn t33_a_transaction_that_no_coordinator_knows_of_is_found_and_ended() {
    let fake = cluster().await;
    let topic_id = fake.lock().topics["t"].topic_id.clone();
    {
        let mut state = fake.lock();
        let open = |producer_id, last_timestamp_ms| v1::ProducerInfo {
            producer_id,
            producer_epoch: 3,
            last_timestamp_ms,
            coordinator_epoch: 5,
            transaction_start_offset: 10,
            ..Default::default()
        };
        let ended = v1::ProducerInfo { producer_id: 4, transaction_start_offset: -1, ..Default::default() };
        // Coordinated; hanging; too young to tell.
        state.coordination.producers.insert(1, vec![open(1, 0), open(2, 0), open(3, i64::MAX), ended]);
        let partitions = |partitions| vec![v1::TopicPartitions { topic_id: topic_id.clone(), partitions }];
        let info = |id: &str, producer_id, partition, state: &str| v1::TransactionInfo {
            transactional_id: id.into(),
            producer_id,
            state: state.into(),
            started_at_ms: -1,
            partitions: partitions(vec![partition]),
            ..Default::default()
        };
        state.coordination.listed =
            vec![info("one", 1, 1, "Ongoing"), info("two", 2, 1, "CompleteAbort"), info("three", 2, 0, "Ongoing")];
    }
    let admin = fake.client().await.admin();
    let listed = soon(admin.list_transactions()).await.unwrap();
    assert_eq!(listed.iter().map(|t| t.transactional_id.as_str()).collect::<Vec<_>>(), ["one", "three", "two"]);
    let one = soon(admin.describe_transaction("one")).await.unwrap();
    assert_eq!((one.coordinator, one.partitions, one.started_at), (2, vec![place(1)], None));
    assert_eq!(soon(admin.describe_transaction("none")).await.unwrap_err().code, ErrorCode::TransactionalIdNotFound);

    let hanging = soon(admin.find_hanging_transactions(Some("t"), Duration::from_secs(60))).await.unwrap();
    assert_eq!(hanging.iter().map(|found| found.producer.producer_id.get()).collect::<Vec<_>>(), [2]);
    soon(admin.abort_hanging_transaction(&hanging[0])).await.unwrap();
    let state = fake.lock();
    let repaired = &state.coordination.repaired[0];
    assert_eq!(
        (repaired.partition, repaired.producer_id, repaired.producer_epoch, repaired.coordinator_epoch),
        (1, 2, 3, 5)
    );
    assert_eq!(state.coordination.calls.last(), Some(&("abort_hanging_transaction", 2)));
}
