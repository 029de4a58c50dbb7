//! Three controllers: founding, failover, handing over, restarts, snapshots, changes of the quorum.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{DEADLINE, LiveBroker, Quorum, create_topic, eventually};
use highwater_controller::{Controller, ControllerConfig, StartError, StoreError};
use highwater_metadata::CommandResponse;
use highwater_protocol::internal::DescribeQuorumRequest;
use highwater_protocol::{error_from_status, v1};
use highwater_seams::Seams;
use highwater_types::ControllerId;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_controllers_found_one_cluster_and_point_to_the_active_one() {
    let quorum = Quorum::start(3).await;
    let active = quorum.active().await;
    let cluster_id = eventually("a cluster id", || async {
        let id = quorum.running[&active].image().cluster_id.clone();
        (!id.is_empty()).then_some(id)
    })
    .await;
    for (id, handle) in &quorum.running {
        let image = eventually("the same image everywhere", || async {
            let image = handle.image();
            (image.cluster_id == cluster_id && image.controllers.len() == 3).then_some(image)
        })
        .await;
        assert_eq!(image.controllers[&ControllerId::new(*id)].endpoint.port, quorum.ports[id]);
        if *id != active {
            let error = quorum.execute(*id, &create_topic("t", 1)).await.unwrap_err();
            assert_eq!(error.code(), v1::ErrorCode::NotController);
            let hint = error.leader.expect("who is active");
            assert_eq!((hint.node_id, hint.port), (active, quorum.ports[&active].into()));
        }
    }
    let described = quorum.client(active).describe_quorum(DescribeQuorumRequest {}).await.unwrap().into_inner();
    assert_eq!(described.active_controller, active);
    assert_eq!(described.controllers.iter().filter(|c| c.voter).count(), 3);
}

/// Prints how long the cluster could decide nothing after its active controller was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t28_killing_the_active_controller_loses_nothing_and_the_next_one_has_all_of_it_applied() {
    let mut quorum = Quorum::start(3).await;
    let _broker = LiveBroker::start(&quorum, 1).await;
    let mut times = Vec::new();
    for round in 0..5 {
        quorum.execute_somewhere(&create_topic(&format!("before-{round}"), 1)).await;
        let active = quorum.active().await;
        let started = Instant::now();
        quorum.kill(active).await;
        quorum.execute_somewhere(&create_topic(&format!("after-{round}"), 1)).await;
        times.push(started.elapsed());
        let next = quorum.active().await;
        let image = quorum.running[&next].image();
        for earlier in 0..=round {
            assert!(image.topic_by_name(&format!("before-{earlier}")).is_some(), "before-{earlier} is lost");
            assert!(image.topic_by_name(&format!("after-{earlier}")).is_some(), "after-{earlier} is lost");
        }
        quorum.restart(active).await;
        quorum.settled().await;
    }
    times.sort();
    println!(
        "failover: active controller killed -> next decision: min {:?}, median {:?}, max {:?}",
        times[0], times[2], times[4]
    );
}

/// Prints how long the cluster could decide nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_controller_hands_the_active_role_over() {
    let mut quorum = Quorum::start(3).await;
    let _broker = LiveBroker::start(&quorum, 1).await;
    let mut times = Vec::new();
    for round in 0..3 {
        quorum.execute_somewhere(&create_topic(&format!("before-{round}"), 1)).await;
        let active = quorum.active().await;
        let handle = quorum.running.remove(&active).unwrap();
        let started = Instant::now();
        let stopped = tokio::spawn(handle.shutdown());
        quorum.execute_somewhere(&create_topic(&format!("after-{round}"), 1)).await;
        times.push(started.elapsed());
        tokio::time::timeout(DEADLINE, stopped).await.expect("stops in time").unwrap();
        quorum.restart(active).await;
        quorum.settled().await;
    }
    times.sort();
    println!("orderly stop of the active controller -> next decision: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_without_a_quorum_nobody_decides_and_with_it_again_somebody_does() {
    let mut quorum = Quorum::start(3).await;
    let broker = LiveBroker::start(&quorum, 1).await;
    let active = quorum.active().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != active).collect();
    quorum.kill(others[0]).await;
    quorum.execute_somewhere(&create_topic("with-two", 1)).await;
    let active = quorum.active().await;
    let left = *quorum.running.keys().find(|id| **id != active).unwrap();
    quorum.kill(left).await;
    let stepped_aside = quorum.running[&active].wait_active(false);
    assert!(tokio::time::timeout(DEADLINE, stepped_aside).await.expect("steps aside"));
    let error = quorum.execute(active, &create_topic("alone", 1)).await.unwrap_err();
    assert_eq!(error.code(), v1::ErrorCode::ControllerNotAvailable, "{error:?}");
    assert!(error.retriable && !error.outcome_unknown);
    quorum.restart(left).await;
    quorum.execute_somewhere(&create_topic("together", 1)).await;
    let now = quorum.active().await;
    let image = quorum.running[&now].image();
    assert!(image.topic_by_name("with-two").is_some() && image.topic_by_name("alone").is_none());
    drop(broker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_all_everything_is_there_again() {
    let mut quorum = Quorum::start(3).await;
    {
        let _broker = LiveBroker::start(&quorum, 1).await;
        for n in 0..20 {
            quorum.execute_somewhere(&create_topic(&format!("topic-{n}"), 1)).await;
        }
    }
    let active = quorum.active().await;
    let before = quorum.running[&active].image().topics.clone();
    for id in 1..=3 {
        quorum.kill(id).await;
    }
    for id in 1..=3 {
        quorum.restart(id).await;
    }
    let active = quorum.active().await;
    let after = &quorum.running[&active].image();
    assert!(before.keys().all(|topic| after.topics.contains_key(topic)) && after.topics.len() == before.len());
    let others = quorum.running.values();
    for handle in others {
        eventually("the same image", || async { (handle.image() == *after).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_was_away_for_long_is_brought_up_by_a_snapshot() {
    let small: fn(&mut ControllerConfig) = |config| config.snapshot_interval_entries = 10;
    let mut quorum = Quorum::start_with(3, small, |_| Seams::real()).await;
    let _broker = LiveBroker::start(&quorum, 1).await;
    let active = quorum.active().await;
    let away = (1..=3).find(|id| *id != active).unwrap();
    quorum.execute_somewhere(&create_topic("seen", 1)).await;
    let last = quorum.running[&away].raft_position().last_index;
    quorum.kill(away).await;
    for n in 0..60 {
        quorum.execute_somewhere(&create_topic(&format!("missed-{n}"), 1)).await;
    }
    let active = quorum.active().await;
    eventually("the log to be purged beyond what the one away has", || async {
        quorum.running[&active].raft_position().purged_index.filter(|purged| *purged > last + 1)
    })
    .await;
    quorum.restart(away).await;
    let expected = quorum.running[&active].image().topics.len();
    let back = &quorum.running[&away];
    eventually("the image by snapshot", || async { (back.image().topics.len() == expected).then_some(()) }).await;
    assert!(back.raft_position().snapshot_index.is_some_and(|snapshot| snapshot > last));
    // And it starts from that snapshot again.
    quorum.kill(away).await;
    quorum.restart(away).await;
    let back = &quorum.running[&away];
    eventually("the same again", || async { (back.image().topics.len() == expected).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_are_added_and_removed_while_it_runs() {
    let mut quorum = Quorum::start(1).await;
    let _broker = LiveBroker::start(&quorum, 1).await;
    quorum.execute_somewhere(&create_topic("first", 1)).await;
    for id in [2, 3] {
        quorum.start_joining(id).await;
        let active = quorum.active().await;
        let endpoint = Some(v1::Endpoint { host: "127.0.0.1".to_owned(), port: quorum.ports[&id].into() });
        let add = v1::AddControllerRequest { controller_id: id, endpoint };
        quorum.client(active).add_controller(add.clone()).await.unwrap();
        quorum.client(active).add_controller(add).await.expect("again: nothing to do");
    }
    for handle in quorum.running.values() {
        eventually("three controllers in the image", || async {
            (handle.image().controllers.len() == 3).then_some(())
        })
        .await;
    }
    // The one that was there first can go, and be killed.
    let active = quorum.active().await;
    quorum.client(active).remove_controller(v1::RemoveControllerRequest { controller_id: 1 }).await.unwrap();
    quorum.kill(1).await;
    quorum.execute_somewhere(&create_topic("second", 1)).await;
    let active = quorum.active().await;
    let image = quorum.running[&active].image();
    assert!(image.topic_by_name("first").is_some());
    eventually("two controllers in the image", || async {
        (quorum.running[&active].image().controllers.len() == 2).then_some(())
    })
    .await;
    let missing = v1::RemoveControllerRequest { controller_id: 9 };
    let error = error_from_status(&quorum.client(active).remove_controller(missing).await.unwrap_err());
    assert_eq!(error.code(), v1::ErrorCode::UnknownController);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_t_start_says_why_in_one_line() {
    let mut quorum = Quorum::start(1).await;
    let store = quorum.folders[&1].path().join("metadata");
    let locked = Controller::open_store(&quorum.config(1)).err().expect("locked");
    assert!(matches!(locked, StartError::Store(StoreError::Locked { .. })), "{locked}");
    assert!(locked.to_string().contains(&store.display().to_string()));

    let folder = tempfile::tempdir().unwrap();
    let config = ControllerConfig { data_dir: folder.path().to_owned(), ..quorum.config(1) };
    let taken = Controller::start(config.clone(), Seams::real(), Controller::open_store(&config).unwrap()).await;
    let taken = taken.err().expect("port in use");
    assert!(matches!(taken, StartError::PortInUse { .. }), "{taken}");

    let stranger = ControllerConfig { id: ControllerId::new(9), ..quorum.config(1) };
    assert!(stranger.initial_voters.len() == 1);
    let error = Controller::start(stranger, Seams::real(), common::open(folder.path()).await).await.err().unwrap();
    assert!(matches!(error, StartError::Config(_)), "{error}");

    quorum.active().await;
    let cluster = quorum.running[&1].image().cluster_id.clone();
    quorum.kill(1).await;
    let wrong = ControllerConfig { cluster_id: Some("elsewhere".to_owned()), ..quorum.config(1) };
    let error =
        Controller::start(wrong, Seams::real(), common::open(quorum.folders[&1].path()).await).await.err().unwrap();
    assert!(matches!(&error, StartError::WrongCluster { found, .. } if *found == cluster), "{error}");

    let voters = BTreeMap::from([(ControllerId::new(2), ("127.0.0.1".to_owned(), quorum.ports[&1]))]);
    let other = ControllerConfig { id: ControllerId::new(2), initial_voters: voters, ..quorum.config(1) };
    let error =
        Controller::start(other, Seams::real(), common::open(quorum.folders[&1].path()).await).await.err().unwrap();
    assert!(matches!(error, StartError::WrongController { .. }), "{error}");
    for error in [locked.to_string(), taken.to_string(), error.to_string()] {
        assert!(!error.contains('\n'), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commands_at_once_are_each_answered_rightly() {
    let quorum = Quorum::start(3).await;
    let _broker = LiveBroker::start(&quorum, 1).await;
    let active = quorum.active().await;
    let client = quorum.client(active);
    let started = Instant::now();
    let calls = (0..400).map(|n| {
        let mut client = client.clone();
        async move {
            // Each name twice: one of the two is refused.
            let command = create_topic(&format!("topic-{}", n / 2), 1).to_json().into();
            client.execute(highwater_protocol::internal::ExecuteRequest { command }).await
        }
    });
    let mut created = 0;
    for result in futures::future::join_all(calls).await {
        match result {
            Ok(answer) => {
                let answer = CommandResponse::from_json(&answer.into_inner().response).unwrap();
                assert!(matches!(answer, CommandResponse::Topic { .. }));
                created += 1;
            }
            Err(status) => {
                assert_eq!(error_from_status(&status).code(), v1::ErrorCode::TopicAlreadyExists);
            }
        }
    }
    assert_eq!(created, 200);
    println!("400 commands at once, each through Raft on 3 stores: {:?}", started.elapsed());
    assert_eq!(quorum.running[&active].image().topics.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_controller_is_active_at_once_also_after_a_restart() {
    let mut quorum = Quorum::start(1).await;
    quorum.active().await;
    quorum.kill(1).await;
    quorum.restart(1).await;
    let started = Instant::now();
    quorum.active().await;
    println!("a single controller, restarted, is active after {:?}", started.elapsed());
    let deposed = tokio::time::timeout(Duration::from_millis(700), quorum.running[&1].wait_active(false)).await;
    assert!(deposed.is_err(), "nobody acknowledges to it but itself, and that is enough");
}
