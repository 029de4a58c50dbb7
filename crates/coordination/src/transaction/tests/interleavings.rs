//! Several producers (two of them after the same transactional id), a network that repeats and delays, partitions that take
//! markers, time, and coordinators that die with part of their log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_record::TransactionResult;
use highwater_types::{ProducerId, TopicPartition, TransactionalId};
use proptest::prelude::*;

use super::super::state::Transaction;
use super::super::{Action, Request, Response, TransactionState, record};
use super::driver::{Coordinator, id, identity, partition};
use crate::{ProducerIdentity, Token};

const CLIENTS: usize = 3;
const PARTITIONS: u32 = 4;

#[derive(Debug, Clone)]
enum Event {
    Init {
        client: usize,
        anew: bool,
    },
    Add {
        client: usize,
        mask: u32,
    },
    End {
        client: usize,
        commit: bool,
    },
    /// The last request once more.
    Retry {
        client: usize,
    },
    /// One of the messages on their way arrives; it may arrive again.
    Deliver {
        pick: usize,
        keep: bool,
    },
    Commit,
    /// A leader is sent one of the markers; of one batch of them, perhaps again.
    Mark {
        pick: usize,
        partition: usize,
        keep: bool,
    },
    /// A record that was verified is appended, perhaps long after.
    Append {
        pick: usize,
        keep: bool,
    },
    Time {
        ms: u64,
    },
    Crash {
        survive: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let client = 0..CLIENTS;
    prop_oneof![
        2 => (client.clone(), any::<bool>()).prop_map(|(client, anew)| Event::Init { client, anew }),
        6 => (client.clone(), 1..1_u32 << PARTITIONS).prop_map(|(client, mask)| Event::Add { client, mask }),
        4 => (client.clone(), any::<bool>()).prop_map(|(client, commit)| Event::End { client, commit }),
        3 => client.prop_map(|client| Event::Retry { client }),
        14 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(pick, keep)| Event::Deliver { pick, keep }),
        10 => Just(Event::Commit),
        10 => (any::<usize>(), any::<usize>(), prop::bool::weighted(0.3))
            .prop_map(|(pick, partition, keep)| Event::Mark { pick, partition, keep }),
        4 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(pick, keep)| Event::Append { pick, keep }),
        2 => (0..40_000_u64).prop_map(|ms| Event::Time { ms }),
        2 => (0..4_usize).prop_map(|survive| Event::Crash { survive }),
    ]
}

/// What a partition's leader keeps of a producer id.
#[derive(Debug, Default)]
struct Partition {
    epochs: BTreeMap<ProducerId, i16>,
    open: BTreeMap<ProducerId, ProducerIdentity>,
}

#[derive(Debug, Default, Clone)]
struct Client {
    producer: Option<ProducerIdentity>,
    last: Option<Request>,
    waits: Option<Token>,
}

/// What is known for good of one transaction.
#[derive(Debug, Default)]
struct Known {
    asked: BTreeSet<TopicPartition>,
    added: BTreeSet<TopicPartition>,
    acknowledged: Option<TransactionResult>,
    next: Option<ProducerIdentity>,
    marked: Option<(TransactionResult, Vec<TopicPartition>)>,
}

struct World {
    coordinator: Coordinator,
    clients: Vec<Client>,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Requests on their way, with who asks.
    network: Vec<(Option<usize>, Request)>,
    /// Requests in the coordinator, until answered.
    asked: BTreeMap<Token, (Option<usize>, Request)>,
    /// Markers ever to be sent.
    markers: Vec<(TransactionalId, ProducerIdentity, TransactionResult, Vec<TopicPartition>)>,
    /// Verified, not appended yet.
    verified: Vec<(ProducerIdentity, TopicPartition)>,
    transactions: BTreeMap<ProducerIdentity, Known>,
    /// Who was given an epoch.
    owners: BTreeMap<ProducerIdentity, usize>,
}

/// The first two share theirs.
fn id_of(client: usize) -> TransactionalId {
    id(["shared", "shared", "own"][client])
}

impl World {
    fn new() -> Self {
        // Near the end of the epochs, so that a run passes it.
        let now = Coordinator::new().now.wall;
        let old = record::record(&id("own"), &Transaction::new(identity(7, i16::MAX - 4), 60_000, now));
        Self {
            coordinator: Coordinator::with_log(vec![old]),
            clients: vec![Client::default(); CLIENTS],
            partitions: (0..PARTITIONS).map(|n| (partition(n), Partition::default())).collect(),
            network: Vec::new(),
            asked: BTreeMap::new(),
            markers: Vec::new(),
            verified: Vec::new(),
            transactions: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    fn send(&mut self, client: usize, request: Request) {
        self.clients[client].last = Some(request.clone());
        self.clients[client].waits = None;
        self.network.push((Some(client), request));
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Init { client, anew } => {
                let current = self.clients[client].producer.filter(|_| !anew);
                let request = self.coordinator.init_request(&id_of(client), current);
                self.send(client, request);
            }
            Event::Add { client, mask } => {
                let Some(producer) = self.clients[client].producer else { return };
                let partitions: Vec<_> = (0..PARTITIONS).filter(|n| mask & (1 << n) != 0).map(partition).collect();
                self.transactions.entry(producer).or_default().asked.extend(&partitions);
                self.send(client, super::driver::add_request(&id_of(client), producer, &partitions));
            }
            Event::End { client, commit } => {
                let Some(producer) = self.clients[client].producer else { return };
                let result = if commit { TransactionResult::Commit } else { TransactionResult::Abort };
                let request = self.coordinator.end_request(&id_of(client), producer, result);
                self.send(client, request);
            }
            Event::Retry { client } => {
                if let Some(request) = self.clients[client].last.clone() {
                    self.network.push((Some(client), request));
                }
            }
            Event::Deliver { pick, keep } => self.deliver(pick, keep),
            Event::Commit => self.coordinator.commit(),
            Event::Mark { pick, partition, keep } => self.mark(pick, partition, keep),
            Event::Append { pick, keep } => self.append(pick, keep),
            Event::Time { ms } => self.coordinator.advance(Duration::from_millis(ms)),
            Event::Crash { survive } => {
                // Who waits is told to ask again.
                self.observe();
                self.coordinator.crash(survive);
                self.asked.clear();
            }
        }
        self.observe();
    }

    fn deliver(&mut self, pick: usize, keep: bool) {
        if self.network.is_empty() {
            return;
        }
        let at = pick % self.network.len();
        let (client, mut request) = self.network[at].clone();
        if !keep {
            self.network.swap_remove(at);
        }
        // The broker supplies another each time.
        if let Request::InitProducerId { fresh, .. } | Request::EndTransaction { fresh, .. } = &mut request {
            *fresh = self.coordinator.fresh();
        }
        let token = self.coordinator.request(request.clone());
        if let Some(client) = client
            && self.clients[client].last.as_ref().is_some_and(|last| same_question(last, &request))
        {
            self.clients[client].waits = Some(token);
        }
        self.asked.insert(token, (client, request));
    }

    /// Takes what the coordinator has let out since.
    fn observe(&mut self) {
        let answered: Vec<_> =
            self.asked.keys().filter(|token| self.coordinator.replies.contains_key(token)).copied().collect();
        for token in answered {
            let (client, request) = self.asked.remove(&token).unwrap();
            if let Ok(response) = self.coordinator.replies[&token].clone() {
                self.acknowledged(client, token, &request, &response);
            }
        }
        let now_epoch = self.coordinator.epoch;
        for action in std::mem::take(&mut self.coordinator.actions) {
            let Action::WriteMarkers { transactional_id, producer, result, coordinator_epoch, partitions, .. } = action;
            assert_eq!(coordinator_epoch, now_epoch);
            let of =
                ProducerIdentity { epoch: highwater_types::ProducerEpoch::new(producer.epoch.get() - 1), ..producer };
            let known = self.transactions.entry(of).or_default();
            let marked = (result, partitions.clone());
            assert_eq!(*known.marked.get_or_insert(marked.clone()), marked, "{of:?} is marked in two ways");
            let to: BTreeSet<_> = partitions.iter().copied().collect();
            assert!(known.added.is_subset(&to) && to.is_subset(&known.asked), "{of:?}: {known:?}");
            self.markers.push((transactional_id, producer, result, partitions));
            self.check(of);
        }
        self.check_complete();
    }

    /// Complete means that every partition has the marker.
    fn check_complete(&self) {
        for transaction in self.coordinator.shard.durable().values() {
            if let (TransactionState::Complete(_), Some(of)) = (transaction.state, transaction.previous)
                && let Some((_, partitions)) = self.transactions.get(&of).and_then(|known| known.marked.as_ref())
            {
                let has_it = |at| self.partitions[at].epochs.get(&of.id).is_some_and(|epoch| *epoch > of.epoch.get());
                assert!(partitions.iter().all(has_it), "{of:?} is complete too early");
            }
        }
    }

    fn acknowledged(&mut self, client: Option<usize>, token: Token, request: &Request, response: &Response) {
        let mut given = None;
        match (request, response) {
            (Request::InitProducerId { .. }, Response::Producer(producer)) => given = Some(*producer),
            (Request::EndTransaction { producer, result, .. }, Response::Ended { next }) => {
                let known = self.transactions.entry(*producer).or_default();
                assert_eq!(*known.acknowledged.get_or_insert(*result), *result, "{producer:?} ended in two ways");
                assert_eq!(*known.next.get_or_insert(*next), *next);
                given = Some(*next);
                self.check(*producer);
            }
            (Request::AddPartitions { producer, partitions, .. }, _) => {
                let known = self.transactions.entry(*producer).or_default();
                known.added.extend(partitions);
                if let Some((_, marked)) = &known.marked {
                    assert!(partitions.iter().all(|at| marked.contains(at)), "{producer:?} joined after its end");
                }
                self.verified.extend(partitions.iter().map(|at| (*producer, *at)));
            }
            _ => {}
        }
        if let (Some(given), Some(client)) = (given, client) {
            assert_eq!(*self.owners.entry(given).or_insert(client), client, "{given:?} belongs to two");
            if self.clients[client].waits == Some(token) {
                self.clients[client].producer = Some(given);
            }
        }
    }

    fn check(&self, of: ProducerIdentity) {
        let known = &self.transactions[&of];
        if let (Some(acknowledged), Some((marked, _))) = (known.acknowledged, &known.marked) {
            assert_eq!(acknowledged, *marked, "{of:?}: the markers say something else than the answer");
        }
    }

    fn mark(&mut self, pick: usize, partition: usize, keep: bool) {
        if self.markers.is_empty() {
            return;
        }
        let at = pick % self.markers.len();
        let (transactional_id, producer, _, partitions) = self.markers[at].clone();
        let to = partitions[partition % partitions.len()];
        if !keep && partitions.len() == 1 {
            self.markers.swap_remove(at);
        }
        let leader = self.partitions.get_mut(&to).unwrap();
        let epoch = leader.epochs.entry(producer.id).or_insert(-1);
        // There already, if the epoch is.
        if *epoch < producer.epoch.get() {
            *epoch = producer.epoch.get();
            if let Some(open) = leader.open.remove(&producer.id) {
                assert_eq!(open.epoch.next(), producer.epoch, "the end of another transaction");
            }
        }
        let request = Request::MarkersWritten { transactional_id, producer, partitions: vec![to] };
        self.network.push((None, request));
    }

    fn append(&mut self, pick: usize, keep: bool) {
        if self.verified.is_empty() {
            return;
        }
        let at = pick % self.verified.len();
        let (producer, to) = self.verified[at];
        if !keep {
            self.verified.swap_remove(at);
        }
        let leader = self.partitions.get_mut(&to).unwrap();
        let epoch = leader.epochs.entry(producer.id).or_insert(-1);
        if *epoch <= producer.epoch.get() {
            *epoch = producer.epoch.get();
            let open = *leader.open.entry(producer.id).or_insert(producer);
            assert_eq!(open, producer, "two transactions in one");
        }
    }

    /// Whatever happened before, once the network works everything ends, and the late writes find their transaction over.
    fn settle(&mut self) {
        self.coordinator.commit();
        self.observe();
        self.coordinator.advance(Duration::from_secs(60));
        self.coordinator.crash(usize::MAX);
        self.asked.clear();
        self.network.clear();
        self.observe();
        for (_, producer, _, partitions) in self.markers.clone() {
            for n in 0..partitions.len() {
                let at = self.markers.iter().position(|marker| marker.1 == producer).unwrap();
                self.mark(at, n, true);
            }
        }
        while !self.network.is_empty() {
            self.deliver(0, false);
            self.coordinator.commit();
            self.observe();
        }
        while !self.verified.is_empty() {
            self.append(0, false);
        }
        for (id, transaction) in self.coordinator.shard.durable() {
            assert!(
                matches!(transaction.state, TransactionState::Empty | TransactionState::Complete(_)),
                "{id:?} is left in {}",
                transaction.state
            );
        }
        for (at, leader) in &self.partitions {
            assert!(leader.open.is_empty(), "{at} hangs: {leader:?}");
        }
        for (of, known) in &self.transactions {
            let must_mark = known.acknowledged.is_some() && !known.added.is_empty();
            assert!(!must_mark || known.marked.is_some(), "{of:?} ended, and nobody was told");
        }
        self.check_epochs();
    }

    fn check_epochs(&self) {
        let mut latest: BTreeMap<ProducerId, i16> = BTreeMap::new();
        for entry in &self.coordinator.log {
            let Ok(Some((_, Some(transaction)))) = record::read(entry) else { continue };
            let epoch = transaction.producer.epoch.get();
            let before = latest.entry(transaction.producer.id).or_insert(epoch);
            assert!(*before <= epoch, "the epoch of producer {} went back", transaction.producer.id);
            *before = epoch;
        }
    }
}

fn same_question(a: &Request, b: &Request) -> bool {
    match (a, b) {
        (Request::InitProducerId { current: a, .. }, Request::InitProducerId { current: b, .. }) => a == b,
        (
            Request::EndTransaction { producer: a, result: x, .. },
            Request::EndTransaction { producer: b, result: y, .. },
        ) => a == b && x == y,
        _ => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn transactions_are_whole_whatever_comes_in_between(events in prop::collection::vec(event(), 1..250)) {
        let mut world = World::new();
        events.into_iter().for_each(|event| world.apply(event));
        world.settle();
    }
}
