//! Drives a shard as the runtime does: one log, a high watermark, and effects that wait for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use highwater_record::TransactionResult;
use highwater_types::{
    LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicId, TopicPartition, TransactionalId,
};

use super::super::state::Transaction;
use super::super::{Action, Error, Request, Response, TransactionConfig, TransactionShard};
use crate::{CoordinatorRecord, Effects, Now, ProducerIdentity, Shard, Token, Topics};

pub type Reply = Result<Response, Error>;

type Outgoing = (Vec<(Token, Reply)>, Vec<Action>);

/// One coordinator after the other, on one log.
pub struct Coordinator {
    pub shard: TransactionShard,
    pub epoch: LeaderEpoch,
    pub log: Vec<CoordinatorRecord>,
    committed: usize,
    /// With the log's end that must be committed first.
    held: VecDeque<(usize, Outgoing)>,
    pub now: Now,
    config: TransactionConfig,
    tokens: u64,
    fresh: i64,
    /// Never taken back; what a crash left unanswered has none.
    pub replies: BTreeMap<Token, Reply>,
    /// What the shard has not answered yet.
    pub waiting: BTreeSet<Token>,
    /// Of this incarnation.
    pub actions: Vec<Action>,
}

impl Coordinator {
    pub fn new() -> Self {
        Self::with_log(Vec::new())
    }

    pub fn with_log(log: Vec<CoordinatorRecord>) -> Self {
        let config = TransactionConfig::default();
        let mut this = Self {
            shard: TransactionShard::new(config.clone()),
            epoch: LeaderEpoch::new(4),
            committed: log.len(),
            log,
            held: VecDeque::new(),
            now: Now { elapsed: Duration::from_secs(10), wall: TimestampMs::new(1_000_000) },
            config,
            tokens: 0,
            fresh: 1000,
            replies: BTreeMap::new(),
            waiting: BTreeSet::new(),
            actions: Vec::new(),
        };
        this.load();
        this
    }

    pub fn fresh(&mut self) -> ProducerId {
        self.fresh += 1;
        ProducerId::new(self.fresh)
    }

    /// Handled and appended; committed by [`Self::commit`].
    pub fn request(&mut self, request: Request) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        let effects = self.shard.handle(self.now, token, request);
        let others: Vec<_> = effects.replies.iter().map(|(token, _)| *token).filter(|&it| it != token).collect();
        assert!(effects.replies.len() <= others.len() + 1, "{token:?} has two answers");
        if effects.replies.len() == others.len() {
            self.waiting.insert(token);
        }
        self.apply(effects);
        token
    }

    pub fn ask(&mut self, request: Request) -> Reply {
        let token = self.request(request);
        self.commit();
        self.replies[&token].clone()
    }

    pub fn commit(&mut self) {
        self.committed = self.log.len();
        while self.held.front().is_some_and(|(end, _)| *end <= self.committed) {
            let (_, (replies, actions)) = self.held.pop_front().unwrap();
            for (token, reply) in replies {
                assert!(self.replies.insert(token, reply).is_none(), "{token:?} is answered twice");
            }
            self.actions.extend(actions);
        }
    }

    /// Another coordinator takes over. Of the records that were not committed so many are in its log.
    pub fn crash(&mut self, survive: usize) {
        self.log.truncate(self.committed.saturating_add(survive).min(self.log.len()));
        self.committed = self.log.len();
        self.held.clear();
        self.actions.clear();
        self.waiting.clear();
        self.epoch = self.epoch.next();
        self.load();
        self.commit();
    }

    pub fn advance(&mut self, by: Duration) {
        self.now.elapsed += by;
        self.now.wall = TimestampMs::new(self.now.wall.get() + by.as_millis() as i64);
        while self.shard.next_timer().is_some_and(|at| at <= self.now.elapsed) {
            let effects = self.shard.on_time(self.now);
            self.apply(effects);
        }
    }

    fn load(&mut self) {
        self.shard = self.replayed();
        let effects = self.shard.loaded(self.now, self.epoch, &Topics::default());
        self.apply(effects);
    }

    fn replayed(&self) -> TransactionShard {
        let mut shard = TransactionShard::new(self.config.clone());
        for (offset, record) in self.log.iter().enumerate() {
            shard.replay(Offset::new(offset as i64), None, record).unwrap();
        }
        shard
    }

    fn apply(&mut self, effects: Effects<Response, Error, Action>) {
        for (token, _) in &effects.replies {
            self.waiting.remove(token);
        }
        for record in effects.write.into_iter().flat_map(|write| write.records) {
            self.shard.replay(Offset::new(self.log.len() as i64), None, &record).unwrap();
            self.log.push(record);
        }
        assert_eq!(self.shard.durable(), self.replayed().durable(), "live is not what a replay gives");
        self.held.push_back((self.log.len(), (effects.replies, effects.actions)));
    }

    pub fn transaction(&self, id: &TransactionalId) -> &Transaction {
        &self.shard.durable()[id]
    }

    // Requests, asked and committed.

    pub fn init(&mut self, id: &TransactionalId, current: Option<ProducerIdentity>) -> Reply {
        let request = self.init_request(id, current);
        self.ask(request)
    }

    pub fn producer(&mut self, id: &TransactionalId, current: Option<ProducerIdentity>) -> ProducerIdentity {
        match self.init(id, current) {
            Ok(Response::Producer(producer)) => producer,
            other => panic!("{other:?}"),
        }
    }

    pub fn init_request(&mut self, id: &TransactionalId, current: Option<ProducerIdentity>) -> Request {
        Request::InitProducerId { transactional_id: id.clone(), timeout_ms: 60_000, current, fresh: self.fresh() }
    }

    pub fn add(&mut self, id: &TransactionalId, producer: ProducerIdentity, partitions: &[TopicPartition]) -> Reply {
        self.ask(add_request(id, producer, partitions))
    }

    pub fn end(&mut self, id: &TransactionalId, producer: ProducerIdentity, result: TransactionResult) -> Reply {
        let request = self.end_request(id, producer, result);
        self.ask(request)
    }

    pub fn ended(
        &mut self,
        id: &TransactionalId,
        producer: ProducerIdentity,
        result: TransactionResult,
    ) -> ProducerIdentity {
        match self.end(id, producer, result) {
            Ok(Response::Ended { next }) => next,
            other => panic!("{other:?}"),
        }
    }

    pub fn end_request(
        &mut self,
        id: &TransactionalId,
        producer: ProducerIdentity,
        result: TransactionResult,
    ) -> Request {
        let fresh = self.fresh();
        Request::EndTransaction { transactional_id: id.clone(), producer, result, fresh, keeps_epoch: false }
    }

    /// Reports all markers that this incarnation wants written, and forgets the actions.
    pub fn complete(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            let Action::WriteMarkers { transactional_id, producer, partitions, .. } = action;
            assert_eq!(
                self.ask(Request::MarkersWritten { transactional_id, producer, partitions }),
                Ok(Response::MarkersRecorded)
            );
        }
    }
}

pub fn add_request(id: &TransactionalId, producer: ProducerIdentity, partitions: &[TopicPartition]) -> Request {
    Request::AddPartitions {
        transactional_id: id.clone(),
        producer,
        partitions: partitions.to_vec(),
        verify_only: false,
    }
}

pub fn id(name: &str) -> TransactionalId {
    TransactionalId::new(name).unwrap()
}

pub fn partition(n: u32) -> TopicPartition {
    TopicPartition::new(TopicId::from_u128(u128::from(n / 2) + 1), PartitionId::new(n % 2))
}

pub fn identity(id: i64, epoch: i16) -> ProducerIdentity {
    ProducerIdentity { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch) }
}
