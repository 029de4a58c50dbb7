//! Producers that can't be told of another epoch, and go on in the one they have.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_record::TransactionResult::{self, Abort, Commit};
use highwater_types::{ErrorCode, TransactionalId};

use super::super::{Action, Request, Response, TransactionState};
use super::driver::{Coordinator, Reply, add_request, id, partition};
use crate::ProducerIdentity;

fn code(reply: Reply) -> ErrorCode {
    reply.expect_err("refused").code()
}

fn begin(c: &mut Coordinator, id: &TransactionalId) -> ProducerIdentity {
    let producer = c.producer(id, None);
    assert_eq!(c.add(id, producer, &[partition(0), partition(1)]), Ok(Response::PartitionsAdded));
    producer
}

fn end(c: &mut Coordinator, id: &TransactionalId, producer: ProducerIdentity, result: TransactionResult) -> Reply {
    let fresh = c.fresh();
    let transactional_id = id.clone();
    c.ask(Request::EndTransaction { transactional_id, producer, result, fresh, keeps_epoch: true })
}

#[test]
fn the_next_transaction_has_the_same_epoch_and_begins_when_all_markers_are_reported() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = begin(&mut c, &id);
    for result in [Commit, Abort, Commit] {
        assert_eq!(end(&mut c, &id, producer, result), Ok(Response::Ended { next: producer }));
        let [Action::WriteMarkers { producer: marker, keeps_epoch: true, .. }] = c.actions[..] else {
            panic!("{:?}", c.actions)
        };
        assert_eq!(marker, producer);
        c.complete();
        assert_eq!(c.transaction(&id).state, TransactionState::Complete(result));
        let asks = |verify_only| Request::AddPartitions {
            transactional_id: id.clone(),
            producer,
            partitions: vec![partition(1)],
            verify_only,
        };
        // What is late from the transaction before does not begin the next one.
        assert_eq!(code(c.ask(asks(true))), ErrorCode::TransactionAbortable);
        assert_eq!(c.ask(asks(false)), Ok(Response::PartitionsAdded));
        assert_eq!(c.ask(asks(true)), Ok(Response::PartitionsAdded));
    }
}

/// What librdkafka does: it may abort a transaction before it knows whether anything has joined it.
#[test]
fn what_is_added_before_the_last_transaction_is_complete_joins_the_next() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = begin(&mut c, &id);
    for result in [Commit, Abort] {
        end(&mut c, &id, producer, result).unwrap();
        let added: Vec<_> = [0, 2].map(|at| c.request(add_request(&id, producer, &[partition(at)]))).to_vec();
        c.commit();
        assert_eq!(c.waiting.iter().copied().collect::<Vec<_>>(), added);
        assert_eq!(c.transaction(&id).state, TransactionState::Prepare(result), "it is not begun");
        c.complete();
        for token in added {
            assert_eq!(c.replies[&token], Ok(Response::PartitionsAdded));
        }
        let next = c.transaction(&id);
        assert_eq!(next.state, TransactionState::Ongoing);
        assert_eq!(next.partitions, BTreeSet::from([partition(0), partition(2)]));
    }
    assert_eq!(end(&mut c, &id, producer, Abort), Ok(Response::Ended { next: producer }));
}

#[test]
fn what_is_added_too_early_does_not_wait_for_ever_and_is_nobodys_after_a_crash() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = begin(&mut c, &id);
    end(&mut c, &id, producer, Commit).unwrap();
    let early = c.request(add_request(&id, producer, &[partition(0)]));
    c.advance(Duration::from_secs(2));
    let late = c.request(add_request(&id, producer, &[partition(1)]));
    c.advance(Duration::from_secs(1));
    c.commit();
    assert_eq!(code(c.replies[&early].clone()), ErrorCode::ConcurrentTransactions);
    assert!(c.waiting.contains(&late));
    let other = ProducerIdentity { epoch: producer.epoch.next(), ..producer };
    assert_eq!(code(c.add(&id, other, &[partition(0)])), ErrorCode::ProducerFenced, "others do not wait");
    c.crash(0);
    c.complete();
    assert_eq!(c.transaction(&id).state, TransactionState::Complete(Commit));
    assert!(!c.replies.contains_key(&late));
}

#[test]
fn an_end_asked_again_has_the_same_answer_and_another_result_is_refused() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = begin(&mut c, &id);
    end(&mut c, &id, producer, Commit).unwrap();
    for _ in 0..2 {
        let records = c.log.len();
        assert_eq!(end(&mut c, &id, producer, Commit), Ok(Response::Ended { next: producer }));
        assert_eq!(code(end(&mut c, &id, producer, Abort)), ErrorCode::InvalidTransactionState);
        assert_eq!(c.log.len(), records, "nothing is written for it");
        c.complete();
    }
}

#[test]
fn a_coordinator_that_takes_over_writes_the_same_markers() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = begin(&mut c, &id);
    end(&mut c, &id, producer, Commit).unwrap();
    c.actions.clear();
    c.crash(usize::MAX);
    assert!(
        matches!(c.actions[..], [Action::WriteMarkers { producer: marker, keeps_epoch: true, .. }] if marker == producer),
        "{:?}",
        c.actions
    );
    c.complete();
    assert_eq!(c.add(&id, producer, &[partition(1)]), Ok(Response::PartitionsAdded));
}

#[test]
fn a_timeout_and_a_successor_still_fence_it() {
    let (mut c, id) = (Coordinator::new(), id("orders"));
    let producer = begin(&mut c, &id);
    c.advance(Duration::from_secs(3600));
    c.commit();
    c.complete();
    assert_eq!(code(end(&mut c, &id, producer, Commit)), ErrorCode::InvalidProducerEpoch);
    assert_eq!(code(c.add(&id, producer, &[partition(0)])), ErrorCode::InvalidProducerEpoch);
    // It goes on after asking for an epoch.
    let again = c.producer(&id, Some(producer));
    assert!(again.epoch > producer.epoch);
    assert_eq!(c.add(&id, again, &[partition(0)]), Ok(Response::PartitionsAdded));
    assert_eq!(code(c.init(&id, None)), ErrorCode::ConcurrentTransactions);
    c.complete();
    let successor = c.producer(&id, None);
    assert_eq!(code(end(&mut c, &id, again, Commit)), ErrorCode::ProducerFenced);
    assert_eq!(end(&mut c, &id, successor, Abort), Ok(Response::Ended { next: successor }), "nothing is open");
}
