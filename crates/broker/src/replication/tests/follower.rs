//! From leader to follower and back, through failovers, restarts and faults.

use std::sync::Arc;
use std::time::Duration;

use highwater_storage::sim::{SimDisk, SimLatency};
use highwater_types::{BrokerId, Offset};

use super::cluster::*;
use crate::produce::Acks;

const REPLICATED: (&str, &str) = ("durability", "replicated");

#[tokio::test]
async fn records_reach_every_replica_and_are_committed_in_every_partition() {
    for durability in ["sync", "replicated"] {
        let mut cluster = Cluster::start(3).await;
        let topic = cluster.topic(12, &[1, 2, 3], &[("durability", durability)]).await;
        let appends = (0..12).flat_map(|p| (0..20).map(move |n| (p, n)));
        let mut waiting: Vec<_> =
            appends.map(|(p, n)| cluster.append(1, tp(topic, p), Acks::All, batch(&["a", &n.to_string()]))).collect();
        for answer in &mut waiting {
            let answer = soon(answer.recv()).await.unwrap();
            assert!(answer.results[0].1.is_ok(), "{answer:?}");
        }
        for p in 0..12 {
            cluster.converged(tp(topic, p)).await;
            assert_eq!(cluster.log_end(3, tp(topic, p)), 40);
        }
    }
}

#[tokio::test]
async fn t7_nothing_is_committed_under_sync_before_it_is_on_every_in_sync_disk() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic(1, &[1, 2, 3], &[]).await;
    let tp = tp(topic, 0);
    let slow = Duration::from_millis(30);
    cluster.nodes[&2].disk.set_latency(SimLatency { sync: (slow, 2 * slow), ..SimLatency::default() });
    let mut waiting: Vec<_> = (0..30).map(|_| cluster.append(1, tp, Acks::All, batch(&["x"]))).collect();
    let mut was_ahead = false;
    eventually(|| {
        // In this order: what is on disk only grows.
        let committed = cluster.high_watermark(1, tp);
        let on_disk = cluster.durable(2, tp);
        assert!(committed <= on_disk, "{committed} are committed, {on_disk} on broker 2's disk");
        was_ahead |= cluster.log_end(2, tp) > on_disk;
        committed == 30
    })
    .await;
    assert!(was_ahead, "the follower appends before it has synced");
    for answer in &mut waiting {
        assert!(soon(answer.recv()).await.unwrap().results[0].1.is_ok());
    }
}

#[tokio::test]
async fn t27_a_high_watermark_reaches_followers_without_new_records() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic(1, &[1, 2, 3], &[]).await;
    cluster.commit(1, tp(topic, 0), batch(&["a", "b"])).await;
    eventually(|| [2, 3].iter().all(|id| cluster.high_watermark(*id, tp(topic, 0)) == 2)).await;
}

#[tokio::test]
async fn t1_a_deposed_leader_cuts_what_was_never_committed_and_takes_the_new_leader_s_records() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic(1, &[1, 2], &[("min.insync.replicas", "1")]).await;
    let tp = tp(topic, 0);
    cluster.commit(1, tp, batch(&["both"])).await;
    cluster.converged(tp).await;
    // Broker 2 is elected, and 1 does not hear of it: it goes on, and commits nothing.
    cluster.blind(1);
    cluster
        .change(tp, |state| {
            state.leader = Some(BrokerId::new(2));
            state.isr = vec![BrokerId::new(2)];
        })
        .await;
    let mut lost = cluster.append(1, tp, Acks::All, batch(&["1 only", "1 only"]));
    cluster.commit(2, tp, batch(&["2", "2", "2"])).await;
    assert_eq!(cluster.high_watermark(1, tp), 1);
    cluster.see(1).await;
    let answer = soon(lost.recv()).await.unwrap();
    assert!(answer.results[0].1.is_err(), "its outcome is not known: {answer:?}");
    cluster.converged(tp).await;
    assert_eq!(cluster.log_end(1, tp), 4);
    eventually(|| cluster.isr(tp).len() == 2).await;
}

#[tokio::test]
async fn t2_many_failovers_end_with_one_log() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic(1, &[1, 2, 3], &[REPLICATED, ("min.insync.replicas", "1")]).await;
    let tp = tp(topic, 0);
    cluster.commit(1, tp, batch(&["start"])).await;
    cluster.converged(tp).await;
    // Each reign, the others see nothing of it until it is over.
    for (reign, leader) in [2, 3, 1, 3, 2, 1, 2].into_iter().enumerate() {
        (1..=3).for_each(|id| cluster.blind(id));
        cluster
            .change(tp, |state| {
                state.leader = Some(BrokerId::new(leader));
                state.isr = (1..=3).map(BrokerId::new).collect();
            })
            .await;
        cluster.see(leader).await;
        let reign = reign.to_string();
        let _ = cluster.append(leader, tp, Acks::None, batch(&[&reign, "x"][..1 + reign.len() % 2]));
    }
    for id in 1..=3 {
        cluster.see(id).await;
    }
    cluster.converged(tp).await;
}

#[tokio::test]
async fn t3_a_leader_that_wrote_nothing_takes_older_records_from_the_next_one() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic(1, &[1, 2], &[REPLICATED, ("min.insync.replicas", "1")]).await;
    let tp = tp(topic, 0);
    cluster.commit(1, tp, batch(&["a"])).await;
    cluster.converged(tp).await;
    // Broker 2 sees itself elected while 1 appends more in the old epoch; then 1 leads again.
    cluster.blind(1);
    cluster.change(tp, |state| state.leader = Some(BrokerId::new(2))).await;
    let _ = cluster.append(1, tp, Acks::None, batch(&["b", "c"]));
    cluster.change(tp, |state| state.leader = Some(BrokerId::new(1))).await;
    cluster.see(1).await;
    cluster.converged(tp).await;
    assert_eq!(cluster.log_end(2, tp), 3);
}

#[tokio::test]
async fn t5_a_follower_behind_the_leader_s_log_start_starts_anew_there() {
    let mut cluster = Cluster::start(2).await;
    let topic =
        cluster.topic_with_isr(1, &[1, 2], &[1], &[("min.insync.replicas", "1"), ("segment.bytes", "1024")]).await;
    let tp = tp(topic, 0);
    cluster.converged(tp).await;
    cluster.blind(2);
    let disk = cluster.kill(2).await;
    cluster.change(tp, |state| state.isr = vec![BrokerId::new(1)]).await;
    for n in 0..20 {
        cluster.commit(1, tp, large(n, 500)).await;
    }
    let partition = cluster.partition(1, tp);
    partition.delete_records(Some(Offset::new(15))).await.unwrap();
    cluster.start_node(2, disk, |_| {}).await;
    cluster.converged(tp).await;
    assert_eq!((cluster.log_start(2, tp), cluster.log_end(2, tp)), (15, 20));
    eventually(|| cluster.isr(tp).len() == 2).await;
    // T5 again: deleting more moves the follower's start along.
    partition.delete_records(Some(Offset::new(18))).await.unwrap();
    eventually(|| cluster.log_start(2, tp) == 18).await;
}

/// An open fetch says how the log ends, and an empty log ends otherwise.
#[tokio::test]
async fn a_log_all_of_whose_records_have_gone_is_followed_on() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic(1, &[1, 2], &[("min.insync.replicas", "2")]).await;
    let tp = tp(topic, 0);
    for n in 1..=3 {
        cluster.commit(1, tp, batch(&["a"])).await;
        cluster.partition(1, tp).delete_records(None).await.unwrap();
        assert_eq!((cluster.log_start(2, tp), cluster.log_end(2, tp)), (n, n));
    }
    cluster.commit(1, tp, batch(&["b"])).await;
    cluster.converged(tp).await;
}

#[tokio::test]
async fn cold_records_of_several_partitions_are_read_from_files() {
    let mut cluster = Cluster::start(0).await;
    cluster.start_node(1, SimDisk::new(1), |config| config.cache_bytes = 64 << 10).await;
    cluster.start_node(2, SimDisk::new(2), |config| config.cache_bytes = 64 << 10).await;
    let topic = cluster.topic_with_isr(3, &[1, 2], &[1], &[REPLICATED, ("min.insync.replicas", "1")]).await;
    cluster.blind(2);
    let disk = cluster.kill(2).await;
    for p in 0..3 {
        cluster.change(tp(topic, p), |state| state.isr = vec![BrokerId::new(1)]).await;
        for n in 0..40 {
            cluster.commit(1, tp(topic, p), large(n * 3 + u64::from(p), 100_000)).await;
        }
    }
    cluster.start_node(2, disk, |config| config.cache_bytes = 64 << 10).await;
    for p in 0..3 {
        cluster.converged(tp(topic, p)).await;
        eventually(|| cluster.isr(tp(topic, p)).len() == 2).await;
    }
}

#[tokio::test]
async fn a_batch_larger_than_a_whole_answer_gets_through() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic(2, &[1, 2], &[("max.message.bytes", "30000000")]).await;
    for p in 0..2 {
        cluster.commit(1, tp(topic, p), large(1, 20 << 20)).await;
        cluster.commit(1, tp(topic, p), batch(&["after it"])).await;
    }
    cluster.converged(tp(topic, 1)).await;
}

#[tokio::test]
async fn a_leader_that_restarts_elsewhere_is_found_again() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic(3, &[1, 2], &[]).await;
    cluster.commit(1, tp(topic, 0), batch(&["a"])).await;
    let disk = cluster.kill(1).await;
    // Its port is another; its leader epoch, too.
    cluster.start_node(1, disk, |_| {}).await;
    for p in 0..3 {
        cluster.change(tp(topic, p), |state| state.leader_epoch = state.leader_epoch.next()).await;
        cluster.commit(1, tp(topic, p), batch(&["b"])).await;
        cluster.converged(tp(topic, p)).await;
    }
}

#[tokio::test]
async fn a_follower_that_hears_of_a_topic_before_its_leader_asks_until_the_leader_knows() {
    let mut cluster = Cluster::start(2).await;
    cluster.blind(1);
    let topic = cluster.topic(4, &[1, 2], &[]).await;
    eventually(|| cluster.nodes[&2].core.partitions.find(tp(topic, 3)).is_ok()).await;
    // More refusals than partitions: at least one was asked for again.
    let pauses = Arc::clone(&cluster.nodes[&2].pauses);
    eventually(|| pauses.count() > 4).await;
    cluster.see(1).await;
    for p in 0..4 {
        cluster.commit(1, tp(topic, p), batch(&["a"])).await;
    }
}

#[tokio::test]
async fn t46_a_follower_with_a_full_disk_goes_on_by_itself_when_there_is_space() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic(1, &[1, 2], &[]).await;
    let tp = tp(topic, 0);
    cluster.commit(1, tp, batch(&["a"])).await;
    let disk = cluster.nodes[&2].disk.clone();
    disk.set_capacity(disk.used_bytes());
    let status = cluster.partition(2, tp).dir().status().clone();
    eventually(|| status.is_full()).await;
    let mut waiting = cluster.append(1, tp, Acks::All, batch(&["b"]));
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.recv()).await;
    assert!(early.is_err() && cluster.log_end(2, tp) == 1);
    disk.set_capacity(u64::MAX);
    assert!(soon(waiting.recv()).await.unwrap().results[0].1.is_ok());
}

#[tokio::test]
async fn t21_a_topic_that_is_deleted_is_let_go_on_both_sides() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic(1, &[1, 2], &[]).await;
    let other = cluster.topic(1, &[1, 2], &[]).await;
    cluster.commit(1, tp(topic, 0), batch(&["a"])).await;
    cluster.decide(highwater_metadata::Record::TopicDeleted { topic }).await;
    assert!(cluster.nodes[&2].core.partitions.find(tp(topic, 0)).is_err());
    cluster.commit(1, tp(other, 0), batch(&["b"])).await;
    cluster.converged(tp(other, 0)).await;
}

#[tokio::test]
async fn t22_a_follower_that_is_gone_leaves_the_isr_and_joins_again_when_it_has_caught_up() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.kill(1).await;
    cluster.start_node(1, leader, |config| config.replica_lag_time_max_ms = 500).await;
    cluster.start_node(2, SimDisk::new(2), |_| {}).await;
    let topic = cluster.topic(1, &[1, 2], &[("min.insync.replicas", "1")]).await;
    let tp = tp(topic, 0);
    cluster.commit(1, tp, batch(&["a"])).await;
    let disk = cluster.kill(2).await;
    // Waits for the shrink.
    cluster.commit(1, tp, batch(&["b"])).await;
    assert_eq!(cluster.isr(tp), [1]);
    cluster.start_node(2, disk, |_| {}).await;
    eventually(|| cluster.isr(tp).len() == 2).await;
    cluster.converged(tp).await;
    assert!(cluster.reads(1, tp, 1));
}
