use highwater_record::{EndTransactionMarker, TransactionResult, control_batch};
use highwater_types::{ProducerEpoch, ProducerId, Sequence};
use proptest::prelude::*;

use super::*;
use crate::producers::marker_of;
use crate::{ProducerStates, SequenceCheck};

fn numbered(id: i64, epoch: i16, sequence: i32, records: usize, transactional: bool) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None, None);
    builder.set_producer(ProducerId::new(id), ProducerEpoch::new(epoch), Sequence::new(sequence));
    builder.set_transactional(transactional);
    for _ in 0..records {
        builder.append(ms(1), None, Some(&[b'v'; 60]), &[]).unwrap();
    }
    split(builder.build().unwrap()).unwrap().remove(0)
}

fn end_of(id: i64, epoch: i16, commit: bool) -> Batch {
    let result = if commit { TransactionResult::Commit } else { TransactionResult::Abort };
    let marker = EndTransactionMarker { result, coordinator_epoch: 1 };
    let bytes = control_batch(marker, ProducerId::new(id), ProducerEpoch::new(epoch), ms(1)).unwrap();
    split(bytes).unwrap().remove(0)
}

/// What all batches that can be read say.
fn by_reading(f: &Fixture) -> ProducerStates {
    let mut states = ProducerStates::default();
    for batch in f.all() {
        states.apply(batch.header(), marker_of(&batch));
    }
    settled(&states)
}

/// What counts as ended depends on the high watermark, which can be known less well after a restart.
fn settled(states: &ProducerStates) -> ProducerStates {
    let mut states = states.clone();
    states.committed(Offset::MAX);
    states
}

#[derive(Debug, Clone)]
enum Op {
    Append { id: i64, records: usize, transactional: bool },
    End { id: i64, commit: bool },
    Truncate { back: i64 },
    Commit,
    Sync,
    Reopen(Crash),
    RestartInOrder,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..4_i64, 1..4_usize, any::<bool>())
            .prop_map(|(id, records, transactional)| Op::Append { id, records, transactional }),
        4 => (0..4_i64, any::<bool>()).prop_map(|(id, commit)| Op::End { id, commit }),
        2 => (0..30_i64).prop_map(|back| Op::Truncate { back }),
        2 => Just(Op::Commit),
        2 => Just(Op::Sync),
        1 => prop_oneof![Just(Crash::Process), Just(Crash::Power), Just(Crash::PowerLosingAll)].prop_map(Op::Reopen),
        1 => Just(Op::RestartInOrder),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// T3, T30: whatever happened to the log, what is known of producers is what its batches say.
    #[test]
    fn t30_what_is_known_is_what_the_log_says(ops in proptest::collection::vec(op(), 1..60), seed in 0..1000_u64) {
        let mut f = Fixture::small();
        f.hardware = hardware(seed);
        (f.log, _) = open(&f.hardware, &f.config, false);
        let mut epoch = 1;
        for op in ops {
            match op {
                Op::Append { id, records, transactional } => {
                    let known = f.log.producers().into_iter().find(|known| known.producer_id.get() == id);
                    let (producer_epoch, next) = known.map_or((0, 0), |known| (known.epoch.get(), known.last_sequence.get() + 1));
                    let transactional = transactional || f.log.ongoing_transaction(ProducerId::new(id)).is_some();
                    let batch = numbered(id, producer_epoch, next, records, transactional);
                    prop_assert_eq!(f.log.check_producer(batch.header()), Ok(SequenceCheck::Append));
                    f.append_at(batch.clone(), LeaderEpoch::new(epoch)).unwrap();
                    let again = f.log.check_producer(batch.header());
                    prop_assert!(matches!(again, Ok(SequenceCheck::Duplicate(_))), "{:?}", again);
                }
                Op::End { id, commit } => {
                    let known = f.log.producers().into_iter().find(|known| known.producer_id.get() == id);
                    let Some(known) = known else { continue };
                    let marker = end_of(id, known.epoch.get() + 1, commit);
                    f.log.append_marker(&marker, LeaderEpoch::new(epoch), ms(0)).unwrap();
                    prop_assert_eq!(f.log.ongoing_transaction(ProducerId::new(id)), None);
                }
                Op::Truncate { back } => {
                    let to = (f.log.end_offset().get() - back).max(0);
                    f.log.truncate_to(offset(to)).unwrap();
                    // Another leader's records follow.
                    epoch += 1;
                }
                Op::Commit => f.commit(),
                Op::Sync => _ = f.sync(),
                Op::Reopen(crash) => {
                    f.reopen(crash);
                    epoch += 1;
                }
                Op::RestartInOrder => f.restart_in_order(),
            }
            prop_assert_eq!(settled(f.log.producer_states()), by_reading(&f));
        }
    }
}

#[test]
fn t30_retention_leaves_what_is_known_of_producers() {
    let mut f = Fixture::small();
    for n in 0..20 {
        f.append(numbered(1, 0, n * 2, 2, false));
    }
    f.append(numbered(2, 0, 0, 2, false));
    f.commit();
    let known = f.log.producers();
    f.log.advance_start(f.log.end_offset()).unwrap();
    f.commit();
    assert_eq!(f.log.producers(), known);
    for _ in 0..2 {
        f.restart_in_order();
        assert_eq!(f.log.producers(), known, "also over a restart");
    }
    let again = f.log.check_producer(numbered(2, 0, 0, 2, false).header());
    assert!(matches!(again, Ok(SequenceCheck::Duplicate(_))), "{again:?}");
}

#[test]
fn t30_what_is_known_of_producers_is_written_down_before_their_records_go() {
    let mut f = Fixture::small();
    f.append(numbered(2, 0, 0, 2, false));
    for n in 0..20 {
        f.append(numbered(1, 0, n * 2, 2, false));
    }
    f.commit();
    let known = f.log.producers();
    // The snapshots of the rolls did not come about: the disk was full for them.
    let disk = f.hardware.mount();
    for path in f.hardware.files().iter().filter(|path| path.extension().is_some_and(|end| end == "producers")) {
        disk.remove_file(path).unwrap();
    }
    f.log.advance_start(Offset::new(f.log.end_offset().get() - 2)).unwrap();
    f.commit();
    f.reopen(Crash::Process);
    assert_eq!(f.log.producers(), known);
}

#[test]
fn a_follower_learns_what_its_leader_knows() {
    let (mut leader, mut follower) = (Fixture::small(), Fixture::small());
    for n in 0..6 {
        leader.append(numbered(1, n, 0, 2, true));
        leader.log.append_marker(&end_of(1, n + 1, n % 2 == 0), EPOCH, ms(0)).unwrap();
    }
    for batch in leader.all() {
        follower.log.append_follower(&[batch]).unwrap();
    }
    assert_eq!(follower.log.producer_states(), leader.log.producer_states());
    assert_eq!(follower.log.aborted_in(Offset::ZERO, Offset::MAX).len(), 3);
}

#[test]
fn producers_in_a_damaged_range_are_known_again_once_it_is_healed() {
    let mut f = Fixture::small();
    for n in 0..12 {
        f.append(numbered(i64::from(n), 0, 0, 2, false));
    }
    f.commit();
    let (whole, known) = (f.all(), f.log.producers());
    f.hardware.crash(Crash::Process);
    f.hardware.files().iter().filter(|path| path.extension().is_some_and(|end| end == "producers")).for_each(|path| {
        f.hardware.mount().remove_file(path).unwrap();
    });
    let first = f.path(0, "log");
    f.hardware.flip_bit(&first, 16, 3).unwrap();
    (f.log, f.report) = open(&f.hardware, &f.config, false);
    assert_eq!((f.log.damage(), f.log.producers().len()), (Some(range(0, 2)), known.len() - 1));
    f.heal_all(&whole);
    assert_eq!(f.log.producers(), known);
}

#[test]
fn t33_a_marker_bumps_the_epoch_so_that_late_records_are_refused() {
    let mut f = Fixture::new();
    f.append(numbered(1, 0, 0, 1, true));
    f.log.append_marker(&end_of(1, 1, true), EPOCH, ms(0)).unwrap();
    assert!(f.log.check_producer(numbered(1, 0, 1, 1, true).header()).is_err());
    let late = f.log.append_marker(&end_of(1, 0, false), EPOCH, ms(0));
    assert!(matches!(late, Err(AppendError::Producer(_))), "{late:?}");
}
