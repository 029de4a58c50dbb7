//! kill -9 in the middle of a load, of more than the cluster can lose; then everything comes back.

use std::path::Path;
use std::time::Duration;

use highwater_storage::RealDisk;
use highwater_storage::dump::{self, DumpItem};
use highwater_testkit::oracle::Expectations;

use crate::common::{PARTITIONS, Scene, TOPIC, broker, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_all_brokers_in_the_middle_of_a_load_loses_nothing_acknowledged() {
    let mut scene = Scene::new().await;
    for round in 0..3 {
        let writers = scene.write_as(1 + 10 * round);
        scene.acknowledged(300).await;
        let brokers = scene.cluster.broker_ids();
        for dead in &brokers {
            scene.kill(broker(*dead));
        }
        for dead in brokers {
            scene.start(broker(dead));
        }
        scene.cluster.wait_ready(Duration::from_secs(30)).await.unwrap_or_else(|error| panic!("{error}"));
        // The writers of before go on by themselves.
        scene.acknowledged(300).await;
        writers.stop().await;
        scene.all_in_sync().await;
    }
    scene.check(&Expectations::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_every_process_in_the_middle_of_a_load_loses_nothing_acknowledged() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(300).await;
    for node in scene.cluster.running() {
        scene.kill(node);
    }
    scene.cluster.start_all().expect("the binary starts");
    scene.cluster.wait_ready(Duration::from_secs(30)).await.unwrap_or_else(|error| panic!("{error}"));
    scene.acknowledged(300).await;
    writers.stop().await;
    scene.all_in_sync().await;
    scene.check(&Expectations::default()).await;
}

/// A minority's bit flip loses nothing (NATS #7549): it is found when it is read, at the latest, and fetched anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t43_a_bit_flipped_on_the_disk_of_one_replica_is_healed_and_never_served() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(1000).await;
    writers.stop().await;
    scene.all_in_sync().await;
    // The preferred leader: it can be made to lead, and so to serve what is on its disk.
    let damaged = scene.partition(0).replicas[0];
    scene.kill(broker(damaged));
    let topic = scene.client.metadata().topic(TOPIC).expect("the topic is there").id;
    let data = scene.cluster.node(broker(damaged)).expect("it is there").data_dir();
    for partition in 0..PARTITIONS {
        flip_a_bit(&data.join(format!("{topic}-{partition}")));
    }
    scene.start(broker(damaged));
    scene.all_in_sync().await;
    let moved = scene.client.admin().elect_preferred_leaders(&[TOPIC]).await;
    moved.unwrap_or_else(|error| panic!("{error}"));
    scene.partitions_when("the preferred leader", |partitions| partitions[0].leader == Some(damaged)).await;
    let report = scene.check(&Expectations::default()).await;
    assert!(report.read >= 1000, "{report}");
    let served = data.join(format!("{topic}-0"));
    until("a sound log on that disk", || is_sound(&served)).await;
}

fn is_sound(folder: &Path) -> bool {
    let mut sound = true;
    for segment in dump::folder(&RealDisk::new(), folder).expect("the folder is there").segments {
        let read = dump::segment(&RealDisk::new(), &segment, |item| {
            sound &= matches!(item, DumpItem::Batch { crc_ok: true, .. });
            sound
        });
        read.expect("the segment can be read");
    }
    sound
}

/// In a batch about the middle of the folder's first segment.
fn flip_a_bit(folder: &Path) {
    let segment = dump::folder(&RealDisk::new(), folder).expect("the folder is there").segments.remove(0);
    let mut batches = Vec::new();
    dump::segment(&RealDisk::new(), &segment, |item| {
        if let DumpItem::Batch { position, header, .. } = item {
            batches.push(position + header.total_len() as u64 - 1);
        }
        true
    })
    .expect("the segment can be read");
    let position = usize::try_from(batches[batches.len() / 2]).expect("it is a small file");
    let mut bytes = std::fs::read(&segment).expect("the segment can be read");
    bytes[position] ^= 0x10;
    std::fs::write(&segment, bytes).expect("the segment can be written");
    assert!(!is_sound(folder));
}
