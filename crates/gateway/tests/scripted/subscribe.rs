//! What a subscribed stream promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_client::ErrorCode;
use highwater_gateway::{Gateway, GatewayLimits};
use highwater_protocol::{code_of, error_from_status, v1};
use highwater_seams::{Net as _, Seams, TcpNet, incoming};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic::{Status, Streaming};
use v1::AssignmentChangeKind as Kind;
use v1::records_client::RecordsClient;
use v1::subscribe_request::Request;
use v1::subscribe_response::Response;

use crate::fake::{Fake, soon, until};

/// A fake cluster with topic "t" of 100 records in each partition, and a gateway in front of it.
struct Scene {
    fake: Arc<Fake>,
    port: u16,
    ending: CancellationToken,
}

impl Scene {
    async fn new(partitions: u32) -> Self {
        let fake = Fake::start(1).await;
        fake.create_topic("t", &vec![1; partitions as usize]);
        let values: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        for partition in 0..partitions {
            for batch in values.chunks(10) {
                let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
                fake.with_log("t", partition, |log| log.append_values(&batch));
            }
        }
        let ending = CancellationToken::new();
        let limits = GatewayLimits { response_bytes: 2000, ..GatewayLimits::default() };
        let gateway = Gateway::new(fake.bootstrap(), limits, Seams::real(), ending.clone());
        let listener = TcpNet.bind("127.0.0.1", 0).await.unwrap();
        let port = listener.port();
        let routes = gateway.mount(tonic::service::Routes::default());
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming(listener)));
        Self { fake, port, ending }
    }

    /// On a connection of its own.
    async fn connect(&self) -> RecordsClient<Channel> {
        RecordsClient::connect(format!("http://127.0.0.1:{}", self.port)).await.unwrap()
    }

    async fn join(&self, credit: u64) -> Member {
        self.join_with(credit, 20_000).await
    }

    async fn join_with(&self, credit: u64, release_wait_ms: u32) -> Member {
        let join = v1::SubscribeJoin {
            group_id: "g".to_owned(),
            topics: vec!["t".to_owned()],
            credit,
            release_wait_ms,
            ..Default::default()
        };
        Member::open(self, Request::Join(join)).await
    }

    fn members(&self) -> usize {
        self.fake.lock().coordination.groups.get("g").map_or(0, |group| group.members.len())
    }

    fn committed(&self) -> BTreeMap<u32, i64> {
        let state = self.fake.lock();
        let group = state.coordination.groups.get("g");
        group.map(|g| g.committed.iter().map(|((_, p), o)| (*p, o.offset)).collect()).unwrap_or_default()
    }
}

struct Member {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    answers: Streaming<v1::SubscribeResponse>,
}

impl Member {
    async fn open(scene: &Scene, first: Request) -> Self {
        let (requests, sent) = mpsc::channel(16);
        requests.send(v1::SubscribeRequest { request: Some(first) }).await.unwrap();
        let answers = scene.connect().await.subscribe(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn ask(&self, request: Request) {
        self.requests.send(v1::SubscribeRequest { request: Some(request) }).await.unwrap();
    }

    async fn next(&mut self) -> Result<Response, Status> {
        let answer = soon(self.answers.message()).await?.expect("the stream goes on");
        Ok(answer.response.unwrap())
    }

    async fn change(&mut self) -> v1::AssignmentChange {
        loop {
            match self.next().await.unwrap() {
                Response::Change(change) => return change,
                Response::Delivery(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// So many records, with the last delivery's number.
    async fn records(&mut self, count: usize) -> (u64, Vec<v1::ReadRecord>) {
        let (mut last, mut records) = (0, Vec::new());
        while records.len() < count {
            match self.next().await.unwrap() {
                Response::Delivery(delivery) => {
                    assert_eq!(delivery.delivery_id, if last == 0 { delivery.delivery_id } else { last + 1 });
                    last = delivery.delivery_id;
                    records.extend(delivery.records);
                }
                Response::Change(change) => assert_eq!(change.kind(), Kind::Assigned),
                other => panic!("{other:?}"),
            }
        }
        (last, records)
    }

    async fn commit(&mut self, up_to_delivery: u64) -> Option<v1::Error> {
        self.ask(Request::Commit(v1::SubscribeCommit { commit_id: 77, up_to_delivery, ..Default::default() })).await;
        loop {
            if let Response::Commit(result) = self.next().await.unwrap() {
                assert_eq!(result.commit_id, 77);
                return result.error;
            }
        }
    }
}

fn partitions(change: &v1::AssignmentChange) -> BTreeSet<u32> {
    change.partitions.iter().map(|partition| partition.partition).collect()
}

#[tokio::test]
async fn a_member_is_handed_what_it_has_credit_for_and_leaves_after_its_last_commit() {
    let scene = Scene::new(1).await;
    let mut member = scene.join(10).await;
    let change = member.change().await;
    assert_eq!((change.kind(), partitions(&change)), (Kind::Assigned, BTreeSet::from([0])));
    let (last, records) = member.records(10).await;
    assert_eq!(records.iter().map(|it| it.offset).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    let all_so_far = v1::SubscribeCommit { commit_id: 5, up_to_delivery: last, ..Default::default() };
    member.ask(Request::Commit(all_so_far)).await;
    // Nothing comes before it: there is no record without credit.
    let answer = member.next().await.unwrap();
    assert_eq!(answer, Response::Commit(v1::SubscribeCommitResult { commit_id: 5, error: None }));
    assert_eq!(scene.committed(), BTreeMap::from([(0, 10)]));
    member.ask(Request::Credit(v1::SubscribeCredit { records: 90 })).await;
    let (last, records) = member.records(90).await;
    assert_eq!(records.last().unwrap().offset, 99);
    let last = v1::SubscribeCommit { commit_id: 1, up_to_delivery: last, ..Default::default() };
    member.ask(Request::Commit(last)).await;
    drop(member.requests);
    while let Some(answer) = soon(member.answers.message()).await.unwrap() {
        let Some(Response::Commit(result)) = answer.response else { panic!("{answer:?}") };
        assert_eq!((result.commit_id, result.error), (1, None));
    }
    assert_eq!((scene.committed(), scene.members()), (BTreeMap::from([(0, 100)]), 0));
}

#[tokio::test]
async fn a_revoked_partition_is_waited_for_and_its_next_owner_begins_at_the_commit() {
    let scene = Scene::new(2).await;
    let mut one = scene.join(1000).await;
    let (last, _) = one.records(200).await;
    let mut two = scene.join(1000).await;
    let revoked = one.change().await;
    assert_eq!((revoked.kind(), revoked.awaits_release), (Kind::Revoked, true));
    let moved = partitions(&revoked);
    assert_eq!(moved.len(), 1);
    assert_eq!(one.commit(last).await, None);
    scene.fake.with_log("t", *moved.first().unwrap(), |log| log.append_values(&["new"]));
    one.ask(Request::Release(v1::SubscribeRelease { change_id: revoked.change_id })).await;
    let assigned = two.change().await;
    assert_eq!((assigned.kind(), partitions(&assigned)), (Kind::Assigned, moved));
    let (_, records) = two.records(1).await;
    assert_eq!((records[0].offset, records[0].value.as_deref()), (100, Some(&b"new"[..])));
}

#[tokio::test]
async fn a_client_that_does_not_release_a_partition_is_not_waited_for_for_ever() {
    let scene = Scene::new(2).await;
    let mut one = scene.join_with(1000, 50).await;
    one.records(200).await;
    let mut two = scene.join(1000).await;
    assert_eq!(one.change().await.kind(), Kind::Revoked);
    assert_eq!(two.change().await.kind(), Kind::Assigned);
    let (_, records) = two.records(1).await;
    assert_eq!(records[0].offset, 0, "nothing was committed");
}

#[tokio::test]
async fn a_broken_stream_leaves_at_once_and_the_other_goes_on_from_the_commit() {
    let scene = Scene::new(1).await;
    let mut one = scene.join(30).await;
    let (last, _) = one.records(30).await;
    assert_eq!(one.commit(last).await, None);
    one.ask(Request::Credit(v1::SubscribeCredit { records: 5 })).await;
    one.records(5).await;
    let mut two = scene.join(1000).await;
    until("both are members", || scene.members() == 2).await;
    drop(one);
    until("it has left", || scene.members() == 1).await;
    let (_, records) = two.records(70).await;
    assert_eq!(records[0].offset, 30, "what was handed out and not committed is handed out again");
}

#[tokio::test]
async fn a_broker_that_ends_says_so_and_its_members_leave() {
    let scene = Scene::new(1).await;
    let mut member = scene.join(1).await;
    member.records(1).await;
    scene.ending.cancel();
    let error = loop {
        if let Err(status) = member.next().await {
            break error_from_status(&status);
        }
    };
    assert_eq!(code_of(&error), ErrorCode::BrokerShuttingDown);
    assert_eq!(scene.members(), 0);
}

#[tokio::test]
async fn what_makes_no_sense_ends_the_stream_and_says_why() {
    let scene = Scene::new(1).await;
    let refused = async |first| {
        let mut member = Member::open(&scene, first).await;
        error_from_status(&member.next().await.unwrap_err())
    };
    let error = refused(Request::Credit(v1::SubscribeCredit { records: 1 })).await;
    assert_eq!((code_of(&error), error.message.contains("join")), (ErrorCode::InvalidRequest, true));
    let error = refused(Request::Join(v1::SubscribeJoin { group_id: "g".to_owned(), ..Default::default() })).await;
    assert_eq!((code_of(&error), error.message.contains("topics")), (ErrorCode::InvalidRequest, true));
    let topics = vec!["t".to_owned()];
    let error = refused(Request::Join(v1::SubscribeJoin { topics, ..Default::default() })).await;
    assert_eq!((code_of(&error), error.message.contains("group_id")), (ErrorCode::InvalidRequest, true));

    let mut member = scene.join(1).await;
    let (last, _) = member.records(1).await;
    let error = member.commit(last + 1).await.unwrap();
    assert_eq!(code_of(&error), ErrorCode::InvalidRequest);
    assert_eq!(member.commit(last).await, None, "a commit that makes no sense ends nothing");
    member.ask(Request::Release(v1::SubscribeRelease { change_id: 99 })).await;
    assert_eq!(code_of(&error_from_status(&member.next().await.unwrap_err())), ErrorCode::InvalidRequest);
    until("it has left", || scene.members() == 0).await;
}
