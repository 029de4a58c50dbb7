//! The way in: connects to a cluster, and makes producers, consumers and admins that share its connections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_seams::Seams;
use highwater_types::BrokerId;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use crate::channels::Channels;
use crate::metadata::{ClusterMetadata, TopicMetadata};
use crate::{
    Admin, ConnectError, Consumer, ConsumerConfig, GroupConfig, GroupConsumer, InvalidSetting, Producer,
    ProducerConfig, TransactionError, TransactionalConfig, TransactionalProducer, bootstrap, metadata,
};

/// A client of one cluster. Cloning is cheap and shares everything. Needs a tokio runtime; its task ends when the last
/// clone, producer, consumer and admin is gone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<ClientInner>,
}

/// How to connect.
pub struct ClientBuilder {
    bootstrap: Vec<String>,
    seams: Option<Seams>,
    connect_timeout: Duration,
    request_timeout: Duration,
    topic_wait: Duration,
}

pub(crate) struct ClientInner {
    pub seams: Seams,
    pub request_timeout: Duration,
    pub topic_wait: Duration,
    image: watch::Sender<Arc<ClusterMetadata>>,
    /// What was tried in vain, while no broker can be reached.
    lost: watch::Sender<Option<String>>,
    doubt: Arc<Notify>,
    channels: Channels,
    follower: AbortHandle,
}

impl Drop for ClientInner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Client {
    /// Connects by any of these brokers: `host:port`, several separated by commas. See [`ClientBuilder`] for more.
    pub async fn connect(bootstrap: impl AsRef<str>) -> Result<Self, ConnectError> {
        Self::builder().bootstrap([bootstrap]).build().await
    }

    /// To set more than the addresses.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            bootstrap: Vec::new(),
            seams: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            topic_wait: Duration::from_secs(2),
        }
    }

    /// A producer. It is a handle: clone it to send from many tasks.
    pub fn producer(&self, config: ProducerConfig) -> Result<Producer, InvalidSetting> {
        Producer::new(Arc::clone(&self.inner), config)
    }

    /// A consumer, with nothing assigned yet.
    pub fn consumer(&self, config: ConsumerConfig) -> Consumer {
        Consumer::new(Arc::clone(&self.inner), config)
    }

    /// A producer of transactions. Fences the one before with the same transactional id, and waits until what that left
    /// open is aborted.
    pub async fn transactional_producer(
        &self,
        config: TransactionalConfig,
    ) -> Result<TransactionalProducer, TransactionError> {
        TransactionalProducer::new(Arc::clone(&self.inner), config).await
    }

    /// A member of a consumer group; it joins once it has subscribed to something.
    pub fn group_consumer(&self, config: GroupConfig) -> Result<GroupConsumer, InvalidSetting> {
        GroupConsumer::new(Arc::clone(&self.inner), config)
    }

    /// For topics, configs and the cluster itself.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.inner))
    }

    /// The cluster as this client knows it now.
    pub fn metadata(&self) -> Arc<ClusterMetadata> {
        self.inner.image()
    }

    /// Waits until `condition` holds of the cluster, as this client sees it, and returns that image. Give it a deadline.
    pub async fn metadata_when(&self, condition: impl Fn(&ClusterMetadata) -> bool) -> Arc<ClusterMetadata> {
        self.inner.image_when(condition).await
    }

    /// Resolves once every broker that is known has been tried in vain, with each one's address and error. The client, and all
    /// that was made from it, goes on trying.
    pub async fn lost(&self) -> String {
        self.inner.when_lost(Option::is_some).await.unwrap_or_default()
    }

    /// Resolves once a broker answers again, or at once if none was [lost](Self::lost).
    pub async fn found(&self) {
        self.inner.when_lost(Option::is_none).await;
    }
}

impl ClientBuilder {
    /// Addresses of some brokers of the cluster; the rest are found through them. Each may hold several, separated by
    /// commas.
    #[must_use]
    pub fn bootstrap<S: AsRef<str>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.bootstrap.extend(addresses.into_iter().map(|address| address.as_ref().to_owned()));
        self
    }

    /// Network, clock and randomness other than the real ones, for tests.
    #[must_use]
    pub fn seams(mut self, seams: Seams) -> Self {
        self.seams = Some(seams);
        self
    }

    /// How long [`build`](Self::build) tries to reach a broker. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Bound of each administrative request and offset look-up, retries included. Default: 30 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a topic that is not known may take to appear before it counts as not there. Default: 2 s.
    #[must_use]
    pub fn topic_wait(mut self, wait: Duration) -> Self {
        self.topic_wait = wait;
        self
    }

    /// Connects: returns once the first picture of the cluster is here.
    pub async fn build(self) -> Result<Client, ConnectError> {
        let bootstrap = bootstrap::parse_lists(&self.bootstrap)?;
        let seams = self.seams.unwrap_or_else(Seams::real);
        let (image, mut changes) = watch::channel(Arc::new(ClusterMetadata::default()));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let doubt = Arc::new(Notify::new());
        let (lost, _) = watch::channel(None);
        let follow = metadata::watch::follow(
            seams.clone(),
            bootstrap.clone(),
            image.clone(),
            lost.clone(),
            Arc::clone(&failures),
            Arc::clone(&doubt),
        );
        let inner = ClientInner {
            seams,
            request_timeout: self.request_timeout,
            topic_wait: self.topic_wait,
            image,
            lost,
            doubt,
            channels: Channels::default(),
            follower: tokio::spawn(follow).abort_handle(),
        };
        let known = changes.wait_for(|image| image.brokers().next().is_some());
        match timeout_at(Instant::now() + self.connect_timeout, known).await {
            Ok(_) => Ok(Client { inner: Arc::new(inner) }),
            Err(_) => Err(ConnectError::Unreachable {
                waited: self.connect_timeout,
                tried: metadata::watch::tried(&bootstrap, &failures.lock().unwrap_or_else(PoisonError::into_inner)),
            }),
        }
    }
}

impl ClientInner {
    pub fn image(&self) -> Arc<ClusterMetadata> {
        Arc::clone(&self.image.borrow())
    }

    pub fn watch_image(&self) -> watch::Receiver<Arc<ClusterMetadata>> {
        self.image.subscribe()
    }

    pub async fn image_when(&self, condition: impl Fn(&ClusterMetadata) -> bool) -> Arc<ClusterMetadata> {
        let mut changes = self.watch_image();
        match changes.wait_for(|image| condition(image)).await {
            Ok(image) => Arc::clone(&image),
            // Can't be: `self` holds the sender.
            Err(_) => self.image(),
        }
    }

    async fn when_lost(&self, condition: impl Fn(&Option<String>) -> bool) -> Option<String> {
        match self.lost.subscribe().wait_for(|lost| condition(lost)).await {
            Ok(lost) => lost.clone(),
            // Can't be: `self` holds the sender.
            Err(_) => None,
        }
    }

    /// The topic, once it is known; waits for it for a bounded time.
    pub async fn topic(&self, name: &str) -> Option<Arc<TopicMetadata>> {
        let deadline = Instant::now() + self.topic_wait;
        let known = |image: &ClusterMetadata| image.topic(name).is_some_and(|topic| !topic.partitions.is_empty());
        let image = timeout_at(deadline, self.image_when(known)).await.ok()?;
        image.topic(name).map(Arc::clone)
    }

    pub fn channel(&self, broker: BrokerId) -> Option<Channel> {
        self.channels.get(&self.seams, &self.image(), broker)
    }

    /// What failed so often that the metadata may be stale: asks another broker for it.
    pub fn doubt_metadata(&self) {
        self.doubt.notify_one();
    }

    /// Takes what an error said of who leads.
    pub fn note_leader(&self, partition: highwater_types::TopicPartition, error: &highwater_protocol::v1::Error) {
        let Some(hint) = &error.leader else { return };
        self.image.send_if_modified(|image| match image.hinted(partition.topic, partition.partition, hint) {
            Some(next) => {
                *image = Arc::new(next);
                true
            }
            None => false,
        });
    }
}
