use super::*;

/// Twenty batches in seven segments, all synced and committed.
fn committed() -> (Fixture, Vec<Batch>) {
    let mut f = Fixture::small();
    f.fill(20);
    f.commit();
    let all = f.all();
    f.drop_cache();
    (f, all)
}

/// Reads everything that can be read, notes what can't.
fn scrub(f: &mut Fixture) -> Vec<Batch> {
    let (mut at, mut all) = (f.log.start_offset(), Vec::new());
    while at < f.log.end_offset() {
        match f.read_batches(at.get()) {
            Ok(batches) => {
                at = batches.last().unwrap().header().next_offset();
                all.extend(batches);
            }
            Err(ReadError::Damaged(range)) => {
                f.log.note_damage(range);
                at = range.end;
            }
            Err(error) => panic!("{error}"),
        }
    }
    all
}

#[test]
fn t43_no_flipped_bit_of_a_batch_is_served_and_each_is_healed() {
    let (mut f, all) = committed();
    let len = f.hardware.mount().open(&f.path(6, "log"), crate::OpenMode::Read).unwrap().len().unwrap();
    for byte in 0..len {
        let bit = (byte % 8) as u8;
        f.hardware.flip_bit(&f.path(6, "log"), byte, bit).unwrap();
        let read = scrub(&mut f);
        assert!(read.iter().all(|batch| all.contains(batch)), "byte {byte}: damage was served");
        let damage = f.log.damage().unwrap_or_else(|| panic!("byte {byte}: not noticed"));
        assert!(damage.start >= offset(6) && damage.end <= offset(12), "byte {byte}: {damage}");
        f.heal_all(&all);
        assert_eq!(scrub(&mut f), all, "byte {byte}");
        assert_eq!(f.log.damage(), None, "byte {byte}");
    }
    f.reopen(Crash::PowerLosingAll);
    assert_eq!((f.all(), f.log.damage()), (all, None));
}

#[test]
fn damage_below_the_recovery_point_is_never_cut_by_recovery() {
    for seed in 0..300 {
        let (mut f, all) = committed();
        f.hardware = hardware(seed);
        (f.log, _) = open(&f.hardware, &f.config, false);
        f.log.append_follower(&all).unwrap();
        f.commit();
        let bases = f.segments();
        let path = f.path(bases[seed as usize % bases.len()], "log");
        f.hardware.flip_random_bit(&path).unwrap();
        f.reopen(Crash::Process);
        assert_eq!(f.log.end_offset(), offset(40), "seed {seed}");
        let read = scrub(&mut f);
        assert!(read.iter().all(|batch| all.contains(batch)));
        assert_eq!(read.len() + 1, all.len(), "seed {seed}: one batch is damaged");
        f.heal_all(&all);
        assert_eq!(scrub(&mut f), all, "seed {seed}");
        f.reopen(Crash::PowerLosingAll);
        assert_eq!((scrub(&mut f), f.log.damage()), (all, None), "seed {seed}");
    }
}

#[test]
fn lost_and_cut_files_below_the_recovery_point_are_damage_and_healed() {
    for case in 0..5 {
        let (mut f, all) = committed();
        f.hardware.crash(Crash::Process);
        let disk = f.hardware.mount();
        let cut = |base, len| {
            disk.open(&f.path(base, "log"), crate::OpenMode::ReadWrite).unwrap().truncate(len).unwrap();
        };
        let expected = match case {
            0 => {
                disk.remove_file(&f.path(0, "log")).unwrap();
                range(0, 6)
            }
            1 => {
                disk.remove_file(&f.path(12, "log")).unwrap();
                range(12, 18)
            }
            2 => {
                disk.remove_file(&f.path(36, "log")).unwrap();
                range(36, 40)
            }
            3 => {
                cut(18, 400);
                range(20, 24)
            }
            _ => {
                cut(36, 1);
                range(36, 40)
            }
        };
        f.reopen(Crash::Process);
        assert_eq!(f.log.damaged_ranges(), [expected], "case {case}");
        assert_eq!((f.log.start_offset(), f.log.end_offset()), (offset(0), offset(40)), "case {case}");
        assert!(matches!(f.read(expected.start.get()), Err(ReadError::Damaged(found)) if found == expected));
        f.append(batch(1, 1, 0));
        f.heal_all(&all);
        assert_eq!(scrub(&mut f)[..20], all, "case {case}");
        f.commit();
        f.reopen(Crash::PowerLosingAll);
        assert_eq!((scrub(&mut f).len(), f.log.damage()), (21, None), "case {case}");
        f.restart_in_order();
        assert_eq!((scrub(&mut f).len(), f.log.damage()), (21, None), "case {case}");
    }
}

/// Recovery looks at the end of a segment that was synced, so that it does not see all of its damage.
#[test]
fn t43_a_segment_of_which_nothing_is_left_is_healed_whatever_recovery_saw_of_it() {
    // Bits of the headers and of the records of a segment's three batches.
    for turned in 1_u32..1 << 6 {
        for start in [0, 6, 7, 9] {
            let (mut f, all) = committed();
            f.log.advance_start(offset(start)).unwrap();
            f.commit();
            let (path, mut position) = (f.path(6, "log"), 0);
            for (index, batch) in all[3..6].iter().enumerate() {
                for (kind, byte) in [16, 150].into_iter().enumerate() {
                    if turned & (1 << (2 * index + kind)) != 0 {
                        f.hardware.flip_bit(&path, position + byte, 0).unwrap();
                    }
                }
                position += batch.bytes().len() as u64;
            }
            f.reopen(Crash::Process);
            f.heal_all(&all);
            scrub(&mut f);
            f.heal_all(&all);
            let expected: Vec<Batch> =
                all.iter().filter(|batch| batch.header().next_offset() > offset(start)).cloned().collect();
            assert_eq!((scrub(&mut f), f.log.damage()), (expected.clone(), None), "{turned:06b} from {start}");
            f.reopen(Crash::PowerLosingAll);
            assert_eq!((scrub(&mut f), f.log.damage()), (expected, None), "{turned:06b} from {start}, again");
        }
    }
}

#[test]
fn a_range_is_healed_piece_by_piece() {
    let (mut f, all) = committed();
    f.hardware.crash(Crash::Process);
    f.hardware.mount().remove_file(&f.path(12, "log")).unwrap();
    f.reopen(Crash::Process);
    for (index, left) in [(6, Some(range(14, 18))), (7, Some(range(16, 18))), (8, None)] {
        let job = f.log.begin_heal(f.log.damage().unwrap()).unwrap();
        let healed = block_on(job.run(vec![all[index].clone()])).unwrap();
        assert!(f.log.finish_heal(healed));
        assert_eq!(f.log.damage(), left);
    }
    assert_eq!(scrub(&mut f), all);
}

#[test]
fn batches_of_another_size_are_healed_by_a_new_file() {
    let (mut f, all) = committed();
    f.hardware.flip_bit(&f.path(6, "log"), 200, 0).unwrap();
    scrub(&mut f);
    assert_eq!(f.log.damage(), Some(range(6, 8)));
    let mut other = batch(2, 150, 0).into_bytes().to_vec();
    highwater_record::stamp(&mut other, offset(6), EPOCH);
    let other = split(other.into()).unwrap();
    let job = f.log.begin_heal(range(6, 8)).unwrap();
    let healed = block_on(job.run(other.clone())).unwrap();
    assert!(f.log.finish_heal(healed));
    let expected = [&all[..3], &other, &all[4..]].concat();
    assert_eq!(scrub(&mut f), expected);
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(scrub(&mut f), expected);
}

#[test]
fn what_does_not_fit_the_range_heals_nothing() {
    let (mut f, all) = committed();
    f.hardware.flip_bit(&f.path(6, "log"), 200, 0).unwrap();
    scrub(&mut f);
    let mut run = |batches: Vec<Batch>| block_on(f.log.begin_heal(range(6, 8)).unwrap().run(batches)).err().unwrap();
    assert!(matches!(run(vec![]), HealError::Nothing(_)));
    assert!(matches!(run(vec![all[4].clone()]), HealError::OffsetGap { .. }));
    let mut wide = batch(3, 100, 0).into_bytes().to_vec();
    highwater_record::stamp(&mut wide, offset(6), EPOCH);
    assert!(matches!(run(split(wide.into()).unwrap()), HealError::TooFar { .. }));
    let mut other = all[3].bytes().to_vec();
    highwater_record::stamp(&mut other, offset(6), LeaderEpoch::new(9));
    assert!(matches!(run(split(other.into()).unwrap()), HealError::OtherEpoch { .. }));
    assert!(f.log.begin_heal(range(20, 22)).is_err(), "not damaged");
    assert_eq!(f.log.damage(), Some(range(6, 8)));
}

#[test]
fn a_truncation_stops_a_heal_job_that_is_out() {
    let (mut f, all) = committed();
    f.hardware.flip_bit(&f.path(6, "log"), 200, 0).unwrap();
    scrub(&mut f);
    let job = f.log.begin_heal(range(6, 8)).unwrap();
    f.log.truncate_to(offset(4)).unwrap();
    f.append(batch(2, 90, 0));
    f.append(batch(2, 90, 0));
    let expected = f.all();
    assert!(block_on(job.run(vec![all[3].clone()])).is_err());
    f.log.abandon_heal();
    f.drop_cache();
    assert_eq!(f.all(), expected);
}

#[test]
fn damage_goes_with_truncation_and_retention() {
    let (mut f, _) = committed();
    f.log.note_damage(range(6, 8));
    f.log.note_damage(range(30, 32));
    f.log.truncate_to(offset(20)).unwrap();
    assert_eq!(f.log.damaged_ranges(), [range(6, 8)]);
    f.log.advance_start(offset(7)).unwrap();
    assert_eq!(f.log.damaged_ranges(), [range(7, 8)]);
    f.log.advance_start(offset(8)).unwrap();
    assert_eq!(f.log.damage(), None);
}
