//! What an append and a read of a log cost, on real files in a temporary folder: `cargo bench -p highwater-storage`.
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::block_on;
use highwater_record::{Batch, BatchBuilder, Compression, split};
use highwater_storage::{Log, LogConfig, OpenLog, ReadPlan, RealDisk};
use highwater_types::{LeaderEpoch, Offset, PartitionId, TimestampMs, TimestampType, TopicId, TopicPartition};

const NOW: TimestampMs = TimestampMs::new(0);

fn batch(records: usize, bytes: usize) -> Vec<Batch> {
    let mut builder = BatchBuilder::new(Compression::None, None);
    for _ in 0..records {
        builder.append(NOW, None, Some(&vec![b'x'; bytes]), &[]).unwrap();
    }
    split(builder.build().unwrap()).unwrap()
}

fn open(path: &Path) -> Log {
    let partition = TopicPartition::new(TopicId::from_u128(1), PartitionId::new(0));
    let disk = Arc::new(RealDisk::new());
    Log::open(disk, path, partition, LogConfig::default(), OpenLog::default(), NOW).unwrap().0
}

fn append(log: &mut Log, batches: &[Batch]) {
    black_box(log.append_leader(batches, LeaderEpoch::FIRST, TimestampType::CreateTime, NOW).unwrap());
}

/// Keeps the folder small.
fn forget(log: &mut Log) {
    if log.size_bytes() > 1 << 30 {
        log.restart_at(Offset::ZERO).unwrap();
    }
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for (records, bytes) in [(1, 1024), (16, 1024), (256, 1024), (1000, 100)] {
        let batches = batch(records, bytes);
        let size = batches[0].bytes().len();
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path());
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{records}x{bytes}"), |bencher| {
            bencher.iter(|| {
                append(&mut log, &batches);
                forget(&mut log);
            });
        });
        group.bench_function(format!("{records}x{bytes}, fdatasync"), |bencher| {
            bencher.iter(|| {
                append(&mut log, &batches);
                let job = log.begin_sync().unwrap();
                block_on(job.run()).unwrap();
                log.finish_sync(job);
                forget(&mut log);
            });
        });
    }
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read 1 MiB");
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    let batches = batch(16, 1024);
    while log.size_bytes() < 128 << 20 {
        append(&mut log, &batches);
    }
    let end = log.end_offset();
    let plan = |log: &Log, from| log.read(from, Offset::MAX, 1 << 20, true).unwrap();
    group.throughput(Throughput::Bytes(1 << 20));
    let recent = Offset::new(end.get() - 2000);
    group.bench_function("recent, from memory", |bencher| {
        bencher.iter(|| match plan(&log, recent) {
            ReadPlan::Cached(pieces) => black_box(pieces.len()),
            _ => panic!("not in memory"),
        });
    });
    let mut at = Offset::ZERO;
    group.bench_function("old, in order, CRC checked", |bencher| {
        bencher.iter_batched(
            || {
                at = if at.get() + 50_000 > end.get() { Offset::ZERO } else { at };
                let read = match plan(&log, at) {
                    ReadPlan::File(read) => read,
                    _ => panic!("not in a file"),
                };
                at = at.plus(1000 / 16 * 16);
                read
            },
            |read| black_box(block_on(read.run()).unwrap().len()),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    group.sample_size(10);
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    let batches = batch(64, 1024);
    while log.size_bytes() < 64 << 20 {
        append(&mut log, &batches);
    }
    drop(log);
    group.throughput(Throughput::Bytes(64 << 20));
    group.bench_function("unclean, 64 MiB to scan", |bencher| bencher.iter(|| black_box(open(folder.path()))));
    group.finish();
}

criterion_group!(benches, appends, reads, recovery);
criterion_main!(benches);
