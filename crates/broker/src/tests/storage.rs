//! Restarts, full and failing disks, damage.

use std::path::PathBuf;
use std::time::Duration;

use highwater_metadata::{ClusterImage, Record};
use highwater_protocol::v1::Acks;
use highwater_storage::sim::{Crash, SimDisk, SimLatency};
use highwater_types::{BrokerEpoch, ErrorCode, TopicPartition};

use super::harness::*;

/// Starts again on the same disk, with the same topics.
async fn restart(disk: SimDisk, image: ClusterImage) -> TestBroker {
    TestBroker::start_with_image(disk, image, |_| {}).await
}

#[tokio::test]
async fn acknowledged_records_survive_kill_and_power_loss() {
    for crash in [Crash::Process, Crash::Power, Crash::PowerLosingAll] {
        let mut test = TestBroker::start().await;
        let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
        for value in ["a", "b", "c"] {
            assert_eq!(test.produce_to(tp, Acks::All, batch(&[value])).await.error, None);
        }
        let image = test.image.clone();
        let disk = test.disk.clone();
        disk.crash(crash);
        drop(test);
        let test = restart(disk, image).await;
        assert_eq!(test.last_run.clean_shutdown, None);
        eventually(|| test.high_watermark(tp) == 3).await;
        assert_eq!(test.read(tp, 0).await.len(), 3, "{crash:?}");
    }
}

#[tokio::test]
async fn t17_a_stop_in_order_leaves_its_marker_with_the_broker_epoch_and_a_kill_leaves_none() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[("durability", "replicated")]).await, 0);
    test.produce_to(tp, Acks::All, batch(&["a"])).await;
    let image = test.image.clone();
    test.core.partitions.bind_cluster("test").unwrap();
    let disk = test.stop_in_order(42).await;
    disk.crash(Crash::PowerLosingAll);

    let test = restart(disk, image.clone()).await;
    assert_eq!(test.last_run.clean_shutdown, Some(BrokerEpoch::new(42)));
    assert_eq!(test.last_run.cluster_id.as_deref(), Some("test"));
    assert_eq!(test.read(tp, 0).await.len(), 1);
    let disk = test.kill().await;
    let test = restart(disk, image).await;
    assert_eq!(test.last_run.clean_shutdown, None);
}

#[tokio::test]
async fn t46_a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    test.produce_to(tp, Acks::All, batch(&["a"])).await;
    test.disk.set_capacity(test.disk.used_bytes());
    for dir in test.core.partitions.data_dirs() {
        dir.refresh_space().unwrap();
    }
    let result = test.produce_to(tp, Acks::All, batch(&["b"])).await;
    assert_eq!(failed(&result.error), ErrorCode::DiskFull);
    assert!(!result.error.unwrap().outcome_unknown);
    assert_eq!(test.read(tp, 0).await.len(), 1);
    test.disk.set_capacity(u64::MAX);
    eventually(|| test.core.partitions.data_dirs().all(|dir| !dir.status().is_full())).await;
    assert_eq!(test.produce_to(tp, Acks::All, batch(&["c"])).await.base_offset, 1);
}

#[tokio::test]
async fn t44_a_failed_sync_acknowledges_nothing_and_takes_the_data_dir_offline() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    test.produce_to(tp, Acks::All, batch(&["a"])).await;
    test.disk.fail_syncs(Some("/data"));
    let mut asked = request(1, Acks::All, &[(tp, batch(&["b"]))]);
    asked.timeout_ms = 300;
    let error = test.produce(asked).await.partitions[0].error.clone().unwrap();
    assert!(error.outcome_unknown, "{error:?}");
    test.disk.fail_syncs(None);
    let result = test.produce_to(tp, Acks::All, batch(&["c"])).await;
    assert_eq!(failed(&result.error), ErrorCode::StorageOffline);
    assert_eq!(test.core.partitions.unusable(), [tp].into());
    assert_eq!(test.high_watermark(tp), 1);
    // It was the only data dir.
    soon(test.core.fatal()).await;
}

#[tokio::test]
async fn a_failed_disk_takes_only_its_own_partitions_along() {
    let disk = SimDisk::new(3);
    let mut test = TestBroker::start_with(disk, |config| {
        config.data_dirs = vec![PathBuf::from("/one"), PathBuf::from("/two")];
    })
    .await;
    let topic = test.topic(2, &[ME], &[]).await;
    let dir = |tp| test.partition(tp).dir().path().to_owned();
    let (a, b) = (partition_of(topic, 0), partition_of(topic, 1));
    assert_ne!(dir(a), dir(b), "spread over the data dirs");
    let (failing, healthy) = if dir(a).ends_with("one") { (a, b) } else { (b, a) };
    test.disk.fail_syncs(Some("/one"));
    let mut asked = request(1, Acks::All, &[(failing, batch(&["x"]))]);
    asked.timeout_ms = 300;
    assert!(test.produce(asked).await.partitions[0].error.is_some());
    assert_eq!(test.produce_to(healthy, Acks::All, batch(&["y"])).await.error, None);
    assert_eq!(test.core.partitions.unusable(), [failing].into());
}

#[tokio::test]
async fn damage_is_told_and_reported_and_never_served() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    for _ in 0..20 {
        test.produce_to(tp, Acks::All, batch(&[&"x".repeat(500)])).await;
    }
    let image = test.image.clone();
    test.core.partitions.bind_cluster("test").unwrap();
    let disk = test.stop_in_order(1).await;
    let log = disk.files().into_iter().find(|path| path.extension().is_some_and(|ext| ext == "log")).unwrap();
    disk.flip_bit(&log, 300, 2).unwrap();
    let test = restart(disk, image).await;
    let response = test.fetch(tp, 0).await;
    assert_eq!(failed(&response.partitions[0].error), ErrorCode::DamagedData);
    assert_eq!(test.core.partitions.unusable(), [tp].into());
    assert_eq!(test.read(tp, 1).await.len(), 19, "the rest is served");
}

#[tokio::test]
async fn a_replica_whose_folder_is_gone_does_not_pass_for_a_copy() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    test.produce_to(tp, Acks::Leader, batch(&["a"])).await;
    let image = eligible_behind_another(&test, tp);
    let disk = test.kill().await;
    disk.mount().remove_dir_all(&PathBuf::from(format!("/data/{tp}"))).unwrap();
    let mut test = restart(disk, image).await;
    assert_eq!(test.core.partitions.lost(), [tp].into());
    test.change(tp, |state| state.storage_lost = vec![broker(ME)]).await;
    assert!(test.core.partitions.lost().is_empty(), "the controller knows");
}

/// The image once the other one leads, and this broker may.
fn eligible_behind_another(test: &TestBroker, tp: TopicPartition) -> ClusterImage {
    let mut image = test.image.clone();
    let mut state = image.partition(tp).unwrap().clone();
    (state.leader, state.isr, state.elr) = (Some(broker(2)), vec![broker(2)], vec![broker(ME)]);
    (state.leader_epoch, state.partition_epoch) = (state.leader_epoch.next(), state.partition_epoch.next());
    image.replay(&Record::PartitionChanged { partition: tp, state }).unwrap();
    image
}

#[tokio::test]
async fn t43_a_log_that_recovery_cut_among_sound_batches_does_not_pass_for_a_full_copy() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    for value in ["a", "b", "c"] {
        assert_eq!(test.produce_to(tp, Acks::Leader, batch(&[value])).await.error, None);
    }
    let image = eligible_behind_another(&test, tp);
    let disk = test.kill().await;
    let log = disk.files().into_iter().find(|path| path.extension().is_some_and(|ext| ext == "log")).unwrap();
    disk.flip_bit(&log, 65, 2).unwrap();
    let test = restart(disk, image.clone()).await;
    assert_eq!((test.core.partitions.doubtful(), test.log_end(tp)), ([tp].into(), 0));
    // It says so until it is heard, over restarts.
    let mut test = restart(test.kill().await, image).await;
    assert_eq!(test.core.partitions.doubtful(), [tp].into());
    test.change(tp, |state| (state.elr, state.doubtful) = (vec![], vec![broker(ME)])).await;
    assert!(test.core.partitions.doubtful().is_empty(), "the controller knows");
}

#[tokio::test]
async fn t43_a_folder_that_the_metadata_does_not_know_is_left_alone() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    test.produce_to(tp, Acks::All, batch(&["a"])).await;
    let image = test.image.clone();
    let disk = test.kill().await;
    let test = TestBroker::start_with(disk, |_| {}).await;
    assert!(test.core.partitions.find(tp).is_err());
    let disk = test.kill().await;
    let test = restart(disk, image).await;
    assert_eq!(test.read(tp, 0).await, [(0, "a".to_owned())]);
}

#[tokio::test]
async fn t46_a_partition_that_came_while_the_disk_was_full_is_opened_when_there_is_space() {
    let disk = SimDisk::new(7);
    let mut test = TestBroker::start_with(disk.clone(), |_| {}).await;
    disk.set_capacity(disk.used_bytes());
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let refused = test.produce_to(tp, Acks::All, batch(&["a"])).await;
    assert_eq!(failed(&refused.error), ErrorCode::StorageOffline);
    assert_eq!(test.core.partitions.unusable(), [tp].into());
    // Still no space: it stays so.
    test.core.partitions.reopen().await;
    assert_eq!(test.core.partitions.unusable(), [tp].into());
    disk.set_capacity(u64::MAX);
    eventually(|| test.core.partitions.may_reopen()).await;
    test.core.partitions.reopen().await;
    assert!(test.core.partitions.unusable().is_empty() && !test.core.partitions.may_reopen());
    assert_eq!(test.produce_to(tp, Acks::All, batch(&["a"])).await.error, None);
    assert_eq!(test.read(tp, 0).await, [(0, "a".to_owned())]);
}

/// Else one folder of a topic that was deleted meanwhile took the whole disk offline, again at each start.
#[tokio::test]
async fn t43_what_is_left_alone_in_the_middle_of_a_sync_takes_nothing_offline() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    test.produce_to(tp, Acks::All, batch(&["a"])).await;
    let disk = test.kill().await;
    let slow = Duration::from_millis(100);
    disk.set_latency(SimLatency { sync: (slow, slow), ..SimLatency::default() });
    let mut test = TestBroker::start_with(disk, |_| {}).await;
    assert!(test.core.partitions.find(tp).is_err());
    let other = partition_of(test.topic(1, &[ME], &[]).await, 0);
    for value in ["b", "c", "d"] {
        assert_eq!(test.produce_to(other, Acks::All, batch(&[value])).await.error, None);
    }
    assert!(test.core.partitions.unusable().is_empty());
}

#[tokio::test]
async fn retention_by_size_lets_go_of_the_oldest_and_readers_are_told() {
    let disk = SimDisk::new(5);
    let mut test = TestBroker::start_with(disk, |config| config.retention_interval_ms = 20).await;
    let configs = [("segment.bytes", "4096"), ("retention.bytes", "8192"), ("retention.ms", "-1")];
    let tp = partition_of(test.topic(1, &[ME], &configs).await, 0);
    for _ in 0..60 {
        test.produce_to(tp, Acks::All, batch(&[&"x".repeat(500)])).await;
    }
    eventually(|| test.partition(tp).describe().unwrap().size_bytes < 3 * 4096).await;
    let start = test.partition(tp).describe().unwrap().log_start.get();
    assert!(start > 0);
    assert_eq!(failed(&test.fetch(tp, 0).await.partitions[0].error), ErrorCode::OffsetOutOfRange);
    assert_eq!(test.read(tp, start).await[0].0, start);
}
