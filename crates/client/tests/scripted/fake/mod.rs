//! A cluster of brokers made up for tests: real gRPC over loopback, one log per partition, and a script for what goes
//! wrong. It follows the .proto, not the broker's code.

mod coordinator;
pub mod group;
pub mod log;
mod services;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use highwater_client::{Client, ClientBuilder};
use highwater_protocol::v1;
use highwater_seams::{Net as _, TcpNet, incoming};
use highwater_types::ErrorCode;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use coordinator::Coordination;
use log::FakeLog;

pub use coordinator::OnCall;

/// What a broker does with the next produce request.
#[derive(Debug, Clone)]
pub enum OnProduce {
    /// Appends and answers.
    Accept,
    /// Answers every partition with this error; nothing is appended.
    Refuse(v1::Error),
    /// Appends, then answers with this error.
    AppendThenFail(v1::Error),
    /// Appends, and ends the stream without an answer.
    AppendThenDrop,
    /// Ends the stream; nothing is appended.
    Drop,
    /// Never answers; nothing is appended.
    Ignore,
    /// Waits until `Fake::release`, then appends and answers.
    Hold,
}

/// What a broker does with the next fetch request.
#[derive(Debug, Clone)]
pub enum OnFetch {
    Serve,
    Refuse(v1::Error),
    /// Answers with the records, one bit of which is wrong.
    Damage,
    Diverge {
        leader_epoch: i32,
        end_offset: i64,
    },
    Drop,
}

#[derive(Default)]
pub struct State {
    pub version: u64,
    pub topics: BTreeMap<String, v1::TopicInfo>,
    pub ports: BTreeMap<u32, u16>,
    pub logs: BTreeMap<(Vec<u8>, u32), FakeLog>,
    pub on_produce: VecDeque<OnProduce>,
    pub on_fetch: VecDeque<OnFetch>,
    /// Answers of the Admin service, first to last; then it succeeds.
    pub on_admin: VecDeque<v1::Error>,
    /// Groups, transactions, producer ids.
    pub coordination: Coordination,
    /// Each request, with the broker that got it.
    pub produced: Vec<(u32, v1::ProduceRequest)>,
    pub fetched: Vec<(u32, v1::FetchRequest)>,
    pub admin_calls: usize,
    /// Whether NOT_LEADER says who leads.
    pub hint: bool,
    /// The replica to which leaders send readers that say where they are.
    pub preferred: Option<u32>,
    servers: BTreeMap<u32, AbortHandle>,
}

pub struct Fake {
    state: Mutex<State>,
    /// The version of the metadata.
    pub changed: watch::Sender<u64>,
    /// Fires when a log grows.
    pub grown: Notify,
    held: watch::Sender<bool>,
}

pub const CLUSTER: &str = "fake-cluster";

impl Fake {
    /// A cluster of brokers 1 to `brokers`.
    pub async fn start(brokers: u32) -> Arc<Self> {
        let fake = Arc::new(Self {
            state: Mutex::new(State { version: 1, ..State::default() }),
            changed: watch::Sender::new(1),
            grown: Notify::new(),
            held: watch::Sender::new(true),
        });
        for id in 1..=brokers {
            fake.start_broker(id).await;
        }
        fake
    }

    pub async fn start_broker(self: &Arc<Self>, id: u32) {
        let listener = TcpNet.bind("127.0.0.1", 0).await.unwrap();
        let port = listener.port();
        let server = services::router(Arc::clone(self), id).serve_with_incoming(incoming(listener));
        let handle = tokio::spawn(async move {
            server.await.unwrap();
        });
        let mut state = self.lock();
        state.ports.insert(id, port);
        state.servers.insert(id, handle.abort_handle());
    }

    /// As kill -9: connections break, and new ones are refused.
    pub fn kill_broker(&self, id: u32) {
        self.lock().servers.remove(&id).unwrap().abort();
        // Connection tasks of the server live on without it; this ends their streams.
        self.lock().ports.remove(&id);
        self.publish();
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn bootstrap(&self) -> String {
        let ports: Vec<_> = self.lock().ports.values().map(|port| format!("127.0.0.1:{port}")).collect();
        ports.join(",")
    }

    pub fn builder(&self) -> ClientBuilder {
        Client::builder()
            .bootstrap([self.bootstrap()])
            .connect_timeout(Duration::from_secs(5))
            .request_timeout(Duration::from_secs(5))
            .topic_wait(Duration::from_millis(300))
    }

    pub async fn client(&self) -> Client {
        self.builder().build().await.unwrap()
    }

    /// Creates a topic, led by these brokers.
    pub fn create_topic(&self, name: &str, leaders: &[u32]) {
        {
            let mut state = self.lock();
            let id = vec![state.version as u8; 16];
            let partition = |(index, &leader): (usize, &u32)| v1::PartitionInfo {
                partition: index as u32,
                leader: Some(leader),
                leader_epoch: 5,
                ..Default::default()
            };
            let partitions = leaders.iter().enumerate().map(partition).collect();
            let info = v1::TopicInfo { topic_id: id.into(), name: name.into(), partitions, ..Default::default() };
            state.topics.insert(name.to_owned(), info);
        }
        self.publish();
    }

    pub fn delete_topic(&self, name: &str) {
        self.lock().topics.remove(name).unwrap();
        self.publish();
    }

    pub fn set_config(&self, topic: &str, key: &str, value: &str) {
        self.lock().topics.get_mut(topic).unwrap().configs.insert(key.into(), value.into());
        self.publish();
    }

    /// Gives a partition another leader, or none.
    pub fn lead(&self, topic: &str, partition: u32, leader: Option<u32>) {
        self.lead_in_secret(topic, partition, leader);
        self.publish();
    }

    /// The same, with nobody told: metadata lags behind.
    pub fn lead_in_secret(&self, topic: &str, partition: u32, leader: Option<u32>) {
        let mut state = self.lock();
        let partition = &mut state.topics.get_mut(topic).unwrap().partitions[partition as usize];
        partition.leader = leader;
        partition.leader_epoch += 1;
    }

    pub fn publish(&self) {
        let version = {
            let mut state = self.lock();
            state.version += 1;
            state.version
        };
        self.changed.send_replace(version);
    }

    pub fn on_produce(&self, script: impl IntoIterator<Item = OnProduce>) {
        self.lock().on_produce.extend(script);
    }

    pub fn on_fetch(&self, script: impl IntoIterator<Item = OnFetch>) {
        self.lock().on_fetch.extend(script);
    }

    /// Lets held requests go on.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// The values in a partition's log, in order.
    pub fn values(&self, topic: &str, partition: u32) -> Vec<String> {
        let state = self.lock();
        let Some(info) = state.topics.get(topic) else { return Vec::new() };
        let log = state.logs.get(&(info.topic_id.to_vec(), partition));
        log.map(FakeLog::values).unwrap_or_default()
    }

    /// Changes a partition's log.
    pub fn with_log<R>(&self, topic: &str, partition: u32, change: impl FnOnce(&mut FakeLog) -> R) -> R {
        let result = {
            let mut state = self.lock();
            let info = &state.topics[topic];
            let (id, epoch) = (info.topic_id.to_vec(), info.partitions[partition as usize].leader_epoch);
            let log = state.logs.entry((id, partition)).or_default();
            log.epoch = epoch;
            change(log)
        };
        self.grown.notify_waiters();
        result
    }

    pub fn requests(&self) -> usize {
        self.lock().produced.len()
    }
}

pub fn error(code: ErrorCode) -> v1::Error {
    v1::Error::new(code, format!("scripted {code}"))
}

/// Waits until it holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The result, or a failed test instead of a hanging one.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}
