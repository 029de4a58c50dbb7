use super::*;
use crate::DeletionReason;

#[test]
fn by_size_the_oldest_segments_go_until_the_rest_is_the_bound() {
    let mut f = Fixture::small();
    f.fill(15);
    f.commit();
    assert_eq!(f.segments(), [0, 6, 12, 18, 24]);
    f.log.config.retention_bytes = Some(1600);
    let deleted = f.log.apply_retention(ms(0), offset(30)).unwrap();
    assert_eq!(deleted.iter().map(|segment| segment.base_offset.get()).collect::<Vec<_>>(), [0, 6, 12]);
    assert!(deleted.iter().all(|segment| segment.reason == DeletionReason::Size));
    assert_eq!(f.log.start_offset(), offset(18));
    assert!(f.log.size_bytes() >= 1600);
    assert!(f.read(17).is_err());
}

#[test]
fn files_go_only_after_the_start_is_durable() {
    let mut f = Fixture::small();
    f.fill(15);
    f.commit();
    f.log.advance_start(offset(13)).unwrap();
    assert_eq!(f.segments().len(), 5, "not yet");
    f.sync();
    assert_eq!(f.segments(), [12, 18, 24]);
    f.reopen(Crash::PowerLosingAll);
    assert_eq!((f.log.start_offset(), f.log.damage()), (offset(13), None));
    assert_eq!(f.offsets()[0], 12, "the batch that holds it");
}

#[test]
fn by_age_also_the_present_segment_goes_but_nothing_above_the_high_watermark() {
    let mut f = Fixture::small();
    f.fill(9);
    f.commit();
    f.log.config.retention_ms = Some(10_000);
    // The newest records are at 2, 5 and 8 seconds.
    assert!(f.log.apply_retention(ms(12_000), offset(18)).unwrap().is_empty());
    let deleted = f.log.apply_retention(ms(12_002), offset(18)).unwrap();
    assert_eq!((deleted.len(), deleted[0].reason), (1, DeletionReason::Age));
    assert_eq!(f.log.apply_retention(ms(99_000), offset(13)).unwrap().len(), 1, "up to the high watermark");
    assert_eq!(f.log.apply_retention(ms(99_000), offset(18)).unwrap().len(), 1);
    assert_eq!((f.log.start_offset(), f.log.size_bytes()), (offset(18), 0));
    f.sync();
    assert_eq!(f.append(batch(1, 1, 0)), offset(18));
    f.commit();
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(f.offsets(), [18]);
}

#[test]
fn delete_records_moves_the_start_forward_only_and_up_to_the_end() {
    let mut f = Fixture::small();
    f.fill(9);
    f.log.advance_start(offset(4)).unwrap();
    f.log.advance_start(offset(2)).unwrap();
    assert_eq!(f.log.start_offset(), offset(4));
    assert!(f.log.advance_start(offset(19)).is_err());
    f.log.advance_start(offset(18)).unwrap();
    f.sync();
    assert_eq!((f.log.size_bytes(), f.segments()), (0, vec![18]));
    assert_eq!(f.log.epochs().entries(), [(EPOCH, offset(18))]);
    f.restart_in_order();
    assert_eq!((f.log.start_offset(), f.log.end_offset()), (offset(18), offset(18)));
}
