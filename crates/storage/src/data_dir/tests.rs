use std::path::Path;

use futures::executor::block_on;
use highwater_record::{BatchBuilder, Compression, split};
use highwater_types::{LeaderEpoch, Offset, PartitionId, TimestampType, TopicId};

use super::*;
use crate::AppendError;
use crate::disk::sim::{Crash, SimDisk};

const PATH: &str = "/var/lib/highwater";

fn open(hardware: &SimDisk) -> Result<(Arc<DataDir>, OpenedDataDir), DataDirError> {
    DataDir::open(hardware.mount(), Path::new(PATH), BrokerId::new(1), 1000)
}

fn partition(topic: u128, index: u32) -> TopicPartition {
    TopicPartition::new(TopicId::from_u128(topic), PartitionId::new(index))
}

fn log(dir: &Arc<DataDir>, partition: TopicPartition) -> (Log, RecoveryReport) {
    block_on(dir.open_log(partition, LogConfig::default(), TimestampMs::new(0))).unwrap()
}

fn append(log: &mut Log) -> Result<Offset, AppendError> {
    let mut builder = BatchBuilder::new(Compression::None, None);
    builder.append(TimestampMs::new(1), None, Some(&[7; 300]), &[]).unwrap();
    let batches = split(builder.build().unwrap()).unwrap();
    let now = TimestampMs::new(0);
    log.append_leader(&batches, LeaderEpoch::FIRST, TimestampType::CreateTime, now).map(|appended| appended.end_offset)
}

#[test]
fn the_marker_proves_one_clean_shutdown_only() {
    let hardware = SimDisk::new(1);
    let (dir, opened) = open(&hardware).unwrap();
    assert_eq!((opened.created, opened.was_clean), (true, None));
    let (mut log_a, _) = log(&dir, partition(1, 0));
    append(&mut log_a).unwrap();
    log_a.flush_and_close(Offset::new(1)).unwrap();
    dir.write_clean_marker(BrokerEpoch::new(9)).unwrap();
    hardware.crash(Crash::PowerLosingAll);

    let (dir, opened) = open(&hardware).unwrap();
    assert_eq!((opened.created, opened.was_clean), (false, Some(BrokerEpoch::new(9))));
    assert_eq!(opened.partitions, [partition(1, 0)]);
    let (log_a, report) = log(&dir, partition(1, 0));
    assert!(report.clean && log_a.end_offset() == Offset::new(1));
    hardware.crash(Crash::PowerLosingAll);
    assert_eq!(open(&hardware).unwrap().1.was_clean, None, "the marker is gone before anything else happens");
}

#[test]
fn one_process_at_a_time_and_one_broker_of_one_cluster() {
    let hardware = SimDisk::new(1);
    let (dir, _) = open(&hardware).unwrap();
    assert!(matches!(open(&hardware), Err(DataDirError::Locked { .. })));
    assert_eq!(dir.cluster_id(), None);
    dir.bind_cluster("c1").unwrap();
    dir.bind_cluster("c1").unwrap();
    assert!(matches!(dir.bind_cluster("c2"), Err(DataDirError::Foreign { .. })));
    hardware.crash(Crash::PowerLosingAll);
    let other = DataDir::open(hardware.mount(), Path::new(PATH), BrokerId::new(2), 0);
    let message = other.err().unwrap().to_string();
    assert!(message.contains("broker 1") && message.contains("broker 2"), "{message}");
    assert_eq!(open(&hardware).unwrap().0.cluster_id().as_deref(), Some("c1"));
}

#[test]
fn t21_a_deleted_partition_is_gone_whole_and_a_new_topic_starts_empty() {
    for seed in 0..40 {
        let hardware = SimDisk::new(seed);
        let (dir, _) = open(&hardware).unwrap();
        let (mut old, _) = log(&dir, partition(1, 0));
        append(&mut old).unwrap();
        old.flush_and_close(Offset::new(1)).unwrap();
        block_on(dir.delete_partition(partition(1, 0))).unwrap();
        assert!(!dir.has_partition(partition(1, 0)));
        block_on(dir.delete_partition(partition(1, 0))).unwrap();
        hardware.crash(Crash::Power);
        let (dir, opened) = open(&hardware).unwrap();
        assert_eq!(opened.partitions, []);
        assert!(log(&dir, partition(2, 0)).1.created);
        let files = hardware.files();
        assert!(files.iter().all(|path| !path.to_string_lossy().contains(".deleted")), "{files:?}");
    }
}

#[test]
fn t43_folders_that_it_does_not_know_are_left_alone() {
    let hardware = SimDisk::new(1);
    let (dir, _) = open(&hardware).unwrap();
    for name in ["my-notes", "xyz.deleted", "00000000000000000000000000000001-07"] {
        dir.disk().create_dir_all(&dir.path().join(name)).unwrap();
    }
    hardware.crash(Crash::Process);
    let (dir, opened) = open(&hardware).unwrap();
    assert_eq!(opened.partitions, []);
    assert_eq!(dir.disk().read_dir(dir.path()).unwrap().iter().filter(|entry| entry.is_dir).count(), 3);
}

#[test]
fn t46_appends_are_refused_below_the_reserve_and_taken_again_by_themselves() {
    let hardware = SimDisk::new(1);
    let (dir, _) = open(&hardware).unwrap();
    let (mut log_a, _) = log(&dir, partition(1, 0));
    hardware.set_capacity(hardware.used_bytes() + 2000);
    dir.refresh_space().unwrap();
    let mut appended = 0;
    while append(&mut log_a).is_ok() {
        appended += 1;
    }
    assert!((2..=4).contains(&appended), "{appended}: a burst stops before the reserve, without another look");
    assert!(dir.status().is_full());
    assert!(matches!(append(&mut log_a), Err(AppendError::DiskFull)));
    assert!(dir.status().offline_reason().is_none());
    hardware.set_capacity(u64::MAX);
    dir.refresh_space().unwrap();
    append(&mut log_a).unwrap();
}

#[test]
fn t44_a_failure_of_one_log_takes_all_of_the_dir_offline() {
    let hardware = SimDisk::new(1);
    let (dir, _) = open(&hardware).unwrap();
    let (mut log_a, _) = log(&dir, partition(1, 0));
    let (mut log_b, _) = log(&dir, partition(1, 1));
    let mut offline = dir.status().watch_offline();
    append(&mut log_b).unwrap();
    hardware.fail_writes(Some("-0/"));
    append(&mut log_a).unwrap_err();
    assert!(matches!(append(&mut log_b), Err(AppendError::Offline(_))));
    assert!(log_b.begin_sync().is_none());
    assert!(offline.has_changed().unwrap() && offline.borrow_and_update().is_some());
    assert!(dir.write_clean_marker(BrokerEpoch::FIRST).is_err());
}
