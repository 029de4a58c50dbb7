use bytes::Bytes;
use highwater_client::{ConsumerRecord, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicName};
use highwater_protocol::v1;

use super::session::{Session, Slot};

fn slot(partition: u32) -> Slot {
    (TopicName::new("t").unwrap(), PartitionId::new(partition))
}

fn records(partition: u32, offsets: std::ops::Range<i64>) -> Vec<ConsumerRecord> {
    let (topic, partition) = slot(partition);
    let record = |offset| ConsumerRecord {
        topic: topic.clone(),
        partition,
        offset: Offset::new(offset),
        leader_epoch: LeaderEpoch::FIRST,
        timestamp: TimestampMs::new(0),
        key: None,
        value: Some(Bytes::from_static(b"0123456789")),
        headers: Vec::new(),
    };
    offsets.map(record).collect()
}

fn deliver(session: &mut Session) -> Option<(u64, Vec<(u32, i64)>)> {
    let delivery = session.deliver(1 << 20)?;
    Some((delivery.delivery_id, delivery.records.iter().map(|it| (it.partition, it.offset)).collect()))
}

fn commit(session: &mut Session, up_to_delivery: u64) -> Vec<(u32, i64)> {
    let request = v1::SubscribeCommit { up_to_delivery, ..Default::default() };
    let offsets = session.commit(&request).unwrap();
    offsets.iter().map(|it| (it.partition.get(), it.position.offset.get())).collect()
}

fn by_offset(partition: u32, offset: i64) -> v1::SubscribeCommit {
    let offset = v1::SubscribeOffset { topic: "t".to_owned(), partition, offset, metadata: "m".to_owned() };
    v1::SubscribeCommit { offsets: vec![offset], ..Default::default() }
}

#[test]
fn no_record_goes_out_without_credit() {
    let mut session = Session::default();
    session.keep(records(0, 0..5));
    assert_eq!(deliver(&mut session), None);
    session.grant(2);
    assert_eq!(deliver(&mut session), Some((1, vec![(0, 0), (0, 1)])));
    assert_eq!(deliver(&mut session), None);
    assert!(session.is_waiting());
    session.grant(u64::MAX);
    session.grant(u64::MAX);
    assert_eq!(deliver(&mut session), Some((2, vec![(0, 2), (0, 3), (0, 4)])));
    assert!(!session.is_waiting());
}

#[test]
fn a_delivery_is_bounded_in_bytes_but_holds_one_record_at_least() {
    let mut session = Session::default();
    session.grant(10);
    session.keep(records(0, 0..3));
    assert_eq!(session.deliver(1).unwrap().records.len(), 1);
    assert_eq!(session.deliver(1 << 20).unwrap().records.len(), 2);
}

#[test]
fn a_commit_by_delivery_covers_all_that_went_out_up_to_it_and_nothing_after() {
    let mut session = Session::default();
    session.grant(100);
    for batch in [records(0, 0..2), records(1, 7..9), records(0, 2..5)] {
        session.keep(batch);
        deliver(&mut session);
    }
    assert_eq!(commit(&mut session, 2), [(0, 2), (1, 9)]);
    assert_eq!(commit(&mut session, 2), [], "it is committed");
    assert_eq!(commit(&mut session, 3), [(0, 5)]);
    let beyond = v1::SubscribeCommit { up_to_delivery: 4, ..Default::default() };
    assert!(session.commit(&beyond).is_err());
}

#[test]
fn a_commit_that_failed_is_taken_along_by_the_next_one() {
    let mut session = Session::default();
    session.grant(100);
    session.keep(records(0, 0..2));
    deliver(&mut session);
    session.keep(records(1, 0..1));
    deliver(&mut session);
    let first = session.commit(&v1::SubscribeCommit { up_to_delivery: 1, ..Default::default() }).unwrap();
    session.commit_failed(first);
    assert_eq!(commit(&mut session, 2), [(0, 2), (1, 1)]);
}

#[test]
fn offsets_by_name_are_committed_as_given_and_end_the_wait_for_them() {
    let mut session = Session::default();
    session.grant(100);
    session.keep(records(0, 0..4));
    deliver(&mut session);
    let offsets = session.commit(&by_offset(0, 4)).unwrap();
    assert_eq!((offsets[0].position.offset, offsets[0].metadata.as_str()), (Offset::new(4), "m"));
    assert_eq!(session.begin_revocation(&[slot(0)]), (1, false), "nothing is left to be committed");
    assert!(session.is_released());
    assert!(session.commit(&by_offset(0, -1)).is_err());
}

#[test]
fn after_a_revocation_began_nothing_more_goes_out_and_commits_go_on_until_its_release() {
    let mut session = Session::default();
    session.grant(1);
    session.keep(records(0, 0..3));
    deliver(&mut session);
    session.keep(records(1, 0..1));
    assert_eq!(session.begin_revocation(&[slot(0)]), (1, true));
    session.grant(10);
    assert_eq!(deliver(&mut session), Some((2, vec![(1, 0)])));
    assert!(!session.is_released());
    assert_eq!(commit(&mut session, 1), [(0, 1)]);
    assert!(session.release(7).is_err());
    session.release(1).unwrap();
    assert!(session.is_released());
    session.remove(&[slot(0)]);
    assert_eq!(commit(&mut session, 2), [(1, 1)]);
}

#[test]
fn what_is_lost_is_committed_no_more() {
    let mut session = Session::default();
    session.grant(10);
    session.keep(records(0, 0..1));
    session.keep(records(1, 0..1));
    deliver(&mut session);
    session.keep(records(1, 1..2));
    session.remove(&[slot(1)]);
    assert!(!session.is_waiting());
    assert_eq!(commit(&mut session, 1), [(0, 1)]);
}

#[test]
fn a_client_that_never_commits_is_remembered_in_bounded_room() {
    let mut session = Session::default();
    session.grant(u64::MAX);
    for offset in 0..10_100 {
        session.keep(records(0, offset..offset + 1));
        deliver(&mut session);
    }
    let old = v1::SubscribeCommit { up_to_delivery: 50, ..Default::default() };
    assert!(session.commit(&old).is_err_and(|error| error.message.contains("too long ago")));
    assert_eq!(commit(&mut session, 200), [(0, 200)]);
    assert_eq!(commit(&mut session, 10_100), [(0, 10_100)]);
}
