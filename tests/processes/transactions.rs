//! Transactions on real brokers.

use std::collections::BTreeSet;

use highwater_client::NewTopic;
use highwater_testkit::RecordId;
use highwater_testkit::history::{Event, Rules, Told, check_atomicity, check_exactly_once};
use highwater_testkit::pipeline::{Pipeline, read_committed};
use highwater_testkit::transactors::{Done, Transactor};

use crate::common::{PARTITIONS, SOON, Scene, TOPIC, broker};

const OUT: &str = "totals";

/// Everything that was read of the input so far.
fn inputs(scene: &Scene) -> BTreeSet<RecordId> {
    let events = scene.history.events();
    events.iter().filter_map(|timed| if let Event::Read { id, .. } = &timed.event { *id } else { None }).collect()
}

/// P4: consume, transform, produce, commit, under kills of pipelines and brokers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_each_input_comes_out_exactly_once_whoever_is_killed() {
    let mut scene = Scene::new().await;
    let out = NewTopic::new(OUT, PARTITIONS, 3).config("min.insync.replicas", "2");
    scene.client.admin().create_topic(out).await.expect("a new topic");
    let bootstrap = scene.cluster.bootstrap();
    let history = scene.history.clone();
    let pipeline = |number| Pipeline::start(&bootstrap, &history, number, "totals", TOPIC, OUT);
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
    scene.check(&Rules::idempotent()).await;
    let inputs = inputs(&scene);
    assert!(inputs.len() > 1000, "only {} records went in", inputs.len());
    let all_out = async {
        loop {
            let outputs = read_committed(&scene.client, OUT, SOON).await.expect("the output can be read");
            let out: BTreeSet<RecordId> = outputs.iter().map(|(_, _, id)| *id).collect();
            if out.is_superset(&inputs) {
                return outputs;
            }
        }
    };
    let outputs = tokio::time::timeout(SOON, all_out).await.expect("every input comes out");
    for pipeline in pipelines.into_iter().flatten() {
        pipeline.close().await;
    }
    let violations = check_exactly_once(&inputs, &outputs);
    let text: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}", text.join("\n"));
    // And nothing comes after it.
    let later = read_committed(&scene.client, OUT, SOON).await.expect("the output can be read");
    assert_eq!(later.len(), outputs.len());
}

/// P4: transactions over all partitions, under kills of brokers, those that coordinate and lead among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_transaction_is_there_wholly_or_not_at_all_whoever_is_killed() {
    let mut scene = Scene::new().await;
    let done = Done::default();
    let transactors: Vec<_> =
        (1..=3).map(|number| Transactor::start(&scene.client, number, TOPIC, PARTITIONS, &done)).collect();
    let ended = || done.lock().expect("no transactor has panicked").len();
    for dead in scene.cluster.broker_ids() {
        for kill in [true, false] {
            let wanted = ended() + 20;
            crate::common::until("20 more transactions", || ended() >= wanted).await;
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
    let found = read_committed(&scene.client, TOPIC, SOON).await.expect("the topic can be read");
    let done = done.lock().expect("no transactor has panicked").clone();
    let told = |told| done.iter().filter(|one| one.told == told).count();
    println!("{} committed, {} aborted, {} unknown", told(Told::Committed), told(Told::Aborted), told(Told::Unknown));
    let violations = check_atomicity(&done, &found);
    let text: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}", text.join("\n"));
    assert!(told(Told::Committed) > 20 && told(Told::Aborted) > 10, "nothing was proved");
}
