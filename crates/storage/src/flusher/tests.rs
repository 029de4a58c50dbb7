use std::path::Path;
use std::sync::{Mutex, PoisonError};

use highwater_record::{BatchBuilder, Compression, split};
use highwater_types::{LeaderEpoch, Offset, PartitionId, TimestampMs, TimestampType, TopicId, TopicPartition};
use tokio::sync::watch;

use super::*;
use crate::disk::sim::{SimDisk, SimLatency};
use crate::{Log, LogConfig, OpenLog};

struct Owner {
    log: Mutex<Log>,
    durable: watch::Sender<Offset>,
    syncs: watch::Sender<usize>,
    failed: watch::Sender<bool>,
}

impl Owner {
    fn new(hardware: &SimDisk, index: u32, config: &LogConfig) -> Arc<Self> {
        let partition = TopicPartition::new(TopicId::from_u128(1), PartitionId::new(index));
        let path = format!("/data/{partition}");
        let now = TimestampMs::new(0);
        let opened = Log::open(hardware.mount(), Path::new(&path), partition, config.clone(), OpenLog::default(), now);
        let log = Mutex::new(opened.unwrap().0);
        let (durable, syncs, failed) = Default::default();
        Arc::new(Self { log, durable, syncs, failed })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Log) -> T) -> T {
        work(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn append(&self) -> Offset {
        let mut builder = BatchBuilder::new(Compression::None, None);
        builder.append(TimestampMs::new(1), None, Some(b"value"), &[]).unwrap();
        let batches = split(builder.build().unwrap()).unwrap();
        let (epoch, now) = (LeaderEpoch::FIRST, TimestampMs::new(0));
        self.with(|log| log.append_leader(&batches, epoch, TimestampType::CreateTime, now)).unwrap().end_offset
    }
}

impl Flushable for Owner {
    fn begin_sync(&self) -> Option<SyncJob> {
        self.with(Log::begin_sync)
    }

    fn finish_sync(&self, job: SyncJob, result: io::Result<()>) {
        match result {
            Ok(()) => drop(self.durable.send_replace(self.with(|log| log.finish_sync(job)))),
            Err(error) => {
                self.with(|log| log.fail_sync(job, &error));
                self.failed.send_replace(true);
            }
        }
        self.syncs.send_modify(|syncs| *syncs += 1);
    }
}

fn hardware() -> SimDisk {
    let hardware = SimDisk::new(3);
    hardware.mount().create_dir_all(Path::new("/data")).unwrap();
    hardware.set_latency(SimLatency::ssd());
    hardware
}

#[tokio::test(start_paused = true)]
async fn many_appends_share_few_syncs_and_all_become_durable() {
    let owner = Owner::new(&hardware(), 0, &LogConfig::default());
    let flusher = Flusher::spawn(4);
    let handle = flusher.handle(&owner);
    for _ in 0..20 {
        for _ in 0..10 {
            owner.append();
            handle.request();
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    owner.durable.subscribe().wait_for(|durable| *durable == Offset::new(200)).await.unwrap();
    let syncs = *owner.syncs.borrow();
    assert!((3..=22).contains(&syncs), "{syncs} syncs for 200 appends in 20 ms");
    flusher.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn logs_sync_side_by_side_up_to_the_bound() {
    let time_of = async |parallel_max| {
        let hardware = hardware();
        let owners: Vec<_> = (0..8).map(|index| Owner::new(&hardware, index, &LogConfig::default())).collect();
        let flusher = Flusher::spawn(parallel_max);
        let began = tokio::time::Instant::now();
        for owner in &owners {
            owner.append();
            flusher.request(owner.clone());
        }
        for owner in &owners {
            owner.durable.subscribe().wait_for(|durable| *durable == Offset::new(1)).await.unwrap();
        }
        flusher.shutdown().await;
        began.elapsed()
    };
    let (alone, together) = (time_of(1).await, time_of(8).await);
    assert!(alone > together * 3, "one at a time {alone:?}, side by side {together:?}");
}

#[tokio::test(start_paused = true)]
async fn t44_a_failed_sync_is_told_and_not_tried_again() {
    let hardware = hardware();
    let config = LogConfig::default();
    let owner = Owner::new(&hardware, 0, &config);
    let flusher = Flusher::spawn(4);
    let handle = flusher.handle(&owner);
    hardware.fail_syncs(Some(".log"));
    owner.append();
    handle.request();
    owner.failed.subscribe().wait_for(|failed| *failed).await.unwrap();
    hardware.fail_syncs(None);
    for _ in 0..5 {
        handle.request();
        tokio::task::yield_now().await;
    }
    flusher.shutdown().await;
    assert_eq!((*owner.syncs.borrow(), *owner.durable.borrow()), (1, Offset::ZERO));
    assert!(config.status.offline_reason().is_some_and(|why| why.contains("syncing")));
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_what_was_asked_for() {
    let owner = Owner::new(&hardware(), 0, &LogConfig::default());
    let flusher = Flusher::spawn(1);
    owner.append();
    flusher.handle(&owner).request();
    flusher.shutdown().await;
    assert_eq!(*owner.durable.borrow(), Offset::new(1));
    owner.with(|log| log.flush_and_close(Offset::new(1))).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_gone_holds_nothing_up() {
    let hardware = hardware();
    let (gone, owner) =
        (Owner::new(&hardware, 0, &LogConfig::default()), Owner::new(&hardware, 1, &LogConfig::default()));
    let flusher = Flusher::spawn(1);
    let handle = flusher.handle(&gone);
    gone.append();
    drop(gone);
    handle.request();
    owner.append();
    flusher.handle(&owner).request();
    owner.durable.subscribe().wait_for(|durable| *durable == Offset::new(1)).await.unwrap();
    flusher.shutdown().await;
}
