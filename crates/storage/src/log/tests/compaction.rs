//! Compaction: what must stay, what must go, and what no crash may change.

use std::collections::{BTreeMap, BTreeSet};

use highwater_record::{EndTransactionMarker, Record, TransactionResult, control_batch, filler};
use highwater_types::{ProducerEpoch, ProducerId, Sequence};
use proptest::prelude::*;

use super::*;
use crate::compaction::{Compacted, CompactionError, CompactionLimits};
use crate::producers::marker_of;
use crate::{CompactionConfig, ProducerStates, SequenceCheck};

const DELETE_RETENTION_MS: u64 = 1000;

fn fixture(segment_bytes: u64) -> Fixture {
    seeded(segment_bytes, 42)
}

fn seeded(segment_bytes: u64, seed: u64) -> Fixture {
    let mut f = Fixture::with(|config| {
        config.segment_bytes = segment_bytes;
        config.index_interval_bytes = 100;
        config.compaction = Some(CompactionConfig {
            delete_retention_ms: DELETE_RETENTION_MS,
            lag_min_ms: 0,
            lag_max_ms: None,
            dirty_millionths_min: 500_000,
        });
    });
    f.hardware = hardware(seed);
    (f.log, _) = open(&f.hardware, &f.config, false);
    f
}

/// `-` as key: none; as value: a tombstone.
fn put(pairs: &[(&str, &str)]) -> Batch {
    from(None, pairs)
}

/// Producer, epoch, sequence, whether transactional.
fn from(producer: Option<(i64, i16, i32, bool)>, pairs: &[(&str, &str)]) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None, None);
    if let Some((id, epoch, sequence, transactional)) = producer {
        builder.set_producer(ProducerId::new(id), ProducerEpoch::new(epoch), Sequence::new(sequence));
        builder.set_transactional(transactional);
    }
    let given = |text: &str| (text != "-").then(|| text.as_bytes().to_vec());
    for (index, (key, value)) in pairs.iter().enumerate() {
        let (key, value) = (given(key), given(value));
        builder.append(ms(100 + index as i64), key.as_deref(), value.as_deref(), &[("h", Some(b"1"))]).unwrap();
    }
    split(builder.build().unwrap()).unwrap().remove(0)
}

fn end_of(id: i64, epoch: i16, commit: bool) -> Batch {
    let result = if commit { TransactionResult::Commit } else { TransactionResult::Abort };
    let marker = EndTransactionMarker { result, coordinator_epoch: 1 };
    let bytes = control_batch(marker, ProducerId::new(id), ProducerEpoch::new(epoch), ms(1)).unwrap();
    split(bytes).unwrap().remove(0)
}

fn records(batches: &[Batch]) -> Vec<Record> {
    let data = batches.iter().filter(|batch| !batch.header().attributes.is_control());
    data.flat_map(|batch| batch.records(1 << 20).unwrap().map(Result::unwrap)).collect()
}

fn text(bytes: &Option<Bytes>) -> String {
    bytes.as_ref().map_or("-".to_owned(), |bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn pairs(batches: &[Batch]) -> Vec<(i64, String, String)> {
    records(batches).iter().map(|r| (r.offset.get(), text(&r.key), text(&r.value))).collect()
}

/// What became of the transaction of each transactional batch, by base offset; no entry: it is open.
fn outcomes(batches: &[Batch]) -> BTreeMap<i64, bool> {
    let mut open: BTreeMap<ProducerId, Vec<i64>> = BTreeMap::new();
    let mut known = BTreeMap::new();
    for batch in batches {
        let header = batch.header();
        if let Some(marker) = marker_of(batch) {
            let ended = open.remove(&header.producer_id).unwrap_or_default();
            known.extend(ended.into_iter().map(|base| (base, marker.result == TransactionResult::Commit)));
        } else if header.attributes.is_transactional() {
            open.entry(header.producer_id).or_default().push(header.base_offset.get());
        }
    }
    known
}

/// Those that a reader of committed transactions is shown.
fn committed(batches: &[Batch]) -> Vec<Record> {
    let outcomes = outcomes(batches);
    let shown = |batch: &&Batch| {
        let header = batch.header();
        !header.attributes.is_transactional() || outcomes.get(&header.base_offset.get()) == Some(&true)
    };
    records(&batches.iter().filter(shown).cloned().collect::<Vec<_>>())
}

/// What a table made of the log has.
fn table(batches: &[Batch]) -> BTreeMap<Bytes, Bytes> {
    let mut table = BTreeMap::new();
    for record in committed(batches) {
        let Some(key) = record.key else { continue };
        match record.value {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        };
    }
    table
}

impl Fixture {
    fn compact(&mut self, now: i64) -> Option<Result<Compacted, CompactionError>> {
        self.compact_with(self.log.compaction_limits(now))
    }

    fn compact_with(&mut self, limits: CompactionLimits) -> Option<Result<Compacted, CompactionError>> {
        let job = self.log.begin_compaction(limits)?;
        let log = &mut self.log;
        let result = block_on(job.run(|rewritten| log.swap_compacted(rewritten)));
        self.log.finish_compaction(&result);
        Some(result)
    }

    fn roll_and_commit(&mut self) {
        self.log.roll().unwrap();
        self.commit();
        self.drop_cache();
    }

    /// As if the log had no snapshots of its producers.
    fn states_by_reading_alone(&self) -> ProducerStates {
        let mut states = ProducerStates::default();
        self.all().iter().for_each(|batch| states.apply(batch.header(), marker_of(batch)));
        states
    }
}

fn kept(f: &Fixture) -> Vec<(i64, String, String)> {
    pairs(&f.all())
}

fn found(offset: i64, key: &str, value: &str) -> (i64, String, String) {
    (offset, key.to_owned(), value.to_owned())
}

#[test]
fn of_each_key_the_newest_value_stays_where_it_was() {
    let mut f = fixture(10_000);
    f.append(put(&[("a", "1"), ("b", "1"), ("c", "1")]));
    f.append(put(&[("a", "2"), ("-", "x")]));
    f.append(put(&[("b", "2")]));
    f.append(put(&[("b", "3")]));
    f.append(put(&[("d", "1")]));
    f.roll_and_commit();
    f.append(put(&[("a", "3")]));
    f.commit();
    let before = f.all();
    let done = f.compact(0).unwrap().unwrap();
    assert!(done.is_whole && done.bytes_after < done.bytes_before);
    assert_eq!(done.cleaned_to, offset(8));
    let expected = [
        found(2, "c", "1"),
        found(3, "a", "2"),
        found(4, "-", "x"),
        found(6, "b", "3"),
        found(7, "d", "1"),
        found(8, "a", "3"),
    ];
    assert_eq!(kept(&f), expected, "the active segment is not looked at");
    let was: BTreeMap<_, _> = records(&before).into_iter().map(|r| (r.offset, r)).collect();
    assert!(records(&f.all()).iter().all(|record| was[&record.offset] == *record));
    assert_eq!(f.offsets(), [0, 3, 5, 6, 7, 8]);
    assert!(f.all()[2].header().is_filler());
    f.restart_in_order();
    assert!(f.report.clean);
    assert_eq!((kept(&f), f.log.cleaned_to()), (expected.to_vec(), offset(8)));
    assert_eq!(f.compact(0).map(|_| ()), None, "nothing is dirty");
}

#[test]
fn runs_of_empty_batches_become_one_per_leader_epoch_and_segments_are_merged() {
    let mut f = fixture(400);
    for round in 0..12 {
        let epoch = LeaderEpoch::new(1 + round / 4);
        f.append_at(put(&[("k", &round.to_string())]), epoch).unwrap();
        f.append_at(put(&[("l", &round.to_string())]), epoch).unwrap();
    }
    f.roll_and_commit();
    assert!(f.log.segment_count() > 5);
    f.compact(0).unwrap().unwrap();
    f.log.update_config(LogConfig { segment_bytes: 10_000, ..f.log.config().clone() });
    f.append_at(put(&[("m", "")]), LeaderEpoch::new(3)).unwrap();
    f.roll_and_commit();
    f.compact(0).unwrap().unwrap();
    // What is left fits into one segment.
    assert_eq!(f.log.segment_count(), 2);
    let spans: Vec<_> = f.all().iter().map(|b| (b.header().base_offset.get(), b.header().record_count)).collect();
    assert_eq!(spans, [(0, 0), (8, 0), (16, 0), (22, 1), (23, 1), (24, 1)]);
    let epochs = f.log.epochs().clone();
    f.reopen(Crash::PowerLosingAll);
    assert_eq!((f.report.damage.as_slice(), f.log.epochs()), (&[][..], &epochs));
    assert_eq!(kept(&f), [found(22, "k", "11"), found(23, "l", "11"), found(24, "m", "")]);
    assert_eq!(f.segments(), [0, 25]);
    // A reader that was anywhere goes on.
    for at in 0..25 {
        assert!(!f.read_batches(at).unwrap().is_empty(), "at {at}");
    }
}

#[test]
fn nothing_that_is_not_committed_stable_and_certain_to_be_recovered_is_touched() {
    let mut f = fixture(100);
    (0..4).for_each(|n| _ = f.append(put(&[("k", &n.to_string())])));
    f.log.roll().unwrap();
    assert!(f.compact(0).is_none(), "not synced");
    f.sync();
    f.log.note_high_watermark(offset(4));
    assert!(f.compact(0).is_none(), "no recovery point says so");
    f.commit();
    assert!(f.log.compaction_need(&f.log.compaction_limits(0)).is_some());
    let behind = CompactionLimits { high_watermark: offset(0), ..f.log.compaction_limits(0) };
    assert!(f.log.compaction_need(&behind).is_none());
    // An open transaction.
    let mut f = fixture(100);
    f.append(put(&[("k", "0")]));
    f.append(from(Some((7, 0, 0, true)), &[("k", "1")]));
    f.append(put(&[("k", "2")]));
    f.roll_and_commit();
    f.compact(0);
    assert_eq!(f.offsets(), [0, 1, 2]);
    f.append(end_of(7, 0, true));
    f.roll_and_commit();
    f.compact(0).unwrap().unwrap();
    assert_eq!(kept(&f), [found(2, "k", "2")]);
}

#[test]
fn tombstones_go_once_they_were_clean_for_their_time_and_every_replica_has_them() {
    let mut f = fixture(10_000);
    f.append(put(&[("a", "1"), ("b", "1")]));
    f.append(put(&[("a", "-"), ("c", "1")]));
    f.roll_and_commit();
    f.compact(5_000).unwrap().unwrap();
    let clean = [found(1, "b", "1"), found(2, "a", "-"), found(3, "c", "1")];
    assert_eq!(kept(&f), clean);
    let times: Vec<_> = records(&f.all()).iter().map(|record| record.timestamp.get()).collect();
    assert_eq!(times, [101, 100, 101], "the horizon is kept beside them");
    assert_eq!(f.all()[1].header().delete_horizon(), Some(ms(6_000)));
    let pass = |f: &mut Fixture, now, all_in_sync| {
        f.append(put(&[("z", &format!("{now}"))]));
        f.roll_and_commit();
        f.compact_with(CompactionLimits { all_in_sync, ..f.log.compaction_limits(now) }).unwrap().unwrap();
        f.reopen(Crash::Power);
        kept(f).into_iter().filter(|(_, key, _)| key != "z").collect::<Vec<_>>()
    };
    assert_eq!(pass(&mut f, 5_999, true), clean);
    assert_eq!(pass(&mut f, 6_001, false), clean);
    assert_eq!(pass(&mut f, 6_002, true), [found(1, "b", "1"), found(3, "c", "1")]);
}

#[test]
fn aborted_records_go_and_take_no_key_along_and_markers_follow_when_nothing_is_left() {
    let mut f = fixture(10_000);
    f.append(put(&[("a", "1"), ("b", "1")]));
    f.append(from(Some((7, 0, 0, true)), &[("a", "aborted")]));
    f.append(end_of(7, 0, false));
    f.append(from(Some((7, 1, 0, true)), &[("b", "committed")]));
    f.append(end_of(7, 1, true));
    f.roll_and_commit();
    f.compact(5_000).unwrap().unwrap();
    assert_eq!(kept(&f), [found(0, "a", "1"), found(4, "b", "committed")]);
    let markers = |f: &Fixture| f.all().iter().filter(|b| b.header().attributes.is_control()).count();
    assert_eq!(markers(&f), 2, "the marker of nothing waits for its time");
    assert_eq!(f.log.aborted_in(offset(0), offset(10)).len(), 1);
    f.append(put(&[("z", "")]));
    f.roll_and_commit();
    f.compact(6_001).unwrap().unwrap();
    assert_eq!(markers(&f), 1, "that of records that are left stays");
}

#[test]
fn a_marker_stays_while_a_record_of_its_transaction_is_left() {
    let mut f = fixture(10_000);
    for n in 0..3_i16 {
        f.append(from(Some((7, n, 0, true)), &[(&format!("k{n}"), "1"), ("all", &n.to_string())]));
        f.append(end_of(7, n, n == 0));
    }
    f.roll_and_commit();
    let end = table(&f.all());
    for now in [5_000, 10_000, 15_000] {
        f.compact(now).unwrap().unwrap();
        f.append(put(&[("-", "")]));
        f.roll_and_commit();
        assert_eq!(table(&f.all()), end);
    }
    assert_eq!(f.states_by_reading_alone().first_unstable_offset(Offset::MAX), None);
}

#[test]
fn t30_what_is_known_of_producers_outlives_compaction_and_can_be_read_anew() {
    let mut f = fixture(300);
    for n in 0..9 {
        f.append(from(Some((7, 3, n, false)), &[("k", &n.to_string())]));
        f.append(from(Some((8, n as i16, 0, true)), &[("l", &n.to_string())]));
        f.append(end_of(8, n as i16, n % 2 == 0));
    }
    f.append(put(&[("k", "-"), ("l", "-")]));
    f.roll_and_commit();
    let known = f.log.producer_states().producers_alone();
    for now in [5_000, 10_000, 20_000] {
        f.compact(now);
        f.append(put(&[("z", "")]));
        f.roll_and_commit();
        assert_eq!(f.log.producer_states().producers_alone(), known);
        assert_eq!(f.states_by_reading_alone().producers_alone(), known);
    }
    let snapshots: Vec<_> =
        f.hardware.files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "producers")).collect();
    let disk = f.hardware.mount();
    snapshots.iter().for_each(|path| disk.remove_file(path).unwrap());
    f.reopen(Crash::Process);
    assert_eq!(f.log.producer_states().producers_alone(), known);
    // T29: what was resent before is still told.
    let again = from(Some((7, 3, 8, false)), &[("k", "8")]);
    let check = f.log.check_producer(again.header()).unwrap();
    assert!(matches!(check, SequenceCheck::Duplicate(of) if of.base_offset == offset(24)), "{check:?}");
    assert!(f.log.first_unstable_offset(f.log.end_offset()).is_none());
}

#[test]
fn a_pass_takes_as_many_keys_as_fit_and_the_next_goes_on() {
    let mut f = fixture(300);
    for round in 0..3 {
        (0..8).for_each(|key| _ = f.append(put(&[(&format!("k{key}"), &round.to_string())])));
    }
    f.roll_and_commit();
    let end = table(&f.all());
    let mut passes = 0;
    while let Some(done) = f.compact_with(CompactionLimits { keys_max: 3, ..f.log.compaction_limits(0) }) {
        let done = done.unwrap();
        assert!(done.is_whole);
        assert_eq!(done.cleaned_to, f.log.cleaned_to());
        passes += 1;
        assert!(passes < 30);
    }
    assert!(passes > 4, "{passes}");
    assert_eq!(kept(&f).len(), 8);
    assert_eq!(table(&f.all()), end);
}

#[test]
fn a_reader_with_the_old_file_in_hand_reads_anew() {
    let mut f = fixture(200);
    (0..9).for_each(|n| _ = f.append(put(&[("k", &n.to_string())])));
    f.roll_and_commit();
    let plan = |f: &Fixture| match f.log.read(offset(1), Offset::MAX, 10_000, true).unwrap() {
        ReadPlan::File(read) => read,
        _ => panic!("not cold"),
    };
    let before = plan(&f);
    let search = f.log.offset_for_timestamp(ms(0), Offset::MAX);
    f.compact(0).unwrap().unwrap();
    assert!(matches!(block_on(before.run()), Err(ReadError::Gone)));
    assert!(matches!(block_on(search.run()), Err(ReadError::Gone)));
    let read = split(block_on(plan(&f).run()).unwrap()).unwrap();
    assert!(read[0].header().is_filler() && read[0].header().next_offset() > offset(1));
    let found = block_on(f.log.offset_for_timestamp(ms(0), Offset::MAX).run()).unwrap().unwrap();
    assert_eq!(found.offset, offset(8), "empty batches have no time");
}

#[test]
fn young_segments_wait_and_old_ones_are_overdue() {
    let mut f = fixture(10_000);
    let config = CompactionConfig { lag_min_ms: 1_000, lag_max_ms: Some(50_000), ..f.config.compaction.unwrap() };
    f.log.update_config(LogConfig { compaction: Some(config), ..f.config.clone() });
    f.append(put(&[("k", "1"), ("k", "2")]));
    f.roll_and_commit();
    let need = |f: &Fixture, now| f.log.compaction_need(&f.log.compaction_limits(now));
    assert_eq!(need(&f, 1_100), None);
    let found = need(&f, 1_101).unwrap();
    assert_eq!((found.dirty_millionths(), found.clean_bytes, found.is_overdue), (1_000_000, 0, false));
    assert!(need(&f, 50_101).unwrap().is_overdue);
}

#[test]
fn damage_ends_a_pass_and_is_told() {
    let mut f = fixture(300);
    (0..9).for_each(|n| _ = f.append(put(&[("k", &n.to_string())])));
    f.roll_and_commit();
    let good = f.all();
    f.hardware.flip_bit(&f.path(f.segments()[1], "log"), 80, 2).unwrap();
    assert!(matches!(f.compact(0), Some(Err(CompactionError::Damaged(_)))));
    assert!(f.log.damage().is_some() && f.compact(0).is_none());
    f.heal_all(&good);
    f.compact(0).unwrap().unwrap();
    assert_eq!(kept(&f), [found(8, "k", "8")]);
}

#[test]
fn a_follower_takes_the_part_that_it_lacks_of_a_filler() {
    let mut f = fixture(10_000);
    f.append(put(&[("a", "1")]));
    f.append(put(&[("a", "2")]));
    let whole = Batch::from_bytes(filler(offset(0), offset(9), EPOCH)).unwrap();
    let mut more = put(&[("b", "1")]).into_bytes().to_vec();
    highwater_record::stamp(&mut more, offset(9), EPOCH);
    let more = Batch::from_bytes(more.into()).unwrap();
    let appended = f.log.append_follower(&[whole.clone(), more.clone()]).unwrap();
    assert_eq!((appended.base_offset, appended.end_offset), (offset(2), offset(10)));
    assert_eq!(f.offsets(), [0, 1, 2, 9]);
    // Nothing else may overlap.
    assert!(matches!(f.log.append_follower(&[more]), Err(AppendError::OffsetGap { .. })));
    assert!(matches!(f.log.append_follower(&[whole]), Err(AppendError::OffsetGap { .. })));
    f.commit();
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(f.offsets(), [0, 1, 2, 9]);
}

#[test]
fn t43_damage_is_healed_by_a_leader_that_is_compacted_further_or_less() {
    for (leader_first, damaged) in [(true, 3), (false, 0), (true, 0)] {
        let mut f = fixture(300);
        for n in 0..9 {
            f.append(put(&[("k", &n.to_string()), (&format!("only-{}", n % 4), &n.to_string())]));
        }
        f.roll_and_commit();
        let before = f.all();
        let end = table(&before);
        // The same log, compacted elsewhere.
        let mut other = fixture(300);
        other.log.append_follower(&before).unwrap();
        other.roll_and_commit();
        let leader = if leader_first { &mut other } else { &mut f };
        leader.compact(0).unwrap().unwrap();
        let source = other.all();
        f.drop_cache();
        let bases = f.segments();
        let path = f.path(bases[damaged.min(bases.len() - 2)], "log");
        f.hardware.flip_bit(&path, 40, 1).unwrap();
        let mut at = 0;
        while at < f.log.end_offset().get() {
            match f.read_batches(at) {
                Ok(read) => at = read.last().unwrap().header().next_offset().get(),
                Err(ReadError::Damaged(range)) => {
                    f.log.note_damage(range);
                    at = range.end.get();
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(f.log.damage().is_some());
        f.heal_all(&source);
        assert_eq!(table(&f.all()), end);
        f.compact(0);
        assert_eq!(table(&f.all()), end);
        f.reopen(Crash::PowerLosingAll);
        assert_eq!((table(&f.all()), f.report.damage.len()), (end, 0));
    }
}

#[test]
fn a_log_that_starts_inside_a_batch_of_its_leader_takes_the_rest_of_it() {
    let mut leader = fixture(10_000);
    leader.append(put(&[("a", "1"), ("b", "2"), ("c", "3")]));
    leader.append(put(&[("d", "4")]));
    let batches = leader.all();
    let mut f = fixture(10_000);
    f.log.restart_at(offset(1)).unwrap();
    f.log.append_follower(&batches).unwrap();
    assert_eq!(kept(&f), pairs(&batches)[1..]);
    assert!(matches!(f.log.append_follower(&batches), Err(AppendError::OffsetGap { .. })));
    f.commit();
    f.reopen(Crash::PowerLosingAll);
    assert_eq!(kept(&f), pairs(&batches)[1..]);
}

/// A log with several segments to be merged, transactions and tombstones; and what it says.
fn prepared(seed: u64) -> (Fixture, BTreeMap<Bytes, Bytes>, Vec<Batch>) {
    let mut f = seeded(250, seed);
    for n in 0..5 {
        f.append(put(&[("a", &n.to_string()), ("b", &n.to_string())]));
        f.append(from(Some((7, n as i16, 0, true)), &[("c", &n.to_string())]));
        f.append(end_of(7, n as i16, n % 2 == 0));
    }
    f.append(put(&[("b", "-"), ("d", "1")]));
    f.roll_and_commit();
    f.append(put(&[("e", "1")]));
    f.sync();
    // Three neighbours, or so, become one.
    f.config.segment_bytes = 800;
    f.log.update_config(f.config.clone());
    let all = f.all();
    (f, table(&all), all)
}

/// What must hold of a log that was compacted, or not, or half: `before` are its batches as they were.
fn check(f: &Fixture, before: &[Batch]) {
    let now = f.all();
    let mut expected = now[0].header().base_offset;
    for batch in &now {
        assert_eq!(batch.header().base_offset, expected, "no offset is missing");
        expected = batch.header().next_offset();
        let known = f.log.epochs().epoch_at(batch.header().base_offset);
        assert!(known.is_none_or(|epoch| epoch == batch.header().leader_epoch));
    }
    assert_eq!(expected, f.log.end_offset());
    let was: BTreeMap<Offset, Record> = records(before).into_iter().map(|record| (record.offset, record)).collect();
    let is: BTreeSet<Offset> = records(&now).iter().map(|record| record.offset).collect();
    for record in records(&now) {
        assert_eq!(was.get(&record.offset), Some(&record), "a record that was there as it is");
    }
    assert_eq!(table(&now), table(before));
    // What is missing has a reason.
    let shown: BTreeMap<Offset, Record> = committed(before).into_iter().map(|r| (r.offset, r)).collect();
    let outcomes = outcomes(before);
    for batch in before.iter().filter(|batch| !batch.header().attributes.is_control()) {
        let aborted = outcomes.get(&batch.header().base_offset.get()) == Some(&false);
        let open =
            batch.header().attributes.is_transactional() && !outcomes.contains_key(&batch.header().base_offset.get());
        for record in records(std::slice::from_ref(batch)).iter().filter(|record| !is.contains(&record.offset)) {
            let replaced = shown.range(record.offset.next()..).any(|(_, later)| later.key == record.key);
            let is_tombstone = record.value.is_none();
            assert!(!open && (aborted || record.key.is_some() && (replaced || is_tombstone)), "{record:?} is missing");
        }
    }
    // What is left of aborted transactions is told to readers.
    let outcomes = self::outcomes(&now);
    for batch in now.iter().filter(|batch| batch.header().record_count > 0) {
        let base = batch.header().base_offset;
        if outcomes.get(&base.get()) == Some(&false) {
            let told = f.log.aborted_in(base, base.next());
            let has = |one: &crate::AbortedTransaction| {
                one.producer_id == batch.header().producer_id && one.first_offset <= base && one.last_offset >= base
            };
            assert!(told.iter().any(has), "aborted records at {base} are not told of");
        }
    }
    assert_eq!(f.log.damaged_ranges(), []);
}

#[test]
fn a_crash_at_any_call_leaves_the_old_segments_or_the_new_ones() {
    for crash in [Crash::Process, Crash::Power, Crash::PowerLosingAll] {
        let mut calls = 0;
        loop {
            let (mut f, end, before) = prepared(calls);
            let known = f.log.producer_states().producers_alone();
            f.hardware.end_run_after(calls);
            let is_done = f.compact(5_000).is_some_and(|result| result.is_ok());
            f.reopen(crash);
            check(&f, &before);
            assert_eq!(f.log.producer_states().producers_alone(), known);
            assert_eq!(table(&f.all()), end);
            assert!(!f.hardware.files().iter().any(|path| path.to_string_lossy().contains(".compacted")));
            f.commit();
            f.compact(6_001);
            check(&f, &before);
            f.append(put(&[("z", "")]));
            f.reopen(crash);
            if is_done {
                break;
            }
            calls += 1;
        }
        assert!(calls > 60, "{calls}");
    }
}

#[test]
fn a_full_disk_ends_a_pass_and_keeps_nothing_of_it() {
    let (mut f, end, before) = prepared(3);
    f.hardware.set_capacity(f.hardware.used_bytes() + 100);
    let result = f.compact(5_000).unwrap();
    assert!(matches!(result, Err(CompactionError::Io(_))), "{result:?}");
    assert!(!f.hardware.files().iter().any(|path| path.to_string_lossy().contains(".compacted")));
    check(&f, &before);
    f.hardware.set_capacity(u64::MAX);
    f.compact(5_000).unwrap().unwrap();
    assert_eq!(table(&f.all()), end);
}

/// A swap whose old files are still there when the log is cut, and gets new segments of the same names.
#[test]
fn a_truncation_after_a_swap_settles_it_first() {
    for crash in [Crash::Process, Crash::Power, Crash::PowerLosingAll] {
        for cut in 1..16 {
            let (mut f, ..) = prepared(cut as u64);
            let job = f.log.begin_compaction(f.log.compaction_limits(5_000)).unwrap();
            let log = &mut f.log;
            let mut swaps = 0;
            let result = block_on(job.run(|rewritten| {
                swaps += 1;
                let swapped = log.swap_compacted(rewritten)?;
                log.truncate_to(offset(cut)).unwrap();
                assert!(log.end_offset() <= offset(cut));
                for n in 0..6 * i32::from(swaps == 1) {
                    let (batch, epoch) = (put(&[("new", &n.to_string())]), LeaderEpoch::new(9));
                    log.append_leader(&[batch], epoch, TimestampType::CreateTime, ms(0)).unwrap();
                    log.roll().unwrap();
                }
                Ok(swapped)
            }));
            f.log.finish_compaction(&result);
            assert!(swaps > 0);
            f.sync();
            let all = f.all();
            f.reopen(crash);
            assert_eq!(f.all(), all, "cut at {cut}");
            assert!(f.log.cleaned_to() <= offset(cut));
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Append {
        producer: u8,
        records: Vec<(u8, bool)>,
    },
    End {
        id: u8,
        commit: bool,
    },
    NewEpoch,
    Commit,
    Sync,
    Roll,
    Compact {
        keys_max: usize,
        wait: bool,
        all_in_sync: bool,
    },
    CompactAndCrash {
        calls: u64,
        crash: Crash,
    },
    /// Above the high watermark.
    Truncate(u8),
    TruncateCommitted(u8),
    AdvanceStart(u8),
    Reopen(Crash),
    RestartInOrder,
}

fn op() -> impl Strategy<Value = Op> {
    let crash = || prop_oneof![Just(Crash::Process), Just(Crash::Power), Just(Crash::PowerLosingAll)];
    prop_oneof![
        12 => (0..8_u8, prop::collection::vec((0..7_u8, any::<bool>()), 1..4))
            .prop_map(|(producer, records)| Op::Append { producer, records }),
        5 => (0..3_u8, any::<bool>()).prop_map(|(id, commit)| Op::End { id, commit }),
        1 => Just(Op::NewEpoch),
        4 => Just(Op::Commit),
        1 => Just(Op::Sync),
        1 => Just(Op::Roll),
        4 => (1..12_usize, any::<bool>(), any::<bool>())
            .prop_map(|(keys_max, wait, all_in_sync)| Op::Compact { keys_max, wait, all_in_sync }),
        2 => (0..120_u64, crash()).prop_map(|(calls, crash)| Op::CompactAndCrash { calls, crash }),
        1 => any::<u8>().prop_map(Op::Truncate),
        1 => any::<u8>().prop_map(Op::TruncateCommitted),
        1 => any::<u8>().prop_map(Op::AdvanceStart),
        1 => crash().prop_map(Op::Reopen),
        1 => Just(Op::RestartInOrder),
    ]
}

struct Run {
    f: Fixture,
    /// As they were written, from the log's first segment on.
    before: Vec<Batch>,
    epoch: i32,
    now: i64,
    written: u32,
    /// Committed records were cut off, and that may not be on the disk: a crash may bring them back.
    may_come_back: bool,
}

impl Run {
    fn append(&mut self, batch: Batch) {
        let at = self.f.append_at(batch, LeaderEpoch::new(self.epoch)).unwrap();
        let read = self.f.read_batches(at.get()).unwrap();
        self.before.push(read.last().unwrap().clone());
    }

    fn cut(&mut self) {
        let end = self.f.log.end_offset();
        self.before.retain(|batch| batch.header().base_offset < end && end > self.f.log.start_offset());
        assert!(self.before.last().is_none_or(|last| last.header().next_offset() == end), "at a batch that was");
    }

    fn apply(&mut self, op: &Op) {
        let (start, end) = (self.f.log.start_offset().get(), self.f.log.end_offset().get());
        let committed = self.f.log.checkpointed_hw().get();
        match op {
            Op::Append { producer, records } => {
                self.written += 1;
                let value = self.written.to_string();
                let keys = ["a", "b", "c", "d", "e", "f", "-"];
                let pairs: Vec<_> = records
                    .iter()
                    .map(|(key, value_given)| {
                        (keys[usize::from(*key)], if *value_given { value.as_str() } else { "-" })
                    })
                    .collect();
                // 0..3 transactional, 3..5 idempotent, the others plain.
                let numbered = (*producer < 5).then(|| {
                    let id = i64::from(*producer);
                    let known = self.f.log.producers().into_iter().find(|known| known.producer_id.get() == id);
                    let (epoch, next) =
                        known.map_or((0, 0), |known| (known.epoch.get(), known.last_sequence.get() + 1));
                    (id, epoch, next, *producer < 3)
                });
                self.append(from(numbered, &pairs));
            }
            Op::End { id, commit } => {
                let id = i64::from(*id);
                if let Some(open) = self.f.log.ongoing_transaction(ProducerId::new(id)) {
                    self.append(end_of(id, open.epoch.get(), *commit));
                }
            }
            Op::NewEpoch => {
                self.epoch += 1;
                self.f.log.begin_epoch(LeaderEpoch::new(self.epoch)).unwrap();
            }
            Op::Commit => {
                self.f.commit();
                self.may_come_back = false;
            }
            Op::Sync => drop(self.f.sync()),
            Op::Roll => self.f.log.roll().unwrap(),
            Op::Compact { keys_max, wait, all_in_sync } => {
                self.now += if *wait { 2_000 } else { 10 };
                let limits = CompactionLimits {
                    keys_max: *keys_max,
                    all_in_sync: *all_in_sync,
                    ..self.f.log.compaction_limits(self.now)
                };
                let known = self.f.log.producer_states().clone();
                let cold = self.f.all();
                self.f.drop_cache();
                assert_eq!(pairs(&self.f.all()), pairs(&cold));
                if let Some(result) = self.f.compact_with(limits) {
                    assert!(result.unwrap().is_whole);
                }
                assert_eq!(*self.f.log.producer_states(), known);
            }
            Op::CompactAndCrash { calls, crash } => {
                self.f.hardware.end_run_after(*calls);
                let _ = self.f.compact(self.now);
                self.reopen(*crash);
            }
            Op::Truncate(part) => {
                let to = committed + (end - committed) * i64::from(*part) / 256;
                self.f.log.truncate_to(offset(to)).unwrap();
                self.cut();
                // As every truncation comes with another leader.
                self.epoch += 1;
            }
            Op::TruncateCommitted(part) => {
                let to = start + (end - start) * i64::from(*part) / 256;
                self.f.log.truncate_to(offset(to)).unwrap();
                self.cut();
                // As every truncation comes with another leader.
                self.epoch += 1;
                // What took the place of something older is gone with it: from here on, what is there counts.
                self.before = self.f.all();
                self.may_come_back = true;
            }
            Op::AdvanceStart(part) => {
                let to = start + (committed - start) * i64::from(*part) / 512;
                self.f.log.advance_start(offset(to)).unwrap();
                // So that no crash brings back what lies before.
                self.f.commit();
                self.before = self.f.all();
            }
            Op::Reopen(crash) => self.reopen(*crash),
            Op::RestartInOrder => self.f.restart_in_order(),
        }
    }

    fn reopen(&mut self, crash: Crash) {
        let committed = self.f.log.checkpointed_hw();
        self.f.reopen(crash);
        assert_eq!(self.f.report.damage, []);
        // What was cut off and not synced may be back.
        self.before.retain(|batch| batch.header().next_offset() <= committed);
        let tail = self.f.all().into_iter().filter(|batch| batch.header().next_offset() > committed);
        self.before.extend(tail);
        if std::mem::take(&mut self.may_come_back) {
            self.before = self.f.all();
        }
        self.cut();
        self.epoch = self.epoch.max(self.f.log.epochs().latest().map_or(0, LeaderEpoch::get));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_readers_of_a_compacted_log_see_what_those_of_the_whole_one_would(
        ops in prop::collection::vec(op(), 1..80),
        seed in any::<u64>(),
    ) {
        let mut run = Run { f: seeded(350, seed), before: Vec::new(), epoch: 1, now: 10_000, written: 0, may_come_back: false };
        for op in &ops {
            run.apply(op);
            if !run.before.is_empty() {
                check(&run.f, &run.before);
            }
        }
        let known = run.f.log.producer_states().producers_alone();
        run.reopen(Crash::Process);
        // Of those that wrote before the log's start, only a snapshot says anything, if there is one.
        if !ops.iter().any(|op| matches!(op, Op::AdvanceStart(_))) {
            prop_assert_eq!(run.f.log.producer_states().producers_alone(), known.clone());
            prop_assert_eq!(run.f.states_by_reading_alone().producers_alone(), known);
        }
    }
}
