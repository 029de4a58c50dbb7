//! What a transactional producer promises, against a coordinator made up for it.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{
    Acks, Client, ConsumerConfig, ErrorCode, GroupMetadata, IsolationLevel, LeaderEpoch, Offset, OffsetToCommit,
    Outcome, PartitionId, Position, ProducerConfig, StartAt, Transaction, TransactionError, TransactionalConfig,
    TransactionalProducer,
};
use highwater_protocol::v1;
use highwater_record::split;
use highwater_types::MemberEpoch;

use crate::fake::{Fake, OnCall, OnProduce, error, soon, until};
use crate::producer::{quick, record};

async fn cluster() -> (Arc<Fake>, Client) {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1, 1]);
    let client = fake.builder().request_timeout(Duration::from_millis(500)).build().await.unwrap();
    (fake, client)
}

fn config() -> TransactionalConfig {
    TransactionalConfig { producer: quick(), ..TransactionalConfig::new("tx") }
}

async fn producer(client: &Client) -> TransactionalProducer {
    soon(client.transactional_producer(config())).await.unwrap()
}

/// What becomes of it, the end of the transaction tells.
async fn send(transaction: &Transaction<'_>, value: &str, partition: u32) {
    drop(soon(transaction.send(record(value).partition(partition))).await.unwrap());
}

/// Epoch, and whether it was committed, of each transaction that ended.
fn ended(fake: &Fake) -> Vec<(i32, bool)> {
    fake.lock().coordination.transactions["tx"].ended.clone()
}

/// Producer epoch, first sequence of each batch sent.
fn sent(fake: &Fake) -> Vec<(i16, i32)> {
    let state = fake.lock();
    assert!(state.produced.iter().all(|(_, request)| request.transactional_id == "tx"));
    let partitions = state.produced.iter().flat_map(|(_, request)| &request.partitions);
    let batches: Vec<_> = partitions.flat_map(|partition| split(partition.records.clone()).unwrap()).collect();
    assert!(batches.iter().all(|batch| batch.header().attributes.is_transactional()));
    batches.iter().map(|batch| (batch.header().producer_epoch.get(), batch.header().base_sequence.get())).collect()
}

fn offset(at: i64) -> OffsetToCommit {
    let position = Position { offset: Offset::new(at), leader_epoch: LeaderEpoch::new(5) };
    OffsetToCommit { topic: "t".into(), partition: PartitionId::new(0), position, metadata: String::new() }
}

fn group() -> GroupMetadata {
    let member_epoch = MemberEpoch::NONE;
    GroupMetadata { group_id: "g".into(), member_id: String::new(), member_epoch, instance_id: None }
}

fn committed(fake: &Fake) -> Vec<i64> {
    let state = fake.lock();
    let group = state.coordination.groups.get("g");
    group.map(|group| group.committed.values().map(|offset| offset.offset).collect()).unwrap_or_default()
}

#[tokio::test]
async fn t34_each_transaction_has_its_epoch_and_begins_to_number_anew() {
    let (fake, client) = cluster().await;
    let mut producer = producer(&client).await;
    for value in ["a", "b"] {
        let transaction = producer.begin().await.unwrap();
        let delivery = soon(transaction.send(record(value).partition(0))).await.unwrap();
        send(&transaction, value, 1).await;
        soon(transaction.commit()).await.unwrap();
        // Commit waits for every record.
        assert!(soon(delivery).await.is_ok());
    }
    assert_eq!((ended(&fake), fake.values("t", 0)), (vec![(0, true), (1, true)], vec!["a".into(), "b".into()]));
    assert_eq!(sent(&fake), [(0, 0), (0, 0), (1, 0), (1, 0)]);
}

#[tokio::test]
async fn a_transaction_of_nothing_asks_nobody() {
    let (fake, client) = cluster().await;
    let mut producer = producer(&client).await;
    soon(producer.begin().await.unwrap().commit()).await.unwrap();
    soon(producer.begin().await.unwrap().abort()).await.unwrap();
    drop(producer.begin().await.unwrap());
    let transaction = producer.begin().await.unwrap();
    send(&transaction, "a", 0).await;
    soon(transaction.commit()).await.unwrap();
    assert_eq!(ended(&fake), [(0, true)]);
}

#[tokio::test]
async fn a_failed_record_aborts_the_whole_transaction_and_the_next_one_goes_on() {
    let (fake, client) = cluster().await;
    let mut producer = producer(&client).await;
    fake.on_produce([OnProduce::Refuse(error(ErrorCode::OutOfOrderSequence))]);
    let transaction = producer.begin().await.unwrap();
    let failed = soon(transaction.send(record("a").partition(0))).await.unwrap();
    assert_eq!(soon(failed).await.unwrap_err().code, ErrorCode::OutOfOrderSequence);
    let refused = soon(transaction.send(record("b").partition(1))).await.unwrap_err();
    assert_eq!((refused.code, refused.outcome), (ErrorCode::TransactionAbortable, Outcome::NotApplied));
    let aborted = soon(transaction.commit()).await.unwrap_err();
    assert!(matches!(&aborted, TransactionError::Aborted { .. }) && !aborted.is_fatal(), "{aborted}");
    assert_eq!((aborted.code(), ended(&fake)), (ErrorCode::OutOfOrderSequence, vec![(0, false)]));
    let transaction = producer.begin().await.unwrap();
    send(&transaction, "c", 0).await;
    soon(transaction.commit()).await.unwrap();
    assert_eq!((ended(&fake)[1], sent(&fake)), ((1, true), vec![(0, 0), (1, 0)]));
}

#[tokio::test]
async fn an_abort_does_not_wait_for_what_was_not_sent() {
    let (fake, client) = cluster().await;
    let mut producer = producer(&client).await;
    let transaction = producer.begin().await.unwrap();
    soon(soon(transaction.send(record("a").partition(0))).await.unwrap()).await.unwrap();
    fake.lead("t", 1, None);
    let stuck = soon(transaction.send(record("b").partition(1))).await.unwrap();
    soon(transaction.abort()).await.unwrap();
    assert_eq!(soon(stuck).await.unwrap_err().code, ErrorCode::TransactionAbortable);
    assert_eq!(ended(&fake), [(0, false)]);
}

#[tokio::test]
async fn lost_answers_and_a_transaction_still_completing_are_not_noticed() {
    let (fake, client) = cluster().await;
    let completing = || OnCall::Refuse(error(ErrorCode::ConcurrentTransactions));
    let lost = || OnCall::ServeThenFail(error(ErrorCode::Unavailable));
    fake.lock().coordination.on("init_producer_id", [completing(), completing()]);
    let mut producer = producer(&client).await;
    fake.lock().coordination.on("end_transaction", [completing(), lost(), lost()]);
    fake.on_produce([OnProduce::Refuse(error(ErrorCode::ConcurrentTransactions)), OnProduce::AppendThenDrop]);
    for value in ["a", "b"] {
        let transaction = producer.begin().await.unwrap();
        send(&transaction, value, 0).await;
        soon(transaction.commit()).await.unwrap();
    }
    assert_eq!((ended(&fake), fake.values("t", 0)), (vec![(0, true), (1, true)], vec!["a".into(), "b".into()]));
}

#[tokio::test]
async fn a_commit_that_stays_unanswered_is_made_before_the_next_transaction() {
    let (fake, client) = cluster().await;
    let mut producer = producer(&client).await;
    let lost = OnCall::ServeThenFail(error(ErrorCode::Unavailable));
    fake.lock().coordination.on("end_transaction", vec![lost; 1000]);
    let transaction = producer.begin().await.unwrap();
    send(&transaction, "a", 0).await;
    let unknown = soon(transaction.commit()).await.unwrap_err();
    assert!(matches!(unknown, TransactionError::Unavailable { .. }), "{unknown}");
    assert!(matches!(soon(producer.begin()).await.err(), Some(TransactionError::Unavailable { .. })));
    fake.lock().coordination.script.clear();
    let transaction = soon(producer.begin()).await.unwrap();
    send(&transaction, "b", 0).await;
    soon(transaction.commit()).await.unwrap();
    assert_eq!(ended(&fake), [(0, true), (1, true)]);
}

#[tokio::test]
async fn p4_p6_a_commit_that_may_have_been_carried_out_is_unknown_whatever_a_later_attempt_is_told() {
    for refusal in [ErrorCode::ProducerFenced, ErrorCode::StaleBrokerEpoch] {
        let (fake, client) = cluster().await;
        let mut producer = producer(&client).await;
        let lost = OnCall::ServeThenFail(error(ErrorCode::Unavailable));
        fake.lock().coordination.on("end_transaction", [lost, OnCall::Refuse(error(refusal))]);
        let transaction = producer.begin().await.unwrap();
        send(&transaction, "a", 0).await;
        let unknown = soon(transaction.commit()).await.unwrap_err();
        assert!(matches!(unknown, TransactionError::Unavailable { .. }), "{unknown}");
        assert_eq!((unknown.code(), ended(&fake)), (refusal, vec![(0, true)]));
        assert!(soon(producer.begin()).await.err().is_some_and(|error| error.is_fatal()), "it is of no use any more");
    }
}

#[tokio::test]
async fn who_is_taken_over_is_fenced_for_good() {
    let (fake, client) = cluster().await;
    let mut old = producer(&client).await;
    let transaction = old.begin().await.unwrap();
    send(&transaction, "old", 0).await;
    let mut new = producer(&client).await;
    let fenced = soon(transaction.commit()).await.unwrap_err();
    assert!(matches!(fenced, TransactionError::Fenced { .. }) && fenced.is_fatal(), "{fenced}");
    assert!(soon(old.begin()).await.err().is_some_and(|error| error.is_fatal()));
    let transaction = new.begin().await.unwrap();
    send(&transaction, "new", 0).await;
    soon(transaction.commit()).await.unwrap();
    assert_eq!(ended(&fake), [(1, true)]);
}

#[tokio::test]
async fn a_dropped_transaction_is_aborted() {
    let (fake, client) = cluster().await;
    let mut producer = producer(&client).await;
    let transaction = producer.begin().await.unwrap();
    send(&transaction, "a", 0).await;
    drop(transaction);
    until("it is aborted in the background", || ended(&fake) == [(0, false)]).await;
    let transaction = producer.begin().await.unwrap();
    send(&transaction, "b", 0).await;
    soon(transaction.commit()).await.unwrap();
    soon(producer.close()).await.unwrap();
    assert_eq!(ended(&fake), [(0, false), (1, true)]);
}

#[tokio::test]
async fn t37_offsets_are_committed_with_the_transaction_or_not_at_all() {
    let (fake, client) = cluster().await;
    let mut producer = producer(&client).await;
    let transaction = producer.begin().await.unwrap();
    fake.lock().coordination.on("commit_offsets_in_transaction", [OnCall::Refuse(error(ErrorCode::NotCoordinator))]);
    soon(transaction.send_offsets(&[offset(7)], &group())).await.unwrap();
    assert!(committed(&fake).is_empty());
    soon(transaction.commit()).await.unwrap();
    assert_eq!(committed(&fake), [7]);

    let transaction = producer.begin().await.unwrap();
    soon(transaction.send_offsets(&[offset(8)], &group())).await.unwrap();
    soon(transaction.abort()).await.unwrap();
    // A member that is none any more.
    let transaction = producer.begin().await.unwrap();
    let gone = GroupMetadata { member_id: "gone".into(), ..group() };
    let refused = soon(transaction.send_offsets(&[offset(9)], &gone)).await.unwrap_err();
    assert!(matches!(refused, TransactionError::Offsets { .. }) && !refused.is_fatal(), "{refused}");
    assert_eq!(soon(transaction.commit()).await.unwrap_err().code(), ErrorCode::UnknownMemberId);
    assert_eq!((committed(&fake), ended(&fake)), (vec![7], vec![(0, true), (1, false), (2, false)]));
}

#[tokio::test]
async fn committed_readers_see_what_was_committed_and_others_all_but_the_markers() {
    let (fake, client) = cluster().await;
    let mut producer = producer(&client).await;
    for (value, commit) in [("a", true), ("b", false), ("c", false), ("d", true)] {
        let transaction = producer.begin().await.unwrap();
        send(&transaction, value, 0).await;
        send(&transaction, value, 0).await;
        if commit { soon(transaction.commit()).await.unwrap() } else { soon(transaction.abort()).await.unwrap() }
    }
    for (isolation, expected) in [
        (IsolationLevel::ReadCommitted, vec!["a", "a", "d", "d"]),
        (IsolationLevel::ReadUncommitted, fake.values("t", 0).iter().map(String::as_str).collect()),
    ] {
        let config = ConsumerConfig { isolation, fetch_wait_max: Duration::from_millis(50), ..Default::default() };
        let mut consumer = client.consumer(config);
        soon(consumer.assign([("t", 0, StartAt::Beginning)])).await.unwrap();
        let mut found = Vec::new();
        while found.len() < expected.len() {
            let records = soon(consumer.poll(Duration::from_secs(10))).await.unwrap();
            found.extend(records.into_iter().map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
        assert_eq!(found, expected, "{isolation:?}");
        // The position moves past the markers.
        let end = fake.with_log("t", 0, |log| log.end());
        until("the position is at the end", || consumer.position("t", 0).unwrap().offset.get() == end).await;
    }
}

#[tokio::test]
async fn settings_that_can_not_be_are_refused() {
    let (fake, client) = cluster().await;
    let weak = TransactionalConfig { producer: ProducerConfig { acks: Acks::Leader, ..quick() }, ..config() };
    for bad in [weak, TransactionalConfig::new(""), TransactionalConfig { timeout: Duration::ZERO, ..config() }] {
        let refused = client.transactional_producer(bad).await.err().unwrap();
        assert!(matches!(refused, TransactionError::Setting(_)), "{refused}");
    }
    let timeout = v1::Error::new(ErrorCode::InvalidTransactionTimeout, "too long");
    fake.lock().coordination.on("init_producer_id", [OnCall::Refuse(timeout)]);
    let refused = client.transactional_producer(config()).await.err().unwrap();
    assert!(matches!(refused, TransactionError::Refused { .. }) && refused.is_fatal());
}
