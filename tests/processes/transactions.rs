//! Transactions on real brokers.

use highwater_client::NewTopic;
use highwater_testkit::Event;
use highwater_testkit::history::{Removal, Timed};
use highwater_testkit::oracle::Expectations;
use highwater_testkit::workloads::pipeline::{self, Pipeline};
use highwater_testkit::workloads::readers::{Reader, Tail, read_whole_as};
use highwater_testkit::workloads::transactors::Transactor;

use crate::common::{PARTITIONS, SOON, Scene, TOPIC, broker, until};

const OUT: &str = "totals";
const GROUP: &str = "totals";
/// Readers of what is committed, besides those of the scene.
const COMMITTED: [u32; 2] = [101, 102];

/// Offsets of such a topic also go to what ends transactions.
fn transactional(topic: &str) -> Event {
    Event::Topic { topic: topic.into(), synced: true, removal: Removal::OnRequest, dense: false }
}

async fn read_all_committed(scene: &Scene, topic: &str) {
    let reader = Reader::of_committed(COMMITTED[1]);
    let read = read_whole_as(&scene.client, &scene.history, reader, topic, &topic.into(), SOON).await;
    read.unwrap_or_else(|error| panic!("reading all that is committed: {error}"));
}

/// P4: consume, transform, produce, commit, under kills of pipelines and brokers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_each_input_comes_out_exactly_once_whoever_is_killed() {
    let mut scene = Scene::new().await;
    let out = NewTopic::new(OUT, PARTITIONS, 3).config("min.insync.replicas", "2");
    scene.client.admin().create_topic(out).await.expect("a new topic");
    let bootstrap = scene.cluster.bootstrap();
    let history = scene.history.clone();
    history.record(transactional(OUT));
    history.record(pipeline::described(GROUP, TOPIC, OUT));
    let tail = Tail::start_as(&scene.client, &history, Reader::of_committed(COMMITTED[0]), OUT);
    let pipeline = |number| Pipeline::start(&bootstrap, &history, number, GROUP, TOPIC, OUT);
    let writers = scene.write();
    let mut pipelines = [Some(pipeline(1)), Some(pipeline(2))];
    for dead in scene.cluster.broker_ids() {
        scene.acknowledged(200).await;
        // Perhaps in the middle of a transaction. Its successor fences it.
        let (slot, number) = if dead.get() % 2 == 0 { (0, 1) } else { (1, 2) };
        if let Some(pipeline) = pipelines[slot].take() {
            pipeline.kill();
        }
        pipelines[slot] = Some(pipeline(number));
        scene.acknowledged(200).await;
        scene.kill(broker(dead));
        scene.acknowledged(200).await;
        scene.start(broker(dead));
        scene.all_in_sync().await;
    }
    writers.stop().await;
    let all_out = || pipeline::not_copied(&history.events(), TOPIC, OUT).is_empty();
    until("every acknowledged input in the output", all_out).await;
    for pipeline in pipelines.into_iter().flatten() {
        pipeline.close().await;
    }
    let offsets = pipeline::record_offsets(&scene.client, &history, GROUP, TOPIC, SOON).await;
    offsets.expect("the group's offsets can be read");
    read_all_committed(&scene, OUT).await;
    tail.stop().await.expect("the output can be followed");
    let report = scene.check(&Expectations::default()).await;
    assert!(report.acknowledged > 1000, "only {} records went in", report.acknowledged);
}

/// P4: transactions over all partitions, under kills of brokers, those that coordinate and lead among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_transaction_is_there_wholly_or_not_at_all_whoever_is_killed() {
    let mut scene = Scene::new().await;
    scene.history.record(transactional(TOPIC));
    let transactors: Vec<_> = (1..=3)
        .map(|number| Transactor::start(&scene.client, &scene.history, number, TOPIC, PARTITIONS, None))
        .collect();
    let tail = Tail::start_as(&scene.client, &scene.history, Reader::of_committed(COMMITTED[0]), TOPIC);
    let is_end = |timed: &&Timed| matches!(timed.event, Event::Ended { .. });
    let history = scene.history.clone();
    let ended = || history.events().iter().filter(is_end).count();
    for dead in scene.cluster.broker_ids() {
        for kill in [true, false] {
            let wanted = ended() + 20;
            until("20 more transactions", || ended() >= wanted).await;
            if kill {
                scene.kill(broker(dead));
            } else {
                scene.start(broker(dead));
                scene.all_in_sync().await;
            }
        }
    }
    for transactor in transactors {
        transactor.stop().await;
    }
    read_all_committed(&scene, TOPIC).await;
    tail.stop().await.expect("the topic can be followed");
    let report = scene.history.assert_keeps(&Expectations::default());
    println!("{report}");
    let [committed, aborted, _] = report.transactions;
    assert!(committed > 20 && aborted > 10, "nothing was proved: {report}");
}
