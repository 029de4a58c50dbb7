//! A log under random operations, crashes at any point, and flipped bits, against a model of what was promised.
//!
//! What must hold after every crash: everything that counted as durable is there, byte for byte; what was not synced is
//! there whole or not at all; leader epochs agree with the batches; nothing is called damaged that the disk did not
//! damage; and what it did damage is never served.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_record::{Batch, BatchBuilder, Compression, split};
use highwater_storage::sim::{Crash, SimDisk, SimLatency};
use highwater_storage::{Log, LogConfig, OpenLog, ReadError, ReadPlan, RecoveryReport, SyncJob};
use highwater_types::{LeaderEpoch, Offset, PartitionId, TimestampMs, TimestampType, TopicId, TopicPartition};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Append {
        records: usize,
        bytes: usize,
    },
    NewEpoch,
    BeginSync,
    FinishSync,
    Commit,
    Checkpoint,
    /// Part of what lies above the high watermark, in 256ths.
    Truncate(u8),
    /// Part of the whole log: what an unclean election does.
    TruncateCommitted(u8),
    RestartAt(u16),
    AdvanceStart(u8),
    Retention,
    ForgetCache,
    Crash(Crash),
    /// Power loss while a sync runs, so long after it began.
    CrashDuringSync(u16),
    RestartInOrder,
}

fn op() -> impl Strategy<Value = Op> {
    let crash = prop_oneof![Just(Crash::Process), Just(Crash::Power), Just(Crash::PowerLosingAll)];
    prop_oneof![
        12 => (1..6usize, 0..200usize).prop_map(|(records, bytes)| Op::Append { records, bytes }),
        2 => Just(Op::NewEpoch),
        4 => Just(Op::BeginSync),
        6 => Just(Op::FinishSync),
        3 => Just(Op::Commit),
        2 => Just(Op::Checkpoint),
        2 => any::<u8>().prop_map(Op::Truncate),
        1 => any::<u8>().prop_map(Op::TruncateCommitted),
        1 => (0..400u16).prop_map(Op::RestartAt),
        1 => any::<u8>().prop_map(Op::AdvanceStart),
        1 => Just(Op::Retention),
        1 => Just(Op::ForgetCache),
        2 => crash.prop_map(Op::Crash),
        2 => (0..9000u16).prop_map(Op::CrashDuringSync),
        1 => Just(Op::RestartInOrder),
    ]
}

/// What was written, and what of it was promised.
#[derive(Default)]
struct Model {
    /// The log as it is, by base offset.
    now: BTreeMap<i64, Bytes>,
    /// Everything that ever was at an offset.
    ever: BTreeMap<i64, Vec<Bytes>>,
    durable: i64,
    committed: i64,
    epoch: i32,
}

struct World {
    hardware: SimDisk,
    config: LogConfig,
    log: Log,
    job: Option<SyncJob>,
    model: Model,
    runtime: tokio::runtime::Runtime,
    written: usize,
}

fn open(hardware: &SimDisk, config: &LogConfig, clean: bool) -> (Log, RecoveryReport) {
    let partition = TopicPartition::new(TopicId::from_u128(7), PartitionId::new(0));
    let config = LogConfig { status: Arc::default(), ..config.clone() };
    let now = TimestampMs::new(0);
    Log::open(hardware.mount(), Path::new("/data/p"), partition, config, OpenLog { clean }, now).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let hardware = SimDisk::new(seed);
        hardware.mount().create_dir_all(Path::new("/data")).unwrap();
        hardware.mount().sync_dir_blocking(Path::new("/")).unwrap();
        hardware.set_latency(SimLatency::ssd());
        let config = LogConfig { segment_bytes: 1200, index_interval_bytes: 200, ..LogConfig::default() };
        let (log, _) = open(&hardware, &config, false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        Self { hardware, config, log, job: None, model: Model::default(), runtime, written: 0 }
    }

    fn end(&self) -> i64 {
        self.log.end_offset().get()
    }

    fn append(&mut self, records: usize, bytes: usize) {
        let mut builder = BatchBuilder::new(Compression::None, None);
        for _ in 0..records {
            // No two batches are alike.
            self.written += 1;
            let value = [self.written.to_string().into_bytes(), vec![b'.'; bytes]].concat();
            builder.append(TimestampMs::new(self.written as i64), None, Some(&value), &[]).unwrap();
        }
        let batch = split(builder.build().unwrap()).unwrap();
        let epoch = LeaderEpoch::new(self.model.epoch);
        let now = TimestampMs::new(0);
        let base = self.log.append_leader(&batch, epoch, TimestampType::CreateTime, now).unwrap().base_offset;
        let stamped = self.read_all(base.get()).pop().unwrap();
        self.model.ever.entry(base.get()).or_default().push(stamped.bytes().clone());
        self.model.now.insert(base.get(), stamped.into_bytes());
    }

    fn finish_sync(&mut self) {
        if let Some(job) = self.job.take() {
            self.runtime.block_on(job.run()).unwrap();
            self.model.durable = self.log.finish_sync(job).get();
        }
    }

    fn commit(&mut self) {
        self.model.committed = self.model.committed.max(self.model.durable);
        self.log.note_high_watermark(Offset::new(self.model.committed));
    }

    fn cut(&mut self, to: i64) {
        self.log.truncate_to(Offset::new(to)).unwrap();
        let end = self.end();
        assert!(end <= to.max(self.log.start_offset().get()));
        self.model.now.retain(|base, _| *base < end);
        self.model.durable = self.model.durable.min(end);
        self.model.committed = self.model.committed.min(end);
    }

    fn apply(&mut self, op: &Op) {
        let (start, end) = (self.log.start_offset().get(), self.end());
        match *op {
            Op::Append { records, bytes } => self.append(records, bytes),
            Op::NewEpoch => {
                self.model.epoch += 1;
                self.log.begin_epoch(LeaderEpoch::new(self.model.epoch)).unwrap();
            }
            Op::BeginSync => self.job = self.job.take().or_else(|| self.log.begin_sync()),
            Op::FinishSync => self.finish_sync(),
            Op::Commit => self.commit(),
            Op::Checkpoint => self.log.checkpoint(Offset::new(self.model.committed)).unwrap(),
            Op::Truncate(part) => {
                let above = end - self.model.committed;
                self.cut(self.model.committed + above * i64::from(part) / 256);
            }
            Op::TruncateCommitted(part) => self.cut(start + (end - start) * i64::from(part) / 256),
            Op::RestartAt(at) => {
                let at = i64::from(at);
                self.log.restart_at(Offset::new(at)).unwrap();
                self.model.now.clear();
                (self.model.durable, self.model.committed) = (at, at);
            }
            Op::AdvanceStart(part) => {
                let to = start + (self.model.committed - start).max(0) * i64::from(part) / 256;
                self.log.advance_start(Offset::new(to)).unwrap();
            }
            Op::Retention => {
                let config = LogConfig { retention_bytes: Some(3000), ..self.log.config().clone() };
                self.log.update_config(config);
                self.log.apply_retention(TimestampMs::new(0), Offset::new(self.model.committed)).unwrap();
            }
            Op::ForgetCache => {
                self.log.age_cache();
                self.log.age_cache();
            }
            Op::Crash(crash) => self.crash(crash),
            Op::CrashDuringSync(micros) => {
                if let Some(job) = self.job.take().or_else(|| self.log.begin_sync()) {
                    let time = Duration::from_micros(micros.into());
                    let _ = self.runtime.block_on(async { tokio::time::timeout(time, job.run()).await });
                }
                self.crash(Crash::Power);
            }
            Op::RestartInOrder => {
                self.finish_sync();
                self.commit();
                self.log.flush_and_close(Offset::new(self.model.committed)).unwrap();
                self.model.durable = end;
                self.reopen(Crash::PowerLosingAll, true);
                assert_eq!((self.log.start_offset().get(), self.end()), (start, end));
            }
        }
    }

    fn crash(&mut self, crash: Crash) {
        self.reopen(crash, false);
    }

    fn reopen(&mut self, crash: Crash, clean: bool) {
        self.job = None;
        self.hardware.crash(crash);
        let end_before = self.end();
        let (log, report) = open(&self.hardware, &self.config, clean);
        self.log = log;
        assert_eq!(report.clean, clean);
        assert_eq!(report.damage, [], "nothing was damaged");
        assert!(self.end() >= self.model.durable, "durable to {}, found to {}", self.model.durable, self.end());
        if crash == Crash::Process {
            assert_eq!(self.end(), end_before, "the page cache lives on");
        }
        let found = self.read_all(self.log.start_offset().get());
        for batch in &found {
            let base = batch.header().base_offset.get();
            let promised = self.model.now.get(&base).filter(|_| base < self.model.durable);
            match promised {
                Some(bytes) => assert_eq!(batch.bytes(), bytes, "durable batch at {base}"),
                None => assert!(
                    self.model.ever.get(&base).is_some_and(|all| all.contains(batch.bytes())),
                    "a batch at {base} that never was"
                ),
            }
        }
        self.model.now =
            found.into_iter().map(|batch| (batch.header().base_offset.get(), batch.into_bytes())).collect();
        self.model.durable = self.log.durable_offset().get();
        self.model.committed = self.log.checkpointed_hw().get().min(self.model.durable);
        self.model.epoch = self.model.epoch.max(self.log.epochs().latest().map_or(0, LeaderEpoch::get));
    }

    fn read(&self, from: i64) -> Result<Vec<Batch>, ReadError> {
        let bytes = match self.log.read(Offset::new(from), Offset::MAX, 2000, true)? {
            ReadPlan::Empty => Bytes::new(),
            ReadPlan::Cached(pieces) => pieces.concat().into(),
            ReadPlan::File(read) => self.runtime.block_on(read.run())?,
        };
        Ok(split(bytes).unwrap())
    }

    /// Reads to the end; checks offsets and epochs.
    fn read_all(&self, mut from: i64) -> Vec<Batch> {
        let mut all = Vec::new();
        while from < self.end() {
            let batches = self.read(from).unwrap();
            assert!(!batches.is_empty(), "nothing at {from} of {}", self.end());
            for batch in batches {
                let header = *batch.header();
                assert!(header.base_offset.get() == from || all.is_empty() && header.next_offset().get() > from);
                let known = self.log.epochs().epoch_at(header.base_offset.max(self.log.start_offset()));
                assert_eq!(known, Some(header.leader_epoch), "at {}", header.base_offset);
                from = header.next_offset().get();
                all.push(batch);
            }
        }
        all
    }

    fn check(&self) {
        let found = self.read_all(self.log.start_offset().get());
        for batch in &found {
            let base = batch.header().base_offset.get();
            assert_eq!(self.model.now.get(&base), Some(batch.bytes()), "at {base}");
        }
        assert_eq!(self.log.durable_offset().get(), self.model.durable);
        assert_eq!(self.log.damage(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_durable_survives_any_crash_and_nothing_is_half_there(
        seed in any::<u64>(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new(seed);
        for op in &ops {
            world.apply(op);
            world.check();
        }
        world.crash(Crash::Power);
        world.check();
        world.append(1, 10);
        world.job = world.log.begin_sync();
        world.finish_sync();
        world.crash(Crash::PowerLosingAll);
        world.check();
    }

    #[test]
    fn t43_flipped_bits_in_what_is_committed_are_never_served_and_always_healed(
        batches in prop::collection::vec((1..5usize, 0..200usize), 1..30),
        flips in prop::collection::vec((any::<u16>(), any::<u32>(), 0..8u8), 1..4),
        crash in any::<bool>(),
    ) {
        flip_and_heal(&batches, &flips, crash);
    }
}

/// Commits `batches`, flips bits (which file, which byte, which bit), reads, heals from a good copy, reads again.
fn flip_and_heal(batches: &[(usize, usize)], flips: &[(u16, u32, u8)], crash: bool) {
    let mut world = World::new(0);
    batches.iter().for_each(|(records, bytes)| world.append(*records, *bytes));
    world.job = world.log.begin_sync();
    world.finish_sync();
    world.commit();
    world.log.checkpoint(Offset::new(world.model.committed)).unwrap();
    world.job = world.log.begin_sync();
    world.finish_sync();
    let good = world.read_all(0);
    if crash {
        world.hardware.crash(Crash::Process);
    }
    let files = world.hardware.files();
    let logs: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    for (file, byte, bit) in flips {
        let path = logs[usize::from(*file) % logs.len()];
        let len = world.hardware.mount().open(path, highwater_storage::OpenMode::Read).unwrap().len().unwrap();
        if len > 0 {
            world.hardware.flip_bit(path, u64::from(*byte) % len, *bit).unwrap();
        }
    }
    if crash {
        world.log = open(&world.hardware, &world.config, false).0;
    }
    world.apply(&Op::ForgetCache);
    assert_eq!(world.end(), good.last().unwrap().header().next_offset().get(), "nothing synced is cut");
    // Healing one range can show another that it hid.
    for round in 0.. {
        let mut at = 0;
        while at < world.end() {
            match world.read(at) {
                Ok(read) => {
                    assert!(read.iter().all(|batch| good.contains(batch)), "damage was served");
                    at = read.last().unwrap().header().next_offset().get();
                }
                Err(ReadError::Damaged(range)) => {
                    world.log.note_damage(range);
                    at = range.end.get();
                }
                Err(error) => panic!("{error}"),
            }
        }
        if world.log.damage().is_none() {
            break;
        }
        assert!(round <= flips.len(), "healed, and still damaged: {:?}", world.log.damaged_ranges());
        while let Some(range) = world.log.damage() {
            let job = world.log.begin_heal(range).unwrap();
            let wanted = job.range();
            let within =
                |batch: &&Batch| batch.header().base_offset >= wanted.start && batch.header().base_offset < wanted.end;
            let healed = world.runtime.block_on(job.run(good.iter().filter(within).cloned().collect()));
            assert!(world.log.finish_heal(healed.unwrap()));
        }
    }
    assert_eq!(world.read_all(0), good);
}

#[test]
fn a_flip_in_the_last_batch_of_a_segment_beside_another_is_healed() {
    let sizes = [(1, 0), (2, 110), (1, 169), (1, 101), (4, 22), (3, 50), (4, 16), (4, 175), (2, 7)];
    flip_and_heal(&sizes, &[(26111, 4127004068, 0), (7328, 177786040, 0)], true);
}
