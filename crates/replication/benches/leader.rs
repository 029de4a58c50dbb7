//! What a leader's two hot events cost: an append, and a follower's fetch entry that acknowledges it.

#![allow(clippy::unwrap_used, reason = "a test or bench fails by panicking")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use highwater_record::EpochHistory;
use highwater_replication::{FollowerFetch, Leader, LeaderConfig, LogEnds, PartitionView};
use highwater_types::{BrokerEpoch, BrokerId, Durability, LeaderEpoch, Offset, PartitionEpoch};

const EPOCH: LeaderEpoch = LeaderEpoch::new(3);
const BATCH: i64 = 100;

struct Bench {
    leader: Leader,
    epochs: EpochHistory,
    replicas: u32,
    end: i64,
}

impl Bench {
    /// All in sync; broker 1 leads.
    fn new(replicas: u32) -> Self {
        let ids: Vec<BrokerId> = (1..=replicas).map(BrokerId::new).collect();
        let view = PartitionView {
            replicas: ids.clone(),
            isr: ids.clone(),
            elr: Vec::new(),
            leader: Some(ids[0]),
            leader_epoch: EPOCH,
            partition_epoch: PartitionEpoch::new(0),
            unusable: Vec::new(),
            recovering: false,
        };
        let alive: BTreeMap<_, _> = ids.iter().map(|id| (*id, BrokerEpoch::new(1))).collect();
        let config = LeaderConfig::new(2, Durability::Replicated, Duration::from_secs(10));
        let (leader, _) =
            Leader::new(ids[0], &view, config, LogEnds::default(), Offset::ZERO, &Arc::new(alive), Duration::ZERO);
        let epochs = EpochHistory::from_entries([(EPOCH, Offset::ZERO)]).unwrap();
        Self { leader, epochs, replicas, end: 0 }
    }

    fn append(&mut self) {
        self.end += BATCH;
        let effects = self.leader.on_append(Offset::new(self.end), Duration::from_millis(1));
        let _ = black_box(effects);
    }

    fn fetch(&mut self, follower: u32) {
        let end = Offset::new(self.end);
        let fetch = FollowerFetch {
            disk_full: false,
            follower: BrokerId::new(follower),
            broker_epoch: BrokerEpoch::new(1),
            leader_epoch: EPOCH,
            fetch_offset: end,
            durable_offset: end,
            last_fetched_epoch: if self.end == 0 { LeaderEpoch::NONE } else { EPOCH },
            log_start_offset: Offset::ZERO,
        };
        let _ = black_box(self.leader.on_fetch(black_box(&fetch), Duration::from_millis(1), &self.epochs).unwrap());
    }
}

fn leader(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("leader");
    for replicas in [3, 5] {
        group.bench_function(BenchmarkId::new("append", replicas), |bencher| {
            let mut bench = Bench::new(replicas);
            bencher.iter(|| bench.append());
        });
        group.bench_function(BenchmarkId::new("fetch_with_nothing_new", replicas), |bencher| {
            let mut bench = Bench::new(replicas);
            bench.append();
            bencher.iter(|| bench.fetch(2));
        });
        group.bench_function(BenchmarkId::new("append_and_commit", replicas), |bencher| {
            let mut bench = Bench::new(replicas);
            bencher.iter(|| {
                bench.append();
                (2..=bench.replicas).for_each(|follower| bench.fetch(follower));
            });
            assert_eq!(bench.leader.high_watermark(), Offset::new(bench.end));
        });
    }
    group.finish();
}

criterion_group!(benches, leader);
criterion_main!(benches);
