//! What all of these tests begin and end with.

use std::time::Duration;

use highwater_client::{BrokerId, Client, ClusterMetadata, NewTopic, PartitionMetadata};
use highwater_testkit::oracle::{Expectations, Report};
use highwater_testkit::workloads::appends::{Writers, WritersConfig};
use highwater_testkit::workloads::readers::{Tail, read_whole};
use highwater_testkit::{History, LocalCluster, LocalClusterConfig, NodeId};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};

pub const BINARY: &str = env!("CARGO_BIN_EXE_highwater");
pub const TOPIC: &str = "events";
pub const PARTITIONS: u32 = 3;

/// How long a state that must come may take, on a slow machine in a debug build.
pub const SOON: Duration = Duration::from_secs(30);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Waits for the turn of a test that starts its cluster by itself.
pub async fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}

/// A cluster with a topic, a client, and a history.
pub struct Scene {
    pub cluster: LocalCluster,
    pub client: Client,
    pub history: History,
    /// Read by [`Scene::check`]; each reader of a history has its own number.
    pub readers: u32,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Three controllers, three brokers, and a topic of three partitions, min.insync.replicas 2.
    pub async fn new() -> Self {
        Self::with(|config| config, |topic| topic).await
    }

    pub async fn with(
        config: impl FnOnce(LocalClusterConfig) -> LocalClusterConfig,
        topic: impl FnOnce(NewTopic) -> NewTopic,
    ) -> Self {
        let turn = one_at_a_time().await;
        let config = config(LocalClusterConfig::new(BINARY));
        let cluster = LocalCluster::start(config).await.unwrap_or_else(|error| panic!("{error}"));
        let client = Client::connect(cluster.bootstrap()).await.expect("the cluster was ready");
        let replicas = u32::try_from(cluster.broker_ids().len()).expect("few brokers").min(3);
        let new = NewTopic::new(TOPIC, PARTITIONS, replicas).config("min.insync.replicas", "2");
        client.admin().create_topic(topic(new)).await.expect("a new cluster takes a topic");
        Self { cluster, client, history: History::new(), readers: 0, _turn: turn }
    }

    pub fn write(&self) -> Writers {
        self.write_as(1)
    }

    /// With writers numbered from `first` on.
    pub fn write_as(&self, first: u32) -> Writers {
        let config = WritersConfig { first_writer: first, ..WritersConfig::new(TOPIC, PARTITIONS) };
        Writers::start(&self.client, &self.history, &config)
    }

    pub fn tail(&mut self) -> Tail {
        self.readers += 1;
        Tail::start(&self.client, &self.history, self.readers, TOPIC)
    }

    pub fn kill(&mut self, node: NodeId) {
        self.history.fault(format!("kill -9 of {node}"));
        self.cluster.kill(node).expect("the node runs");
    }

    pub fn start(&mut self, node: NodeId) {
        self.history.fault(format!("start of {node}"));
        self.cluster.start_node(node).expect("the binary starts");
    }

    /// Waits until `more` records beyond those so far were acknowledged.
    pub async fn acknowledged(&self, more: usize) {
        let wanted = self.history.acknowledged() + more;
        until(&format!("{more} more acknowledged records"), || self.history.acknowledged() >= wanted).await;
    }

    /// Waits until the client sees `condition` of the topic's partitions.
    pub async fn partitions_when(&self, what: &str, condition: impl Fn(&[PartitionMetadata]) -> bool) {
        let holds = |metadata: &ClusterMetadata| metadata.topic(TOPIC).is_some_and(|it| condition(&it.partitions));
        if timeout(SOON, self.client.metadata_when(holds)).await.is_err() {
            let now = self.client.metadata().topic(TOPIC).map(|it| it.partitions.clone());
            panic!("{what} did not come about within {SOON:?}; it is {now:?}");
        }
    }

    /// Waits until every partition has a leader and all replicas in sync.
    pub async fn all_in_sync(&self) {
        let whole = |it: &PartitionMetadata| it.leader.is_some() && it.isr.len() == it.replicas.len();
        self.partitions_when("all replicas in sync", |partitions| partitions.iter().all(whole)).await;
    }

    pub fn partition(&self, index: usize) -> PartitionMetadata {
        self.client.metadata().topic(TOPIC).expect("the topic is there").partitions[index].clone()
    }

    pub fn leader(&self, index: usize) -> BrokerId {
        self.partition(index).leader.expect("the partition is led")
    }

    /// Reads everything back and holds the history against the promises.
    pub async fn check(&mut self, expectations: &Expectations) -> Report {
        self.readers += 1;
        let read = read_whole(&self.client, &self.history, self.readers, TOPIC, SOON).await;
        let read = read.unwrap_or_else(|error| panic!("reading all back: {error}"));
        let report = self.history.assert_keeps(expectations);
        // Shown for a test that fails, or with --nocapture.
        println!("{report}");
        assert!(report.acknowledged > 0 && read > 0, "nothing was proved: {report}");
        report
    }
}

pub fn broker(id: BrokerId) -> NodeId {
    NodeId::Broker(id)
}

/// Waits until `condition` holds, with a deadline.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about within {SOON:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
