//! Controllers on the store for simulations: power cuts and failing disks.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{DEADLINE, FakeBroker, client_at, create_topic, eventually};
use highwater_controller::{Controller, ControllerConfig, ControllerHandle, MemStore};
use highwater_protocol::internal::ExecuteRequest;
use highwater_protocol::{error_from_status, v1};
use highwater_seams::{Seams, SeededEntropy};
use highwater_types::ControllerId;

async fn start(store: &Arc<MemStore>) -> ControllerHandle {
    let config = ControllerConfig {
        initial_voters: BTreeMap::from([(ControllerId::new(1), ("127.0.0.1".to_owned(), 0))]),
        default_replication_factor: 1,
        session_timeout_ms: 500,
        ..ControllerConfig::default()
    };
    let seams = Seams { entropy: Arc::new(SeededEntropy::new(7)), ..Seams::real() };
    let handle = Controller::start(config, seams, store.clone()).await.unwrap();
    assert!(tokio::time::timeout(DEADLINE, handle.wait_active(true)).await.expect("active in time"));
    handle
}

async fn create(port: u16, name: &str) -> Result<(), v1::Error> {
    let request = ExecuteRequest { command: create_topic(name, 0).to_json().into() };
    client_at(port).execute(request).await.map(drop).map_err(|status| error_from_status(&status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t45_a_power_cut_loses_nothing_that_was_answered() {
    let store = Arc::new(MemStore::new(Duration::from_millis(2)));
    let mut answered: Vec<String> = Vec::new();
    for round in 0..4 {
        let handle = start(&store).await;
        let image = handle.image();
        for name in &answered {
            assert!(image.topic_by_name(name).is_some(), "{name} is lost after {round} power cuts");
        }
        // The incarnation before this one is given its time.
        let register = || async { FakeBroker::register(handle.port(), 1, round as u8 + 1).await.ok() };
        let mut broker = eventually("the old incarnation to be fenced", register).await;
        broker.until_unfenced().await;
        let _alive = broker.live_on();
        let port = handle.port();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let writer = tokio::spawn(async move {
            for n in 0.. {
                let name = format!("topic-{round}-{n}");
                match create(port, &name).await {
                    Ok(()) => tell.send(name).unwrap(),
                    Err(_) => return,
                }
            }
        });
        // In the middle of the writing.
        for _ in 0..10 + round * 5 {
            answered.push(tokio::time::timeout(DEADLINE, told.recv()).await.expect("in time").unwrap());
        }
        store.crash(0);
        handle.abort().await;
        let _ = tokio::time::timeout(DEADLINE, writer).await.expect("the writer hears of the end");
        while let Ok(name) = told.try_recv() {
            answered.push(name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t44_a_controller_whose_disk_fails_stops_and_says_so() {
    let store = Arc::new(MemStore::default());
    let handle = start(&store).await;
    let mut broker = FakeBroker::register(handle.port(), 1, 1).await.unwrap();
    broker.until_unfenced().await;
    let _alive = broker.live_on();
    create(handle.port(), "before").await.unwrap();
    store.fail_writes();
    let error = create(handle.port(), "after").await.unwrap_err();
    assert!(error.outcome_unknown, "{error:?}");
    let reason = tokio::time::timeout(DEADLINE, handle.failed()).await.expect("in time");
    assert!(reason.contains("simulated I/O error"), "{reason}");
    assert!(!handle.is_active());
    let refused = eventually("a clear refusal", || async { create(handle.port(), "again").await.err() }).await;
    assert_eq!(refused.code(), v1::ErrorCode::ControllerNotAvailable);
}
