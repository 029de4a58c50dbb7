//! A leader comes back with records that nobody else has: they go, and everybody agrees again.

use highwater_client::{Acks, PartitionMetadata, ProducerConfig};
use highwater_testkit::Event;
use highwater_testkit::oracle::Expectations;
use highwater_testkit::workloads::appends::{Writers, WritersConfig};

use crate::common::{PARTITIONS, Scene, TOPIC, broker, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_records_that_only_a_dead_leader_had_are_truncated_when_it_comes_back() {
    let patient = |config: highwater_testkit::LocalClusterConfig| {
        // The followers stand still for a moment, and must stay in the ISR meanwhile.
        config.setting("broker.replica_lag_time_max_ms", 60_000).setting("controller.session_timeout_ms", 60_000)
    };
    let mut scene = Scene::with(patient, |topic| topic).await;
    let writers = scene.write();
    scene.acknowledged(300).await;
    writers.stop().await;
    scene.all_in_sync().await;

    let old = scene.leader(0);
    let followers: Vec<_> = scene.cluster.broker_ids().into_iter().filter(|id| *id != old).collect();
    for id in &followers {
        scene.cluster.pause(broker(*id)).expect("it runs");
    }
    // acks=leader: acknowledged, by a leader whose followers are still. A history of its own: this may be lost.
    let lone = highwater_testkit::History::new();
    let producer = ProducerConfig { acks: Acks::Leader, ..ProducerConfig::default() };
    let config = WritersConfig { first_writer: 91, writers: 1, producer, ..WritersConfig::new(TOPIC, PARTITIONS) };
    let lone_writers = Writers::start(&scene.client, &lone, &config);
    until("records that only the leader has", || lone.acknowledged() >= 20).await;
    scene.kill(broker(old));
    for id in &followers {
        scene.cluster.resume(broker(*id)).expect("it is there");
    }
    let elsewhere = |it: &PartitionMetadata| it.leader.is_some_and(|leader| leader != old);
    scene.partitions_when("new leaders", |partitions| partitions.iter().all(elsewhere)).await;
    lone_writers.stop().await;

    let writers = scene.write_as(11);
    scene.acknowledged(300).await;
    scene.start(broker(old));
    scene.all_in_sync().await;
    scene.acknowledged(100).await;
    writers.stop().await;

    // Read from the one that came back: it must have what the others have.
    let admin = scene.client.admin();
    let moved = admin.elect_preferred_leaders(&[TOPIC]).await;
    moved.unwrap_or_else(|error| panic!("{error}"));
    scene.all_in_sync().await;
    for event in lone.events() {
        // What the lone writers wrote may be there or not; the checker must know it as sent.
        let id = if let Event::Sent { id, .. } = event.event { Some(id) } else { None };
        if id.is_some() || matches!(event.event, Event::Writer { .. }) {
            scene.history.record(event.event);
        }
        if let Some(id) = id {
            scene.history.record(Event::Unknown { id, why: "acks=leader".to_owned() });
        }
    }
    scene.check(&Expectations::default()).await;
}
