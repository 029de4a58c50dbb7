//! What all calls of one gateway share: one client of the cluster, one producer for each level of acks, and the bounds.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{Acks, Client, ErrorCode, Producer, ProducerConfig};
use highwater_protocol::v1;
use highwater_seams::Seams;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::GatewayLimits;
use crate::error::{IntoError as _, ending};
use crate::publisher::Publishers;

/// For the broker that this runs in to let its own client in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A topic created a moment ago, through another broker, is known by then.
pub(crate) const TOPIC_WAIT: Duration = Duration::from_secs(1);
/// Thin clients wait no longer for a record; after it, what is left to say is that the outcome is unknown.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct State {
    pub limits: GatewayLimits,
    pub ending: CancellationToken,
    bootstrap: String,
    seams: Seams,
    client: OnceCell<Client>,
    unacknowledged: OnceCell<Producer>,
    by_leader: OnceCell<Producer>,
    by_all: OnceCell<Producer>,
    /// Those with an id.
    pub publishers: Publishers,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl State {
    pub fn new(bootstrap: String, limits: GatewayLimits, seams: Seams, ending: CancellationToken) -> Self {
        Self {
            publishers: Publishers::new(limits.publishers_max),
            calls: Arc::new(Semaphore::new(limits.calls_max)),
            streams: Arc::new(Semaphore::new(limits.streams_max)),
            limits,
            ending,
            bootstrap,
            seams,
            client: OnceCell::new(),
            unacknowledged: OnceCell::new(),
            by_leader: OnceCell::new(),
            by_all: OnceCell::new(),
        }
    }

    /// Connects with the first call; a failure is tried anew with the next.
    pub async fn client(&self) -> Result<&Client, v1::Error> {
        let connect = || {
            let client = Client::builder().bootstrap([&self.bootstrap]).seams(self.seams.clone());
            client.connect_timeout(CONNECT_TIMEOUT).topic_wait(TOPIC_WAIT).build()
        };
        self.client.get_or_try_init(connect).await.map_err(|error| error.into_error())
    }

    /// The one producer of this level.
    pub async fn producer(&self, acks: Acks) -> Result<&Producer, v1::Error> {
        let cell = match acks {
            Acks::None => &self.unacknowledged,
            Acks::Leader => &self.by_leader,
            Acks::All => &self.by_all,
        };
        let make = || async {
            let buffer_bytes = self.limits.publish_bytes_max;
            let config =
                ProducerConfig { acks, buffer_bytes, delivery_timeout: DELIVERY_TIMEOUT, ..Default::default() };
            self.client().await?.producer(config).map_err(|error| error.into_error())
        };
        cell.get_or_try_init(make).await
    }

    /// Room for a unary call, held while it runs.
    pub fn call(&self) -> Result<OwnedSemaphorePermit, v1::Error> {
        self.admit(&self.calls, "calls", self.limits.calls_max)
    }

    /// Room for a stream, held while it is open.
    pub fn stream(&self) -> Result<OwnedSemaphorePermit, v1::Error> {
        self.admit(&self.streams, "streams", self.limits.streams_max)
    }

    fn admit(&self, of: &Arc<Semaphore>, what: &str, max: usize) -> Result<OwnedSemaphorePermit, v1::Error> {
        if self.ending.is_cancelled() {
            return Err(ending());
        }
        Arc::clone(of).try_acquire_owned().map_err(|_| {
            let message = format!("{max} {what} of thin clients are open here; try another broker, or later");
            v1::Error::new(ErrorCode::Throttled, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use highwater_protocol::code_of;

    use super::*;

    fn state(ending: &CancellationToken) -> State {
        let limits = GatewayLimits { calls_max: 1, streams_max: 1, ..GatewayLimits::default() };
        State::new("127.0.0.1:1".to_owned(), limits, Seams::real(), ending.clone())
    }

    #[test]
    fn what_is_over_a_bound_is_refused_until_room_is_free() {
        let state = state(&CancellationToken::new());
        let held = state.stream().unwrap();
        assert_eq!(state.stream().map(drop).map_err(|error| code_of(&error)), Err(ErrorCode::Throttled));
        assert!(state.call().is_ok());
        drop(held);
        assert!(state.stream().is_ok());
    }

    #[test]
    fn a_broker_that_ends_takes_nothing_more_and_says_that_another_may() {
        let ending = CancellationToken::new();
        let state = state(&ending);
        ending.cancel();
        let error = state.call().map(drop).unwrap_err();
        assert_eq!(code_of(&error), ErrorCode::BrokerShuttingDown);
        assert!(error.retriable && !error.outcome_unknown);
    }

    #[tokio::test]
    async fn a_cluster_that_can_not_be_reached_is_said_to_be_so() {
        tokio::time::pause();
        let state = state(&CancellationToken::new());
        let error = state.client().await.map(drop).unwrap_err();
        assert_eq!(code_of(&error), ErrorCode::Unavailable);
        assert!(error.retriable && !error.outcome_unknown);
    }
}
