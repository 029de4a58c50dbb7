//! Consumer groups on real brokers: members come, go and die, brokers die, and still every record is processed, by one
//! owner at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_client::GroupConfig;
use highwater_testkit::RecordId;
use highwater_testkit::history::{Event, member_of};
use highwater_testkit::oracle::Expectations;
use highwater_testkit::workloads::members::Member;

use crate::common::{Scene, TOPIC, broker};

const GROUP: &str = "billing";

fn member(scene: &Scene, number: u32) -> Member {
    let bootstrap = scene.cluster.bootstrap();
    Member::start(&bootstrap, &scene.history, number, TOPIC, GroupConfig::new(GROUP))
}

/// The partitions that each member has, as far as it knows.
fn owned(scene: &Scene, number: u32) -> usize {
    let mut owned = BTreeSet::new();
    for timed in scene.history.events() {
        match timed.event {
            Event::Assigned { member, place, .. } if member == number => _ = owned.insert(place),
            Event::Released { member, place, .. } if member == number => _ = owned.remove(&place),
            _ => {}
        }
    }
    owned.len()
}

async fn until_owned(scene: &Scene, number: u32, partitions: usize) {
    let what = format!("member {number} with {partitions} partition(s)");
    crate::common::until(&what, || owned(scene, number) == partitions).await;
}

/// The records that were acknowledged and that no member has read.
fn unread(scene: &Scene) -> BTreeSet<RecordId> {
    let events = scene.history.events();
    let read: BTreeSet<RecordId> = events
        .iter()
        .filter_map(|timed| match &timed.event {
            Event::Read { reader, id, .. } if member_of(*reader).is_some() => *id,
            _ => None,
        })
        .collect();
    let acknowledged = events.iter().filter_map(|timed| match &timed.event {
        Event::Acknowledged { id, .. } => Some(*id),
        _ => None,
    });
    acknowledged.filter(|id| !read.contains(id)).collect()
}

async fn all_read(scene: &Scene) {
    crate::common::until("every acknowledged record read by a member", || unread(scene).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_partitions_move_only_as_they_must_and_a_dead_member_s_go_to_the_others() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    let first = member(&scene, 1);
    until_owned(&scene, 1, 3).await;
    let second = member(&scene, 2);
    let third = member(&scene, 3);
    for number in [1, 2, 3] {
        until_owned(&scene, number, 1).await;
    }
    scene.acknowledged(200).await;
    // More members than partitions: the fourth waits, and takes over when it is needed.
    let fourth = member(&scene, 4);
    second.kill();
    until_owned(&scene, 4, 1).await;
    scene.acknowledged(200).await;
    third.close().await;
    for (number, others) in [(1, 4), (4, 1)] {
        crate::common::until("the rest shared out", || owned(&scene, number) + owned(&scene, others) == 3).await;
    }
    writers.stop().await;
    all_read(&scene).await;
    first.close().await;
    fourth.close().await;
    scene.check(&Expectations::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_a_static_member_that_returns_in_time_has_its_partitions_back_and_nobody_else_s_move() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    let config = |name: &str| GroupConfig { instance_id: Some(name.to_owned()), ..GroupConfig::new(GROUP) };
    let start = |number, name| Member::start(&scene.cluster.bootstrap(), &scene.history, number, TOPIC, config(name));
    let (one, two) = (start(1, "a"), start(2, "b"));
    crate::common::until("all shared out", || {
        owned(&scene, 1) + owned(&scene, 2) == 3 && owned(&scene, 1) > 0 && owned(&scene, 2) > 0
    })
    .await;
    let (had, moves) = (owned(&scene, 1), owned(&scene, 2));
    one.close().await;
    let back = start(3, "a");
    until_owned(&scene, 3, had).await;
    assert_eq!(owned(&scene, 2), moves, "nothing moved for the other");
    let given_to_two =
        scene.history.events().iter().filter(|timed| matches!(timed.event, Event::Assigned { member: 2, .. })).count();
    scene.acknowledged(100).await;
    writers.stop().await;
    all_read(&scene).await;
    let now =
        scene.history.events().iter().filter(|timed| matches!(timed.event, Event::Assigned { member: 2, .. })).count();
    assert_eq!(now, given_to_two);
    back.close().await;
    two.close().await;
    scene.check(&Expectations::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_a_group_outlives_its_coordinator() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    let members = [member(&scene, 1), member(&scene, 2)];
    crate::common::until("all shared out", || owned(&scene, 1) + owned(&scene, 2) == 3).await;
    for dead in scene.cluster.broker_ids() {
        scene.acknowledged(100).await;
        scene.kill(broker(dead));
        scene.acknowledged(100).await;
        scene.start(broker(dead));
        scene.all_in_sync().await;
    }
    writers.stop().await;
    all_read(&scene).await;
    for member in members {
        member.close().await;
    }
    scene.check(&Expectations::default()).await;
}

/// Members come, leave and die for as long as `HIGHWATER_STORM_SECONDS` says (8 s), under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_a_rebalance_storm_loses_no_record_and_never_makes_two_owners() {
    let seconds = std::env::var("HIGHWATER_STORM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut scene = Scene::new().await;
    let writers = scene.write();
    let mut members = vec![member(&scene, 1)];
    let mut next = 2;
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut turn = 0_u32;
    while tokio::time::Instant::now() < end {
        scene.acknowledged(150).await;
        turn += 1;
        // Two come for one that leaves and one that dies; five at most.
        match turn % 4 {
            0 if members.len() > 1 => members.remove(0).close().await,
            2 if members.len() > 1 => members.remove(members.len() / 2).kill(),
            _ if members.len() < 5 => {
                members.push(member(&scene, next));
                next += 1;
            }
            _ => members.remove(0).kill(),
        }
    }
    writers.stop().await;
    all_read(&scene).await;
    for member in members {
        member.close().await;
    }
    scene.check(&Expectations::default()).await;
    assert!(next > 3, "there was a storm");
}
