use highwater_record::{BatchBuilder, Compression, control_batch};
use proptest::prelude::*;

use super::snapshot::for_tests::{decoded, encoded};
use super::*;

const ID: ProducerId = ProducerId::new(7);

fn batch(epoch: i16, sequence: i32, records: i32, transactional: bool) -> Batch {
    let mut builder = BatchBuilder::with_capacity(Compression::None, None, 64);
    builder.set_producer(ID, ProducerEpoch::new(epoch), Sequence::new(sequence));
    for _ in 0..records {
        builder.append(TimestampMs::new(1), Some(b"k"), Some(b"v"), &[]).unwrap();
    }
    builder.set_transactional(transactional);
    Batch::from_bytes(builder.build().unwrap()).unwrap()
}

fn header(base: i64, epoch: i16, sequence: i32, records: i32, transactional: bool) -> BatchHeader {
    BatchHeader { base_offset: Offset::new(base), ..*batch(epoch, sequence, records, transactional).header() }
}

fn marker(result: TransactionResult, coordinator_epoch: i32) -> EndTransactionMarker {
    EndTransactionMarker { result, coordinator_epoch }
}

fn end(states: &mut ProducerStates, base: i64, epoch: i16, result: TransactionResult) {
    let marker = marker(result, 3);
    let bytes = control_batch(marker, ID, ProducerEpoch::new(epoch), TimestampMs::new(1)).unwrap();
    let control = Batch::from_bytes(bytes).unwrap();
    assert_eq!(marker_of(&control), Some(marker));
    let header = BatchHeader { base_offset: Offset::new(base), ..*control.header() };
    states.check_marker(&header, marker).unwrap();
    states.apply(&header, Some(marker));
}

/// Ten batches of two records each, from offset 0 and sequence 0.
fn ten() -> ProducerStates {
    let mut states = ProducerStates::default();
    for n in 0..10 {
        let header = header(i64::from(n) * 2, 0, n * 2, 2, false);
        assert_eq!(states.check(&header), Ok(SequenceCheck::Append));
        states.apply(&header, None);
    }
    states
}

#[test]
fn t29_the_last_five_batches_are_known_with_their_offsets() {
    let states = ten();
    for n in 5..10 {
        let check = states.check(&header(99, 0, n * 2, 2, false)).unwrap();
        let SequenceCheck::Duplicate(of) = check else { panic!("{check:?}") };
        assert_eq!((of.base_offset.get(), of.last_offset.get()), (i64::from(n) * 2, i64::from(n) * 2 + 1));
    }
    let old = states.check(&header(99, 0, 4, 2, false));
    assert_eq!(old, Err(ProducerStateError::DuplicateTooOld { found: Sequence::new(4) }));
    assert_eq!(old.unwrap_err().code(), ErrorCode::DuplicateSequence);
}

#[test]
fn a_gap_is_refused_and_so_is_an_epoch_that_is_over() {
    let states = ten();
    let gap = states.check(&header(20, 0, 22, 1, false));
    assert_eq!(gap, Err(ProducerStateError::OutOfOrder { expected: Sequence::new(20), found: Sequence::new(22) }));
    // Of a batch that was cut differently, nothing can be said.
    assert!(matches!(states.check(&header(20, 0, 19, 1, false)), Err(ProducerStateError::OutOfOrder { .. })));
    let mut states = states;
    assert!(matches!(states.check(&header(20, 1, 20, 1, false)), Err(ProducerStateError::OutOfOrder { .. })));
    states.apply(&header(20, 1, 0, 1, false), None);
    let fenced = states.check(&header(21, 0, 20, 1, false));
    assert!(matches!(fenced, Err(ProducerStateError::Fenced { .. })), "{fenced:?}");
}

#[test]
fn sequences_wrap_to_zero() {
    let mut states = ProducerStates::default();
    states.apply(&header(0, 0, i32::MAX - 1, 3, false), None);
    assert_eq!(states.check(&header(3, 0, 1, 1, false)), Ok(SequenceCheck::Append));
    let again = states.check(&header(3, 0, i32::MAX - 1, 3, false));
    assert!(matches!(again, Ok(SequenceCheck::Duplicate(_))), "{again:?}");
}

#[test]
fn an_unknown_producer_may_go_on_as_kip_360_says() {
    assert_eq!(ProducerStates::default().check(&header(0, 3, 41, 1, false)), Ok(SequenceCheck::Append));
}

#[test]
fn t32_a_transaction_is_unstable_until_its_marker_is_committed() {
    let mut states = ProducerStates::default();
    states.apply(&header(10, 0, 0, 2, true), None);
    assert_eq!(states.ongoing(ID).map(|open| open.first_offset), Some(Offset::new(10)));
    assert_eq!(states.first_unstable_offset(Offset::new(12)), Some(Offset::new(10)));
    end(&mut states, 12, 1, TransactionResult::Abort);
    assert_eq!(states.ongoing(ID), None);
    // The marker is at 12: below a high watermark of 13 and not below one of 12.
    assert_eq!(states.first_unstable_offset(Offset::new(12)), Some(Offset::new(10)));
    assert_eq!(states.first_unstable_offset(Offset::new(13)), None);
    let aborted = AbortedTransaction { producer_id: ID, first_offset: Offset::new(10), last_offset: Offset::new(12) };
    for (from, to, found) in [(0, 10, false), (0, 11, true), (12, 13, true), (13, 20, false)] {
        let expected = if found { vec![aborted] } else { Vec::new() };
        assert_eq!(states.aborted_in(Offset::new(from), Offset::new(to)), expected, "{from}..{to}");
    }
    // Its epoch went up with the marker: a late record of it is refused (T33, T34).
    assert!(matches!(states.check(&header(13, 0, 2, 1, true)), Err(ProducerStateError::Fenced { .. })));
    assert_eq!(states.check(&header(13, 1, 0, 1, true)), Ok(SequenceCheck::Append));
}

#[test]
fn a_marker_of_an_older_coordinator_is_refused_and_a_repeated_one_ends_nothing() {
    let mut states = ProducerStates::default();
    states.apply(&header(0, 0, 0, 1, true), None);
    end(&mut states, 1, 1, TransactionResult::Commit);
    let before = states.clone();
    end(&mut states, 2, 1, TransactionResult::Commit);
    assert_eq!((states.describe(), &states.ended), (before.describe(), &before.ended));
    // Compaction leaves the newer one.
    assert_eq!(states.known_from(Offset::new(9)), [Offset::new(0), Offset::new(2)][1..]);
    let old = states.check_marker(&header(3, 1, 0, 1, true), marker(TransactionResult::Abort, 2));
    assert!(matches!(old, Err(ProducerStateError::CoordinatorFenced { current: 3, found: 2 })), "{old:?}");
}

#[test]
fn expiry_spares_open_transactions() {
    let mut states = ProducerStates::default();
    states.apply(&header(0, 0, 0, 1, true), None);
    assert_eq!(states.expire(TimestampMs::new(1000), |_| true), 0);
    end(&mut states, 1, 1, TransactionResult::Commit);
    assert_eq!(states.expire(TimestampMs::new(1000), |_| true), 1);
}

proptest! {
    #[test]
    fn t47_any_bytes_are_a_snapshot_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decoded(&bytes);
    }

    #[test]
    fn snapshots_round_trip_and_damage_is_seen(
        ops in proptest::collection::vec((0..4_i64, 0..3_u8), 0..40),
        flip in any::<proptest::sample::Index>(),
    ) {
        let mut states = ProducerStates::default();
        let mut sequences = BTreeMap::new();
        let mut base = 0;
        for (id, kind) in ops {
            let sequence: &mut i32 = sequences.entry(id).or_default();
            let mut header = header(base, 0, *sequence, 2, kind > 0);
            header.producer_id = ProducerId::new(id);
            match kind {
                2 => {
                    header.attributes = header.attributes.control();
                    states.apply(&header, Some(marker(TransactionResult::Abort, 1)));
                }
                _ => {
                    states.apply(&header, None);
                    *sequence += 2;
                }
            }
            base += 2;
        }
        prop_assert_eq!(decoded(&encoded(&states)), Some(states.clone()));
        let mut bytes = encoded(&states);
        let at = flip.index(bytes.len());
        bytes[at] ^= 1;
        prop_assert_eq!(decoded(&bytes), None);
    }
}
