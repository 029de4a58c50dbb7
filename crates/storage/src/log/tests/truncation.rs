use super::*;

#[test]
fn cuts_whole_batches_in_any_segment_and_goes_on_from_there() {
    for to in 0..40 {
        let mut f = Fixture::small();
        f.fill(20);
        let before = f.all();
        if to % 3 == 0 {
            f.sync();
        }
        f.log.truncate_to(offset(to)).unwrap();
        let end = to / 2 * 2;
        assert_eq!(f.log.end_offset(), offset(end), "to {to}");
        assert!(f.log.durable_offset() <= offset(end));
        assert_eq!(f.all(), before[..end as usize / 2]);
        f.append(batch(3, 50, 0));
        f.append(batch(1, 500, 0));
        let after = f.all();
        f.drop_cache();
        assert_eq!(f.all(), after);
        f.commit();
        f.reopen(Crash::PowerLosingAll);
        assert_eq!((f.all(), f.log.damage()), (after, None), "to {to}");
    }
}

#[test]
fn t3_epochs_are_trimmed_with_the_log_also_after_a_crash() {
    let mut f = Fixture::small();
    for epoch in 0..6 {
        f.append_at(batch(2, 100, 0), LeaderEpoch::new(epoch)).unwrap();
    }
    f.log.truncate_to(offset(6)).unwrap();
    let starts: Vec<_> = f.log.epochs().entries().iter().map(|entry| entry.1.get()).collect();
    assert_eq!(starts, [0, 2, 4]);
    f.append_at(batch(2, 100, 0), LeaderEpoch::new(9)).unwrap();
    let epochs = f.log.epochs().clone();
    f.commit();
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(*f.log.epochs(), epochs);
    f.restart_in_order();
    assert_eq!(*f.log.epochs(), epochs);
}

#[test]
fn below_the_recovery_point_a_crash_right_after_shows_no_damage() {
    for seed in 0..60 {
        let mut f = Fixture::small();
        f.hardware = hardware(seed);
        (f.log, _) = open(&f.hardware, &f.config, false);
        f.fill(12);
        f.commit();
        // Committed, and cut all the same: an unclean election.
        f.log.truncate_to(offset(7)).unwrap();
        assert_eq!(f.log.checkpointed_hw(), offset(6));
        if seed % 2 == 0 {
            f.fill(1);
        }
        if seed % 3 == 0 {
            f.sync();
        }
        f.reopen(Crash::Power);
        assert_eq!(f.log.damage(), None, "seed {seed}");
        assert_eq!(f.offsets()[..3], [0, 2, 4], "seed {seed}");
    }
}

#[test]
fn t5_starting_anew_moves_start_high_watermark_and_end_together() {
    for (seed, at) in [(1, 1000), (2, 3), (3, 0), (4, 24), (5, 6)] {
        let mut f = Fixture::small();
        f.fill(12);
        f.commit();
        f.log.restart_at(offset(at)).unwrap();
        let log = &f.log;
        assert_eq!(
            [log.start_offset(), log.end_offset(), log.checkpointed_hw(), log.durable_offset()],
            [offset(at); 4]
        );
        assert!(log.epochs().is_empty());
        if seed % 2 == 0 {
            f.append_at(batch(2, 10, 0), LeaderEpoch::new(8)).unwrap();
        }
        f.sync();
        let (end, all) = (f.log.end_offset(), f.all());
        f.reopen(Crash::PowerLosingAll);
        assert_eq!((f.log.start_offset(), f.log.end_offset(), f.all()), (offset(at), end, all), "at {at}");
        assert_eq!(f.log.damage(), None);
    }
}

#[test]
fn a_cut_below_the_start_or_into_its_batch_leaves_an_empty_log_at_the_start() {
    let mut f = Fixture::small();
    f.append(batch(10, 10, 0));
    f.fill(1);
    f.commit();
    f.log.advance_start(offset(5)).unwrap();
    assert!(f.log.truncate_to(offset(4)).is_err());
    f.log.truncate_to(offset(7)).unwrap();
    assert_eq!((f.log.start_offset(), f.log.end_offset()), (offset(5), offset(5)));
    assert_eq!(f.append(batch(1, 1, 0)), offset(5));
}
