//! The service for brokers and operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_metadata::{Command, CommandResponse};
use highwater_protocol::internal::broker_message::Message as FromBroker;
use highwater_protocol::internal::controller_message::Message as ToBroker;
use highwater_protocol::internal::controller_server::Controller as ControllerService;
use highwater_protocol::internal::{
    AlterPartitionsRequest, AlterPartitionsResponse, BrokerMessage, ControllerMessage, DescribeQuorumRequest,
    DescribeQuorumResponse, ExecuteRequest, ExecuteResponse, Registered,
};
use highwater_protocol::{status_from_error, v1};
use highwater_types::{BrokerEpoch, BrokerId, ControllerId, ErrorCode, MetadataVersion};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::seen::Seen;
use super::session::Session;
use crate::active::{ConnectionId, Decided, Proposals, Role, SessionEvent, not_active};
use crate::config::ControllerConfig;
use crate::membership::Membership;
use crate::raft::{Applied, Raft};

/// Time for a command from queue to answer; the commit itself has its own, shorter limit.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// What is done is not told later than this because brokers are slow to show it.
const SEEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream whose first message does not come is nobody's.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages to a broker that does not read.
const OUTBOUND_LENGTH: usize = 16;

pub(crate) struct ControllerCalls {
    pub me: ControllerId,
    pub config: Arc<ControllerConfig>,
    pub raft: Raft,
    pub applied: Applied,
    pub proposals: Proposals,
    pub role: watch::Receiver<Role>,
    pub membership: Membership,
    pub connections: AtomicU64,
    pub seen: Seen,
}

fn refuse(error: impl Into<v1::Error>) -> Status {
    status_from_error(error.into())
}

fn invalid(message: impl Into<String>) -> Status {
    refuse(v1::Error::new(ErrorCode::InvalidRequest, message))
}

fn unexpected(response: &CommandResponse) -> Status {
    refuse(v1::Error::new(ErrorCode::Internal, format!("an unexpected response: {response:?}")))
}

impl ControllerCalls {
    /// Whoever is not the active controller says so at once, and who is.
    fn active(&self) -> Result<Role, Status> {
        let role = *self.role.borrow();
        match role {
            Role::Active { .. } => Ok(role),
            Role::Standby => Err(refuse(not_active(self.me, &self.raft.metrics().borrow()))),
        }
    }

    async fn submit(&self, command: Command) -> Result<Decided, Status> {
        self.active()?;
        self.proposals.submit(command, COMMAND_TIMEOUT).await.map_err(refuse)
    }

    /// Until every broker in service has taken over what was decided, so that whoever is asked next shows it and serves it. One that
    /// is silent is out of service after a session timeout; one that is merely slow is not waited for any longer.
    async fn seen_by_all(&self, version: MetadataVersion) {
        let mut role = self.role.clone();
        role.mark_unchanged();
        tokio::select! {
            () = self.seen.by_all(version, &self.applied) => {}
            // Brokers report elsewhere now.
            _ = role.changed() => {}
            () = tokio::time::sleep(self.config.session_timeout().min(SEEN_TIMEOUT)) => {
                tracing::info!(%version, "brokers are slow to take over what was commanded");
            }
        }
    }
}

/// What may be asked from outside. The rest is for brokers' streams and for the controller itself.
fn is_administrative(command: &Command) -> bool {
    matches!(
        command,
        Command::CreateTopic { .. }
            | Command::DeleteTopic { .. }
            | Command::DeleteTopicById { .. }
            | Command::AlterTopic { .. }
            | Command::ElectPreferred { .. }
            | Command::ElectLeaders { .. }
            | Command::AllocateProducerIds { .. }
    )
}

#[tonic::async_trait]
impl ControllerService for ControllerCalls {
    type BrokerSessionStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn broker_session(
        &self,
        request: Request<Streaming<BrokerMessage>>,
    ) -> Result<Response<Self::BrokerSessionStream>, Status> {
        let reign = self.active()?;
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(REGISTER_TIMEOUT, inbound.message()).await;
        let first = first.map_err(|_| invalid(format!("no registration within {REGISTER_TIMEOUT:?}")))??;
        let Some(BrokerMessage { message: Some(FromBroker::Register(register)) }) = first else {
            return Err(invalid("a broker's first message is its registration"));
        };
        let version = MetadataVersion::new(register.metadata_version);
        // A version without its cluster id could be of another cluster: a snapshot settles it.
        let version = if register.cluster_id.is_empty() { MetadataVersion::ZERO } else { version };
        let registration = convert::registration(register).map_err(refuse)?;
        let broker = registration.broker;
        let decided = self.submit(Command::RegisterBroker(registration)).await?;
        let CommandResponse::Registered { broker_epoch, cluster_id } = decided.response else {
            return Err(unexpected(&decided.response));
        };
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
        self.proposals.event(SessionEvent::Opened { broker, broker_epoch, connection, version: decided.version });

        let (outbound, messages) = mpsc::channel(OUTBOUND_LENGTH);
        let registered = Registered {
            broker_epoch: broker_epoch.get(),
            cluster_id,
            heartbeat_interval_ms: self.config.broker_heartbeat_ms(),
            session_timeout_ms: self.config.session_timeout_ms,
            default_partitions: self.config.default_partitions,
            default_replication_factor: self.config.default_replication_factor,
            metadata_version: decided.version.get(),
        };
        // An empty channel takes one message.
        let _ = outbound.try_send(Ok(ControllerMessage { message: Some(ToBroker::Registered(registered)) }));
        let session = Session {
            me: self.me,
            broker,
            broker_epoch,
            connection,
            version,
            role: self.role.clone(),
            reign,
            applied: self.applied.clone(),
            raft: self.raft.clone(),
            proposals: self.proposals.clone(),
            seen: self.seen.clone(),
            outbound,
            send_timeout: self.config.session_timeout(),
            wants_shutdown: false,
            delta_bytes_max: self.config.delta_bytes_max,
        };
        tokio::spawn(session.run(inbound));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn alter_partitions(
        &self,
        request: Request<AlterPartitionsRequest>,
    ) -> Result<Response<AlterPartitionsResponse>, Status> {
        let request = request.into_inner();
        let partitions = convert::alter_partitions(request.partitions).map_err(refuse)?;
        let command = Command::AlterPartitions {
            broker: BrokerId::new(request.broker_id),
            broker_epoch: BrokerEpoch::new(request.broker_epoch),
            partitions,
        };
        let decided = self.submit(command).await?;
        let CommandResponse::PartitionsAltered { partitions } = decided.response else {
            return Err(unexpected(&decided.response));
        };
        let partitions =
            partitions.into_iter().map(|(partition, result)| convert::altered(partition, result)).collect();
        Ok(Response::new(AlterPartitionsResponse { partitions }))
    }

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        let command = Command::from_json(&request.into_inner().command).map_err(|error| invalid(error.to_string()))?;
        if !is_administrative(&command) {
            return Err(invalid("only commands on topics, and for producer ids, can be executed"));
        }
        let command = command.with_defaults(self.config.default_partitions, self.config.default_replication_factor);
        let shows = !matches!(command, Command::AllocateProducerIds { .. });
        let decided = self.submit(command).await?;
        if shows {
            self.seen_by_all(decided.version).await;
        }
        Ok(Response::new(ExecuteResponse {
            response: decided.response.to_json().into(),
            version: decided.version.get(),
        }))
    }

    async fn describe_quorum(
        &self,
        _request: Request<DescribeQuorumRequest>,
    ) -> Result<Response<DescribeQuorumResponse>, Status> {
        self.active()?;
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let matched: BTreeMap<u64, u64> =
            metrics.replication.iter().flatten().filter_map(|(id, at)| Some((*id, at.as_ref()?.index))).collect();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let controllers = membership.nodes().map(|(id, node)| v1::ControllerInfo {
            controller_id: *id,
            endpoint: Some(v1::Endpoint { host: node.host.clone(), port: node.port.into() }),
            voter: voters.contains(id),
            matched_index: matched.get(id).copied().unwrap_or(0),
        });
        Ok(Response::new(DescribeQuorumResponse {
            controllers: controllers.collect(),
            active_controller: self.me.get(),
            last_applied_index: metrics.last_applied.map_or(0, |id| id.index),
        }))
    }

    async fn add_controller(
        &self,
        request: Request<v1::AddControllerRequest>,
    ) -> Result<Response<v1::AddControllerResponse>, Status> {
        self.active()?;
        let request = request.into_inner();
        let endpoint = request.endpoint.ok_or_else(|| invalid("the new controller's endpoint is missing"))?;
        let endpoint = convert::endpoint_of(endpoint).map_err(refuse)?;
        let controller = ControllerId::new(request.controller_id);
        self.membership.add(controller, endpoint).await.map_err(refuse)?;
        Ok(Response::new(v1::AddControllerResponse {}))
    }

    async fn remove_controller(
        &self,
        request: Request<v1::RemoveControllerRequest>,
    ) -> Result<Response<v1::RemoveControllerResponse>, Status> {
        self.active()?;
        self.membership.remove(ControllerId::new(request.into_inner().controller_id)).await.map_err(refuse)?;
        Ok(Response::new(v1::RemoveControllerResponse {}))
    }
}
