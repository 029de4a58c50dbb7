use super::*;
use crate::OpenError;

#[test]
fn a_log_closed_in_order_opens_without_a_scan() {
    let mut f = Fixture::small();
    f.fill(20);
    let all = f.all();
    f.restart_in_order();
    assert!(f.report.clean && f.report.scanned_bytes == 0, "{:?}", f.report);
    assert_eq!(f.all(), all);
    assert_eq!(f.log.durable_offset(), offset(40));
    assert_eq!(f.log.checkpointed_hw(), offset(40));
    f.fill(3);
    f.restart_in_order();
    assert_eq!(f.log.end_offset(), offset(46));
}

#[test]
fn a_marker_is_not_believed_against_what_the_log_says() {
    let mut f = Fixture::small();
    f.fill(5);
    f.commit();
    f.hardware.crash(Crash::Process);
    let (log, report) = open(&f.hardware, &f.config, true);
    assert!(!report.clean);
    assert_eq!(log.end_offset(), offset(10));
}

#[test]
fn kill_9_loses_nothing() {
    let mut f = Fixture::small();
    f.fill(20);
    let (all, epochs) = (f.all(), f.log.epochs().clone());
    f.reopen(Crash::Process);
    assert_eq!((f.all(), f.log.epochs()), (all, &epochs));
    assert_eq!(f.log.durable_offset(), offset(0), "not known to be on the disk");
    assert_eq!(f.sync(), offset(40));
}

#[test]
fn a_torn_tail_is_cut_and_what_was_synced_stays() {
    for seed in 0..200 {
        let mut f = Fixture::small();
        f.hardware = hardware(seed);
        (f.log, _) = open(&f.hardware, &f.config, false);
        f.fill(4);
        f.sync();
        let synced = f.all();
        f.fill(5);
        let written = f.all();
        f.reopen(Crash::Power);
        let found = f.all();
        assert!(found.len() >= synced.len() && written.starts_with(&found), "seed {seed}: {}", found.len());
        assert_eq!(f.log.damage(), None);
        f.fill(2);
        f.commit();
    }
}

#[test]
fn after_recovery_the_tail_counts_as_durable_only_once_it_is_synced() {
    let mut f = Fixture::small();
    f.fill(4);
    f.commit();
    f.fill(4);
    f.reopen(Crash::Process);
    assert_eq!(f.log.durable_offset(), offset(8));
    assert_eq!(f.sync(), offset(16));
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(f.log.end_offset(), offset(16));
}

#[test]
fn epochs_above_the_recovery_point_are_learned_from_the_batches() {
    let mut f = Fixture::small();
    for epoch in 0..8 {
        f.append_at(batch(2, 100, 0), LeaderEpoch::new(epoch)).unwrap();
    }
    let epochs = f.log.epochs().clone();
    f.hardware.crash(Crash::Process);
    f.hardware.mount().remove_file(&Path::new(DIR).join("leader-epochs")).unwrap();
    f.reopen(Crash::Process);
    assert_eq!(*f.log.epochs(), epochs);
    f.commit();
    // A damaged file below the recovery point: all batches are asked.
    f.hardware.flip_bit(&Path::new(DIR).join("leader-epochs"), 30, 1).unwrap();
    f.reopen(Crash::Process);
    assert_eq!((f.log.epochs(), f.log.damage()), (&epochs, None));
}

#[test]
fn t21_the_folder_of_another_topic_is_refused() {
    let f = Fixture::new();
    let other = TopicPartition::new(TopicId::from_u128(8), PartitionId::new(3));
    let opened = Log::open(f.hardware.mount(), Path::new(DIR), other, f.config.clone(), OpenLog::default(), ms(0));
    assert!(matches!(opened.err(), Some(OpenError::WrongPartition { .. })));
}

#[test]
fn lost_checkpoints_cost_a_full_scan_and_no_records() {
    let mut f = Fixture::small();
    f.fill(20);
    f.commit();
    let all = f.all();
    f.hardware.crash(Crash::Process);
    f.hardware.mount().remove_file(&Path::new(DIR).join("checkpoint")).unwrap();
    f.reopen(Crash::Process);
    assert_eq!((f.all(), f.log.damage()), (all, None));
    assert_eq!(f.report.recovery_point, offset(0));
}

#[test]
fn the_recovery_point_bounds_the_scan() {
    let mut f = Fixture::with(|config| config.index_interval_bytes = 1024);
    f.fill(400);
    f.commit();
    f.fill(10);
    f.reopen(Crash::Process);
    assert!(f.report.scanned_bytes < 10 * 400 + 1024, "{:?}", f.report);
    assert_eq!(f.log.end_offset(), offset(820));
}
