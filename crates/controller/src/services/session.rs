//! One broker's stream: signs of life in, metadata out.

use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::ClusterImage;
use highwater_protocol::internal::broker_message::Message as FromBroker;
use highwater_protocol::internal::controller_message::Message as ToBroker;
use highwater_protocol::internal::{BrokerMessage, ControllerMessage, HeartbeatAck, MetadataDelta};
use highwater_protocol::v1;
use highwater_types::{BrokerEpoch, BrokerId, ControllerId, ErrorCode, MetadataVersion};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::convert;
use super::seen::Seen;
use crate::active::{ConnectionId, Proposals, Role, SessionEvent, not_active};
use crate::raft::{Applied, Raft};

/// What comes out of the controller's end of the stream.
pub(super) type Outbound = mpsc::Sender<Result<ControllerMessage, Status>>;

pub(super) struct Session {
    pub me: ControllerId,
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub connection: ConnectionId,
    /// What the broker has.
    pub version: MetadataVersion,
    pub role: watch::Receiver<Role>,
    pub reign: Role,
    pub applied: Applied,
    pub raft: Raft,
    pub proposals: Proposals,
    pub seen: Seen,
    pub outbound: Outbound,
    /// A broker that does not take what it is sent for so long is given up.
    pub send_timeout: Duration,
    pub wants_shutdown: bool,
    pub delta_bytes_max: usize,
}

/// The stream is over; `Some`: and the broker is told why.
struct Over(Option<v1::Error>);

impl Session {
    /// Until either side ends it.
    pub(super) async fn run(mut self, inbound: Streaming<BrokerMessage>) {
        if let Err(Over(Some(error))) = self.serve(inbound).await {
            let _ = self.send(ToBroker::Error(error)).await;
        }
        self.proposals.event(SessionEvent::Closed { broker: self.broker, connection: self.connection });
    }

    async fn serve(&mut self, mut inbound: Streaming<BrokerMessage>) -> Result<(), Over> {
        let mut images = self.applied.watch();
        images.mark_changed();
        let mut complete = false;
        loop {
            tokio::select! {
                biased;
                changed = self.role.changed() => {
                    if changed.is_err() || *self.role.borrow() != self.reign {
                        return Err(Over(Some(not_active(self.me, &self.raft.metrics().borrow()))));
                    }
                }
                message = inbound.message() => match message {
                    Ok(Some(BrokerMessage { message: Some(FromBroker::Heartbeat(heartbeat)) })) => {
                        let heartbeat = convert::heartbeat(heartbeat).map_err(|error| Over(Some(error.into())))?;
                        self.wants_shutdown |= heartbeat.wants_shutdown;
                        self.seen.note(self.broker, self.broker_epoch, heartbeat.metadata_version);
                        let event = SessionEvent::Heartbeat { broker: self.broker, connection: self.connection, heartbeat };
                        self.proposals.event(event);
                        complete = self.acknowledge(&self.applied.image()).await?;
                    }
                    Ok(Some(_)) => {
                        let message = "after its registration a broker sends heartbeats only";
                        return Err(Over(Some(v1::Error::new(ErrorCode::InvalidRequest, message))));
                    }
                    Ok(None) | Err(_) => return Ok(()),
                },
                changed = images.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let image = images.borrow_and_update().clone();
                    self.push(&image).await?;
                    // A broker that waits to stop need not wait for its next heartbeat too.
                    if self.wants_shutdown && !complete && self.may_stop(&image) {
                        complete = self.acknowledge(&image).await?;
                    }
                }
            }
        }
    }

    fn may_stop(&self, image: &ClusterImage) -> bool {
        self.wants_shutdown
            && image.broker(self.broker).is_some_and(|b| b.shutting_down)
            && image.controlled_shutdown_is_complete(self.broker)
    }

    async fn acknowledge(&self, image: &ClusterImage) -> Result<bool, Over> {
        let complete = self.may_stop(image);
        let fenced = image.broker(self.broker).is_none_or(|broker| broker.fenced);
        self.send(ToBroker::Heartbeat(HeartbeatAck { fenced, controlled_shutdown_complete: complete })).await?;
        Ok(complete)
    }

    /// Brings the broker to `image`, unless it is not the broker it was.
    async fn push(&mut self, image: &Arc<ClusterImage>) -> Result<(), Over> {
        while self.version != image.version {
            let delta = match self.applied.since(self.version, self.delta_bytes_max) {
                Some((records, to)) => MetadataDelta {
                    from_version: self.version.get(),
                    to_version: to.get(),
                    snapshot: bytes::Bytes::new(),
                    records,
                },
                None => MetadataDelta {
                    from_version: 0,
                    to_version: image.version.get(),
                    snapshot: image.to_json().into(),
                    records: Vec::new(),
                },
            };
            let to = MetadataVersion::new(delta.to_version);
            self.send(ToBroker::Delta(delta)).await?;
            self.version = to;
            if to >= image.version {
                break;
            }
        }
        match image.broker(self.broker) {
            Some(state) if state.broker_epoch == self.broker_epoch => Ok(()),
            found => {
                let epoch = found.map_or(BrokerEpoch::NONE, |state| state.broker_epoch);
                let message = format!(
                    "broker {} is at epoch {epoch} now, and this stream is of its epoch {}: another process has taken over",
                    self.broker, self.broker_epoch
                );
                Err(Over(Some(v1::Error::new(ErrorCode::StaleBrokerEpoch, message))))
            }
        }
    }

    async fn send(&self, message: ToBroker) -> Result<(), Over> {
        let message = ControllerMessage { message: Some(message) };
        match tokio::time::timeout(self.send_timeout, self.outbound.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Over(None)),
        }
    }
}
