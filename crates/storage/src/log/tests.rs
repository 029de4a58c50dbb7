//! A log on a simulated disk: what it must do, one behaviour a test.

mod append;
mod compaction;
mod damage;
mod doubt;
mod producers;
mod reading;
mod recovery;
mod retention;
mod syncing;
mod truncation;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;
use highwater_record::{Batch, BatchBuilder, Compression, split};
use highwater_types::{LeaderEpoch, Offset, PartitionId, TimestampMs, TimestampType, TopicId, TopicPartition};

use crate::disk::sim::{Crash, SimDisk};
use crate::{AppendError, DamagedRange, HealError, Log, LogConfig, OpenLog, ReadError, ReadPlan, RecoveryReport};

pub(super) const DIR: &str = "/data/p";
const EPOCH: LeaderEpoch = LeaderEpoch::new(1);

fn offset(value: i64) -> Offset {
    Offset::new(value)
}

fn ms(value: i64) -> TimestampMs {
    TimestampMs::new(value)
}

fn range(start: i64, end: i64) -> DamagedRange {
    DamagedRange { start: offset(start), end: offset(end) }
}

/// A batch of `records` records with `bytes` bytes of value each, at times from `time` on.
fn batch(records: usize, bytes: usize, time: i64) -> Batch {
    compressed(records, bytes, time, Compression::None)
}

fn compressed(records: usize, bytes: usize, time: i64, compression: Compression) -> Batch {
    let mut builder = BatchBuilder::new(compression, None);
    for index in 0..records {
        let value = vec![b'a' + (index % 26) as u8; bytes];
        builder.append(ms(time + index as i64), None, Some(&value), &[]).unwrap();
    }
    split(builder.build().unwrap()).unwrap().remove(0)
}

/// A disk with a data dir.
fn hardware(seed: u64) -> SimDisk {
    let hardware = SimDisk::new(seed);
    let disk = hardware.mount();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir_blocking(Path::new("/")).unwrap();
    hardware
}

struct Fixture {
    hardware: SimDisk,
    config: LogConfig,
    log: Log,
    report: RecoveryReport,
}

fn open(hardware: &SimDisk, config: &LogConfig, clean: bool) -> (Log, RecoveryReport) {
    let partition = TopicPartition::new(TopicId::from_u128(7), PartitionId::new(3));
    // Another process has another budget and health.
    let config = LogConfig { status: Arc::default(), ..config.clone() };
    Log::open(hardware.mount(), Path::new(DIR), partition, config, OpenLog { clean }, ms(0)).unwrap()
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// Segments of a few batches; small index intervals.
    fn small() -> Self {
        Self::with(|config| (config.segment_bytes, config.index_interval_bytes) = (1000, 100))
    }

    fn with(change: impl FnOnce(&mut LogConfig)) -> Self {
        let mut config = LogConfig::default();
        change(&mut config);
        let hardware = hardware(42);
        let (log, report) = open(&hardware, &config, false);
        Self { hardware, config, log, report }
    }

    fn append(&mut self, batch: Batch) -> Offset {
        self.try_append(batch).unwrap()
    }

    fn try_append(&mut self, batch: Batch) -> Result<Offset, AppendError> {
        self.append_at(batch, EPOCH)
    }

    fn append_at(&mut self, batch: Batch, epoch: LeaderEpoch) -> Result<Offset, AppendError> {
        self.log.append_leader(&[batch], epoch, TimestampType::CreateTime, ms(0)).map(|appended| appended.base_offset)
    }

    /// `count` batches of two records each: about 300 bytes a batch.
    fn fill(&mut self, count: usize) {
        (0..count).for_each(|index| {
            self.append(batch(2, 100, 1000 * index as i64));
        });
    }

    fn sync(&mut self) -> Offset {
        if let Some(job) = self.log.begin_sync() {
            block_on(job.run()).unwrap();
            self.log.finish_sync(job);
        }
        self.log.durable_offset()
    }

    /// Everything is committed: the high watermark is the end.
    fn commit(&mut self) {
        self.sync();
        self.log.checkpoint(self.log.end_offset()).unwrap();
        self.sync();
    }

    fn reopen(&mut self, crash: Crash) {
        self.hardware.crash(crash);
        (self.log, self.report) = open(&self.hardware, &self.config, false);
    }

    fn restart_in_order(&mut self) {
        self.log.flush_and_close(self.log.end_offset()).unwrap();
        self.hardware.crash(Crash::PowerLosingAll);
        (self.log, self.report) = open(&self.hardware, &self.config, true);
    }

    fn read(&self, from: i64) -> Result<Bytes, ReadError> {
        self.read_limited(from, Offset::MAX, usize::MAX >> 1, false)
    }

    fn read_limited(&self, from: i64, below: Offset, max_bytes: usize, one: bool) -> Result<Bytes, ReadError> {
        match self.log.read(offset(from), below, max_bytes, one)? {
            ReadPlan::Empty => Ok(Bytes::new()),
            ReadPlan::Cached(pieces) => Ok(pieces.concat().into()),
            ReadPlan::File(read) => block_on(read.run()),
        }
    }

    fn read_batches(&self, from: i64) -> Result<Vec<Batch>, ReadError> {
        self.read(from).map(|bytes| split(bytes).unwrap())
    }

    /// Every batch from the start to the end.
    fn all(&self) -> Vec<Batch> {
        let (mut at, mut all) = (self.log.start_offset(), Vec::new());
        while at < self.log.end_offset() {
            let batches = self.read_batches(at.get()).unwrap();
            at = batches.last().unwrap().header().next_offset();
            all.extend(batches);
        }
        all
    }

    fn offsets(&self) -> Vec<i64> {
        self.all().iter().map(|batch| batch.header().base_offset.get()).collect()
    }

    fn path(&self, base: i64, extension: &str) -> std::path::PathBuf {
        Path::new(DIR).join(format!("{base:020}.{extension}"))
    }

    fn segments(&self) -> Vec<i64> {
        let files = self.hardware.files();
        let logs = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap()).collect()
    }

    /// As if every append were long ago.
    fn drop_cache(&mut self) {
        self.log.age_cache();
        self.log.age_cache();
    }

    fn heal_all(&mut self, source: &[Batch]) {
        while let Some(damage) = self.log.damage() {
            let job = self.log.begin_heal(damage).unwrap();
            let wanted = job.range();
            let inside =
                |batch: &&Batch| batch.header().base_offset < wanted.end && batch.header().next_offset() > wanted.start;
            let batches = source.iter().filter(inside).cloned().collect();
            match block_on(job.run(batches)) {
                Ok(healed) => assert!(self.log.finish_heal(healed)),
                Err(HealError::BeginsEarlier { range, at }) => {
                    self.log.abandon_heal();
                    assert!(at < range.start, "{at} {range}");
                    self.log.note_damage(DamagedRange { start: at, end: range.start });
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
