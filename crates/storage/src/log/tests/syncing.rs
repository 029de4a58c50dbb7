use super::*;

#[test]
fn durable_follows_syncs_and_covers_what_was_there_when_they_began() {
    let mut f = Fixture::new();
    f.fill(2);
    assert_eq!(f.log.durable_offset(), offset(0));
    let job = f.log.begin_sync().unwrap();
    f.fill(1);
    assert!(f.log.begin_sync().is_none(), "one sync at a time");
    block_on(job.run()).unwrap();
    assert_eq!(f.log.finish_sync(job), offset(4));
    assert!(f.log.needs_sync());
    assert_eq!(f.sync(), offset(6));
    assert!(f.log.begin_sync().is_none(), "nothing to do");
}

#[test]
fn a_truncation_during_a_sync_keeps_what_follows_from_counting() {
    let mut f = Fixture::new();
    f.fill(5);
    let job = f.log.begin_sync().unwrap();
    block_on(job.run()).unwrap();
    f.log.truncate_to(offset(4)).unwrap();
    f.fill(3);
    assert_eq!(f.log.finish_sync(job), offset(4), "offsets 4 to 10 are other records now, and not synced");
    f.log.note_high_watermark(offset(4));
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(f.offsets()[..2], [0, 2]);
    assert_eq!(f.log.damage(), None);
}

#[test]
fn t44_after_a_failed_sync_nothing_is_retried_or_counts() {
    let mut f = Fixture::new();
    f.fill(1);
    f.sync();
    f.fill(1);
    f.hardware.fail_syncs(Some(".log"));
    let job = f.log.begin_sync().unwrap();
    let error = block_on(job.run()).unwrap_err();
    f.log.fail_sync(job, &error);
    f.hardware.fail_syncs(None);
    assert!(f.log.begin_sync().is_none());
    assert_eq!(f.log.durable_offset(), offset(2));
    assert!(matches!(f.try_append(batch(1, 1, 0)), Err(AppendError::Offline(_))));
    assert!(f.log.flush_and_close(offset(2)).is_err(), "and it can't be closed as if all was well");
}

#[test]
fn t24_offsets_in_a_new_segment_count_only_with_its_name_synced() {
    let mut f = Fixture::small();
    f.fill(3);
    f.commit();
    f.fill(3);
    assert_eq!(f.segments(), [0, 6]);
    assert_eq!(f.sync(), offset(12));
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(f.offsets(), [0, 2, 4, 6, 8, 10]);
}

#[test]
fn t24_a_new_logs_folder_is_synced_into_its_parent() {
    let mut f = Fixture::new();
    f.fill(1);
    f.sync();
    f.reopen(Crash::PowerLosingAll);
    assert!(!f.report.created);
    assert_eq!(f.offsets(), [0]);
}

#[test]
fn t43_a_disk_that_lies_about_syncs_is_found_out() {
    let mut f = Fixture::new();
    f.fill(1);
    f.commit();
    f.hardware.lie_about_syncs(true);
    f.fill(1);
    assert_eq!(f.sync(), offset(4));
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(f.log.end_offset(), offset(2), "the test of the tests: such a loss shows");
}
