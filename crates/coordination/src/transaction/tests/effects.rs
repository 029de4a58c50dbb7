use std::time::Duration;

use bytes::Bytes;
use highwater_record::TransactionResult::{Abort, Commit};
use highwater_types::{ErrorCode, LeaderEpoch, Offset, ProducerId, TransactionalId};

use super::super::state::Transaction;
use super::super::{Action, Error, Request, Response, TransactionConfig, TransactionShard, TransactionState, record};
use super::driver::{Coordinator, Reply, id, identity, partition};
use crate::{CoordinatorRecord, ProducerIdentity, Shard};

fn code(reply: Reply) -> ErrorCode {
    reply.expect_err("refused").code()
}

fn open(coordinator: &mut Coordinator, id: &TransactionalId) -> ProducerIdentity {
    let producer = coordinator.producer(id, None);
    assert_eq!(coordinator.add(id, producer, &[partition(0), partition(1)]), Ok(Response::PartitionsAdded));
    producer
}

#[test]
fn a_commit_is_answered_when_prepared_and_complete_when_every_marker_is_reported() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = open(&mut c, &id);
    assert_eq!(producer, identity(1001, 0));

    let end = c.end_request(&id, producer, Commit);
    let token = c.request(end);
    assert!(!c.replies.contains_key(&token) && c.actions.is_empty(), "nothing is told before it is committed");
    c.commit();
    let next = identity(1001, 1);
    assert_eq!(c.replies[&token], Ok(Response::Ended { next }));
    assert_eq!(
        c.actions,
        [Action::WriteMarkers {
            transactional_id: id.clone(),
            producer: next,
            result: Commit,
            coordinator_epoch: LeaderEpoch::new(4),
            partitions: vec![partition(0), partition(1)],
            keeps_epoch: false,
        }]
    );
    let report =
        |n| Request::MarkersWritten { transactional_id: id.clone(), producer: next, partitions: vec![partition(n)] };
    assert_eq!(c.ask(report(1)), Ok(Response::MarkersRecorded));
    assert_eq!(c.ask(report(1)), Ok(Response::MarkersRecorded));
    assert_eq!(c.transaction(&id).state, TransactionState::Prepare(Commit));
    assert_eq!(c.ask(report(0)), Ok(Response::MarkersRecorded));
    assert_eq!(c.transaction(&id).state, TransactionState::Complete(Commit));

    // The next one, in its own epoch, and the old reports do nothing to it.
    assert_eq!(c.add(&id, next, &[partition(1)]), Ok(Response::PartitionsAdded));
    assert_eq!(c.ask(report(1)), Ok(Response::MarkersRecorded));
    assert_eq!(c.ended(&id, next, Abort), identity(1001, 2));
    assert_eq!(c.ask(report(1)), Ok(Response::MarkersRecorded));
    assert_eq!(c.transaction(&id).state, TransactionState::Prepare(Abort));
}

#[test]
fn trap_34_an_end_asked_again_has_the_same_answer_and_another_result_is_refused() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = open(&mut c, &id);
    let next = c.ended(&id, producer, Commit);
    for _ in 0..2 {
        let records = c.log.len();
        assert_eq!(c.ended(&id, producer, Commit), next);
        assert_eq!(code(c.end(&id, producer, Abort)), ErrorCode::InvalidTransactionState);
        assert_eq!(c.log.len(), records, "nothing is written for it");
        // Then while complete.
        c.complete();
    }
}

#[test]
fn trap_34_a_delayed_end_never_hits_the_next_transaction() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = open(&mut c, &id);
    let next = c.ended(&id, producer, Commit);
    c.complete();
    c.add(&id, next, &[partition(3)]).unwrap();
    for result in [Commit, Abort] {
        assert_eq!(code(c.end(&id, producer, result)), ErrorCode::InvalidProducerEpoch);
    }
    // As little does a delayed verification.
    assert_eq!(code(c.add(&id, producer, &[partition(4)])), ErrorCode::InvalidProducerEpoch);
    assert_eq!(c.transaction(&id).partitions, [partition(3)].into());
    assert_eq!(c.transaction(&id).state, TransactionState::Ongoing);
}

#[test]
fn trap_34_nobody_gets_into_the_next_transaction_while_markers_are_written() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = open(&mut c, &id);
    let next = c.ended(&id, producer, Abort);
    assert_eq!(code(c.add(&id, next, &[partition(0)])), ErrorCode::ConcurrentTransactions);
    assert_eq!(code(c.end(&id, next, Commit)), ErrorCode::ConcurrentTransactions);
    for current in [None, Some(next), Some(producer)] {
        assert_eq!(code(c.init(&id, current)), ErrorCode::ConcurrentTransactions);
    }
    c.complete();
    assert_eq!(c.add(&id, next, &[partition(0)]), Ok(Response::PartitionsAdded));
}

#[test]
fn trap_35_init_asked_again_has_the_same_answer() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let first = c.producer(&id, None);
    let second = c.producer(&id, Some(first));
    assert_eq!(second, identity(1001, 1));
    assert_eq!(c.producer(&id, Some(first)), second);
    c.crash(0);
    assert_eq!(c.producer(&id, Some(first)), second);
    // The answer is in use, and the question comes late: it ends nothing.
    c.add(&id, second, &[partition(0)]).unwrap();
    assert_eq!(c.producer(&id, Some(first)), second);
    assert_eq!(c.transaction(&id).state, TransactionState::Ongoing);
    // Also when it was the end that gave the next epoch.
    let third = c.ended(&id, second, Commit);
    c.complete();
    assert_eq!(c.producer(&id, Some(second)), third);
}

#[test]
fn a_new_producer_aborts_what_was_open_and_fences_the_one_before() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let zombie = open(&mut c, &id);
    assert_eq!(code(c.init(&id, None)), ErrorCode::ConcurrentTransactions);
    assert_eq!(c.transaction(&id).state, TransactionState::Prepare(Abort));
    // At once, even before the heir has its epoch.
    assert_eq!(code(c.end(&id, zombie, Abort)), ErrorCode::ProducerFenced);
    c.complete();
    assert_eq!(code(c.init(&id, Some(zombie))), ErrorCode::ProducerFenced);
    let heir = c.producer(&id, None);
    assert_eq!(heir, identity(1001, 2));
    for current in [zombie, identity(1001, 1)] {
        assert_eq!(code(c.init(&id, Some(current))), ErrorCode::ProducerFenced);
        assert_eq!(code(c.add(&id, current, &[partition(0)])), ErrorCode::ProducerFenced);
        assert_eq!(code(c.end(&id, current, Commit)), ErrorCode::ProducerFenced);
        assert_eq!(code(c.end(&id, current, Abort)), ErrorCode::ProducerFenced);
    }
    assert_eq!(code(c.end(&id, identity(7, 0), Abort)), ErrorCode::InvalidProducerIdMapping);
}

#[test]
fn a_producer_that_starts_anew_with_its_epoch_keeps_its_place() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = open(&mut c, &id);
    for _ in 0..2 {
        assert_eq!(code(c.init(&id, Some(producer))), ErrorCode::ConcurrentTransactions);
    }
    c.complete();
    assert_eq!(c.producer(&id, Some(producer)), identity(1001, 1));
}

#[test]
fn what_takes_too_long_is_aborted_and_its_producer_is_told() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = open(&mut c, &id);
    c.advance(Duration::from_millis(59_999));
    c.add(&id, producer, &[partition(5)]).unwrap();
    assert_eq!(c.transaction(&id).state, TransactionState::Ongoing, "not yet");
    c.advance(Duration::from_millis(1));
    c.commit();
    assert_eq!(
        c.transaction(&id).state,
        TransactionState::Prepare(Abort),
        "from its start, not from its last partition"
    );
    let [Action::WriteMarkers { result: Abort, partitions, producer: marker, .. }] = &c.actions[..] else {
        panic!("{:?}", c.actions)
    };
    assert_eq!((partitions.len(), *marker), (3, identity(1001, 1)));

    let refused = c.end(&id, producer, Commit).unwrap_err();
    assert_eq!(refused, Error::TimedOut { id: id.clone(), found: producer.epoch, timeout_ms: 60_000 });
    assert_eq!(refused.code(), ErrorCode::InvalidProducerEpoch);
    assert_eq!(code(c.add(&id, producer, &[partition(0)])), ErrorCode::InvalidProducerEpoch);
    c.complete();
    assert_eq!(code(c.end(&id, producer, Commit)), ErrorCode::InvalidProducerEpoch);
    assert_eq!(c.producer(&id, Some(producer)), identity(1001, 1), "it can go on (KIP-588)");
}

#[test]
fn a_new_coordinator_gives_an_open_transaction_its_whole_timeout() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    open(&mut c, &id);
    c.advance(Duration::from_secs(50));
    c.crash(0);
    c.advance(Duration::from_secs(59));
    assert_eq!(c.transaction(&id).state, TransactionState::Ongoing);
    c.advance(Duration::from_secs(1));
    assert_eq!(c.transaction(&id).state, TransactionState::Prepare(Abort));
}

#[test]
fn trap_34_a_transaction_without_partitions_ends_and_its_epoch_with_it() {
    for result in [Commit, Abort] {
        let (mut c, id) = (Coordinator::new(), id("orders"));
        let producer = c.producer(&id, None);
        let next = c.ended(&id, producer, result);
        assert_eq!(next, identity(1001, 1));
        assert_eq!(c.transaction(&id).state, TransactionState::Complete(result));
        assert!(c.actions.is_empty());
        assert_eq!(c.ended(&id, producer, result), next);
        assert_eq!(code(c.add(&id, producer, &[partition(0)])), ErrorCode::InvalidProducerEpoch, "its late write");
        assert_eq!(c.ended(&id, next, result), identity(1001, 2));
    }
}

#[test]
fn when_the_epochs_are_used_up_the_producer_gets_another_id() {
    let id = id("orders");
    let at = |epoch, c: &Coordinator| record::record(&id, &Transaction::new(identity(7, epoch), 60_000, c.now.wall));
    let empty = Coordinator::new();
    // By the end of a transaction.
    let mut c = Coordinator::with_log(vec![at(i16::MAX - 1, &empty)]);
    let last = identity(7, i16::MAX - 1);
    c.add(&id, last, &[partition(0)]).unwrap();
    let next = c.ended(&id, last, Commit);
    assert_eq!((next.epoch.get(), next.id > ProducerId::new(1000)), (0, true));
    assert_eq!(c.ended(&id, last, Commit), next);
    let [Action::WriteMarkers { producer, .. }] = &c.actions[..] else { panic!("{:?}", c.actions) };
    assert_eq!(*producer, identity(7, i16::MAX));
    c.complete();
    assert_eq!(c.add(&id, next, &[partition(0)]), Ok(Response::PartitionsAdded));
    assert_eq!(code(c.end(&id, last, Commit)), ErrorCode::InvalidProducerEpoch);

    // By a timeout, which has nobody to tell: the last epoch is for the markers alone.
    let mut c = Coordinator::with_log(vec![at(i16::MAX - 1, &empty)]);
    c.add(&id, last, &[partition(0)]).unwrap();
    c.advance(Duration::from_secs(60));
    c.commit();
    assert_eq!(c.transaction(&id).producer, identity(7, i16::MAX));
    c.complete();
    assert_eq!(code(c.end(&id, last, Abort)), ErrorCode::InvalidProducerEpoch);
    let next = c.producer(&id, Some(last));
    assert_eq!((next.epoch.get(), next.id > ProducerId::new(1000)), (0, true));
    assert_eq!(c.producer(&id, Some(last)), next, "T35");

    // By init.
    let mut c = Coordinator::with_log(vec![at(i16::MAX - 2, &empty)]);
    assert_eq!(c.producer(&id, None), last);
    assert_eq!(c.producer(&id, None).epoch.get(), 0);
}

#[test]
fn trap_36_a_new_coordinator_has_the_markers_written_in_its_own_name() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = open(&mut c, &id);
    let next = c.ended(&id, producer, Commit);
    // One is reported, to the old one.
    let report =
        Request::MarkersWritten { transactional_id: id.clone(), producer: next, partitions: vec![partition(0)] };
    c.ask(report).unwrap();
    c.crash(0);
    assert_eq!(
        c.actions,
        [Action::WriteMarkers {
            transactional_id: id.clone(),
            producer: next,
            result: Commit,
            coordinator_epoch: LeaderEpoch::new(5),
            partitions: vec![partition(0), partition(1)],
            keeps_epoch: false,
        }]
    );
    c.complete();
    assert_eq!(c.transaction(&id).state, TransactionState::Complete(Commit));
    c.crash(0);
    assert!(c.actions.is_empty());
}

#[test]
fn verifying_adds_nothing() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = c.producer(&id, None);
    let verify = |partitions: &[_]| Request::AddPartitions {
        transactional_id: id.clone(),
        producer,
        partitions: partitions.to_vec(),
        verify_only: true,
    };
    assert_eq!(code(c.ask(verify(&[partition(0)]))), ErrorCode::TransactionAbortable);
    c.add(&id, producer, &[partition(0)]).unwrap();
    let records = c.log.len();
    assert_eq!(c.ask(verify(&[partition(0)])), Ok(Response::PartitionsAdded));
    assert_eq!(c.add(&id, producer, &[partition(0)]), Ok(Response::PartitionsAdded));
    assert_eq!(code(c.ask(verify(&[partition(0), partition(1)]))), ErrorCode::TransactionAbortable);
    assert_eq!(c.log.len(), records);
}

#[test]
fn trap_39_idle_ids_expire_and_open_transactions_do_not() {
    let (mut c, idle, busy) = (Coordinator::new(), id("idle"), id("busy"));
    let gone = c.producer(&idle, None);
    let producer = c.producer(&busy, None);
    let day = Duration::from_secs(24 * 3600);
    c.advance(6 * day);
    assert_eq!(c.shard.durable().len(), 2);
    c.add(&busy, producer, &[partition(0)]).unwrap();
    c.ended(&busy, producer, Commit);
    c.advance(10 * day);
    c.commit();
    let left: Vec<_> = c.shard.durable().keys().cloned().collect();
    assert_eq!(left, [busy], "its markers are not written yet");
    assert!(c.log.last().unwrap().value.is_none());
    assert_eq!(code(c.end(&idle, gone, Commit)), ErrorCode::InvalidProducerIdMapping);
    assert_eq!(
        code(c.ask(Request::DescribeTransaction { transactional_id: idle.clone() })),
        ErrorCode::TransactionalIdNotFound
    );
    assert_ne!(c.producer(&idle, Some(gone)).id, gone.id);
}

#[test]
fn timeouts_out_of_bounds_are_refused() {
    let mut c = Coordinator::new();
    for timeout_ms in [0, 15 * 60 * 1000 + 1] {
        let request = Request::InitProducerId {
            transactional_id: id("orders"),
            timeout_ms,
            current: None,
            fresh: ProducerId::new(1),
        };
        assert_eq!(code(c.ask(request)), ErrorCode::InvalidTransactionTimeout);
    }
    assert!(c.log.is_empty());
}

#[test]
fn described_and_listed() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = open(&mut c, &id);
    let Ok(Response::Transaction(found)) = c.ask(Request::DescribeTransaction { transactional_id: id.clone() }) else {
        panic!("not described")
    };
    assert_eq!((found.producer, found.state.name(), found.timeout_ms), (producer, "Ongoing", 60_000));
    assert_eq!(found.started_at, Some(c.now.wall));
    assert_eq!(found.partitions, [partition(0), partition(1)]);
    assert_eq!(c.ask(Request::ListTransactions), Ok(Response::Transactions(vec![found])));
    assert_eq!(c.ask(Request::CountTransactions), Ok(Response::Counted([("Ongoing", 1)].into())));
}

#[test]
fn unknown_kinds_are_passed_over_and_damage_is_reported() {
    let mut shard = TransactionShard::new(TransactionConfig::default());
    // Field 9 of the key, which this version does not know.
    let unknown = CoordinatorRecord { key: Bytes::from_static(&[0x48, 1]), value: Some(Bytes::from_static(b"?")) };
    shard.replay(Offset::ZERO, None, &unknown).unwrap();
    shard.replay(Offset::ZERO, None, &record::tombstone(&id("never was"))).unwrap();
    assert!(shard.durable().is_empty());

    let good =
        record::record(&id("orders"), &Transaction::new(identity(7, 0), 1, highwater_types::TimestampMs::new(5)));
    let newer = [&[0x08, 2][..], &good.value.as_ref().unwrap()[2..]].concat();
    for value in [newer, vec![0xff], Vec::new()] {
        let bad = CoordinatorRecord { key: good.key.clone(), value: Some(value.into()) };
        assert_eq!(shard.replay(Offset::new(3), None, &bad).unwrap_err().offset, Offset::new(3));
    }
    let bad = CoordinatorRecord { key: Bytes::from_static(&[0xff]), value: None };
    assert!(shard.replay(Offset::ZERO, None, &bad).is_err());
    shard.replay(Offset::ZERO, None, &good).unwrap();
}
