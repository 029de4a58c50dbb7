//! The way into the active controller.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_metadata::{Command, CommandResponse, PartitionLogEnd};
use highwater_protocol::v1;
use highwater_types::{BrokerEpoch, BrokerId, ErrorCode, MetadataVersion, TopicPartition};
use tokio::sync::{mpsc, oneshot};

use super::sessions::ConnectionId;

/// Commands that may wait; more are refused at once rather than late.
const QUEUE_LENGTH: usize = 4096;

/// A command's effect, applied.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub response: CommandResponse,
    /// The effect is in images of this version and later.
    pub version: MetadataVersion,
}

/// A command and whoever waits for its effect.
pub(crate) struct Proposal {
    pub command: Command,
    /// `None`: the active controller's own.
    reply: Option<oneshot::Sender<Result<Decided, v1::Error>>>,
}

impl Proposal {
    pub(crate) fn internal(command: Command) -> Self {
        Self { command, reply: None }
    }

    pub(crate) fn answer(self, result: Result<Decided, v1::Error>) {
        match self.reply {
            // Whoever has given up waiting needs no answer.
            Some(reply) => _ = reply.send(result),
            None => {
                if let Err(error) = result {
                    tracing::debug!(message = error.message, "an own command of the active controller was refused");
                }
            }
        }
    }

    pub(crate) fn refuse(self, error: v1::Error) {
        self.answer(Err(error));
    }
}

/// What a broker's heartbeat says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heartbeat {
    pub metadata_version: MetadataVersion,
    pub wants_shutdown: bool,
    pub log_ends: Vec<PartitionLogEnd>,
    pub storage: StorageReport,
}

/// What a broker says of its copies that it can't serve, or not vouch for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StorageReport {
    /// Damaged or offline: there, but not to lead.
    pub unusable: BTreeSet<TopicPartition>,
    /// Gone: an empty log stands in the place of the copy, which must not count as one.
    pub lost: BTreeSet<TopicPartition>,
    /// Recovery has cut them where committed records may have been.
    pub doubtful: BTreeSet<TopicPartition>,
}

/// What happens to a broker's stream.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    Opened { broker: BrokerId, broker_epoch: BrokerEpoch, connection: ConnectionId, version: MetadataVersion },
    Heartbeat { broker: BrokerId, connection: ConnectionId, heartbeat: Heartbeat },
    Closed { broker: BrokerId, connection: ConnectionId },
}

/// Where services hand in commands and events.
#[derive(Clone)]
pub(crate) struct Proposals {
    commands: mpsc::Sender<Proposal>,
    events: mpsc::UnboundedSender<SessionEvent>,
}

impl Proposals {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Proposal>, mpsc::UnboundedReceiver<SessionEvent>) {
        let (commands, command_queue) = mpsc::channel(QUEUE_LENGTH);
        // Bounded by the number of brokers and the rate of their heartbeats; none may be lost.
        let (events, event_queue) = mpsc::unbounded_channel();
        (Self { commands, events }, command_queue, event_queue)
    }

    /// Has `command` decided and applied.
    pub(crate) async fn submit(&self, command: Command, deadline: Duration) -> Result<Decided, v1::Error> {
        let (reply, result) = oneshot::channel();
        let proposal = Proposal { command, reply: Some(reply) };
        self.commands.try_send(proposal).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => v1::Error::new(
                ErrorCode::Throttled,
                format!("{QUEUE_LENGTH} commands wait at the active controller already; try again"),
            ),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        match tokio::time::timeout(deadline, result).await {
            Ok(Ok(result)) => result,
            // It was in the queue, and what became of it was not said.
            Ok(Err(_)) => Err(outcome_unknown("the controller stopped meanwhile")),
            Err(_) => Err(outcome_unknown(&format!("there was no answer within {deadline:?}"))),
        }
    }

    pub(crate) fn event(&self, event: SessionEvent) {
        // A controller that has stopped keeps no sessions.
        let _ = self.events.send(event);
    }
}

fn stopping() -> v1::Error {
    v1::Error::new(ErrorCode::ControllerNotAvailable, "this controller is stopping; ask another one")
}

pub(crate) fn outcome_unknown(why: &str) -> v1::Error {
    v1::Error::new(ErrorCode::RequestTimedOut, format!("the command may or may not have taken effect: {why}"))
}
