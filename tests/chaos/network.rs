//! Cuts between processes.

use std::time::Duration;

use highwater_client::{BrokerId, PartitionMetadata};
use highwater_testkit::NodeId;
use highwater_testkit::oracle::Expectations;
use highwater_testkit::proxy::{Aftermath, Effect, Impairment, ImpairmentId, Network, Side};

use crate::common::{Scene, broker};

async fn scene() -> Option<Scene> {
    if !Network::knows_origins() {
        println!("skipped: there is no /proc/net/tcp to tell who connects");
        return None;
    }
    Some(
        Scene::with(
            |mut config| {
                config.proxied = true;
                config
            },
            |topic| topic,
        )
        .await,
    )
}

fn cut(scene: &Scene, from: Side, to: Side) -> ImpairmentId {
    scene.history.fault(format!("no bytes from {from} to {to}"));
    let network = scene.cluster.network().expect("it is proxied");
    network.impair(Impairment { from, to, effect: Effect::Cut })
}

fn heal(scene: &Scene, cuts: impl IntoIterator<Item = ImpairmentId>, aftermath: Aftermath) {
    scene.history.fault("the cut ends");
    let network = scene.cluster.network().expect("it is proxied");
    cuts.into_iter().for_each(|id| network.lift(id, aftermath));
}

fn controllers(scene: &Scene) -> Vec<Side> {
    scene.cluster.nodes().filter(|(id, _)| !id.is_broker()).map(|(id, _)| Side::Node(id)).collect()
}

fn led_by_another(than: BrokerId) -> impl Fn(&PartitionMetadata) -> bool {
    move |it| it.leader.is_some_and(|leader| leader != than)
}

/// A leader that the controllers don't hear is replaced, although clients and followers reach it; what it has acknowledged stays,
/// and so does it the other way round, where it does not hear them: it must not lead on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_leader_cut_off_from_the_controllers_in_one_direction_is_replaced_and_loses_nothing() {
    let Some(mut scene) = scene().await else { return };
    let (writers, tail) = (scene.write(), scene.tail());
    scene.acknowledged(300).await;
    for (to_controllers, aftermath) in [(true, Aftermath::Deliver), (false, Aftermath::Reset)] {
        scene.all_in_sync().await;
        let leader = scene.leader(0);
        let own = Side::Node(broker(leader));
        let one_way = |it| if to_controllers { (own, it) } else { (it, own) };
        let cuts: Vec<_> =
            controllers(&scene).into_iter().map(one_way).map(|(from, to)| cut(&scene, from, to)).collect();
        scene.partitions_when("new leaders", |all| all.iter().all(led_by_another(leader))).await;
        scene.acknowledged(300).await;
        heal(&scene, cuts, aftermath);
        scene.all_in_sync().await;
        scene.acknowledged(100).await;
    }
    writers.stop().await;
    tail.stop().await.expect("a consumer rides out a change of leaders");
    scene.check(&Expectations::default()).await;
}

/// A leader that is cut off from its followers, but not from the controllers, can acknowledge nothing until they have left the in-sync
/// replicas; with `min.insync.replicas` it must not acknowledge alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_leader_cut_off_from_everybody_acknowledges_nothing_that_is_lost() {
    let Some(mut scene) = scene().await else { return };
    let writers = scene.write();
    scene.acknowledged(300).await;
    scene.all_in_sync().await;
    let leader = scene.leader(0);
    let own = Side::Node(broker(leader));
    // Clients still reach it, so they may go on sending to it.
    let cuts = [cut(&scene, own, Side::Nodes), cut(&scene, Side::Nodes, own)];
    scene.partitions_when("new leaders", |all| all.iter().all(led_by_another(leader))).await;
    scene.acknowledged(300).await;
    heal(&scene, cuts, Aftermath::Deliver);
    scene.all_in_sync().await;
    writers.stop().await;
    scene.check(&Expectations::default()).await;
}

/// The active controller is cut off from the other controllers: it stops deciding (T20), another one does, and when it is back it
/// follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_an_active_controller_cut_off_from_the_quorum_is_replaced_and_decides_nothing() {
    let Some(mut scene) = scene().await else { return };
    let writers = scene.write();
    scene.acknowledged(300).await;
    let active =
        scene.cluster.active_controller(None, crate::common::SOON).await.unwrap_or_else(|error| panic!("{error}"));
    let others: Vec<NodeId> =
        scene.cluster.nodes().map(|(id, _)| id).filter(|id| !id.is_broker() && *id != active).collect();
    let cuts: Vec<_> = others
        .iter()
        .flat_map(|other| {
            let (a, b) = (Side::Node(active), Side::Node(*other));
            [cut(&scene, a, b), cut(&scene, b, a)]
        })
        .collect();
    // Brokers reach both sides, and must follow the one that has the quorum.
    let next = scene.cluster.active_controller(Some(active), crate::common::SOON).await;
    let next = next.unwrap_or_else(|error| panic!("{error}"));
    assert_ne!(next, active);
    let dead = scene.leader(0);
    scene.kill(broker(dead));
    scene.partitions_when("new leaders", |all| all.iter().all(led_by_another(dead))).await;
    scene.acknowledged(300).await;
    scene.start(broker(dead));
    heal(&scene, cuts, Aftermath::Deliver);
    scene.all_in_sync().await;
    writers.stop().await;
    scene.check(&Expectations::default()).await;
}

/// Long enough for everything that is sent to arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_up_for_longer_than_a_session_arrives_and_harms_nothing() {
    let Some(mut scene) = scene().await else { return };
    let writers = scene.write();
    for _ in 0..2 {
        scene.acknowledged(200).await;
        scene.all_in_sync().await;
        let leader = scene.leader(0);
        let own = Side::Node(broker(leader));
        let cuts = [cut(&scene, own, Side::All), cut(&scene, Side::All, own)];
        scene.partitions_when("new leaders", |all| all.iter().all(led_by_another(leader))).await;
        scene.acknowledged(200).await;
        // Produce requests, fetches, proposals and heartbeats of the reign that is over.
        heal(&scene, cuts, Aftermath::Deliver);
    }
    scene.all_in_sync().await;
    tokio::time::timeout(Duration::from_secs(60), writers.stop()).await.expect("every record is settled");
    scene.check(&Expectations::default()).await;
}
