//! Connecting, following the cluster, and administration.

use std::time::Duration;

use crate::fake::{CLUSTER, Fake, error, soon};
use highwater_client::{
    Client, ConnectError, ErrorCode, NewTopic, OffsetAt, Outcome, ProducerConfig, ProducerRecord, TopicAlteration,
};

#[tokio::test]
async fn an_unreachable_cluster_is_told_with_every_address_and_its_reason() {
    let builder = Client::builder().bootstrap(["127.0.0.1:1,127.0.0.1:2"]);
    let Err(error) = soon(builder.connect_timeout(Duration::from_millis(200)).build()).await else {
        panic!("nobody listens there")
    };
    let text = error.to_string();
    assert!(matches!(error, ConnectError::Unreachable { .. }));
    for part in ["127.0.0.1:1 (", "127.0.0.1:2 (", "refused"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(matches!(Client::connect("nonsense").await, Err(ConnectError::BadAddress { .. })));
}

#[tokio::test]
async fn connecting_waits_for_a_cluster_that_is_about_to_start() {
    let fake = Fake::start(1).await;
    let port = *fake.lock().ports.get(&1).unwrap();
    let client = soon(Client::connect(format!("127.0.0.1:1,127.0.0.1:{port}"))).await.unwrap();
    assert_eq!(client.metadata().cluster_id(), CLUSTER);
}

#[tokio::test]
async fn metadata_goes_on_at_another_broker() {
    let fake = Fake::start(3).await;
    let client = fake.client().await;
    for (round, broker) in [2, 1].into_iter().enumerate() {
        fake.kill_broker(broker);
        fake.create_topic(&format!("t{round}"), &[3]);
        let name = format!("t{round}");
        soon(client.metadata_when(|image| image.topic(&name).is_some())).await;
    }
    assert_eq!(client.metadata().brokers().count(), 1);
}

#[tokio::test]
async fn a_created_topic_is_known_when_create_returns() {
    let fake = Fake::start(2).await;
    let client = fake.client().await;
    fake.lock().on_admin.extend([error(ErrorCode::NotController), error(ErrorCode::ControllerNotAvailable)]);
    let created =
        soon(client.admin().create_topic(NewTopic::new("t", 3, 1).config("retention.ms", "1"))).await.unwrap();
    assert_eq!(created.partitions.len(), 3);
    assert_eq!(client.metadata().topic("t").unwrap().id, created.id);
    assert_eq!(fake.lock().admin_calls, 3);
    let listed = soon(client.admin().list_topics()).await.unwrap();
    assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["t"]);
    assert_eq!(soon(client.admin().describe_topic("nope")).await.unwrap_err().code, ErrorCode::UnknownTopic);
}

#[tokio::test]
async fn a_change_whose_outcome_is_unknown_is_not_repeated_but_a_read_is() {
    let fake = Fake::start(1).await;
    let admin = fake.client().await.admin();
    fake.lock().on_admin.push_back(error(ErrorCode::RequestTimedOut));
    let failed = soon(admin.alter_topic("t", TopicAlteration::new())).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome), (ErrorCode::RequestTimedOut, Outcome::Unknown));
    assert_eq!(fake.lock().admin_calls, 1);
    fake.lock().on_admin.push_back(error(ErrorCode::RequestTimedOut));
    assert_eq!(soon(admin.describe_cluster()).await.unwrap().cluster_id, CLUSTER);
    assert_eq!(fake.lock().admin_calls, 3);
}

#[tokio::test]
async fn a_topic_found_after_a_lost_answer_counts_as_created_if_it_is_as_asked() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1, 1]);
    let admin = fake.client().await.admin();
    for (partitions, is_as_asked) in [(2, true), (3, false)] {
        fake.lock().on_admin.extend([error(ErrorCode::RequestTimedOut), error(ErrorCode::TopicAlreadyExists)]);
        let created = soon(admin.create_topic(NewTopic::new("t", partitions, 0))).await;
        assert_eq!(created.is_ok(), is_as_asked);
        assert!(created.err().is_none_or(|error| error.code == ErrorCode::TopicAlreadyExists));
    }
    fake.lock().on_admin.push_back(error(ErrorCode::TopicAlreadyExists));
    assert!(soon(admin.create_topic(NewTopic::new("t", 2, 0))).await.is_err(), "no answer was lost");
}

#[tokio::test]
async fn refusals_are_typed() {
    let fake = Fake::start(1).await;
    let admin = fake.client().await.admin();
    fake.lock().on_admin.push_back(error(ErrorCode::TopicAlreadyExists));
    let failed = soon(admin.create_topic(NewTopic::new("t", 1, 1))).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome), (ErrorCode::TopicAlreadyExists, Outcome::NotApplied));
    assert!(failed.to_string().contains("create topic \"t\""), "{failed}");
}

#[tokio::test]
async fn offsets_are_asked_of_each_leader() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1, 2]);
    fake.with_log("t", 0, |log| log.append_values(&["a", "b"]));
    fake.with_log("t", 1, |log| log.append_values(&["a", "b", "c"]));
    let client = fake.client().await;
    fake.lock().hint = true;
    client.metadata_when(|image| image.topic("t").is_some()).await;
    fake.lead_in_secret("t", 0, Some(2));
    let ends = soon(client.admin().list_offsets("t", OffsetAt::Latest)).await.unwrap();
    let ends: Vec<_> = ends.iter().map(|(partition, at)| (partition.get(), at.offset.unwrap().get())).collect();
    assert_eq!(ends, [(0, 2), (1, 3)]);
}

#[tokio::test]
async fn a_broker_that_tells_old_news_is_left_for_another() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1]);
    let client = fake.client().await;
    client.metadata_when(|image| image.topic("t").is_some()).await;
    // Nobody tells of the new leader, as if the one broker asked were cut off from the controllers.
    fake.lead_in_secret("t", 0, Some(2));
    fake.lock().version += 1;
    let producer = client.producer(ProducerConfig::default()).unwrap();
    soon(soon(producer.send(ProducerRecord::new("t").value("v"))).await.unwrap()).await.unwrap();
    assert_eq!(fake.values("t", 0), ["v"]);
}
