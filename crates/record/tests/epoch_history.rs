//! The leader epochs of a log.

#![allow(clippy::unwrap_used, reason = "a test or bench fails by panicking")]

use highwater_record::EpochHistory;
use highwater_types::{LeaderEpoch, Offset};
use proptest::prelude::*;

fn e(epoch: i32) -> LeaderEpoch {
    LeaderEpoch::new(epoch)
}
fn o(offset: i64) -> Offset {
    Offset::new(offset)
}
fn history(entries: &[(i32, i64)]) -> EpochHistory {
    EpochHistory::from_entries(entries.iter().map(|&(epoch, start)| (e(epoch), o(start)))).unwrap()
}

#[test]
fn t2_the_end_of_an_epoch_is_that_of_the_largest_not_above_it() {
    let history = history(&[(2, 10), (4, 30), (7, 50)]);
    let end_of = |asked| history.end_of(e(asked), o(99)).map(|(epoch, end)| (epoch.get(), end.get()));
    assert_eq!(end_of(1), None);
    assert_eq!(end_of(2), Some((2, 30)));
    assert_eq!(end_of(3), Some((2, 30)));
    assert_eq!(end_of(4), Some((4, 50)));
    assert_eq!(end_of(6), Some((4, 50)));
    assert_eq!(end_of(7), Some((7, 99)));
    assert_eq!(end_of(8), Some((7, 99)));
    assert_eq!(EpochHistory::new().end_of(e(3), o(0)), None);
}

#[test]
fn t3_truncating_the_log_forgets_the_epochs_of_what_is_gone() {
    let full = history(&[(2, 10), (4, 30), (7, 50)]);
    for (at, left) in [(60, 3), (51, 3), (50, 2), (31, 2), (30, 1), (11, 1), (10, 0), (0, 0)] {
        let mut cut = full.clone();
        assert_eq!(cut.truncate_from(o(at)), left < 3, "{at}");
        assert_eq!(cut.entries(), &full.entries()[..left], "{at}");
    }
}

#[test]
fn moving_the_log_start_keeps_the_epoch_that_covers_it() {
    let full = history(&[(2, 10), (4, 30), (7, 50)]);
    for (at, left) in [
        (5, &[(2, 10), (4, 30), (7, 50)][..]),
        (10, &[(2, 10), (4, 30), (7, 50)]),
        (29, &[(2, 29), (4, 30), (7, 50)]),
        (30, &[(4, 30), (7, 50)]),
        (70, &[(7, 70)]),
    ] {
        let mut cut = full.clone();
        assert_eq!(cut.truncate_before(o(at)), cut_changes(left), "{at}");
        assert_eq!(cut, history(left), "{at}");
    }
    assert!(!EpochHistory::new().truncate_before(o(5)));

    fn cut_changes(left: &[(i32, i64)]) -> bool {
        left != [(2, 10), (4, 30), (7, 50)]
    }
}

#[test]
fn an_epoch_without_records_is_replaced() {
    let mut history = EpochHistory::new();
    assert_eq!(history.latest(), None);
    assert_eq!(history.assign(e(1), o(0)), Ok(true));
    assert_eq!(history.assign(e(1), o(5)), Ok(false));
    assert_eq!(history.assign(e(3), o(8)), Ok(true));
    assert_eq!(history.assign(e(4), o(8)), Ok(true));
    assert_eq!(history.entries(), [(e(1), o(0)), (e(4), o(8))]);
    assert_eq!(history.latest(), Some(e(4)));
    assert_eq!(history.start_of(e(4)), Some(o(8)));
    assert_eq!(history.start_of(e(3)), None);
}

#[test]
fn what_does_not_grow_is_refused_and_changes_nothing() {
    let mut log = history(&[(2, 10), (4, 30)]);
    let before = log.clone();
    assert!(log.assign(e(3), o(40)).unwrap_err().to_string().contains("leader epoch 3"));
    assert!(log.assign(e(5), o(29)).is_err());
    assert!(log.assign(e(4), o(29)).is_err());
    assert_eq!(log, before);
    assert!(EpochHistory::from_entries([(e(2), o(10)), (e(2), o(20))]).is_err());
    assert!(EpochHistory::from_entries([(e(2), o(10)), (e(3), o(10))]).is_err());
}

proptest! {
    /// Against a plain list of the epoch of every record.
    #[test]
    fn the_history_agrees_with_the_records(
        runs in proptest::collection::vec((1i32..4, 1i64..6), 1..8),
        start in 0i64..40,
        end in 0i64..40,
    ) {
        let mut log = EpochHistory::new();
        let mut records = Vec::new();
        let mut epoch = 0;
        for (step, length) in runs {
            epoch += step;
            log.assign(e(epoch), o(records.len() as i64)).unwrap();
            records.extend(std::iter::repeat_n(epoch, length as usize));
        }
        let end = end.min(records.len() as i64);
        records.truncate(end as usize);
        log.truncate_from(o(end));
        let start = start.min(end);
        log.truncate_before(o(start));
        for offset in start..end {
            prop_assert_eq!(log.epoch_at(o(offset)), Some(e(records[offset as usize])));
        }
        if start < end {
            prop_assert_eq!(log.entries()[0].1, o(start));
            for asked in 0..=epoch + 1 {
                let after = (start..end).rev().find(|&at| records[at as usize] <= asked).map(|at| at + 1);
                let found = log.end_of(e(asked), o(end));
                prop_assert_eq!(found.map(|(_, end)| end.get()), after, "asked {}", asked);
                if let (Some((epoch, _)), Some(after)) = (found, after) {
                    prop_assert_eq!(epoch, e(records[after as usize - 1]));
                }
            }
        }
        prop_assert_eq!(EpochHistory::from_entries(log.entries().iter().copied()).unwrap(), log);
    }
}
