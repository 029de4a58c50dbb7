//! Which brokers are alive, as the active controller sees it. No I/O: time is an argument.
//!
//! A closed stream means a dead process: fenced after a short grace, in which the broker may come back over another
//! stream. A silent stream is given the session timeout.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_metadata::ClusterImage;
use highwater_types::{BrokerEpoch, BrokerId, MetadataVersion};
use tokio::time::Instant;

use super::queue::StorageReport;

/// Tells the streams of one broker apart: a late end of an old one says nothing of the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub u64);

#[derive(Debug)]
pub(crate) struct Sessions {
    timeout: Duration,
    grace: Duration,
    brokers: BTreeMap<BrokerId, Session>,
}

#[derive(Debug)]
struct Session {
    broker_epoch: BrokerEpoch,
    connection: Option<ConnectionId>,
    /// `None`: expired, and the fencing asked for.
    deadline: Option<Instant>,
    /// What the broker must have seen before it is unfenced.
    needed: MetadataVersion,
    /// What it last said it can't serve; `None`: nothing yet.
    storage: Option<StorageReport>,
}

impl Sessions {
    /// Every unfenced broker gets a whole session timeout to find a new active controller.
    pub(crate) fn begin(image: &ClusterImage, timeout: Duration, grace: Duration, now: Instant) -> Self {
        let unfenced = image.brokers.values().filter(|broker| !broker.fenced);
        let session = |broker_epoch| Session {
            broker_epoch,
            connection: None,
            deadline: Some(now + timeout),
            needed: image.version,
            storage: None,
        };
        let brokers = unfenced.map(|broker| (broker.id, session(broker.broker_epoch))).collect();
        Self { timeout, grace, brokers }
    }

    pub(crate) fn opened(
        &mut self,
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
        connection: ConnectionId,
        version: MetadataVersion,
        now: Instant,
    ) {
        if self.brokers.get(&broker).is_some_and(|known| known.broker_epoch > broker_epoch) {
            return;
        }
        let session = Session {
            broker_epoch,
            connection: Some(connection),
            deadline: Some(now + self.timeout),
            needed: version,
            storage: None,
        };
        self.brokers.insert(broker, session);
    }

    /// A sign of life. False if the connection is not the broker's current one.
    pub(crate) fn heard(&mut self, broker: BrokerId, connection: ConnectionId, now: Instant) -> bool {
        match self.brokers.get_mut(&broker) {
            Some(session) if session.connection == Some(connection) => {
                session.deadline = Some(now + self.timeout);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn closed(&mut self, broker: BrokerId, connection: ConnectionId, now: Instant) {
        if let Some(session) = self.brokers.get_mut(&broker)
            && session.connection == Some(connection)
        {
            session.connection = None;
            session.deadline = session.deadline.map(|deadline| deadline.min(now + self.grace));
        }
    }

    /// The broker's port is closed. That ends nothing that is open: a broker may listen elsewhere by now.
    pub(crate) fn refused(&mut self, broker: BrokerId, broker_epoch: BrokerEpoch, now: Instant) {
        if let Some(session) = self.brokers.get_mut(&broker)
            && session.broker_epoch == broker_epoch
            && session.connection.is_none()
        {
            session.deadline = session.deadline.map(|deadline| deadline.min(now + self.grace));
        }
    }

    pub(crate) fn broker_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.brokers.get(&broker).map(|session| session.broker_epoch)
    }

    /// Whether a broker that has seen `version` may be unfenced.
    pub(crate) fn has_caught_up(&self, broker: BrokerId, version: MetadataVersion) -> bool {
        self.brokers.get(&broker).is_some_and(|session| session.deadline.is_some() && version >= session.needed)
    }

    /// Notes what the broker can't serve; true if that is news.
    pub(crate) fn note_storage(&mut self, broker: BrokerId, storage: &StorageReport) -> bool {
        match self.brokers.get_mut(&broker) {
            Some(session) if session.storage.as_ref() != Some(storage) => {
                session.storage = Some(storage.clone());
                true
            }
            _ => false,
        }
    }

    /// What was noted may not have been carried out: it is news again with the next heartbeats, before anybody is unfenced.
    pub(crate) fn forget_storage(&mut self) {
        self.brokers.values_mut().for_each(|session| session.storage = None);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.brokers.values().filter_map(|session| session.deadline).min()
    }

    /// The brokers whose time is up, once each. They must see `version` before they are unfenced again.
    pub(crate) fn expire(&mut self, version: MetadataVersion, now: Instant) -> Vec<(BrokerId, BrokerEpoch)> {
        let mut expired = Vec::new();
        for (broker, session) in &mut self.brokers {
            if session.deadline.is_some_and(|deadline| deadline <= now) {
                session.deadline = None;
                session.needed = version;
                expired.push((*broker, session.broker_epoch));
            }
        }
        expired
    }

    /// This controller itself did not run for a while: what it did not hear says nothing of the brokers.
    pub(crate) fn pardon(&mut self, now: Instant) {
        for session in self.brokers.values_mut().filter(|session| session.connection.is_some()) {
            session.deadline = session.deadline.map(|deadline| deadline.max(now + self.timeout));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);
    const GRACE: Duration = Duration::from_millis(100);
    const BROKER: BrokerId = BrokerId::new(1);
    const EPOCH: BrokerEpoch = BrokerEpoch::new(5);
    const OLD: ConnectionId = ConnectionId(1);
    const NEW: ConnectionId = ConnectionId(2);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn known() -> ClusterImage {
        let endpoint = highwater_metadata::Endpoint::new("127.0.0.1", 1);
        let broker = highwater_metadata::BrokerState {
            id: BROKER,
            incarnation: highwater_types::IncarnationId::from_u128(1),
            broker_epoch: EPOCH,
            client_endpoint: endpoint.clone(),
            internal_endpoint: endpoint,
            listeners: Vec::new(),
            rack: None,
            fenced: false,
            shutting_down: false,
        };
        let mut image = ClusterImage::default();
        image.brokers.insert(BROKER, broker);
        image
    }

    fn opened(now: Instant) -> Sessions {
        let mut sessions = Sessions::begin(&ClusterImage::default(), TIMEOUT, GRACE, now);
        sessions.opened(BROKER, EPOCH, OLD, MetadataVersion::new(7), now);
        sessions
    }

    #[tokio::test]
    async fn a_closed_stream_expires_after_the_grace_and_a_silent_one_after_the_timeout() {
        let now = Instant::now();
        let mut silent = opened(now);
        assert!(silent.expire(MetadataVersion::ZERO, now + TIMEOUT - ms(1)).is_empty());
        assert_eq!(silent.expire(MetadataVersion::ZERO, now + TIMEOUT), [(BROKER, EPOCH)]);
        assert!(silent.expire(MetadataVersion::ZERO, now + TIMEOUT * 2).is_empty(), "once");

        let mut closed = opened(now);
        closed.closed(BROKER, OLD, now);
        assert!(closed.expire(MetadataVersion::ZERO, now + GRACE - ms(1)).is_empty());
        assert_eq!(closed.expire(MetadataVersion::ZERO, now + GRACE), [(BROKER, EPOCH)]);
    }

    #[tokio::test]
    async fn a_broker_that_comes_back_within_the_grace_is_not_fenced_by_the_end_of_its_old_stream() {
        let now = Instant::now();
        let mut sessions = opened(now);
        sessions.opened(BROKER, EPOCH, NEW, MetadataVersion::new(7), now);
        sessions.closed(BROKER, OLD, now + ms(1));
        assert!(!sessions.heard(BROKER, OLD, now + ms(2)), "the old stream is no sign of life");
        assert!(sessions.expire(MetadataVersion::ZERO, now + ms(500)).is_empty());
        // An incarnation that is over can't take the session over.
        sessions.opened(BROKER, BrokerEpoch::new(4), ConnectionId(3), MetadataVersion::ZERO, now);
        assert!(sessions.heard(BROKER, NEW, now + ms(600)));
    }

    #[tokio::test]
    async fn a_broker_whose_port_is_closed_expires_after_the_grace_unless_it_has_come_by() {
        let now = Instant::now();
        let mut sessions = opened(now);
        sessions.refused(BROKER, EPOCH, now);
        assert!(sessions.expire(MetadataVersion::ZERO, now + TIMEOUT - ms(1)).is_empty(), "it has a stream");

        let mut sessions = Sessions::begin(&known(), TIMEOUT, GRACE, now);
        sessions.refused(BROKER, BrokerEpoch::new(4), now);
        assert!(sessions.expire(MetadataVersion::ZERO, now + GRACE).is_empty(), "that was another incarnation");
        sessions.refused(BROKER, EPOCH, now);
        assert_eq!(sessions.expire(MetadataVersion::ZERO, now + GRACE), [(BROKER, EPOCH)]);
    }

    #[tokio::test]
    async fn a_fenced_broker_is_unfenced_only_with_the_metadata_that_fenced_it() {
        let now = Instant::now();
        let mut sessions = opened(now);
        assert!(!sessions.has_caught_up(BROKER, MetadataVersion::new(6)));
        assert!(sessions.has_caught_up(BROKER, MetadataVersion::new(7)));
        sessions.expire(MetadataVersion::new(9), now + TIMEOUT);
        assert!(!sessions.has_caught_up(BROKER, MetadataVersion::new(9)), "and not before it is heard again");
        assert!(sessions.heard(BROKER, OLD, now + TIMEOUT));
        assert!(!sessions.has_caught_up(BROKER, MetadataVersion::new(8)));
        assert!(sessions.has_caught_up(BROKER, MetadataVersion::new(9)));
    }

    #[tokio::test]
    async fn what_a_broker_says_of_its_storage_is_news_once_and_again_if_nothing_came_of_it() {
        let mut sessions = opened(Instant::now());
        let tp = highwater_types::TopicPartition::new(
            highwater_types::TopicId::from_u128(7),
            highwater_types::PartitionId::new(0),
        );
        let report = StorageReport { doubtful: [tp].into(), ..StorageReport::default() };
        assert!(sessions.note_storage(BROKER, &report));
        assert!(!sessions.note_storage(BROKER, &report));
        sessions.forget_storage();
        assert!(sessions.note_storage(BROKER, &report));
    }

    #[tokio::test]
    async fn a_controller_that_was_paused_does_not_fence_those_it_could_not_hear() {
        let now = Instant::now();
        let mut sessions = opened(now);
        sessions.pardon(now + TIMEOUT * 3);
        assert!(sessions.expire(MetadataVersion::ZERO, now + TIMEOUT * 3).is_empty());
        assert_eq!(sessions.expire(MetadataVersion::ZERO, now + TIMEOUT * 4), [(BROKER, EPOCH)]);
    }
}
