//! What a scrape of a whole broker says.

use highwater_metrics::exposition::Exposition;
use highwater_metrics::{Page, families};
use highwater_storage::sim::SimDisk;
use highwater_types::ErrorCode;

use super::harness::{batch, eventually, failed, partition_of, soon};
use super::whole::{Node, start};
use crate::cluster::tests::fake::Fake;

async fn scrape(node: &Node) -> Exposition {
    let mut page = Page::default();
    soon(node.handle.scrape().write(&mut page)).await;
    Exposition::parse(&page.to_string()).unwrap()
}

/// Until the one sample of `name` is `value`.
async fn until(node: &Node, name: &str, value: f64) -> Exposition {
    soon(async {
        loop {
            let scraped = scrape(node).await;
            if scraped.value(name, &[]) == Some(value) {
                return scraped;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_scrape_says_what_was_produced_consumed_refused_and_lost() {
    let fake = Fake::start(1).await;
    let (one, two) = (start(&fake, 1, SimDisk::new(1)).await, start(&fake, 2, SimDisk::new(2)).await);
    let tp = fake.create_topic("t", &[1, 2], &[("min.insync.replicas", "1")]);
    eventually(|| one.leads(tp)).await;
    assert_eq!(one.produce(tp, "a").await.error, None);
    assert_eq!(one.read(tp).await, ["a"]);
    let bytes = batch(&["a"]).len() as f64;

    let led = scrape(&one).await;
    let of_topic = |name: &str| led.value(&format!("highwater_topic_{name}"), &[("topic", "t")]);
    assert_eq!((of_topic("bytes_in_total"), of_topic("records_in_total")), (Some(bytes), Some(1.0)));
    assert_eq!((of_topic("bytes_out_total"), of_topic("records_out_total")), (Some(bytes), Some(1.0)));
    assert_eq!((of_topic("committed_offsets_total"), of_topic("log_bytes")), (Some(1.0), Some(bytes)));
    for (name, value) in [
        ("produce_request_seconds_count", 1.0),
        ("fetch_request_seconds_count", 1.0),
        ("partitions", 1.0),
        ("partitions_led", 1.0),
        ("partitions_under_replicated", 0.0),
        ("isr_shrinks_total", 0.0),
        ("leaderships_begun_total", 1.0),
        ("replica_bytes_out_total", bytes),
        ("broker_registered", 1.0),
        ("broker_fenced", 0.0),
    ] {
        assert_eq!(led.value(&format!("highwater_{name}"), &[]), Some(value), "{name}");
    }
    assert!(led.value("highwater_fsync_seconds_count", &[("dir", "/data")]).unwrap() >= 1.0);
    assert!(led.value("highwater_disk_free_bytes", &[("dir", "/data")]).unwrap() > 0.0);
    assert!(led.value("highwater_connections", &[]).unwrap() >= 1.0);
    let followed = until(&two, "highwater_replica_bytes_in_total", bytes).await;
    assert_eq!(followed.value("highwater_partitions_led", &[]), Some(0.0));
    assert_eq!(followed.value("highwater_topic_log_bytes", &[("topic", "t")]), Some(bytes));

    assert_eq!(failed(&one.produce(partition_of(tp.topic, 9), "a").await.error), ErrorCode::UnknownPartition);
    two.disk.fail_syncs(Some("/data"));
    assert_eq!(one.produce(tp, "b").await.error, None);
    let alone = until(&one, "highwater_partitions_under_replicated", 1.0).await;
    let unknown = [("api", "produce"), ("reason", "UnknownPartition")];
    assert_eq!(alone.value("highwater_requests_refused_total", &unknown), Some(1.0));
    assert_eq!(alone.value("highwater_isr_shrinks_total", &[]), Some(1.0));
    assert_eq!(alone.value("highwater_isr_expansions_total", &[]), Some(0.0));
    assert_eq!(alone.value("highwater_partitions_under_min_isr", &[]), Some(0.0));
    // What comes now is on the leader alone.
    assert_eq!(one.produce(tp, "c").await.error, None);
    until(&one, "highwater_follower_lag_records_max", 1.0).await;
    assert_eq!(scrape(&two).await.value("highwater_disk_offline", &[("dir", "/data")]), Some(1.0));
}

#[tokio::test]
async fn every_family_of_a_broker_is_there_from_the_start() {
    let fake = Fake::start(1).await;
    let node = start(&fake, 1, SimDisk::new(1)).await;
    let found = scrape(&node).await;
    // Those of the Kafka door come with the door.
    let not_a_brokers = [
        "highwater_controller_",
        "highwater_raft_",
        "highwater_cluster_",
        "highwater_build_",
        "highwater_kafka_",
        "process_",
    ];
    for family in families::ALL.iter().filter(|it| !not_a_brokers.iter().any(|other| it.name.starts_with(other))) {
        let is_there = found.families().any(|(name, kind)| (name, kind) == (family.name, family.kind.name()));
        assert!(is_there, "{}", family.name);
    }
}
