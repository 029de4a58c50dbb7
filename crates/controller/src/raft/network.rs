//! Raft's calls to other controllers: JSON in gRPC, a deadline on each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_protocol::internal::RaftMessage;
use highwater_protocol::internal::raft_client::RaftClient;
use highwater_protocol::{MESSAGE_SIZE_MAX, error_from_status};
use highwater_seams::Net;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{Applied, ControllerNode, TypeConfig};

/// A connection over which nothing has come back for so long is given up for a new one: after a network cut the old one
/// may never speak again.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// What every message between controllers states, so that none is taken by somebody it is not for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    pub from: u64,
    pub to: u64,
    /// Empty: not known yet.
    #[serde(default)]
    pub cluster: String,
    pub body: T,
}

/// Connections to other controllers, by endpoint.
pub(crate) struct Peers {
    me: u64,
    net: Arc<dyn Net>,
    applied: Applied,
    links: Mutex<BTreeMap<(String, u16), Link>>,
}

struct Link {
    channel: Channel,
    last_answer: Instant,
}

/// A call that did not bring an answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("controller {to} can't be reached: {message}")]
    Unreachable { to: u64, message: String },
    #[error("a message that is not understood: {0}")]
    Garbage(String),
}

#[derive(Clone, Copy)]
enum Method {
    AppendEntries,
    Vote,
    InstallSnapshot,
    PreVote,
    HandOver,
}

impl Peers {
    pub(crate) fn new(me: u64, net: Arc<dyn Net>, applied: Applied) -> Self {
        Self { me, net, applied, links: Mutex::default() }
    }

    pub(crate) async fn pre_vote<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: u64,
        node: &ControllerNode,
        body: Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        self.call(Method::PreVote, to, node, body, deadline).await
    }

    pub(crate) async fn hand_over<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: u64,
        node: &ControllerNode,
        body: Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        self.call(Method::HandOver, to, node, body, deadline).await
    }

    fn channel(&self, node: &ControllerNode) -> Channel {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry((node.host.clone(), node.port)).or_insert_with(|| self.connect(node));
        if link.last_answer.elapsed() > SILENCE_MAX {
            *link = self.connect(node);
        }
        link.channel.clone()
    }

    fn connect(&self, node: &ControllerNode) -> Link {
        let channel = highwater_seams::channel(&self.net, &node.host, node.port);
        Link { channel, last_answer: Instant::now() }
    }

    fn answered(&self, node: &ControllerNode) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get_mut(&(node.host.clone(), node.port)) {
            link.last_answer = Instant::now();
        }
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        to: u64,
        node: &ControllerNode,
        body: Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let cluster = self.applied.image().cluster_id.clone();
        let request = Envelope { from: self.me, to, cluster, body };
        let payload = serde_json::to_vec(&request).map_err(|error| CallError::Garbage(error.to_string()))?;
        let request = RaftMessage { payload: payload.into() };
        let mut client = RaftClient::new(self.channel(node))
            .max_decoding_message_size(MESSAGE_SIZE_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_MAX);
        let call = async {
            match method {
                Method::AppendEntries => client.append_entries(request).await,
                Method::Vote => client.vote(request).await,
                Method::InstallSnapshot => client.install_snapshot(request).await,
                Method::PreVote => client.pre_vote(request).await,
                Method::HandOver => client.hand_over(request).await,
            }
        };
        let answer = tokio::time::timeout(deadline, call).await.map_err(|_| CallError::Timeout(deadline))?;
        let answer =
            answer.map_err(|status| CallError::Unreachable { to, message: error_from_status(&status).message })?;
        self.answered(node);
        serde_json::from_slice(&answer.into_inner().payload).map_err(|error| CallError::Garbage(error.to_string()))
    }
}

/// Makes openraft's connections.
#[derive(Clone)]
pub(crate) struct Network {
    peers: Arc<Peers>,
    backoff: Duration,
}

impl Network {
    pub(crate) fn new(peers: Arc<Peers>, backoff: Duration) -> Self {
        Self { peers, backoff }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &ControllerNode) -> Peer {
        Peer { peers: Arc::clone(&self.peers), target, node: node.clone(), backoff: self.backoff }
    }
}

/// openraft's connection to one controller.
pub(crate) struct Peer {
    peers: Arc<Peers>,
    target: u64,
    node: ControllerNode,
    backoff: Duration,
}

type RpcError<E> = RPCError<u64, ControllerNode, E>;

impl Peer {
    async fn send<Q: Serialize, A: DeserializeOwned, E: std::error::Error>(
        &self,
        method: Method,
        action: RPCTypes,
        body: Q,
        option: &RPCOption,
    ) -> Result<A, RpcError<E>> {
        // A little before openraft drops the call, so that it is known as a timeout here too.
        let deadline = option.hard_ttl().mul_f32(0.95);
        let answer = self.peers.call(method, self.target, &self.node, body, deadline).await;
        answer.map_err(|error| match &error {
            CallError::Timeout(timeout) => {
                RPCError::Timeout(Timeout { action, id: self.peers.me, target: self.target, timeout: *timeout })
            }
            CallError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
            CallError::Garbage(_) => RPCError::Network(NetworkError::new(&error)),
        })
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError<RaftError<u64>>> {
        self.send(Method::AppendEntries, RPCTypes::AppendEntries, request, &option).await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        let sent = self.send(Method::InstallSnapshot, RPCTypes::InstallSnapshot, request, &option).await;
        let answer: Result<_, InstallSnapshotError> = sent?;
        // The receiver asks to begin anew.
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, RaftError::APIError(error))))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError<RaftError<u64>>> {
        self.send(Method::Vote, RPCTypes::Vote, request, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.backoff))
    }
}
