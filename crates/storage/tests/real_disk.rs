//! The same log on the operating system's files, in temporary folders.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_record::{Batch, BatchBuilder, Compression, split};
use highwater_storage::{
    DataDir, DataDirError, Disk, Flushable, Flusher, Log, LogConfig, OpenMode, ReadPlan, RealDisk, SyncJob, dump,
};
use highwater_types::{
    BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionId, TimestampMs, TimestampType, TopicId, TopicPartition,
};
use tokio::sync::watch;

const NOW: TimestampMs = TimestampMs::new(0);

fn partition(index: u32) -> TopicPartition {
    TopicPartition::new(TopicId::from_u128(5), PartitionId::new(index))
}

fn batch(bytes: usize) -> Vec<Batch> {
    let mut builder = BatchBuilder::new(Compression::None, None);
    builder.append(TimestampMs::new(1), Some(b"key"), Some(&vec![b'x'; bytes]), &[]).unwrap();
    split(builder.build().unwrap()).unwrap()
}

fn append(log: &mut Log, bytes: usize) -> Offset {
    log.append_leader(&batch(bytes), LeaderEpoch::FIRST, TimestampType::CreateTime, NOW).unwrap().end_offset
}

fn open_dir(path: &Path) -> (Arc<DataDir>, highwater_storage::OpenedDataDir) {
    DataDir::open(Arc::new(RealDisk::new()), path, BrokerId::new(1), 1 << 20).unwrap()
}

async fn read_all(log: &Log) -> Vec<Batch> {
    let (mut at, mut all) = (log.start_offset(), Vec::new());
    while at < log.end_offset() {
        let bytes = match log.read(at, Offset::MAX, 64 << 10, true).unwrap() {
            ReadPlan::Empty => panic!("nothing at {at}"),
            ReadPlan::Cached(pieces) => pieces.concat().into(),
            ReadPlan::File(read) => read.run().await.unwrap(),
        };
        let batches = split(bytes).unwrap();
        at = batches.last().unwrap().header().next_offset();
        all.extend(batches);
    }
    all
}

#[tokio::test]
async fn appends_rolls_syncs_restarts_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    let config = LogConfig { segment_bytes: 100_000, index_interval_bytes: 4096, ..LogConfig::default() };
    let (dir, opened) = open_dir(&path);
    assert!(opened.created);
    let (mut log, _) = dir.open_log(partition(0), config.clone(), NOW).await.unwrap();
    for index in 0..200 {
        append(&mut log, 100 + index * 37 % 5000);
    }
    let written = read_all(&log).await;
    let job = log.begin_sync().unwrap();
    job.run().await.unwrap();
    assert_eq!(log.finish_sync(job), Offset::new(200));
    log.flush_and_close(Offset::new(200)).unwrap();
    dir.write_clean_marker(BrokerEpoch::new(3)).unwrap();
    drop((log, dir));

    let (dir, opened) = open_dir(&path);
    assert_eq!(opened.was_clean, Some(BrokerEpoch::new(3)));
    let (mut log, report) = dir.open_log(partition(0), config.clone(), NOW).await.unwrap();
    assert!(report.clean && log.segment_count() > 3);
    assert_eq!(read_all(&log).await, written);
    append(&mut log, 50);
    drop((log, dir));

    // As after kill -9.
    let (dir, opened) = open_dir(&path);
    assert_eq!(opened.was_clean, None);
    let (mut log, report) = dir.open_log(partition(0), config, NOW).await.unwrap();
    assert!(!report.clean && report.damage.is_empty() && report.cut_bytes == 0, "{report:?}");
    assert_eq!(log.end_offset(), Offset::new(201));
    log.advance_start(Offset::new(150)).unwrap();
    let job = log.begin_sync().unwrap();
    job.run().await.unwrap();
    log.finish_sync(job);
    assert!(read_all(&log).await.len() < 80);
    drop(log);
    dir.delete_partition(partition(0)).await.unwrap();
    assert_eq!(std::fs::read_dir(&path).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 0);
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_damage_is_told_and_shown_by_the_dump() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, _) = open_dir(folder.path());
    let (mut log, _) = dir.open_log(partition(0), LogConfig::default(), NOW).await.unwrap();
    for _ in 0..10 {
        append(&mut log, 1000);
    }
    let path = log.dir().join("00000000000000000000.log");
    drop((log, dir));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let disk = RealDisk::new();
    let mut items = Vec::new();
    let collect = |item| {
        items.push(item);
        true
    };
    dump::segment(&disk, &path, collect).unwrap();
    assert_eq!(items.len(), 10);
    assert!(matches!(items[9], dump::DumpItem::Bad { fault: highwater_storage::Fault::Cut, .. }), "{:?}", items[9]);

    let (dir, _) = open_dir(folder.path());
    let (log, report) = dir.open_log(partition(0), LogConfig::default(), NOW).await.unwrap();
    assert_eq!((log.end_offset(), report.cut_bytes), (Offset::new(9), bytes.len() as u64 / 10 - 5));
    let folder_dump = dump::folder(&disk, log.dir()).unwrap();
    assert_eq!(folder_dump.segments, [path]);
    assert_eq!(folder_dump.partition, Some(partition(0).to_string()));
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open_dir(folder.path());
    let second = DataDir::open(Arc::new(RealDisk::new()), folder.path(), BrokerId::new(1), 0);
    assert!(matches!(second, Err(DataDirError::Locked { .. })));
}

#[test]
fn space_that_was_reserved_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let file = RealDisk::new().open(&path, OpenMode::Create).unwrap();
    file.write_at(0, &[std::io::IoSlice::new(b"abc"), std::io::IoSlice::new(b""), std::io::IoSlice::new(b"def")])
        .unwrap();
    file.allocate(6, 8 << 20).unwrap();
    assert_eq!(file.len().unwrap(), 6);
    file.truncate(6).unwrap();
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= 64 << 10);
    assert_eq!(file.read_at(0, 100).unwrap(), b"abcdef");
    assert_eq!(file.read_at(4, 1).unwrap(), b"e");
}

#[test]
fn more_buffers_than_one_call_takes_are_written_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = RealDisk::new().open(&folder.path().join("f"), OpenMode::Create).unwrap();
    let pieces: Vec<Vec<u8>> = (0..3000_u32).map(|index| index.to_be_bytes().to_vec()).collect();
    let slices: Vec<_> = pieces.iter().map(|piece| std::io::IoSlice::new(piece)).collect();
    file.write_at(10, &slices).unwrap();
    assert_eq!(file.read_at(10, 20_000).unwrap(), pieces.concat());
}

struct Owner {
    log: Mutex<Log>,
    durable: watch::Sender<Offset>,
}

impl Flushable for Owner {
    fn begin_sync(&self) -> Option<SyncJob> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).begin_sync()
    }
    fn finish_sync(&self, job: SyncJob, result: std::io::Result<()>) {
        result.unwrap();
        let durable = self.log.lock().unwrap_or_else(PoisonError::into_inner).finish_sync(job);
        self.durable.send_replace(durable);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_commit_on_several_logs_beside_appends_from_several_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, _) = open_dir(folder.path());
    let flusher = Flusher::spawn(8);
    let mut owners = Vec::new();
    for index in 0..4 {
        let config = LogConfig { segment_bytes: 200_000, ..LogConfig::default() };
        let (log, _) = dir.open_log(partition(index), config, NOW).await.unwrap();
        owners.push(Arc::new(Owner { log: Mutex::new(log), durable: watch::Sender::default() }));
    }
    let mut tasks = Vec::new();
    for task in 0..8 {
        let owner = owners[task % 4].clone();
        let handle = flusher.handle(&owner);
        tasks.push(tokio::spawn(async move {
            for _ in 0..100 {
                let end = append(&mut owner.log.lock().unwrap_or_else(PoisonError::into_inner), 1000);
                handle.request();
                owner.durable.subscribe().wait_for(|durable| *durable >= end).await.unwrap();
            }
        }));
    }
    for task in tasks {
        tokio::time::timeout(std::time::Duration::from_secs(60), task).await.unwrap().unwrap();
    }
    flusher.shutdown().await;
    for owner in owners {
        let mut log = owner.log.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!((log.end_offset(), log.durable_offset()), (Offset::new(200), Offset::new(200)));
        log.flush_and_close(Offset::new(200)).unwrap();
    }
}
