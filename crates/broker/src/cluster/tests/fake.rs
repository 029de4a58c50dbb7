//! Controllers without Raft: several gRPC servers on one image, one of them active, the rules those of the metadata
//! crate.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use highwater_metadata::*;
use highwater_protocol::internal::broker_message::Message as FromBroker;
use highwater_protocol::internal::controller_message::Message as ToBroker;
use highwater_protocol::internal::controller_server::{Controller, ControllerServer};
use highwater_protocol::internal::{self, *};
use highwater_protocol::{PartitionKey, error_from_status, status_from_error, v1};
use highwater_seams::{Net, TcpNet};
use highwater_types::*;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const HEARTBEAT_MS: u32 = 30;
pub(crate) const SESSION_TIMEOUT_MS: u32 = 400;

pub(crate) struct State {
    pub image: ClusterImage,
    records: Vec<Record>,
    /// Heartbeats and registrations heard, by controller.
    pub registrations: Vec<RegisterBroker>,
    pub heartbeats: Vec<BrokerHeartbeat>,
    pub alter_calls: usize,
    /// Whether the next delta is to be one that does not fit.
    pub confuse: bool,
    /// Deltas go no further than to this version.
    held_at: Option<u64>,
    seed: u64,
}

/// All controllers.
#[derive(Clone)]
pub(crate) struct Fake {
    pub state: Arc<Mutex<State>>,
    pub endpoints: Vec<Endpoint>,
    active: Arc<watch::Sender<Option<usize>>>,
    version: Arc<watch::Sender<u64>>,
    /// Controllers that take everything and answer nothing.
    pub mute: Arc<watch::Sender<Option<usize>>>,
    /// ISR proposals are answered while this is true.
    pub answers_proposals: Arc<watch::Sender<bool>>,
}

impl Fake {
    pub(crate) async fn start(controllers: usize) -> Self {
        let mut listeners = Vec::new();
        let mut endpoints = Vec::new();
        for _ in 0..controllers {
            let listener = TcpNet.bind("127.0.0.1", 0).await.unwrap();
            endpoints.push(Endpoint::new("127.0.0.1", listener.port()));
            listeners.push(listener);
        }
        let state = State {
            image: ClusterImage::default(),
            records: Vec::new(),
            registrations: Vec::new(),
            heartbeats: Vec::new(),
            alter_calls: 0,
            confuse: false,
            held_at: None,
            seed: 1,
        };
        let fake = Self {
            state: Arc::new(Mutex::new(state)),
            endpoints,
            active: Arc::new(watch::Sender::new(Some(0))),
            version: Arc::new(watch::Sender::new(0)),
            mute: Arc::new(watch::Sender::new(None)),
            answers_proposals: Arc::new(watch::Sender::new(true)),
        };
        fake.run(&Command::CreateCluster { cluster_id: Some("c".into()) }).unwrap();
        for (me, listener) in listeners.into_iter().enumerate() {
            let server = ControllerServer::new(Node { me, fake: fake.clone() });
            let router = tonic::transport::Server::builder().add_service(server);
            tokio::spawn(router.serve_with_incoming(highwater_seams::incoming(listener)));
        }
        fake
    }

    pub(crate) fn run(&self, command: &Command) -> Result<CommandResponse, CommandError> {
        let mut state = self.state.lock().unwrap();
        state.seed += 1;
        let decision = decide(&state.image, command, state.seed)?;
        state.image.replay_all(&decision.records).unwrap();
        state.records.extend(decision.records);
        self.version.send_replace(state.image.version.get());
        Ok(decision.response)
    }

    /// Lets deltas go to this version and no further; `None`: to the newest.
    pub(crate) fn hold_at(&self, version: Option<u64>) {
        self.state.lock().unwrap().held_at = version;
        self.version.send_modify(|_| ());
    }

    pub(crate) fn set_active(&self, active: Option<usize>) {
        self.active.send_replace(active);
    }

    pub(crate) fn image(&self) -> ClusterImage {
        self.state.lock().unwrap().image.clone()
    }

    pub(crate) fn create_topic(&self, name: &str, replicas: &[u32], configs: &[(&str, &str)]) -> TopicPartition {
        let command = Command::CreateTopic {
            name: name.into(),
            partitions: 0,
            replication_factor: 0,
            configs: configs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            assignments: vec![replicas.iter().map(|id| BrokerId::new(*id)).collect()],
            validate_only: false,
        };
        match self.run(&command).unwrap() {
            CommandResponse::Topic { topic } => TopicPartition::new(topic.id, PartitionId::new(0)),
            other => panic!("{other:?}"),
        }
    }

    /// A broker without a process.
    pub(crate) fn add_broker(&self, id: u32) -> BrokerEpoch {
        let broker = BrokerId::new(id);
        let response = self.run(&Command::RegisterBroker(Registration {
            broker,
            incarnation: IncarnationId::from_u128(u128::from(id) << 64 | u128::from(self.image().version.get())),
            cluster_id: None,
            client_endpoint: Endpoint::new("127.0.0.1", 1),
            internal_endpoint: Endpoint::new("127.0.0.1", 1),
            listeners: Vec::new(),
            rack: None,
            clean_shutdown: false,
            previous_broker_epoch: BrokerEpoch::NONE,
        }));
        let Ok(CommandResponse::Registered { broker_epoch, .. }) = response else { panic!("{response:?}") };
        self.run(&Command::UnfenceBroker { broker, broker_epoch }).unwrap();
        broker_epoch
    }
}

struct Node {
    me: usize,
    fake: Fake,
}

impl Node {
    async fn check(&self) -> Result<(), Status> {
        if *self.fake.mute.borrow() == Some(self.me) {
            std::future::pending::<()>().await;
        }
        let active = *self.fake.active.borrow();
        if active == Some(self.me) {
            return Ok(());
        }
        let mut error = v1::Error::new(ErrorCode::NotController, "not the active controller");
        if let Some(active) = active {
            let Endpoint { host, port } = self.fake.endpoints[active].clone();
            error =
                error.with_leader(v1::LeaderHint { node_id: active as u64, host, port: port.into(), leader_epoch: 0 });
        }
        Err(status_from_error(error))
    }

    fn run(&self, command: &Command) -> Result<CommandResponse, Status> {
        self.fake.run(command).map_err(|e| status_from_error(v1::Error::new(e.code(), e.to_string())))
    }
}

fn heard(
    fake: &Fake,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
    needed: u64,
    heartbeat: BrokerHeartbeat,
) -> HeartbeatAck {
    fake.state.lock().unwrap().heartbeats.push(heartbeat.clone());
    let partitions = |list: &[TopicIdPartition]| list.iter().map(|tp| tp.topic_partition().unwrap()).collect();
    let ends = heartbeat.log_ends.iter().map(|end| PartitionLogEnd {
        partition: end.partition.as_ref().unwrap().topic_partition().unwrap(),
        last_epoch: LeaderEpoch::new(end.last_epoch),
        log_end_offset: Offset::new(end.log_end_offset),
    });
    let (unusable, lost) = (partitions(&heartbeat.unusable), partitions(&heartbeat.lost));
    let doubtful = partitions(&heartbeat.doubtful);
    let mut commands = vec![Command::ReportUnusable { broker, broker_epoch, unusable, lost, doubtful }];
    commands.push(Command::ReportLogEnds { broker, broker_epoch, ends: ends.collect() });
    if heartbeat.wants_shutdown {
        commands.push(Command::BeginControlledShutdown { broker, broker_epoch });
    } else if heartbeat.metadata_version >= needed {
        commands.push(Command::UnfenceBroker { broker, broker_epoch });
    }
    // A stale epoch is found out by the session itself.
    commands.iter().for_each(|command| _ = fake.run(command));
    let image = fake.image();
    HeartbeatAck {
        fenced: !image.is_unfenced(broker),
        controlled_shutdown_complete: heartbeat.wants_shutdown && image.controlled_shutdown_is_complete(broker),
    }
}

#[tonic::async_trait]
impl Controller for Node {
    type BrokerSessionStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn broker_session(
        &self,
        request: Request<Streaming<BrokerMessage>>,
    ) -> Result<Response<Self::BrokerSessionStream>, Status> {
        self.check().await?;
        let mut inbound = request.into_inner();
        let Some(BrokerMessage { message: Some(FromBroker::Register(register)) }) = inbound.message().await? else {
            return Err(Status::invalid_argument("not a registration"));
        };
        self.fake.state.lock().unwrap().registrations.push(register.clone());
        let endpoint =
            |e: &Option<v1::Endpoint>| Endpoint::new(e.as_ref().unwrap().host.clone(), e.as_ref().unwrap().port as u16);
        let broker = BrokerId::new(register.broker_id);
        let response = self.run(&Command::RegisterBroker(Registration {
            broker,
            incarnation: IncarnationId::from_slice(&register.incarnation_id).unwrap(),
            cluster_id: Some(register.cluster_id).filter(|id| !id.is_empty()),
            client_endpoint: endpoint(&register.client_endpoint),
            internal_endpoint: endpoint(&register.internal_endpoint),
            listeners: Vec::new(),
            rack: Some(register.rack).filter(|rack| !rack.is_empty()),
            clean_shutdown: register.clean_shutdown,
            previous_broker_epoch: BrokerEpoch::new(register.previous_broker_epoch),
        }))?;
        let CommandResponse::Registered { broker_epoch, cluster_id } = response else { panic!("{response:?}") };
        let needed = self.fake.image().version.get();
        let (outbound, messages) = mpsc::channel(16);
        let registered = Registered {
            broker_epoch: broker_epoch.get(),
            cluster_id,
            heartbeat_interval_ms: HEARTBEAT_MS,
            session_timeout_ms: SESSION_TIMEOUT_MS,
            default_partitions: 1,
            default_replication_factor: 3,
            metadata_version: needed,
        };
        let send = async |outbound: &mpsc::Sender<_>, message| {
            outbound.send(Ok(ControllerMessage { message: Some(message) })).await.is_ok()
        };
        assert!(send(&outbound, ToBroker::Registered(registered)).await);
        let (me, fake) = (self.me, self.fake.clone());
        let mut sent = register.metadata_version;
        tokio::spawn(async move {
            let (mut active, mut version, mut mute) =
                (fake.active.subscribe(), fake.version.subscribe(), fake.mute.subscribe());
            version.mark_changed();
            loop {
                if *mute.borrow_and_update() == Some(me) {
                    if mute.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                let message = tokio::select! {
                    biased;
                    _ = mute.changed() => continue,
                    _ = active.changed() => {
                        if *active.borrow() == Some(me) { continue }
                        let error = v1::Error::new(ErrorCode::NotController, "not active any more");
                        send(&outbound, ToBroker::Error(error)).await;
                        return;
                    }
                    message = inbound.message() => match message {
                        Ok(Some(BrokerMessage { message: Some(FromBroker::Heartbeat(heartbeat)) })) => {
                            ToBroker::Heartbeat(heard(&fake, broker, broker_epoch, needed, heartbeat))
                        }
                        _ => return,
                    },
                    _ = version.changed() => {
                        let mut state = fake.state.lock().unwrap();
                        let newest = state.image.version.get();
                        let to = state.held_at.map_or(newest, |held| held.min(newest));
                        if state.image.broker(broker).is_none_or(|b| b.broker_epoch != broker_epoch) {
                            let error = v1::Error::new(ErrorCode::StaleBrokerEpoch, "another incarnation");
                            ToBroker::Error(error)
                        } else if sent == to {
                            continue;
                        } else {
                            let confuse = std::mem::take(&mut state.confuse);
                            let from = if confuse { sent + 1 } else { sent };
                            let records = state.records[sent as usize..to as usize].iter().map(|r| Bytes::from(r.to_json())).collect();
                            let is_first = sent == 0 && state.registrations.len() > 1;
                            sent = to;
                            ToBroker::Delta(if is_first {
                                let snapshot = state.image.to_json().into();
                                MetadataDelta { from_version: 0, to_version: to, snapshot, records: vec![] }
                            } else {
                                MetadataDelta { from_version: from, to_version: to, snapshot: Bytes::new(), records }
                            })
                        }
                    }
                };
                if !send(&outbound, message).await {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn alter_partitions(
        &self,
        request: Request<AlterPartitionsRequest>,
    ) -> Result<Response<AlterPartitionsResponse>, Status> {
        self.fake.state.lock().unwrap().alter_calls += 1;
        self.fake.answers_proposals.subscribe().wait_for(|answers| *answers).await.unwrap();
        self.check().await?;
        let request = request.into_inner();
        let one = |p: &internal::AlterPartition| highwater_metadata::AlterPartition {
            partition: p.partition.as_ref().unwrap().topic_partition().unwrap(),
            leader_epoch: LeaderEpoch::new(p.leader_epoch),
            partition_epoch: PartitionEpoch::new(p.partition_epoch),
            new_isr: p
                .new_isr
                .iter()
                .map(|m| highwater_metadata::IsrMember {
                    broker: BrokerId::new(m.broker_id),
                    broker_epoch: BrokerEpoch::new(m.broker_epoch),
                })
                .collect(),
            recovered: p.recovered,
        };
        let response = self.run(&Command::AlterPartitions {
            broker: BrokerId::new(request.broker_id),
            broker_epoch: BrokerEpoch::new(request.broker_epoch),
            partitions: request.partitions.iter().map(one).collect(),
        })?;
        let CommandResponse::PartitionsAltered { partitions } = response else { panic!("{response:?}") };
        let partitions = partitions.into_iter().map(|(tp, result)| match result {
            Ok(altered) => AlterPartitionResult {
                partition: Some(tp.into()),
                error: None,
                leader_epoch: altered.leader_epoch.get(),
                partition_epoch: altered.partition_epoch.get(),
                isr: altered.isr.iter().map(|b| b.get()).collect(),
            },
            Err(e) => AlterPartitionResult {
                partition: Some(tp.into()),
                error: Some(v1::Error::new(e.code(), e.to_string())),
                ..Default::default()
            },
        });
        Ok(Response::new(AlterPartitionsResponse { partitions: partitions.collect() }))
    }

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        self.check().await?;
        let command = Command::from_json(&request.into_inner().command).unwrap().with_defaults(1, 1);
        let response = self.run(&command)?;
        let version = self.fake.image().version.get();
        Ok(Response::new(ExecuteResponse { response: response.to_json().into(), version }))
    }

    async fn describe_quorum(
        &self,
        _: Request<DescribeQuorumRequest>,
    ) -> Result<Response<DescribeQuorumResponse>, Status> {
        self.check().await?;
        let active_controller = self.me as u64;
        Ok(Response::new(DescribeQuorumResponse { active_controller, ..Default::default() }))
    }

    async fn add_controller(
        &self,
        request: Request<v1::AddControllerRequest>,
    ) -> Result<Response<v1::AddControllerResponse>, Status> {
        self.check().await?;
        let v1::AddControllerRequest { controller_id, endpoint } = request.into_inner();
        let endpoint = endpoint.unwrap();
        let endpoint = Endpoint::new(endpoint.host, endpoint.port as u16);
        self.run(&Command::AddController { controller: ControllerId::new(controller_id), endpoint })?;
        Ok(Response::new(v1::AddControllerResponse {}))
    }

    async fn remove_controller(
        &self,
        request: Request<v1::RemoveControllerRequest>,
    ) -> Result<Response<v1::RemoveControllerResponse>, Status> {
        self.check().await?;
        let controller = ControllerId::new(request.into_inner().controller_id);
        self.run(&Command::RemoveController { controller })?;
        Ok(Response::new(v1::RemoveControllerResponse {}))
    }
}

/// The code in a status.
pub(crate) fn code(status: &Status) -> ErrorCode {
    highwater_protocol::code_of(&error_from_status(status))
}
