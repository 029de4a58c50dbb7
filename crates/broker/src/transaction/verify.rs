//! The check before the first append of a transaction (KIP-890, T33).
//!
//! A partition's leader takes the first records of a transaction only once the coordinator has the partition in that
//! transaction, which is still open: so every record that is written is ended by a marker some day. The coordinator is asked outside
//! of the partition's lock. What the producer sends meanwhile waits behind, so that its order holds ([`Verifications`]).
//!
//! An answer says what held when it was given. Should the transaction end before the append, either its marker has bumped the
//! producer's epoch in the log, and the append is refused, or the marker is on its way, and ends this record too. A marker that
//! leaves the epoch as it is makes what was answered before outdated, and it is asked again.
//!
//! A coordinator asks for itself before it takes offsets into a transaction, and appends on its own: it holds a [`Guard`] meanwhile.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use highwater_coordination::{ProducerIdentity, partition_for_id};
use highwater_protocol::v1::coordinator_client::CoordinatorClient;
use highwater_protocol::{code_of, error_from_status, topic_id_bytes, v1};
use highwater_seams::Entropy;
use highwater_types::{ErrorCode, ProducerId, TopicPartition, TransactionalId};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::cluster::Peers;
use crate::core::Core;

const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MOST: Duration = Duration::from_millis(200);
/// For the coordinator to be found, to have loaded, and to have completed the transaction before. Afterwards the producer asks
/// again.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// What waits for the coordinator's word in one partition, by producer, in the order in which it came.
#[derive(Debug)]
pub struct Verifications<Waiter> {
    waiting: BTreeMap<ProducerIdentity, Waiting<Waiter>>,
    /// Those that are held, and some that are no more.
    guards: Vec<(ProducerId, Weak<AtomicBool>)>,
}

/// Taken before the question is asked, looked at when the append is made: whether the answer is still true then (KIP-890).
#[derive(Debug, Clone)]
pub struct Guard(Arc<AtomicBool>);

impl Guard {
    /// A transaction of the producer has ended since, or this broker has not led the partition all the time.
    pub fn is_outdated(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Waiting<Waiter> {
    them: Vec<Waiter>,
    /// The transaction that was asked about may have ended since.
    is_outdated: bool,
}

/// What there is to be done with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered<Waiter> {
    /// It is for these. None, if they were given up meanwhile.
    Waiters(Vec<Waiter>),
    /// It came too late to be true: ask again.
    Outdated,
}

/// Who is to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nobody has yet: who gets this asks, and takes the waiters with the answer.
    Ask,
    /// Somebody has.
    Wait,
}

impl<Waiter> Default for Verifications<Waiter> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), guards: Vec::new() }
    }
}

impl<Waiter> Verifications<Waiter> {
    /// Whether what comes next from `producer` must [`wait`](Self::wait) behind what came before.
    pub fn is_waiting(&self, producer: ProducerIdentity) -> bool {
        self.waiting.contains_key(&producer)
    }

    pub fn wait(&mut self, producer: ProducerIdentity, waiter: Waiter) -> Turn {
        match self.waiting.entry(producer) {
            Entry::Occupied(mut behind) => {
                behind.get_mut().them.push(waiter);
                Turn::Wait
            }
            Entry::Vacant(first) => {
                first.insert(Waiting { them: vec![waiter], is_outdated: false });
                Turn::Ask
            }
        }
    }

    /// With the coordinator's answer.
    pub fn take(&mut self, producer: ProducerIdentity) -> Answered<Waiter> {
        if let Some(waiting) = self.waiting.get_mut(&producer)
            && std::mem::take(&mut waiting.is_outdated)
        {
            return Answered::Outdated;
        }
        Answered::Waiters(self.waiting.remove(&producer).map(|waiting| waiting.them).unwrap_or_default())
    }

    /// What was asked so far of a transaction of `producer` was asked before it ended, and the next one has the same epoch.
    pub fn outdate(&mut self, producer: ProducerIdentity) {
        if let Some(waiting) = self.waiting.get_mut(&producer) {
            waiting.is_outdated = true;
        }
    }

    /// For one that asks about a transaction of `producer`, and does not wait here.
    pub fn guard(&mut self, producer: ProducerIdentity) -> Guard {
        self.guards.retain(|(_, guard)| guard.strong_count() > 0);
        let guard = Guard(Arc::default());
        self.guards.push((producer.id, Arc::downgrade(&guard.0)));
        guard
    }

    /// A transaction of `producer` ends, in whatever epoch.
    pub fn outdate_guards(&mut self, producer: ProducerId) {
        let of_producer = self.guards.extract_if(.., |(of, _)| *of == producer);
        of_producer.filter_map(|(_, guard)| guard.upgrade()).for_each(|guard| guard.store(true, Ordering::Release));
    }

    /// All of them, as this broker leads the partition no more.
    pub fn give_up(&mut self) -> Vec<Waiter> {
        for (_, guard) in self.guards.drain(..) {
            if let Some(guard) = guard.upgrade() {
                guard.store(true, Ordering::Release);
            }
        }
        std::mem::take(&mut self.waiting).into_values().flat_map(|waiting| waiting.them).collect()
    }
}

/// The question whether records of a transaction may be written to a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    pub transactional_id: TransactionalId,
    pub producer: ProducerIdentity,
    pub partition: TopicPartition,
    /// Whether the partition becomes part of the transaction by this, if it is not yet.
    pub joins: bool,
}

/// The way to the transaction coordinators.
pub trait Verifier: Send + Sync {
    /// Adds the partition to the transaction if it joins it, unless that is over or not this producer's.
    fn verify(&self, question: Verification) -> BoxFuture<'static, Result<(), v1::Error>>;
}

/// Asks the coordinators of the cluster.
#[derive(Clone)]
pub struct ClusterVerifier {
    core: Arc<Core>,
    peers: Peers,
    entropy: Arc<dyn Entropy>,
    /// The internal topic whose leaders coordinate.
    topic: &'static str,
}

impl ClusterVerifier {
    pub fn new(core: Arc<Core>, peers: Peers, entropy: Arc<dyn Entropy>, topic: &'static str) -> Self {
        Self { core, peers, entropy, topic }
    }

    async fn ask(&self, question: &Verification) -> Result<(), v1::Error> {
        let image = self.core.partitions.image();
        let not_available = |what: &str| v1::Error::new(ErrorCode::CoordinatorNotAvailable, what);
        let topic = image.topic_by_name(self.topic).ok_or_else(|| not_available("there is no coordinator yet"))?;
        let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let coordinates = topic.partition(partition_for_id(question.transactional_id.as_str(), count));
        let leader = coordinates.and_then(|state| state.leader).and_then(|leader| image.broker(leader));
        let leader = leader.ok_or_else(|| not_available("the coordinator's partition has no leader now"))?;
        let mut client = CoordinatorClient::new(self.peers.channel(&leader.internal_endpoint));
        let request = v1::AddPartitionsToTransactionRequest {
            transactional_id: question.transactional_id.as_str().to_owned(),
            producer_id: question.producer.id.get(),
            producer_epoch: question.producer.epoch.get().into(),
            partitions: vec![v1::TopicPartitions {
                topic_id: topic_id_bytes(question.partition.topic),
                partitions: vec![question.partition.partition.get()],
            }],
            verify_only: !question.joins,
            group_id: String::new(),
        };
        match client.add_partitions_to_transaction(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(error_from_status(&status)),
        }
    }
}

impl Verifier for ClusterVerifier {
    fn verify(&self, question: Verification) -> BoxFuture<'static, Result<(), v1::Error>> {
        let this = self.clone();
        Box::pin(async move {
            let entropy = Arc::clone(&this.entropy);
            let ask = || {
                let (this, question) = (this.clone(), question.clone());
                Box::pin(async move { this.ask(&question).await }) as BoxFuture<'static, _>
            };
            until_answered(entropy, ask).await
        })
    }
}

/// Asks again where that can help, for as long as it is worth it. To ask twice is to ask once.
async fn until_answered(
    entropy: Arc<dyn Entropy>,
    ask: impl Fn() -> BoxFuture<'static, Result<(), v1::Error>>,
) -> Result<(), v1::Error> {
    let until = Instant::now() + VERIFY_TIMEOUT;
    let mut pause = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        let error = match tokio::time::timeout_at(until, ask()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if !code_of(&error).is_retriable() => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => return Err(not_answered("it did not answer")),
        };
        let again = Instant::now() + pause.next(&*entropy);
        if again >= until {
            return Err(match code_of(&error) {
                // The transaction before takes its time; that is the producer's to know.
                ErrorCode::ConcurrentTransactions => error,
                _ => not_answered(&error.message),
            });
        }
        tokio::time::sleep_until(again).await;
    }
}

/// Certain, whatever was unknown about the question: nothing was appended.
fn not_answered(why: &str) -> v1::Error {
    let message = format!(
        "the transaction's coordinator could not be asked within {VERIFY_TIMEOUT:?}, so nothing was written; ask again: {why}"
    );
    v1::Error::new(ErrorCode::CoordinatorNotAvailable, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use highwater_seams::SeededEntropy;
    use highwater_types::ProducerEpoch;

    use super::*;

    fn producer(id: i64, epoch: i16) -> ProducerIdentity {
        ProducerIdentity { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch) }
    }

    #[test]
    fn one_asks_and_the_others_wait_behind_in_their_order() {
        let mut verifications = Verifications::default();
        assert!(!verifications.is_waiting(producer(1, 0)));
        assert_eq!(verifications.wait(producer(1, 0), 'a'), Turn::Ask);
        assert_eq!(verifications.wait(producer(1, 0), 'b'), Turn::Wait);
        assert_eq!(verifications.wait(producer(2, 0), 'c'), Turn::Ask);
        assert_eq!(verifications.wait(producer(1, 1), 'd'), Turn::Ask, "the next transaction is another");
        assert!(verifications.is_waiting(producer(1, 0)));
        assert_eq!(verifications.take(producer(1, 0)), Answered::Waiters(vec!['a', 'b']));
        assert!(!verifications.is_waiting(producer(1, 0)));
        let mut left = verifications.give_up();
        left.sort_unstable();
        assert_eq!(left, ['c', 'd']);
        assert_eq!(verifications.take(producer(2, 0)), Answered::Waiters(vec![]), "the answer comes too late for them");
    }

    #[test]
    fn t34_an_answer_from_before_the_end_of_a_transaction_is_not_for_the_next_in_its_epoch() {
        let mut verifications = Verifications::default();
        verifications.outdate(producer(1, 0));
        assert_eq!(verifications.wait(producer(1, 0), 'a'), Turn::Ask, "nobody had asked");
        verifications.outdate(producer(1, 0));
        assert_eq!(verifications.wait(producer(1, 0), 'b'), Turn::Wait);
        assert_eq!(verifications.take(producer(1, 0)), Answered::Outdated);
        assert!(verifications.is_waiting(producer(1, 0)), "until it has been asked again");
        assert_eq!(verifications.take(producer(1, 0)), Answered::Waiters(vec!['a', 'b']));
    }

    #[test]
    fn t33_a_guard_is_outdated_by_the_end_of_a_transaction_and_of_leading() {
        let mut verifications = Verifications::<char>::default();
        let before = verifications.guard(producer(1, 0));
        let other = verifications.guard(producer(2, 0));
        verifications.outdate_guards(producer(1, 1).id);
        let after = verifications.guard(producer(1, 0));
        assert!(before.is_outdated() && !other.is_outdated() && !after.is_outdated());
        verifications.give_up();
        assert!(other.is_outdated() && after.is_outdated());
        assert!(!verifications.guard(producer(1, 0)).is_outdated());
        assert_eq!(verifications.guards.len(), 1, "nothing is kept of those that nobody holds");
    }

    async fn answered(answers: &[Result<(), ErrorCode>]) -> (usize, Result<(), ErrorCode>) {
        let asked = AtomicUsize::new(0);
        let ask = || {
            let n = asked.fetch_add(1, Ordering::Relaxed);
            let answer = answers.get(n).or(answers.last()).copied().expect("an answer");
            Box::pin(async move { answer.map_err(|code| v1::Error::new(code, "scripted")) }) as BoxFuture<'static, _>
        };
        let result = until_answered(Arc::new(SeededEntropy::new(1)), ask).await;
        (asked.load(Ordering::Relaxed), result.map_err(|error| code_of(&error)))
    }

    #[tokio::test(start_paused = true)]
    async fn trap_33_only_a_clear_answer_counts() {
        let wait = Err(ErrorCode::ConcurrentTransactions);
        let moved = Err(ErrorCode::NotCoordinator);
        let broken = Err(ErrorCode::Unavailable);
        assert_eq!(answered(&[wait, moved, broken, Ok(())]).await, (4, Ok(())));
        let fenced = Err(ErrorCode::InvalidProducerEpoch);
        assert_eq!(answered(&[wait, fenced, Ok(())]).await, (2, fenced));
        // What was not answered for good leaves nothing unknown: nothing is appended.
        assert_eq!(answered(&[broken]).await.1, Err(ErrorCode::CoordinatorNotAvailable));
        assert_eq!(answered(&[wait]).await.1, wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_that_does_not_answer_is_given_up() {
        let start = Instant::now();
        let result = until_answered(Arc::new(SeededEntropy::new(1)), || Box::pin(std::future::pending())).await;
        assert_eq!(code_of(&result.unwrap_err()), ErrorCode::CoordinatorNotAvailable);
        assert_eq!(start.elapsed(), VERIFY_TIMEOUT);
    }
}
