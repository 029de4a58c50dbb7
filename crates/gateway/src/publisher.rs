//! Publishers with an id: each request is stored once, however often it comes, through whichever brokers.
//!
//! A request is one transaction: its records, and its sequence as the offset that the publisher's own group commits for the
//! topic. So either both are there or neither, and who asks the group knows what was stored. The transactional id is the
//! publisher's and the topic's: a broker that takes over fences the one before, and what that one had begun is ended before the
//! group answers.
//!
//! **Invariant**: a session is held by who publishes with it, and put back only when it is certain how its transaction ended; a
//! call that is cut off in the middle leaves none, and the next one asks the group again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::try_join_all;
use highwater_client::{
    Acks, ClusterMetadata, ErrorCode, GroupMetadata, LeaderEpoch, Offset, OffsetToCommit, PartitionId, Position,
    ProduceError, ProducerConfig, TopicRef, TransactionError, TransactionalConfig, TransactionalProducer,
};
use highwater_protocol::v1;
use highwater_types::MemberEpoch;
use tokio::time::timeout;

use crate::error::{IntoError as _, invalid};
use crate::publish::stored;
use crate::state::{DELIVERY_TIMEOUT, State, TOPIC_WAIT};
use crate::wire;

/// Groups and transactional ids of publishers begin so.
const NAMESPACE: &str = "__publisher";
const ID_MAX: usize = 200;
/// What is kept with a committed offset has a bound of 4096 bytes at the coordinator.
const PLACES_BYTES_MAX: usize = 4000;
/// Where the sequence is committed.
const SEQUENCE_PARTITION: PartitionId = PartitionId::new(0);

/// A publisher, and a topic that it publishes to.
type Key = (String, String);

/// The sessions of this broker.
pub(crate) struct Publishers {
    max: usize,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    of: BTreeMap<Key, Arc<Slot>>,
    /// Counts uses; a slot's last one tells how long it has been idle.
    uses: u64,
}

#[derive(Default)]
struct Slot {
    session: tokio::sync::Mutex<Option<Session>>,
    used: Mutex<u64>,
}

/// A producer that has the publisher's id, and what is known to be stored.
struct Session {
    producer: TransactionalProducer,
    last: Option<Last>,
}

/// The last request that was stored.
#[derive(Debug, Clone, PartialEq)]
struct Last {
    sequence: u64,
    /// Absent if there were too many to be kept.
    places: Option<Vec<v1::PublishResult>>,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Store,
    /// It was stored before.
    Known(Option<Vec<v1::PublishResult>>),
    Gap {
        expected: u64,
    },
}

fn judge(last: Option<&Last>, sequence: u64) -> Verdict {
    match last {
        None => Verdict::Store,
        Some(last) if sequence == last.sequence => Verdict::Known(last.places.clone()),
        Some(last) if sequence < last.sequence => Verdict::Known(None),
        Some(last) if sequence == last.sequence + 1 => Verdict::Store,
        Some(last) => Verdict::Gap { expected: last.sequence + 1 },
    }
}

impl Publishers {
    pub fn new(max: usize) -> Self {
        Self { max, slots: Mutex::default() }
    }

    /// Where the session of this publisher is, or is to be.
    fn slot(&self, key: &Key) -> Result<Arc<Slot>, v1::Error> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.uses += 1;
        if !slots.of.contains_key(key) && slots.of.len() >= self.max {
            // Nobody uses one that is in the map only; a session that goes aborts what it left open.
            let idle = slots.of.iter().filter(|(_, slot)| Arc::strong_count(slot) == 1);
            let longest = idle.min_by_key(|(_, slot)| slot.last_use()).map(|(key, _)| key.clone());
            let Some(longest) = longest else {
                let message = format!("{} publishers are at work here; try another broker, or later", self.max);
                return Err(v1::Error::new(ErrorCode::Throttled, message));
            };
            slots.of.remove(&longest);
        }
        let uses = slots.uses;
        let slot = Arc::clone(slots.of.entry(key.clone()).or_default());
        *slot.used.lock().unwrap_or_else(PoisonError::into_inner) = uses;
        Ok(slot)
    }
}

impl Slot {
    fn last_use(&self) -> u64 {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores the request's records, if they are not stored already; where they are, in its order.
pub(crate) async fn publish(state: &State, request: v1::PublishRequest) -> Result<Vec<v1::PublishResult>, v1::Error> {
    check(&request)?;
    let key = (request.publisher_id.clone(), request.topic.clone());
    let slot = state.publishers.slot(&key)?;
    let mut kept = slot.session.lock().await;
    // Out of its place while it is in use: see the invariant.
    if let Some(session) = kept.take() {
        match session.publish(&key, request.clone()).await {
            (Published::Behind(_), _) => {}
            (published, session) => {
                *kept = session;
                return published.answer(&key, &request);
            }
        }
    }
    // None yet, or another broker has gone on for this publisher meanwhile: the group knows.
    let (published, session) = Session::open(state, &key).await?.publish(&key, request.clone()).await;
    *kept = session;
    published.answer(&key, &request)
}

/// What came of a request, as far as a session can tell.
enum Published {
    Stored(Vec<v1::PublishResult>),
    /// Before.
    Known(Option<Vec<v1::PublishResult>>),
    /// A number is missing, or another broker has fenced the session: what it takes for the last number may not be the last.
    Behind(Behind),
    Failed(v1::Error),
}

enum Behind {
    Gap { expected: u64 },
    Fenced(v1::Error),
}

impl Published {
    fn answer(self, key: &Key, request: &v1::PublishRequest) -> Result<Vec<v1::PublishResult>, v1::Error> {
        match self {
            Self::Stored(places) => Ok(places),
            Self::Known(places) => {
                let places = places.filter(|places| places.len() == request.records.len());
                Ok(places.unwrap_or_else(|| request.records.iter().map(|_| somewhere()).collect()))
            }
            Self::Behind(Behind::Gap { expected }) => {
                let (publisher, topic, sequence) = (&key.0, &key.1, request.sequence);
                let message = format!(
                    "sequence {sequence} of publisher {publisher:?} to topic {topic:?}: the next one is {expected}"
                );
                Err(v1::Error::new(ErrorCode::OutOfOrderSequence, message))
            }
            Self::Behind(Behind::Fenced(error)) | Self::Failed(error) => Err(error),
        }
    }
}

fn check(request: &v1::PublishRequest) -> Result<(), v1::Error> {
    let id = &request.publisher_id;
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    if id.len() > ID_MAX || !id.bytes().all(is_plain) {
        return Err(invalid(format!(
            "a publisher_id has 1 to {ID_MAX} of a-z, A-Z, 0-9, '.', '_' and '-', not {id:?}"
        )));
    }
    if request.sequence == 0 || i64::try_from(request.sequence).is_err() {
        return Err(invalid(format!(
            "a publisher numbers its requests from 1 on; {} is no sequence",
            request.sequence
        )));
    }
    match wire::acks(request.acks)? {
        Acks::All => Ok(()),
        other => Err(invalid(format!("a publisher with an id needs ACKS_ALL, not acks={other}"))),
    }
}

/// Stored, and nobody remembers where.
fn somewhere() -> v1::PublishResult {
    v1::PublishResult { error: None, partition: 0, offset: None, timestamp_ms: -1 }
}

enum StoreFailure {
    /// It is certain that nothing of it is or will be stored, and the session can go on.
    TakenBack(v1::Error),
    Fenced(v1::Error),
    Unknown(v1::Error),
}

impl From<TransactionError> for StoreFailure {
    fn from(error: TransactionError) -> Self {
        let is_fenced = matches!(error, TransactionError::Fenced { .. });
        let error = error.into_error();
        if is_fenced { Self::Fenced(error) } else { Self::Unknown(error) }
    }
}

impl Session {
    async fn open(state: &State, (publisher, topic): &Key) -> Result<Self, v1::Error> {
        let client = state.client().await?;
        // Where there is no topic, no transactional id is left behind.
        let is_there = |cluster: &ClusterMetadata| cluster.topic(topic).is_some_and(|it| !it.partitions.is_empty());
        if timeout(TOPIC_WAIT, client.metadata_when(is_there)).await.is_err() {
            return Err(v1::Error::new(ErrorCode::UnknownTopic, format!("there is no topic {topic:?}")));
        }
        let buffer_bytes = state.limits.publish_bytes_max;
        let config = TransactionalConfig {
            producer: ProducerConfig { buffer_bytes, delivery_timeout: DELIVERY_TIMEOUT, ..ProducerConfig::default() },
            ..TransactionalConfig::new(transactional_id(publisher, topic))
        };
        // Before the group is asked: an attempt that was cut off has left its transaction open, the group's answer waits for the
        // end of that, and this ends it. From here on nobody else can add to what the group says.
        let producer = client.transactional_producer(config).await.map_err(|error| error.into_error())?;
        let committed = client.admin().stable_group_offset(&group(publisher), topic, SEQUENCE_PARTITION).await;
        let last = committed.map_err(|error| error.into_error())?.map(|committed| Last {
            sequence: committed.position.offset.get().unsigned_abs(),
            places: parse_places(&committed.metadata),
        });
        Ok(Self { producer, last })
    }

    /// Also the session, if it can go on.
    async fn publish(mut self, key: &Key, request: v1::PublishRequest) -> (Published, Option<Self>) {
        let sequence = request.sequence;
        match judge(self.last.as_ref(), sequence) {
            Verdict::Known(places) => (Published::Known(places), Some(self)),
            Verdict::Gap { expected } => (Published::Behind(Behind::Gap { expected }), Some(self)),
            Verdict::Store => match self.store(key, request).await {
                Ok(places) => {
                    self.last = Some(Last { sequence, places: Some(places.clone()) });
                    (Published::Stored(places), Some(self))
                }
                Err(StoreFailure::TakenBack(error)) => (Published::Failed(error), Some(self)),
                Err(StoreFailure::Fenced(error)) => (Published::Behind(Behind::Fenced(error)), None),
                Err(StoreFailure::Unknown(error)) => (Published::Failed(error), None),
            },
        }
    }

    async fn store(
        &mut self,
        (publisher, topic): &Key,
        request: v1::PublishRequest,
    ) -> Result<Vec<v1::PublishResult>, StoreFailure> {
        let transaction = self.producer.begin().await?;
        let topic_ref = TopicRef::from(topic.clone());
        let sent = async {
            let mut deliveries = Vec::with_capacity(request.records.len());
            for record in request.records {
                deliveries.push(transaction.send(wire::produced(&topic_ref, record)).await?);
            }
            try_join_all(deliveries).await
        };
        let sent: Result<Vec<_>, ProduceError> = sent.await;
        let places: Vec<_> = match sent {
            Ok(places) => places.iter().map(stored).collect(),
            Err(failed) => {
                let code = failed.code;
                transaction.abort().await?;
                let mut error = failed.into_error();
                error.outcome_unknown = false;
                return Err(if is_fencing(code) {
                    StoreFailure::Fenced(error)
                } else {
                    StoreFailure::TakenBack(error)
                });
            }
        };
        let sequence = OffsetToCommit {
            topic: topic.clone(),
            partition: SEQUENCE_PARTITION,
            position: Position {
                offset: Offset::new(i64::try_from(request.sequence).unwrap_or(i64::MAX)),
                leader_epoch: LeaderEpoch::NONE,
            },
            metadata: text_of_places(&places).unwrap_or_default(),
        };
        let nobody = GroupMetadata {
            group_id: group(publisher),
            member_id: String::new(),
            member_epoch: MemberEpoch::new(-1),
            instance_id: None,
        };
        transaction.send_offsets(&[sequence], &nobody).await?;
        transaction.commit().await?;
        Ok(places)
    }
}

/// A record was refused because another broker has this publisher now.
fn is_fencing(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch | ErrorCode::InvalidProducerIdMapping)
}

fn group(publisher: &str) -> String {
    format!("{NAMESPACE}.{publisher}")
}

/// Names of publishers and of topics have dots, and no slash: with a dot between them, two publishers could share an id, and
/// fence each other for ever.
fn transactional_id(publisher: &str, topic: &str) -> String {
    format!("{NAMESPACE}.{publisher}/{topic}")
}

/// `partition:offset:timestamp` of each record; `None` if that is too long to be kept.
fn text_of_places(places: &[v1::PublishResult]) -> Option<String> {
    let mut text = String::new();
    for place in places {
        let separator = if text.is_empty() { "" } else { " " };
        text += &format!("{separator}{}:{}:{}", place.partition, place.offset?, place.timestamp_ms);
        if text.len() > PLACES_BYTES_MAX {
            return None;
        }
    }
    Some(text)
}

fn parse_places(text: &str) -> Option<Vec<v1::PublishResult>> {
    let one = |place: &str| {
        let mut parts = place.splitn(3, ':');
        let partition = parts.next()?.parse().ok()?;
        let offset = parts.next()?.parse().ok()?;
        let timestamp_ms = parts.next()?.parse().ok()?;
        Some(v1::PublishResult { error: None, partition, offset: Some(offset), timestamp_ms })
    };
    text.split(' ').map(one).collect()
}

#[cfg(test)]
mod tests {
    use highwater_protocol::code_of;

    use super::*;

    fn place(partition: u32, offset: i64) -> v1::PublishResult {
        v1::PublishResult { error: None, partition, offset: Some(offset), timestamp_ms: 1_790_000_000_000 }
    }

    #[test]
    fn a_request_is_stored_once_and_none_is_passed_over() {
        let last = Last { sequence: 7, places: Some(vec![place(1, 2)]) };
        assert_eq!(judge(None, 5), Verdict::Store);
        assert_eq!(judge(Some(&last), 8), Verdict::Store);
        assert_eq!(judge(Some(&last), 7), Verdict::Known(last.places.clone()));
        assert_eq!(judge(Some(&last), 6), Verdict::Known(None));
        assert_eq!(judge(Some(&last), 9), Verdict::Gap { expected: 8 });
    }

    #[test]
    fn places_come_back_as_they_were_unless_there_are_too_many() {
        let places = vec![place(0, 0), place(4_294_967_295, i64::MAX)];
        assert_eq!(parse_places(&text_of_places(&places).unwrap()), Some(places));
        assert_eq!(text_of_places(&vec![place(1, 1 << 40); 500]), None);
        for broken in ["", "1", "1:2", "1:2:x", "1:2:3 "] {
            assert_eq!(parse_places(broken), None, "{broken}");
        }
    }

    #[test]
    fn no_two_publishers_share_a_transactional_id() {
        assert_ne!(transactional_id("a.b", "c"), transactional_id("a", "b.c"));
    }

    #[test]
    fn what_can_not_be_kept_once_is_refused() {
        let good = v1::PublishRequest { publisher_id: "shop-1".into(), sequence: 1, ..Default::default() };
        assert!(check(&good).is_ok());
        for bad in [
            v1::PublishRequest { publisher_id: "a b".into(), ..good.clone() },
            v1::PublishRequest { publisher_id: "x".repeat(201), ..good.clone() },
            v1::PublishRequest { sequence: 0, ..good.clone() },
            v1::PublishRequest { sequence: u64::MAX, ..good.clone() },
            v1::PublishRequest { acks: v1::Acks::Leader.into(), ..good.clone() },
        ] {
            assert_eq!(check(&bad).map_err(|error| code_of(&error)), Err(ErrorCode::InvalidRequest));
        }
    }

    #[test]
    fn the_longest_idle_makes_room_and_nobody_at_work_does() {
        let publishers = Publishers::new(2);
        let key = |name: &str| (name.to_owned(), "t".to_owned());
        let a = publishers.slot(&key("a")).unwrap();
        drop(publishers.slot(&key("b")).unwrap());
        assert!(Arc::ptr_eq(&a, &publishers.slot(&key("a")).unwrap()));
        let c = publishers.slot(&key("c")).unwrap();
        let full = publishers.slot(&key("d")).map(drop).map_err(|error| code_of(&error));
        assert_eq!(full, Err(ErrorCode::Throttled));
        drop(c);
        publishers.slot(&key("d")).unwrap();
        let names: Vec<_> = publishers.slots.lock().unwrap().of.keys().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["a", "d"]);
    }
}
