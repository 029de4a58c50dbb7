use bytes::BytesMut;

use super::*;

#[test]
fn a_leader_stamps_offsets_and_epoch_into_the_same_bytes() {
    let mut f = Fixture::new();
    let (first, second) = (batch(3, 10, 5), batch(2, 10, 9));
    let appended = f.log.append_leader(&[first.clone(), second], EPOCH, TimestampType::CreateTime, ms(77)).unwrap();
    assert_eq!((appended.base_offset, appended.end_offset, appended.append_time), (offset(0), offset(5), None));
    let read = f.all();
    assert_eq!(read[1].header().base_offset, offset(3));
    assert_eq!(read[0].header().leader_epoch, EPOCH);
    assert_eq!(read[0].header().crc, first.header().crc);
    assert_eq!(read[0].bytes()[16..], first.bytes()[16..]);
    assert_eq!(f.log.epochs().entries(), [(EPOCH, offset(0))]);
}

/// A large batch that nobody else holds, in memory of its own with so much behind it; and where it lies.
fn alone(spare: usize) -> (Batch, *const u8) {
    let batch = batch(1, 100_000, 7);
    let mut bytes = BytesMut::with_capacity(batch.bytes().len() + spare);
    bytes.extend_from_slice(batch.bytes());
    let batch = Batch::from_bytes(bytes.freeze()).unwrap();
    let place = batch.bytes().as_ptr();
    (batch, place)
}

/// Returns where the log has it in memory.
fn append_owned(f: &mut Fixture, batch: Batch, epoch: LeaderEpoch, timestamp_type: TimestampType) -> *const u8 {
    let from = f.log.end_offset();
    f.log.append_leader_owned(vec![batch], epoch, timestamp_type, ms(77)).unwrap();
    let ReadPlan::Cached(pieces) = f.log.read(from, Offset::MAX, 1 << 20, true).unwrap() else { panic!() };
    pieces[0].as_ptr()
}

#[test]
fn a_large_batch_that_nobody_else_holds_is_kept_where_it_is() {
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let (mut kept, mut copied) = (Fixture::new(), Fixture::new());
        for epoch in [EPOCH, LeaderEpoch::new(2)] {
            copied.log.append_leader(&[alone(0).0], epoch, timestamp_type, ms(77)).unwrap();
            let (batch, place) = alone(1_000);
            assert_eq!(append_owned(&mut kept, batch, epoch, timestamp_type), place);
        }
        assert_eq!(kept.all(), copied.all());
        kept.drop_cache();
        assert_eq!(kept.all(), copied.all(), "from the file");
    }
}

#[test]
fn a_batch_that_others_hold_is_copied_and_theirs_stays_as_it_was() {
    let mut f = Fixture::new();
    f.append(batch(1, 10, 0));
    let (shared, place) = alone(0);
    let before = shared.bytes().to_vec();
    let held = shared.clone();
    assert_ne!(append_owned(&mut f, shared, EPOCH, TimestampType::CreateTime), place);
    assert_eq!(held.bytes(), &before);
    let (much_behind, place) = alone(100_000);
    assert_ne!(append_owned(&mut f, much_behind, EPOCH, TimestampType::CreateTime), place, "what is behind it goes");
}

#[test]
fn log_append_time_replaces_the_timestamps() {
    let mut f = Fixture::new();
    let appended = f.log.append_leader(&[batch(3, 10, 5)], EPOCH, TimestampType::LogAppendTime, ms(77)).unwrap();
    assert_eq!(appended.append_time, Some(ms(77)));
    assert_eq!(f.all()[0].header().max_timestamp, ms(77));
    assert_eq!(f.all()[0].header().attributes.timestamp_type(), TimestampType::LogAppendTime);
}

#[test]
fn a_follower_takes_the_leaders_bytes_and_only_what_continues() {
    let (mut leader, mut follower) = (Fixture::new(), Fixture::new());
    leader.fill(3);
    leader.append_at(batch(1, 40_000, 0), LeaderEpoch::new(4)).unwrap();
    let batches = leader.all();
    let gap = follower.log.append_follower(&batches[1..]).unwrap_err();
    assert!(matches!(gap, AppendError::OffsetGap { expected, found } if (expected, found) == (offset(0), offset(2))));
    assert_eq!(follower.log.end_offset(), offset(0));
    follower.log.append_follower(&batches).unwrap();
    assert_eq!(follower.all(), batches);
    assert_eq!(follower.log.epochs(), leader.log.epochs());
    follower.drop_cache();
    assert_eq!(follower.all(), batches, "from the file");

    let mut old = batch(1, 1, 0).into_bytes().to_vec();
    highwater_record::stamp(&mut old, follower.log.end_offset(), LeaderEpoch::new(2));
    let old = split(old.into()).unwrap();
    let error = follower.log.append_follower(&old).unwrap_err();
    assert!(matches!(error, AppendError::EpochWentBack { .. }), "{error}");
}

#[test]
fn t46_a_full_disk_refuses_appends_whole_serves_reads_and_recovers_by_itself() {
    let mut f = Fixture::small();
    f.fill(2);
    f.commit();
    let size = f.log.size_bytes();
    f.hardware.set_capacity(f.hardware.used_bytes() + 50);
    assert!(matches!(f.try_append(batch(2, 100, 0)), Err(AppendError::DiskFull)));
    assert_eq!((f.log.end_offset(), f.log.size_bytes()), (offset(4), size));
    assert_eq!(f.offsets(), [0, 2]);
    assert!(!f.log.is_failed());
    f.hardware.set_capacity(u64::MAX);
    assert_eq!(f.append(batch(2, 100, 0)), offset(4));
    f.commit();
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(f.offsets(), [0, 2, 4]);
}

#[test]
fn t46_deletes_work_on_a_full_disk_also_when_a_roll_does_not() {
    let mut f = Fixture::small();
    f.fill(9);
    f.commit();
    f.hardware.set_capacity(f.hardware.used_bytes());
    assert!(matches!(f.try_append(batch(2, 100, 0)), Err(AppendError::DiskFull)));
    f.log.advance_start(offset(12)).unwrap();
    f.sync();
    assert_eq!(f.append(batch(2, 100, 0)), offset(18), "there is space again");
}

#[test]
fn the_reserve_is_kept_free() {
    let mut f = Fixture::new();
    f.log.config.status.set_headroom(500);
    f.append(batch(2, 300, 0));
    assert!(matches!(f.try_append(batch(1, 1, 0)), Err(AppendError::DiskFull)));
    f.log.config.status.set_headroom(500);
    f.append(batch(1, 1, 0));
}

#[test]
fn t44_a_failed_write_ends_all_writing_and_takes_the_data_dir_offline() {
    let mut f = Fixture::new();
    f.fill(1);
    f.commit();
    f.hardware.fail_writes(Some(".log"));
    assert!(matches!(f.try_append(batch(1, 1, 0)), Err(AppendError::Io(_))));
    f.hardware.fail_writes(None);
    assert!(matches!(f.try_append(batch(1, 1, 0)), Err(AppendError::Offline(_))));
    assert!(f.log.begin_sync().is_none());
    assert!(f.log.config.status.offline_reason().is_some());
    assert_eq!(f.offsets(), [0], "what is there can be read");
    f.reopen(Crash::Process);
    assert_eq!(f.offsets(), [0], "the half write is cut");
    assert_eq!(f.log.damage(), None);
}

#[test]
fn a_segment_is_rolled_by_size_and_by_age() {
    let mut f = Fixture::with(|config| (config.segment_bytes, config.segment_ms) = (1000, 60_000));
    f.fill(4);
    assert_eq!(f.segments(), [0, 6]);
    assert!(!f.log.roll_if_due(ms(59_999)).unwrap());
    assert!(f.log.roll_if_due(ms(60_000)).unwrap());
    assert_eq!(f.segments(), [0, 6, 8]);
    assert!(!f.log.roll_if_due(ms(900_000)).unwrap(), "an empty segment has no age");
    f.append(batch(50, 100, 0));
    assert_eq!(f.segments(), [0, 6, 8], "one append goes into one segment, however large");
    assert_eq!(f.offsets().len(), 5);
}

#[test]
fn an_epoch_begins_before_its_first_append_and_never_goes_back() {
    let mut f = Fixture::new();
    f.fill(1);
    f.log.begin_epoch(LeaderEpoch::new(5)).unwrap();
    assert_eq!(f.log.epochs().entries(), [(EPOCH, offset(0)), (LeaderEpoch::new(5), offset(2))]);
    assert!(f.log.begin_epoch(LeaderEpoch::new(4)).is_err());
    assert!(matches!(f.append_at(batch(1, 1, 0), EPOCH), Err(AppendError::EpochWentBack { .. })));
    assert_eq!(f.log.end_offset(), offset(2));
}
