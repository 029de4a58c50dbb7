//! T43: what recovery cuts off may have been synced. Where sound batches follow, the log says that it is in doubt.

use super::*;

/// Twenty batches in seven segments, all synced, of which nobody has heard yet that they are committed.
fn acknowledged(seed: u64) -> Fixture {
    let mut f = Fixture::small();
    f.hardware = hardware(seed);
    (f.log, _) = open(&f.hardware, &f.config, false);
    f.fill(20);
    assert_eq!(f.sync(), offset(40));
    f
}

/// Damages a batch that has others behind it, and says with which offset it begins.
fn damage_one(f: &Fixture, seed: u64) -> Offset {
    let bases = f.segments();
    // The last segment has the last two batches.
    let base = bases[seed as usize % (bases.len() - 1)];
    f.hardware.flip_random_bit(&f.path(base, "log")).unwrap();
    offset(base)
}

#[test]
fn t43_a_log_that_lost_what_was_synced_is_in_doubt_until_that_is_known() {
    for seed in 0..300 {
        let mut f = acknowledged(seed);
        let segment = damage_one(&f, seed);
        f.reopen(Crash::PowerLosingAll);
        let end = f.log.end_offset();
        assert!(segment <= end && end < offset(40), "seed {seed}: {end}");
        assert_eq!((f.log.doubt(), f.log.damage()), (Some(end), None), "seed {seed}");
        // (Refused where the leader epoch of what is left was hit.)
        let _ = f.try_append(batch(1, 1, 0));
        let keeps_cut = seed % 2 == 0;
        f.reopen(if keeps_cut { Crash::Process } else { Crash::PowerLosingAll });
        assert_eq!(f.log.doubt(), Some(end), "seed {seed}");
        assert_ne!(f.report.good_after_cut, keeps_cut, "seed {seed}: a scan after the cut finds nothing wrong");
        f.commit();
        f.restart_in_order();
        assert!(f.report.clean && f.log.doubt() == Some(end), "seed {seed}");
        f.log.doubt_is_known();
        f.commit();
        f.reopen(Crash::PowerLosingAll);
        assert_eq!(f.log.doubt(), None, "seed {seed}");
    }
}

#[test]
fn t43_no_crash_during_recovery_makes_the_doubt_forgotten() {
    for seed in 0..8 {
        for calls in 0.. {
            let mut f = acknowledged(seed);
            damage_one(&f, seed);
            f.hardware.crash(Crash::PowerLosingAll);
            f.hardware.end_run_after(calls);
            let partition = TopicPartition::new(TopicId::from_u128(7), PartitionId::new(3));
            let (disk, config) = (f.hardware.mount(), LogConfig { status: Arc::default(), ..f.config.clone() });
            let opened = Log::open(disk, Path::new(DIR), partition, config, OpenLog::default(), ms(0));
            let is_over = f.hardware.is_run_over();
            drop(opened);
            f.reopen(if calls % 2 == 0 { Crash::Power } else { Crash::Process });
            assert!(f.log.end_offset() < offset(40) && f.log.doubt().is_some(), "seed {seed}, call {calls}");
            if !is_over {
                break;
            }
        }
    }
}

#[test]
fn t43_a_segment_that_is_missing_leaves_the_log_in_doubt() {
    let mut f = acknowledged(1);
    f.hardware.crash(Crash::Process);
    f.hardware.mount().remove_file(&f.path(12, "log")).unwrap();
    f.reopen(Crash::Process);
    assert_eq!((f.log.end_offset(), f.log.doubt()), (offset(12), Some(offset(12))));
    assert!(f.report.cut_because.is_some());
}

#[test]
fn a_tail_that_is_torn_at_its_end_is_in_no_doubt() {
    for cut in 1..200 {
        let mut f = acknowledged(1);
        f.hardware.crash(Crash::Process);
        let path = f.path(*f.segments().last().unwrap(), "log");
        let file = f.hardware.mount().open(&path, crate::OpenMode::ReadWrite).unwrap();
        file.truncate(file.len().unwrap() - cut).unwrap();
        f.reopen(Crash::Process);
        assert_eq!((f.log.end_offset(), f.log.doubt()), (offset(38), None), "{cut} bytes");
        assert!(f.report.cut_bytes > 0);
    }
}
