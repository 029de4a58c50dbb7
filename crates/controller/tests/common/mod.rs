//! A quorum of controllers in one process, on loopback, with their stores in temporary folders.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use highwater_controller::{Controller, ControllerConfig, ControllerHandle, MetaStore, SledStore, StoreError};
use highwater_metadata::{ClusterImage, Command, CommandResponse, Record};
use highwater_protocol::internal::broker_message::Message as FromBroker;
use highwater_protocol::internal::controller_client::ControllerClient;
use highwater_protocol::internal::controller_message::Message as ToBroker;
use highwater_protocol::internal::{BrokerHeartbeat, BrokerMessage, ControllerMessage, ExecuteRequest, RegisterBroker};
use highwater_protocol::{error_from_status, v1};
use highwater_seams::Seams;
use highwater_types::{BrokerId, ControllerId};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub struct Quorum {
    pub running: BTreeMap<u64, ControllerHandle>,
    pub ports: BTreeMap<u64, u16>,
    pub folders: BTreeMap<u64, TempDir>,
    pub voters: BTreeMap<ControllerId, (String, u16)>,
    pub seams: BTreeMap<u64, Seams>,
    pub adjust: fn(&mut ControllerConfig),
}

impl Quorum {
    pub async fn start(size: u64) -> Self {
        Self::start_with(size, |_| {}, |_| Seams::real()).await
    }

    pub async fn start_with(size: u64, adjust: fn(&mut ControllerConfig), seams: impl Fn(u64) -> Seams) -> Self {
        let mut quorum = Self {
            running: BTreeMap::new(),
            ports: BTreeMap::new(),
            folders: BTreeMap::new(),
            voters: BTreeMap::new(),
            seams: (1..=size).map(|id| (id, seams(id))).collect(),
            adjust,
        };
        let mut listeners = BTreeMap::new();
        for id in 1..=size {
            let listener = quorum.seams[&id].net.bind("127.0.0.1", 0).await.unwrap();
            quorum.voters.insert(ControllerId::new(id), ("127.0.0.1".to_owned(), listener.port()));
            quorum.ports.insert(id, listener.port());
            quorum.folders.insert(id, tempfile::tempdir().unwrap());
            listeners.insert(id, listener);
        }
        for (id, listener) in listeners {
            let store = open(quorum.folders[&id].path()).await;
            let handle =
                Controller::start_on(listener, quorum.config(id), quorum.seams[&id].clone(), store).await.unwrap();
            quorum.running.insert(id, handle);
        }
        quorum
    }

    pub fn config(&self, id: u64) -> ControllerConfig {
        let mut config = ControllerConfig {
            id: ControllerId::new(id),
            listen_port: self.ports[&id],
            advertised: ("127.0.0.1".to_owned(), self.ports[&id]),
            initial_voters: self.voters.clone(),
            data_dir: self.folders[&id].path().to_owned(),
            ..ControllerConfig::default()
        };
        (self.adjust)(&mut config);
        config
    }

    /// Starts a controller anew, on what it left.
    pub async fn restart(&mut self, id: u64) {
        let store = open(self.folders[&id].path()).await;
        let deadline = Instant::now() + DEADLINE;
        let handle = loop {
            match Controller::start(self.config(id), self.seams[&id].clone(), Arc::clone(&store)).await {
                Ok(handle) => break handle,
                // The port is let go of when the last connection is.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        self.running.insert(id, handle);
    }

    /// Until all that run have applied the same, and know who leads.
    pub async fn settled(&self) {
        let active = self.active().await;
        for handle in self.running.values() {
            eventually("the same state everywhere", || async {
                let same = handle.image() == self.running[&active].image();
                (same && handle.active_controller() == Some(ControllerId::new(active))).then_some(())
            })
            .await;
        }
    }

    /// Starts one more, which waits to be added.
    pub async fn start_joining(&mut self, id: u64) {
        let listener = Seams::real().net.bind("127.0.0.1", 0).await.unwrap();
        self.ports.insert(id, listener.port());
        self.folders.insert(id, tempfile::tempdir().unwrap());
        self.seams.insert(id, Seams::real());
        let store = open(self.folders[&id].path()).await;
        let config = ControllerConfig { join: true, initial_voters: BTreeMap::new(), ..self.config(id) };
        let handle = Controller::start_on(listener, config, Seams::real(), store).await.unwrap();
        self.running.insert(id, handle);
    }

    /// As kill -9 does, as far as that goes within one process.
    pub async fn kill(&mut self, id: u64) {
        self.running.remove(&id).unwrap().abort().await;
    }

    /// The one controller that is active.
    pub async fn active(&self) -> u64 {
        eventually("an active controller", || async {
            let mut active = self.running.iter().filter(|(_, handle)| handle.is_active());
            match (active.next(), active.next()) {
                (Some((id, _)), None) => Some(*id),
                _ => None,
            }
        })
        .await
    }

    pub fn client(&self, id: u64) -> ControllerClient<Channel> {
        client_at(self.ports[&id])
    }

    pub async fn execute(&self, id: u64, command: &Command) -> Result<CommandResponse, v1::Error> {
        let request = ExecuteRequest { command: command.to_json().into() };
        let answer = tokio::time::timeout(DEADLINE, self.client(id).execute(request)).await.expect("an answer in time");
        let answer = answer.map_err(|status| error_from_status(&status))?;
        Ok(CommandResponse::from_json(&answer.into_inner().response).unwrap())
    }

    /// Has it done by whoever is active, as long as that takes.
    pub async fn execute_somewhere(&self, command: &Command) -> CommandResponse {
        eventually("a command to be done", || async {
            for id in self.running.keys() {
                match self.execute(*id, command).await {
                    Ok(response) => return Some(response),
                    Err(error) => assert!(error.retriable, "{error:?}"),
                }
            }
            None
        })
        .await
    }
}

pub fn client_at(port: u16) -> ControllerClient<Channel> {
    ControllerClient::new(highwater_seams::channel(&Seams::real().net, "127.0.0.1", port))
}

pub fn create_topic(name: &str, replication_factor: u32) -> Command {
    Command::CreateTopic {
        name: name.to_owned(),
        partitions: 1,
        replication_factor,
        configs: BTreeMap::new(),
        assignments: Vec::new(),
        validate_only: false,
    }
}

/// A broker's end of a session, driven by hand.
pub struct FakeBroker {
    pub id: u32,
    pub broker_epoch: i64,
    /// Of the metadata that its registration is part of.
    pub known: u64,
    pub image: ClusterImage,
    /// Snapshots and deltas received.
    pub snapshots: usize,
    pub deltas: usize,
    outbound: mpsc::Sender<BrokerMessage>,
    inbound: Streaming<ControllerMessage>,
    /// Who asks after it finds somebody listening, for as long as it lives.
    listening: Option<TcpListener>,
}

fn listen() -> (TcpListener, u32) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port.into())
}

/// Of a broker that listens nowhere.
pub fn registration(id: u32, incarnation: u8) -> RegisterBroker {
    RegisterBroker {
        broker_id: id,
        incarnation_id: bytes::Bytes::from(vec![incarnation; 16]),
        client_endpoint: Some(v1::Endpoint { host: "127.0.0.1".to_owned(), port: 9000 + id }),
        internal_endpoint: Some(v1::Endpoint { host: "127.0.0.1".to_owned(), port: 9100 + id }),
        previous_broker_epoch: -1,
        ..RegisterBroker::default()
    }
}

impl FakeBroker {
    pub async fn register(port: u16, id: u32, incarnation: u8) -> Result<Self, v1::Error> {
        let (listener, own_port) = listen();
        let mut broker = Self::register_with(port, id, incarnation, own_port).await?;
        broker.listening = Some(listener);
        Ok(broker)
    }

    async fn register_with(port: u16, id: u32, incarnation: u8, own_port: u32) -> Result<Self, v1::Error> {
        let mut register = registration(id, incarnation);
        register.internal_endpoint = Some(v1::Endpoint { host: "127.0.0.1".to_owned(), port: own_port });
        Self::register_as(port, register, ClusterImage::default()).await
    }

    pub async fn register_as(port: u16, register: RegisterBroker, image: ClusterImage) -> Result<Self, v1::Error> {
        let id = register.broker_id;
        let (outbound, messages) = mpsc::channel(64);
        outbound.send(BrokerMessage { message: Some(FromBroker::Register(register)) }).await.unwrap();
        let session =
            client_at(port).max_decoding_message_size(64 << 20).broker_session(ReceiverStream::new(messages)).await;
        let mut inbound = session.map_err(|status| error_from_status(&status))?.into_inner();
        let first = inbound.message().await.map_err(|status| error_from_status(&status))?;
        match first.and_then(|message| message.message) {
            Some(ToBroker::Registered(registered)) => Ok(Self {
                id,
                broker_epoch: registered.broker_epoch,
                known: registered.metadata_version,
                image,
                snapshots: 0,
                deltas: 0,
                outbound,
                inbound,
                listening: None,
            }),
            Some(ToBroker::Error(error)) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub async fn heartbeat(&self, wants_shutdown: bool) {
        let metadata_version = self.image.version.get();
        let heartbeat = BrokerHeartbeat { metadata_version, wants_shutdown, ..BrokerHeartbeat::default() };
        // A controller that closed the stream is seen when reading.
        let _ = self.outbound.send(BrokerMessage { message: Some(FromBroker::Heartbeat(heartbeat)) }).await;
    }

    pub async fn send(&self, message: BrokerMessage) {
        let _ = self.outbound.send(message).await;
    }

    /// The next message, its metadata taken over; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<ToBroker> {
        let message = self.inbound.message().await.ok()??.message?;
        if let ToBroker::Delta(delta) = &message {
            if delta.snapshot.is_empty() {
                assert_eq!(delta.from_version, self.image.version.get(), "a delta continues what was there");
                for record in &delta.records {
                    self.image.replay(&Record::from_json(record).unwrap()).unwrap();
                }
                self.deltas += 1;
            } else {
                self.image = ClusterImage::from_json(&delta.snapshot).unwrap();
                self.snapshots += 1;
            }
            assert_eq!(delta.to_version, self.image.version.get());
        }
        Some(message)
    }

    /// Lives on, with heartbeats, until `done` says so of a message and the image.
    pub async fn live_until<T>(
        &mut self,
        wants_shutdown: bool,
        mut done: impl FnMut(&ToBroker, &ClusterImage) -> Option<T>,
    ) -> Option<T> {
        let mut heartbeat = tokio::time::interval(Duration::from_millis(50));
        let deadline = Instant::now() + DEADLINE;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline) => panic!("not within {DEADLINE:?}"),
                message = self.next() => {
                    if let Some(found) = done(&message?, &self.image) {
                        return Some(found);
                    }
                }
                _ = heartbeat.tick() => self.heartbeat(wants_shutdown).await,
            }
        }
    }

    /// Lives on until `done` is.
    pub async fn live_while<T>(&mut self, done: impl Future<Output = T>) -> T {
        tokio::select! {
            done = done => done,
            ended = self.live_until_the_end::<T>(|_| ()) => panic!("the stream ended: {}", ended.is_none()),
        }
    }

    pub fn is_fenced(&self) -> Option<bool> {
        self.image.broker(BrokerId::new(self.id)).map(|broker| broker.fenced)
    }

    /// Until the controller has unfenced it.
    pub async fn until_unfenced(&mut self) {
        let id = BrokerId::new(self.id);
        self.live_until(false, |_, image| image.is_unfenced(id).then_some(())).await.expect("a live stream");
    }
}

/// A broker that lives for as long as this does: it finds the active controller and stays with it.
pub struct LiveBroker {
    task: tokio::task::JoinHandle<()>,
    pub unfenced: tokio::sync::watch::Receiver<bool>,
    /// How often it had to register.
    pub registrations: Arc<std::sync::atomic::AtomicUsize>,
}

impl LiveBroker {
    pub async fn start(quorum: &Quorum, id: u32) -> Self {
        let ports: Vec<u16> = quorum.ports.values().copied().collect();
        let (tell, mut unfenced) = tokio::sync::watch::channel(false);
        let registrations = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&registrations);
        let task = tokio::spawn(async move {
            let (_listener, own_port) = listen();
            loop {
                for port in &ports {
                    let registered = FakeBroker::register_with(*port, id, id as u8, own_port).await;
                    let Ok(mut broker) = registered else { continue };
                    counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let own = BrokerId::new(id);
                    let lost: Option<()> = broker
                        .live_until_the_end(|image| {
                            tell.send_replace(image.is_unfenced(own));
                        })
                        .await;
                    assert!(lost.is_none());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        tokio::time::timeout(DEADLINE, unfenced.wait_for(|unfenced| *unfenced)).await.expect("unfenced").unwrap();
        Self { task, unfenced, registrations }
    }
}

impl Drop for LiveBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeBroker {
    /// Lives as long as its stream.
    pub fn live_on(mut self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { _ = self.live_until_the_end::<()>(|_| ()).await })
    }

    async fn live_until_the_end<T>(&mut self, mut seen: impl FnMut(&ClusterImage)) -> Option<T> {
        let mut heartbeat = tokio::time::interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                biased;
                message = self.next() => {
                    let message = message?;
                    seen(&self.image);
                    if let ToBroker::Delta(_) = message {
                        self.heartbeat(false).await;
                    }
                }
                _ = heartbeat.tick() => self.heartbeat(false).await,
            }
        }
    }
}

/// Opens a store that may just have been let go of.
pub async fn open(folder: &Path) -> Arc<dyn MetaStore> {
    eventually("the store's lock", || async {
        match SledStore::open(&folder.join("metadata")) {
            Ok(store) => Some(Arc::new(store) as Arc<dyn MetaStore>),
            Err(StoreError::Locked { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await
}
