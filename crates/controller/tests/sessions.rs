//! Brokers' sessions: registration, liveness, metadata, orderly stop; and whatever else may come in.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{DEADLINE, FakeBroker, LiveBroker, Quorum, client_at, create_topic, eventually, registration};
use highwater_controller::ControllerConfig;
use highwater_metadata::{ClusterImage, Command, CommandResponse};
use highwater_protocol::internal::controller_message::Message as ToBroker;
use highwater_protocol::internal::raft_client::RaftClient;
use highwater_protocol::internal::{
    AlterPartition, AlterPartitionsRequest, BrokerMessage, ExecuteRequest, IsrMember, RaftMessage,
};
use highwater_protocol::{error_from_status, v1};
use highwater_seams::Seams;
use highwater_types::{BrokerId, TopicPartition};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

async fn one_controller() -> (Quorum, u16) {
    let quorum = Quorum::start(1).await;
    quorum.active().await;
    let port = quorum.ports[&1];
    (quorum, port)
}

async fn fenced(quorum: &Quorum, broker: u32, expected: bool) -> Duration {
    let started = Instant::now();
    let id = BrokerId::new(broker);
    let mut images = quorum.running[&quorum.active().await].watch_image();
    let seen = images.wait_for(|image| image.broker(id).is_some_and(|b| b.fenced == expected));
    tokio::time::timeout(DEADLINE, seen).await.expect("in time").unwrap();
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_registers_catches_up_is_unfenced_and_hears_of_every_change() {
    let (quorum, port) = one_controller().await;
    let mut broker = FakeBroker::register(port, 1, 1).await.unwrap();
    broker.until_unfenced().await;
    broker.live_while(quorum.execute(1, &create_topic("t", 1))).await.unwrap();
    broker.live_until(false, |_, image| image.topic_by_name("t").map(|_| ())).await.unwrap();
    assert_eq!(*quorum.running[&1].image(), broker.image);
    // T48: whoever comes later is told how much of what it reads is history.
    let before = broker.image.version.get();
    let late = FakeBroker::register(port, 2, 1).await.unwrap();
    assert!(late.known > before, "{} is from before it came, at {before}", late.known);
    // With what it has it gets the rest only; with nothing, or nonsense, all of it.
    let image = broker.image.clone();
    let mut again = registration(1, 1);
    again.cluster_id = image.cluster_id.clone();
    again.metadata_version = image.version.get();
    let mut same = FakeBroker::register_as(port, again.clone(), image).await.unwrap();
    assert_eq!(same.broker_epoch, broker.broker_epoch, "the same incarnation keeps its epoch");
    same.live_while(quorum.execute(1, &create_topic("u", 1))).await.unwrap();
    same.live_until(false, |_, image| image.topic_by_name("u").map(|_| ())).await.unwrap();
    assert_eq!(same.snapshots, 0);
    again.metadata_version = 1 << 40;
    let mut lost = FakeBroker::register_as(port, again, ClusterImage::default()).await.unwrap();
    lost.live_until(false, |_, image| image.topic_by_name("u").map(|_| ())).await.unwrap();
    assert_eq!(lost.snapshots, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_answered_once_every_broker_in_service_has_taken_it_over() {
    // So long that nobody is fenced for silence, and no answer comes for lack of time.
    let long: fn(&mut ControllerConfig) = |config| config.session_timeout_ms = 600_000;
    let quorum = Quorum::start_with(1, long, |_| Seams::real()).await;
    quorum.active().await;
    let quick = LiveBroker::start(&quorum, 1).await;
    let mut slow = FakeBroker::register(quorum.ports[&1], 2, 2).await.unwrap();
    slow.until_unfenced().await;
    // One that has never been in service holds nobody up.
    let _new = FakeBroker::register(quorum.ports[&1], 3, 3).await.unwrap();

    let command = create_topic("t", 1);
    let mut answer = std::pin::pin!(quorum.execute(1, &command));
    let knows = |image: &ClusterImage| image.topic_by_name("t").is_some();
    let read = async {
        while !knows(&slow.image) {
            slow.next().await.expect("the stream goes on");
        }
    };
    tokio::select! {
        biased;
        answer = &mut answer => panic!("answered although a broker has not said that it knows: {answer:?}"),
        () = read => {}
    }
    // It was sent, and not yet taken over: the other one's part is done, and this one's is not.
    let done = futures::future::FutureExt::now_or_never(answer.as_mut());
    assert!(done.is_none(), "{done:?}");
    slow.heartbeat(false).await;
    answer.await.unwrap();

    // And one that dies is not waited for.
    let command = create_topic("u", 1);
    let mut answer = std::pin::pin!(quorum.execute(1, &command));
    let mut images = quorum.running[&1].watch_image();
    let decided = images.wait_for(|image| image.topic_by_name("u").is_some());
    tokio::select! {
        biased;
        answer = &mut answer => panic!("answered although a broker has not said that it knows: {answer:?}"),
        decided = decided => drop(decided.unwrap()),
    }
    drop(slow);
    answer.await.unwrap();
    assert!(!quorum.running[&1].image().is_unfenced(BrokerId::new(2)), "that is why");
    drop(quick);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_stream_is_a_dead_broker_and_its_partitions_get_another_leader() {
    let (quorum, port) = one_controller().await;
    let mut dying = FakeBroker::register(port, 1, 1).await.unwrap();
    dying.until_unfenced().await;
    let _other = LiveBroker::start(&quorum, 2).await;
    dying.live_while(quorum.execute(1, &create_topic("t", 2))).await.unwrap();
    let image = quorum.running[&1].image();
    let first = image.topic_by_name("t").unwrap().partitions[0].clone();
    assert_eq!(first.isr.len(), 2);
    drop(dying);
    let took = fenced(&quorum, 1, true).await;
    println!("stream closed -> fenced: {took:?}");
    let image = quorum.running[&1].image();
    let state = &image.topic_by_name("t").unwrap().partitions[0];
    assert_eq!(state.leader, Some(BrokerId::new(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_broker_is_fenced_by_session_timeout_and_unfenced_when_it_speaks_again() {
    let short: fn(&mut ControllerConfig) = |config| config.session_timeout_ms = 400;
    let quorum = Quorum::start_with(1, short, |_| Seams::real()).await;
    quorum.active().await;
    let mut broker = FakeBroker::register(quorum.ports[&1], 1, 1).await.unwrap();
    broker.until_unfenced().await;
    fenced(&quorum, 1, true).await;
    // Its stream is still open, as that of a process that was paused.
    let seen = broker.live_until(false, |_, image| image.is_unfenced(BrokerId::new(1)).then_some(())).await;
    assert!(seen.is_some(), "the stream was kept");
    fenced(&quorum, 1, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t18_a_new_incarnation_waits_until_the_old_one_is_fenced_and_ends_its_stream() {
    let (_quorum, port) = one_controller().await;
    let mut old = FakeBroker::register(port, 1, 1).await.unwrap();
    old.until_unfenced().await;
    let error = FakeBroker::register(port, 1, 2).await.err().expect("refused");
    assert_eq!(error.code(), v1::ErrorCode::DuplicateBrokerRegistration, "{error:?}");
    assert!(error.retriable);
    let epoch = old.broker_epoch;
    drop(old);
    let new = eventually("the old one to be fenced", || async { FakeBroker::register(port, 1, 2).await.ok() }).await;
    assert!(new.broker_epoch > epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_is_told_when_its_leadership_has_moved() {
    let (quorum, port) = one_controller().await;
    let mut stopping = FakeBroker::register(port, 1, 1).await.unwrap();
    stopping.until_unfenced().await;
    let _other = LiveBroker::start(&quorum, 2).await;
    stopping.live_while(quorum.execute(1, &create_topic("t", 2))).await.unwrap();
    let complete = stopping.live_until(true, |message, _| match message {
        ToBroker::Heartbeat(ack) if ack.controlled_shutdown_complete => Some(()),
        _ => None,
    });
    complete.await.expect("told");
    let image = quorum.running[&1].image();
    assert_eq!(image.topic_by_name("t").unwrap().partitions[0].leader, Some(BrokerId::new(2)));
    assert_eq!(image.led_by(BrokerId::new(1)), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_active_controller_gives_brokers_time_but_not_for_ever() {
    let short: fn(&mut ControllerConfig) = |config| config.session_timeout_ms = 1500;
    let mut quorum = Quorum::start_with(3, short, |_| Seams::real()).await;
    let staying = LiveBroker::start(&quorum, 1).await;
    let active = quorum.active().await;
    let mut leaving = FakeBroker::register(quorum.ports[&active], 2, 2).await.unwrap();
    leaving.until_unfenced().await;
    let mut history = Vec::new();
    quorum.kill(active).await;
    let active = quorum.active().await;
    let started = Instant::now();
    let mut images = quorum.running[&active].watch_image();
    // The one that found the new active controller is never fenced; the other is, after its time.
    let gone = images.wait_for(|image| {
        history.push(image.is_unfenced(BrokerId::new(1)));
        !image.is_unfenced(BrokerId::new(2))
    });
    tokio::time::timeout(DEADLINE, gone).await.expect("not for ever").unwrap();
    println!("new active controller -> the broker that stayed away is fenced: {:?}", started.elapsed());
    assert!(history.iter().all(|unfenced| *unfenced), "a broker that came back was fenced");
    assert!(*staying.unfenced.borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_died_with_the_active_controller_is_fenced_long_before_its_session_ends() {
    let long: fn(&mut ControllerConfig) = |config| config.session_timeout_ms = 600_000;
    let mut quorum = Quorum::start_with(3, long, |_| Seams::real()).await;
    let staying = LiveBroker::start(&quorum, 1).await;
    let active = quorum.active().await;
    let mut dying = FakeBroker::register(quorum.ports[&active], 2, 2).await.unwrap();
    dying.until_unfenced().await;
    // As one process: its port closes, and nobody is left to see its stream close.
    let died = Instant::now();
    quorum.kill(active).await;
    drop(dying);
    fenced(&quorum, 2, true).await;
    println!("both roles died -> the broker is fenced: {:?}", died.elapsed());
    assert!(*staying.unfenced.borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t13_isr_proposals_are_answered_one_by_one() {
    let (quorum, port) = one_controller().await;
    let _brokers = [LiveBroker::start(&quorum, 1).await, LiveBroker::start(&quorum, 2).await];
    let CommandResponse::Topic { topic } = quorum.execute(1, &create_topic("t", 2)).await.unwrap() else { panic!() };
    let (tp, state) = topic.iter().next().unwrap();
    let leader = state.leader.unwrap();
    let broker_epoch = quorum.running[&1].image().broker(leader).unwrap().broker_epoch.get();
    let propose = |tp: TopicPartition, partition_epoch: i32| AlterPartition {
        partition: Some(tp.into()),
        leader_epoch: state.leader_epoch.get(),
        partition_epoch,
        new_isr: vec![IsrMember { broker_id: leader.get(), broker_epoch: -1 }],
        recovered: false,
    };
    let unknown = TopicPartition::new(highwater_types::TopicId::from_u128(99), tp.partition);
    let current = state.partition_epoch.get();
    let partitions = vec![propose(tp, current), propose(unknown, 0)];
    let request = AlterPartitionsRequest { broker_id: leader.get(), broker_epoch, partitions };
    let answer = client_at(port).alter_partitions(request.clone()).await.unwrap().into_inner().partitions;
    assert_eq!(answer.len(), 2);
    assert_eq!((answer[0].error.clone(), answer[0].isr.clone()), (None, vec![leader.get()]));
    assert_eq!(answer[0].partition_epoch, current + 1);
    assert_eq!(answer[1].error.as_ref().unwrap().code(), v1::ErrorCode::UnknownTopicId);
    let again = client_at(port).alter_partitions(request.clone()).await.unwrap().into_inner().partitions;
    assert_eq!(again[0].error.as_ref().unwrap().code(), v1::ErrorCode::InvalidUpdateVersion);
    let stale = AlterPartitionsRequest { broker_epoch: broker_epoch + 7, ..request };
    let error = error_from_status(&client_at(port).alter_partitions(stale).await.unwrap_err());
    assert_eq!(error.code(), v1::ErrorCode::StaleBrokerEpoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_back_to_the_preferred_leader() {
    let often: fn(&mut ControllerConfig) = |config| config.preferred_leader_interval_ms = 200;
    let quorum = Quorum::start_with(1, often, |_| Seams::real()).await;
    quorum.active().await;
    let port = quorum.ports[&1];
    let first = LiveBroker::start(&quorum, 1).await;
    let _second = LiveBroker::start(&quorum, 2).await;
    let create = Command::CreateTopic {
        name: "t".to_owned(),
        partitions: 0,
        replication_factor: 0,
        configs: Default::default(),
        assignments: vec![vec![BrokerId::new(1), BrokerId::new(2)]],
        validate_only: false,
    };
    let CommandResponse::Topic { topic } = quorum.execute(1, &create).await.unwrap() else { panic!() };
    let (tp, _) = topic.iter().next().unwrap();
    drop(first);
    fenced(&quorum, 1, true).await;
    let _first = LiveBroker::start(&quorum, 1).await;
    let image = quorum.running[&1].image();
    let state = image.partition(tp).unwrap().clone();
    assert_eq!(state.leader, Some(BrokerId::new(2)));
    let epoch = |id: u32| image.broker(BrokerId::new(id)).unwrap().broker_epoch.get();
    let request = AlterPartitionsRequest {
        broker_id: 2,
        broker_epoch: epoch(2),
        partitions: vec![AlterPartition {
            partition: Some(tp.into()),
            leader_epoch: state.leader_epoch.get(),
            partition_epoch: state.partition_epoch.get(),
            new_isr: vec![
                IsrMember { broker_id: 2, broker_epoch: -1 },
                IsrMember { broker_id: 1, broker_epoch: epoch(1) },
            ],
            recovered: false,
        }],
    };
    let answer = client_at(port).alter_partitions(request).await.unwrap().into_inner().partitions;
    assert_eq!(answer[0].error, None);
    let mut images = quorum.running[&1].watch_image();
    let back = images.wait_for(|image| image.partition(tp).unwrap().leader == Some(BrokerId::new(1)));
    tokio::time::timeout(DEADLINE, back).await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_with_a_reason_and_harms_nobody() {
    let quorum = Quorum::start(3).await;
    let broker = LiveBroker::start(&quorum, 1).await;
    let active = quorum.active().await;
    let port = quorum.ports[&active];
    let term = quorum.running[&active].raft_position().term;

    // Not HTTP/2, half-open, and frames of absurd lengths.
    let mut half_open = Vec::new();
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00",
        b"",
    ] {
        let mut io = Seams::real().net.connect("127.0.0.1", port).await.unwrap();
        io.write_all(bytes).await.unwrap();
        if bytes.is_empty() {
            half_open.push(io);
        } else {
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(10), io.read_to_end(&mut answer)).await.expect("closed");
        }
    }

    let code = |status: tonic::Status| error_from_status(&status).code();
    let invalid = v1::ErrorCode::InvalidRequest;
    let mut raft = RaftClient::new(highwater_seams::channel(&Seams::real().net, "127.0.0.1", port));
    let envelope = |body: &str| format!("{{\"from\":9,\"to\":{active},\"cluster\":\"\",\"body\":{body}}}");
    let elected = r#"{"leader_id":{"term":99,"node_id":9},"committed":true}"#;
    let hole = format!(
        r#"{{"vote":{elected},"prev_log_id":null,"entries":[{{"log_id":{{"leader_id":{{"term":99,"node_id":9}},"index":7}},"payload":"Blank"}}],"leader_commit":null}}"#
    );
    for payload in [
        "".to_owned(),
        "{".to_owned(),
        "[".repeat(100_000),
        envelope("{}"),
        envelope(&hole),
        envelope("null").replace("\"to\":", "\"to\":7"),
    ] {
        let message = || RaftMessage { payload: payload.clone().into() };
        assert_eq!(
            code(raft.append_entries(message()).await.unwrap_err()),
            invalid,
            "{}",
            &payload[..payload.len().min(80)]
        );
        assert_eq!(code(raft.install_snapshot(message()).await.unwrap_err()), invalid);
        assert_eq!(code(raft.vote(message()).await.unwrap_err()), invalid);
        assert_eq!(code(raft.pre_vote(message()).await.unwrap_err()), invalid);
        assert_eq!(code(raft.hand_over(message()).await.unwrap_err()), invalid);
    }
    let strange_cluster =
        envelope(r#"{"term":1,"last_log_id":null}"#).replace("\"cluster\":\"\"", "\"cluster\":\"other\"");
    assert_eq!(code(raft.pre_vote(RaftMessage { payload: strange_cluster.into() }).await.unwrap_err()), invalid);

    let mut client = client_at(port);
    for command in ["", "{}", "{\"type\":\"fence_broker\",\"broker\":1,\"broker_epoch\":1}", "{\"type\":\"no_such\"}"] {
        let request = ExecuteRequest { command: command.to_owned().into() };
        assert_eq!(code(client.execute(request).await.unwrap_err()), invalid, "{command}");
    }
    let alter = AlterPartitionsRequest { partitions: vec![AlterPartition::default()], ..Default::default() };
    assert_eq!(code(client.alter_partitions(alter).await.unwrap_err()), invalid);
    assert_eq!(code(client.add_controller(v1::AddControllerRequest::default()).await.unwrap_err()), invalid);

    // Streams that do not begin with a registration, a bad one, or go on with another.
    let empty = FakeBroker::register_as(port, Default::default(), ClusterImage::default()).await.err().unwrap();
    assert_eq!(empty.code(), invalid);
    let mut wrong = registration(7, 7);
    wrong.cluster_id = "another".to_owned();
    let wrong = FakeBroker::register_as(port, wrong, ClusterImage::default()).await.err().unwrap();
    assert_eq!(wrong.code(), invalid);
    assert!(wrong.message.contains("another"), "{}", wrong.message);
    let mut chatty = FakeBroker::register(port, 8, 8).await.unwrap();
    chatty.send(BrokerMessage { message: None }).await;
    let ended = chatty.live_until(false, |message, _| match message {
        ToBroker::Error(error) => Some(error.code()),
        _ => None,
    });
    assert_eq!(ended.await, Some(invalid));

    quorum.execute(active, &create_topic("still-there", 1)).await.expect("it goes on");
    assert_eq!(quorum.running[&active].raft_position().term, term, "nobody was deposed");
    assert_eq!(broker.registrations.load(std::sync::atomic::Ordering::Relaxed), 1, "nobody was disturbed");
    drop(half_open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_says_why_and_changes_nothing() {
    let (quorum, _) = one_controller().await;
    let before = quorum.running[&1].image();
    let wrong = [
        (create_topic("a b", 1), v1::ErrorCode::InvalidTopicName),
        (create_topic("t", 3), v1::ErrorCode::InvalidReplicationFactor),
        (Command::DeleteTopic { name: "t".to_owned() }, v1::ErrorCode::UnknownTopic),
        (
            Command::AlterTopic {
                name: "t".to_owned(),
                set_configs: Default::default(),
                unset_configs: BTreeSet::new(),
                list_changes: Vec::new(),
                partitions: 3,
                must_grow: false,
                assignments: Vec::new(),
                validate_only: false,
            },
            v1::ErrorCode::UnknownTopic,
        ),
    ];
    for (command, code) in wrong {
        let error = quorum.execute(1, &command).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        assert!(!error.message.is_empty());
    }
    assert_eq!(quorum.running[&1].image(), before);
}
