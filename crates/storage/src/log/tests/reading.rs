use super::*;
use crate::TimestampFound;

fn from_memory(f: &Fixture, from: i64) -> bool {
    matches!(f.log.read(offset(from), Offset::MAX, 1 << 20, false).unwrap(), ReadPlan::Cached(_))
}

#[test]
fn limits_hold_alike_from_memory_and_from_files() {
    let mut f = Fixture::new();
    f.fill(10);
    let one = f.all()[0].bytes().len();
    for cold in [false, true] {
        if cold {
            f.drop_cache();
        }
        assert_eq!(from_memory(&f, 0), !cold);
        let count = |from, below, max, one| {
            let bytes = f.read_limited(from, offset(below), max, one).unwrap();
            let batches = split(bytes).unwrap();
            (batches.first().map(|batch| batch.header().base_offset.get()), batches.len())
        };
        assert_eq!(count(0, 20, usize::MAX >> 1, false), (Some(0), 10));
        assert_eq!(count(5, 20, usize::MAX >> 1, false), (Some(4), 8), "the batch that holds the offset");
        assert_eq!(count(0, 7, usize::MAX >> 1, false), (Some(0), 3), "no batch that reaches past the limit");
        assert_eq!(count(0, 1, usize::MAX >> 1, true), (None, 0), "not even with at least one");
        assert_eq!(count(0, 20, 3 * one, false), (Some(0), 3));
        assert_eq!(count(0, 20, 3 * one - 1, false), (Some(0), 2));
        assert_eq!(count(0, 20, one - 1, false), (None, 0));
        assert_eq!(count(0, 20, 1, true), (Some(0), 1));
        assert_eq!(count(20, 20, 1, true), (None, 0));
    }
    let error = f.read(21).unwrap_err();
    assert!(error.to_string().contains("outside the log, which has 0 to 20"), "{error}");
}

#[test]
fn cold_reads_go_through_all_segments_and_from_any_offset() {
    let mut f = Fixture::small();
    f.fill(50);
    let all = f.all();
    f.drop_cache();
    assert!(f.segments().len() > 10);
    assert_eq!(f.all(), all);
    for from in 0..100 {
        let batches = split(f.read_limited(from, Offset::MAX, 1, true).unwrap()).unwrap();
        assert_eq!(batches, [all[from as usize / 2].clone()]);
    }
}

#[test]
fn damaged_or_missing_indexes_cost_time_not_truth() {
    let mut f = Fixture::small();
    f.fill(30);
    let all = f.all();
    f.commit();
    for seed in 0..40 {
        for base in f.segments() {
            for extension in ["index", "timeindex"] {
                let path = f.path(base, extension);
                if f.hardware.files().contains(&path) {
                    f.hardware.flip_random_bit(&path).unwrap();
                    if seed % 7 == 3 {
                        f.hardware.mount().remove_file(&path).unwrap();
                    }
                }
            }
        }
        f.drop_cache();
        assert_eq!(f.all(), all);
        f.reopen(Crash::Process);
        assert_eq!((f.all(), f.log.damage()), (all.clone(), None));
    }
}

#[test]
fn the_cache_is_bounded_and_small_appends_become_few_pieces() {
    let mut f = Fixture::with(|config| config.cache_bytes = 300_000);
    (0..2000).for_each(|_| {
        f.append(batch(1, 400, 0));
    });
    assert!(f.log.cache.bytes() <= 300_000 && f.log.cache.bytes() > 200_000);
    assert_eq!(f.config.cache_budget.used_bytes(), f.log.cache.bytes());
    let end = f.log.end_offset();
    let ReadPlan::Cached(pieces) = f.log.read(offset(end.get() - 400), end, 1 << 20, false).unwrap() else { panic!() };
    assert!(pieces.len() < 150, "{} pieces for 400 appends", pieces.len());
    assert_eq!(split(pieces.concat().into()).unwrap().len(), 400);
    f.drop_cache();
    assert_eq!(f.config.cache_budget.used_bytes(), 0, "an idle log takes no memory");
}

#[test]
fn logs_share_the_budget_of_their_process() {
    let budget = Arc::new(crate::CacheBudget::new(1 << 20));
    let mut f = Fixture::with(|config| config.cache_budget = budget.clone());
    let mut g = Fixture::with(|config| config.cache_budget = budget.clone());
    for _ in 0..40 {
        f.append(batch(1, 50_000, 0));
        g.append(batch(1, 50_000, 0));
    }
    assert!(budget.used_bytes() <= (1 << 20) + 60_000, "{}", budget.used_bytes());
    drop((f, g));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_log_that_comes_late_gets_its_share_of_the_budget() {
    let budget = Arc::new(crate::CacheBudget::new(4 << 20));
    let mut first = Fixture::with(|config| config.cache_budget = budget.clone());
    let mut second = Fixture::with(|config| config.cache_budget = budget.clone());
    (0..100).for_each(|_| _ = first.append(batch(1, 50_000, 0)));
    for _ in 0..100 {
        first.append(batch(1, 50_000, 0));
        second.append(batch(1, 50_000, 0));
    }
    for f in [&first, &second] {
        assert!(f.log.cache.bytes() > 1_900_000, "{}", f.log.cache.bytes());
    }
    assert!(budget.used_bytes() <= (4 << 20) + 120_000, "{}", budget.used_bytes());
}

fn at(f: &Fixture, time: i64, below: i64) -> Option<(i64, i64)> {
    let found = block_on(f.log.offset_for_timestamp(ms(time), offset(below)).run()).unwrap();
    found.map(|TimestampFound { offset, timestamp }| (offset.get(), timestamp.get()))
}

/// By looking at every record.
fn newest_of_all(f: &Fixture, start: i64, below: i64) -> Option<(i64, i64)> {
    let batches = f.all();
    let records = batches.iter().flat_map(|batch| batch.records(1 << 20).unwrap()).map(Result::unwrap);
    let all = records.map(|record| (record.offset.get(), record.timestamp.get()));
    all.filter(|(at, _)| (start..below).contains(at)).max_by_key(|(at, time)| (*time, -at))
}

fn newest(f: &Fixture, below: i64) -> Option<(i64, i64)> {
    let found = block_on(f.log.newest_record(offset(below)).run()).unwrap();
    found.map(|TimestampFound { offset, timestamp }| (offset.get(), timestamp.get()))
}

#[test]
fn finds_the_newest_record_that_is_visible_whatever_order_timestamps_have() {
    let mut f = Fixture::small();
    assert_eq!(newest(&f, 0), None);
    // Of two records each. There are several of the newest, and new ones where the limits cut.
    let times = [50, 900, 10, 70, 900, 20, 60, 800, 30, 90, 5, 850, 100, 700, 700, 1];
    for (index, time) in times.into_iter().enumerate() {
        let compression = if index % 2 == 0 { Compression::None } else { Compression::Lz4 };
        f.append(compressed(2, 200, time, compression));
    }
    let end = 2 * times.len() as i64;
    assert_eq!(newest(&f, end), Some((3, 901)), "the first of several");
    for round in 0..3 {
        for below in 0..=end {
            assert_eq!(newest(&f, below), newest_of_all(&f, 0, below), "round {round}, below {below}");
        }
        if round == 0 { f.commit() } else { f.restart_in_order() }
    }
    for start in 1..end {
        f.log.advance_start(offset(start)).unwrap();
        assert_eq!(newest(&f, end), newest_of_all(&f, start, end), "from {start}");
    }
}

#[test]
fn the_newest_record_of_one_large_segment_is_found_past_what_its_index_knows() {
    let mut f = Fixture::with(|config| config.index_interval_bytes = 1024);
    for time in 0..200 {
        f.append(batch(1, 100, if time == 150 { 500 } else { time }));
    }
    for below in [1, 37, 149, 150, 151, 199, 200] {
        assert_eq!(newest(&f, below), newest_of_all(&f, 0, below), "below {below}");
    }
    f.log.advance_start(offset(151)).unwrap();
    assert_eq!(newest(&f, 180), Some((179, 179)), "what the index names is deleted");
}

#[test]
fn finds_the_first_record_as_new_as_a_timestamp() {
    for compression in [Compression::None, Compression::Lz4] {
        let mut f = Fixture::small();
        // Two records a batch, at 0 and 1, 1000 and 1001, ...
        (0..30).for_each(|index| {
            f.append(compressed(2, 100, 1000 * index, compression));
        });
        for round in 0..3 {
            for index in 0..30 {
                assert_eq!(at(&f, 1000 * index, 60), Some((2 * index, 1000 * index)), "round {round}");
                assert_eq!(at(&f, 1000 * index + 1, 60), Some((2 * index + 1, 1000 * index + 1)));
            }
            assert_eq!(at(&f, 29_002, 60), None);
            assert_eq!(at(&f, -5, 60), Some((0, 0)));
            assert_eq!(at(&f, 20_001, 41), None, "past the limit");
            match round {
                0 => f.commit(),
                _ => f.restart_in_order(),
            }
        }
        f.log.advance_start(offset(21)).unwrap();
        assert_eq!(at(&f, 0, 60), Some((21, 10_001)), "not before the log's start");
    }
}

#[test]
fn finds_the_first_also_when_timestamps_go_back() {
    let mut f = Fixture::small();
    for time in [50, 10, 70, 20, 60, 30, 90, 5, 100] {
        f.append(batch(1, 200, time));
    }
    for (time, expected) in [(0, 0), (50, 0), (51, 2), (70, 2), (71, 6), (91, 8)] {
        assert_eq!(at(&f, time, 100).unwrap().0, expected);
    }
}

#[test]
fn with_log_append_time_the_first_record_of_the_batch_is_found() {
    let mut f = Fixture::new();
    for now in [100, 200] {
        f.log.append_leader(&[batch(3, 10, 0)], EPOCH, TimestampType::LogAppendTime, ms(now)).unwrap();
    }
    assert_eq!(at(&f, 150, 6), Some((3, 200)));
}

#[test]
fn a_read_that_retention_overtook_asks_to_be_planned_anew() {
    let mut f = Fixture::small();
    f.fill(10);
    f.drop_cache();
    let ReadPlan::File(read) = f.log.read(offset(0), Offset::MAX, 100, true).unwrap() else { panic!() };
    f.commit();
    f.log.advance_start(offset(12)).unwrap();
    f.sync();
    assert!(matches!(block_on(read.run()), Err(ReadError::Gone)));
}
