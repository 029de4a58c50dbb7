//! Compacted topics, each replica compacted for itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use highwater_record::{BatchBuilder, Compression, split};
use highwater_storage::sim::SimDisk;
use highwater_types::{BrokerId, ErrorCode, TimestampMs, TopicPartition};

use super::cluster::*;
use crate::config::BrokerConfig;
use crate::produce::Acks;

const CONFIGS: [(&str, &str); 5] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1024"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("delete.retention.ms", "0"),
    ("min.insync.replicas", "1"),
];

fn often(config: &mut BrokerConfig) {
    (config.compaction_interval_ms, config.checkpoint_interval_ms) = (10, 10);
}

fn keyed(key: &str, value: Option<&str>) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, None);
    builder.append(TimestampMs::new(1_000), Some(key.as_bytes()), value.map(str::as_bytes), &[]).unwrap();
    builder.build().unwrap()
}

/// What a table made of the log has, and how many records that took.
async fn table(cluster: &Cluster, id: u32, tp: TopicPartition) -> (BTreeMap<Bytes, Bytes>, usize) {
    let (mut table, mut count) = (BTreeMap::new(), 0);
    for batch in split(cluster.bytes(id, tp).await.into()).unwrap() {
        for record in batch.records(1 << 20).unwrap().map(Result::unwrap) {
            count += 1;
            match (record.key.unwrap(), record.value) {
                (key, Some(value)) => table.insert(key, value),
                (key, None) => table.remove(&key),
            };
        }
    }
    (table, count)
}

async fn compacted(cluster: &Cluster, ids: &[u32], tp: TopicPartition, records_max: usize) {
    let start = tokio::time::Instant::now();
    loop {
        let mut counts = Vec::new();
        for id in ids {
            counts.push(table(cluster, *id, tp).await.1);
        }
        if counts.iter().all(|count| *count <= records_max) {
            return;
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{counts:?} records are left");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_follower_that_was_away_while_its_peers_compacted_ends_with_the_same_table() {
    for loses_its_disk in [false, true] {
        let mut cluster = Cluster::start(0).await;
        for id in 1..=3 {
            cluster.start_node(id, SimDisk::new(u64::from(id)), often).await;
        }
        let topic = cluster.topic(1, &[1, 2, 3], &CONFIGS).await;
        let tp = tp(topic, 0);
        let mut expected = BTreeMap::new();
        for n in 0..90 {
            let (key, value) = (format!("k{}", n % 7), format!("first-{n}"));
            cluster.commit(1, tp, keyed(&key, Some(&value))).await;
            expected.insert(Bytes::from(key), Bytes::from(value));
        }
        compacted(&cluster, &[1, 2, 3], tp, 30).await;
        let disk = cluster.kill(3).await;
        cluster.change(tp, |state| state.isr = vec![BrokerId::new(1), BrokerId::new(2)]).await;
        for n in 0..200 {
            let (key, value) = (format!("k{}", n % 5), (n % 5 != 3).then(|| format!("second-{n}")));
            cluster.commit(1, tp, keyed(&key, value.as_deref())).await;
            match value {
                Some(value) => expected.insert(Bytes::from(key), Bytes::from(value)),
                None => expected.remove(&Bytes::from(key)),
            };
        }
        compacted(&cluster, &[1, 2], tp, 30).await;
        let disk = if loses_its_disk { SimDisk::new(33) } else { disk };
        cluster.start_node(3, disk, often).await;
        eventually(|| cluster.log_end(3, tp) == cluster.log_end(1, tp) && cluster.isr(tp).len() == 3).await;
        for n in 0..40 {
            cluster.commit(1, tp, keyed("k0", Some(&n.to_string()))).await;
            expected.insert(Bytes::from("k0"), Bytes::from(n.to_string()));
        }
        // As leader, too.
        cluster.change(tp, |state| state.leader = Some(BrokerId::new(3))).await;
        cluster.commit(3, tp, keyed("last", Some("x"))).await;
        expected.insert(Bytes::from("last"), Bytes::from("x"));
        eventually(|| [1, 2].iter().all(|id| cluster.log_end(*id, tp) == cluster.log_end(3, tp))).await;
        compacted(&cluster, &[1, 2, 3], tp, 40).await;
        for id in 1..=3 {
            assert_eq!(table(&cluster, id, tp).await.0, expected, "broker {id}");
            assert!(cluster.partition(id, tp).unusable_because().is_none());
        }
    }
}

#[tokio::test]
async fn records_without_a_key_are_refused_where_they_would_never_go() {
    let mut cluster = Cluster::start(1).await;
    let topic = cluster.topic(1, &[1], &CONFIGS).await;
    let answer = soon(cluster.append(1, tp(topic, 0), Acks::All, batch(&["no key"])).recv()).await.unwrap();
    let refused = answer.results[0].1.as_ref().unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidRecord);
    assert!(refused.to_string().contains("cleanup.policy"), "{refused}");
    assert_eq!(cluster.log_end(1, tp(topic, 0)), 0);
    cluster.commit(1, tp(topic, 0), keyed("a", None)).await;
}

/// As it was before compaction, too.
#[tokio::test]
async fn a_new_replica_of_a_log_that_starts_inside_a_batch_is_filled() {
    let mut cluster = Cluster::start(1).await;
    let topic = cluster.topic_with_isr(1, &[1, 2], &[1], &[("min.insync.replicas", "1")]).await;
    let tp = tp(topic, 0);
    cluster.commit(1, tp, batch(&["a", "b", "c"])).await;
    cluster.commit(1, tp, batch(&["d"])).await;
    cluster.partition(1, tp).delete_records(Some(highwater_types::Offset::new(1))).await.unwrap();
    cluster.start_node(2, SimDisk::new(2), |_| {}).await;
    eventually(|| cluster.log_end(2, tp) == 4 && cluster.isr(tp).len() == 2).await;
    assert_eq!(cluster.log_start(2, tp), 1);
}
