//! One shard in one leader epoch of its partition: loads it, calls it one thing at a time, and lets out what follows
//! once that is committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use highwater_coordination::{Effects, Now, Shard, Token, Write};
use highwater_record::{Batch, BatchBuilder, BatchError, Compression};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset, PartitionId, Sequence};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::load::{LoadError, end_marker, load};
use super::runtime::Context;
use super::{CallError, CoordinatorAction, MarkerRefused};
use crate::partition::{DirtySet, News, OwnAppend, Partition, PartitionError, Subscription, TransactionEnd};
use crate::transaction::verify::Guard;

/// Before loading is tried again, or what time asks for and can't be written now.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Where a shard stands, for who would call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Loading,
    Serving,
    /// The log can't be read: half a state is worse than none.
    Refusing(Arc<str>),
}

type Answer<T, E> = oneshot::Sender<Result<T, CallError<E>>>;

type Reply<S> = (Token, Result<<S as Shard>::Response, <S as Shard>::Error>);

/// A call on its way to its shard.
pub(super) enum Ask<S: Shard> {
    Call { request: S::Request, guard: Option<Guard>, answer: Answer<S::Response, S::Error> },
    Marker { end: TransactionEnd, answer: Answer<(), S::Error> },
}

/// Held until the high watermark is there.
struct Held<S: Shard> {
    until: Offset,
    replies: Vec<Reply<S>>,
    actions: Vec<S::Action>,
    marker: Option<Answer<(), S::Error>>,
}

/// The shard has to be thrown away: the epoch is over, the broker stops, or an append failed, so that what the shard
/// thinks and what the log has may differ.
struct Over;

pub(super) struct Driver<S: Shard> {
    context: Arc<Context<S>>,
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    asks: mpsc::Receiver<Ask<S>>,
    phase: watch::Sender<Phase>,
    unload: CancellationToken,
    dirty: Arc<DirtySet>,
    subscription: Arc<Subscription>,
}

impl<S: Shard> Driver<S> {
    pub(super) fn new(
        context: Arc<Context<S>>,
        partition: Arc<Partition>,
        epoch: LeaderEpoch,
        asks: mpsc::Receiver<Ask<S>>,
        phase: watch::Sender<Phase>,
        unload: CancellationToken,
    ) -> Self {
        let epoch = if mutation::is_on(Mutation::CoordinatorNotFenced) { LeaderEpoch::NONE } else { epoch };
        let dirty = DirtySet::new();
        let subscription = dirty.subscription(partition.tp(), &[News::POSITIONS, News::ROLE]);
        partition.subscribe(Arc::clone(&subscription));
        Self { context, partition, epoch, asks, phase, unload, dirty, subscription }
    }

    pub(super) async fn run(mut self) {
        let unload = self.unload.clone();
        while !unload.is_cancelled() {
            let loaded = tokio::select! {
                biased;
                () = unload.cancelled() => break,
                loaded = self.load() => loaded,
            };
            match loaded {
                Ok((shard, end)) => {
                    let tp = self.partition.tp();
                    tracing::info!(partition = %tp, epoch = %self.epoch, %end, "coordinating");
                    // Should the epoch be over, the metadata will say so, or this broker's storage has failed: then the next
                    // attempt tells why.
                    Serving::new(&self, shard, end).serve(&mut self.asks).await;
                }
                Err(LoadError::Corrupt(error)) => {
                    tracing::error!(partition = %self.partition.tp(), offset = %error.offset, %error, "can't coordinate");
                    let why = format!("partition {}: {error}", self.partition.tp());
                    self.phase.send_replace(Phase::Refusing(why.into()));
                    return unload.cancelled().await;
                }
                Err(LoadError::Partition(error)) => {
                    tracing::debug!(partition = %self.partition.tp(), epoch = %self.epoch, %error, "can't coordinate now");
                    self.phase.send_replace(Phase::Refusing(error.to_string().into()));
                    tokio::select! {
                        biased;
                        () = unload.cancelled() => break,
                        () = tokio::time::sleep(RETRY_PAUSE) => {}
                    }
                }
            }
        }
    }

    /// Everything in the log, replayed and committed.
    async fn load(&self) -> Result<(S, Offset), LoadError> {
        let mut shard = (self.context.make)();
        if mutation::is_on(Mutation::ServeBeforeLoaded) {
            return Ok((shard, self.partition.leader_positions()?.log_end));
        }
        let end = load(&mut shard, &self.partition, self.epoch, self.context.decompressed_bytes_max).await?;
        loop {
            self.dirty.take();
            if self.high_watermark()? >= end {
                return Ok((shard, end));
            }
            self.dirty.changed().await;
        }
    }

    /// Fails if the epoch is over.
    fn high_watermark(&self) -> Result<Offset, PartitionError> {
        self.partition.check_leads(self.epoch)?;
        Ok(self.partition.leader_positions()?.high_watermark)
    }
}

impl<S: Shard> Drop for Driver<S> {
    fn drop(&mut self) {
        self.partition.unsubscribe(&self.subscription);
    }
}

/// A loaded shard.
struct Serving<S: Shard> {
    context: Arc<Context<S>>,
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    phase: watch::Sender<Phase>,
    unload: CancellationToken,
    dirty: Arc<DirtySet>,
    shard: S,
    /// Of the log that the shard has replayed.
    end: Offset,
    held: VecDeque<Held<S>>,
    /// Who asked, until answered.
    asked: BTreeMap<Token, Answer<S::Response, S::Error>>,
    next_token: u64,
    topics: watch::Receiver<highwater_coordination::Topics>,
    /// What time or topics ask for could not be written: not before then.
    not_before: Option<Duration>,
    /// What the topics are has yet to be told.
    topics_pending: bool,
    /// Actions given are void once this is cancelled.
    unloaded: CancellationToken,
}

impl<S: Shard> Serving<S> {
    fn new(driver: &Driver<S>, shard: S, end: Offset) -> Self {
        Self {
            context: Arc::clone(&driver.context),
            partition: Arc::clone(&driver.partition),
            epoch: driver.epoch,
            phase: driver.phase.clone(),
            unload: driver.unload.clone(),
            dirty: Arc::clone(&driver.dirty),
            shard,
            end,
            held: VecDeque::new(),
            asked: BTreeMap::new(),
            next_token: 0,
            topics: driver.context.topics.subscribe(),
            not_before: None,
            topics_pending: false,
            unloaded: CancellationToken::new(),
        }
    }

    async fn serve(mut self, asks: &mut mpsc::Receiver<Ask<S>>) {
        let topics = self.topics.borrow_and_update().clone();
        let effects = self.shard.loaded(self.now(), self.epoch, &topics);
        let mut step = self.follow(effects);
        if step.is_ok() {
            self.phase.send_replace(Phase::Serving);
        }
        while step.and_then(|()| self.release()).is_ok() {
            let timer = self.timer();
            let (dirty, unload) = (Arc::clone(&self.dirty), self.unload.clone());
            step = tokio::select! {
                biased;
                () = unload.cancelled() => Err(Over),
                // What was committed goes out before more is taken in.
                () = dirty.changed() => { dirty.take(); Ok(()) }
                () = at(&self.context.clock, timer) => self.on_time(),
                changed = self.topics.changed(), if !self.topics_pending => match changed {
                    Ok(()) => { self.topics_pending = true; self.on_time() }
                    Err(_) => Err(Over),
                },
                ask = asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => Err(Over),
                },
            };
        }
        self.throw_away(asks);
    }

    fn now(&self) -> Now {
        Now { elapsed: self.context.clock.now(), wall: self.context.clock.timestamp() }
    }

    /// When to look at what time asks for.
    fn timer(&self) -> Option<Duration> {
        let due = if self.topics_pending { Some(Duration::ZERO) } else { self.shard.next_timer() };
        due.map(|due| due.max(self.not_before.unwrap_or_default()))
    }

    fn on_time(&mut self) -> Result<(), Over> {
        let now = self.now();
        if self.partition.check_append_own(self.epoch).is_err() {
            // The shard must not decide what can't be written. Should the epoch be over, the next look at it shows.
            self.not_before = Some(now.elapsed + RETRY_PAUSE);
            return Ok(());
        }
        self.not_before = None;
        if std::mem::take(&mut self.topics_pending) {
            let topics = self.topics.borrow_and_update().clone();
            let effects = self.shard.on_topics(now, &topics);
            self.follow(effects)?;
        }
        if self.shard.next_timer().is_some_and(|due| due <= now.elapsed) {
            let effects = self.shard.on_time(now);
            self.follow(effects)?;
        }
        Ok(())
    }

    fn ask(&mut self, ask: Ask<S>) -> Result<(), Over> {
        match ask {
            Ask::Call { request, guard, answer } => {
                if let Err(error) = self.partition.check_append_own(self.epoch) {
                    return self.refuse(answer, &error);
                }
                // T33: markers come by this driver too, so none comes between this and the append.
                if guard.is_some_and(|guard| guard.is_outdated()) {
                    let _ = answer.send(Err(CallError::Outdated));
                    return Ok(());
                }
                let token = Token(self.next_token);
                self.next_token += 1;
                self.asked.insert(token, answer);
                let effects = self.shard.handle(self.now(), token, request);
                self.follow(effects)
            }
            Ask::Marker { end, answer } => self.marker(&end, answer),
        }
    }

    fn marker(&mut self, end: &TransactionEnd, answer: Answer<(), S::Error>) -> Result<(), Over> {
        if let Err(error) = self.partition.check_append_own(self.epoch) {
            return self.refuse(answer, &error);
        }
        let appended = match self.partition.append_own_marker(end, self.epoch) {
            Err(error @ (PartitionError::Producer(_) | PartitionError::NoSuchTransaction { .. })) => {
                let refused = MarkerRefused { code: error.code(), why: error.to_string() };
                let _ = answer.send(Err(refused.into()));
                return Ok(());
            }
            appended => appended.transpose().map(|appended| self.appended(appended)),
        };
        // One that is there already is committed when everything here is.
        self.hold_marker(answer);
        if let Some(base_offset) = appended {
            self.shard.replay_marker(base_offset?, end_marker(end.producer, end.marker));
        }
        Ok(())
    }

    /// Until everything that is in the log is committed.
    fn hold_marker(&mut self, answer: Answer<(), S::Error>) {
        let held = Held { until: self.end, replies: Vec::new(), actions: Vec::new(), marker: Some(answer) };
        self.held.push_back(held);
    }

    /// Nothing could be appended now: the shard does not hear of it.
    fn refuse<T>(&self, answer: Answer<T, S::Error>, error: &PartitionError) -> Result<(), Over> {
        let is_over =
            self.partition.check_leads(self.epoch).is_err() && !mutation::is_on(Mutation::CoordinatorNotFenced);
        let refusal = match is_over {
            true => CallError::NotCoordinator { partition: self.partition_id(), leader: self.leader() },
            false => CallError::Unavailable { why: error.to_string() },
        };
        let _ = answer.send(Err(refusal));
        if is_over { Err(Over) } else { Ok(()) }
    }

    /// Appends, replays, and holds what is to wait for the commit.
    fn follow(&mut self, effects: Effects<S::Response, S::Error, S::Action>) -> Result<(), Over> {
        let Effects { write, replies, actions } = effects;
        let written = write.filter(|write| !write.records.is_empty()).map_or(Ok(()), |write| self.write(&write));
        if written.is_ok() && !(replies.is_empty() && actions.is_empty()) {
            self.held.push_back(Held { until: self.end, replies, actions, marker: None });
        }
        written
    }

    fn write(&mut self, write: &Write) -> Result<(), Over> {
        let base_offset = self.append(self.batch_of(write))?;
        for (index, record) in (0..).zip(&write.records) {
            if let Err(error) = self.shard.replay(base_offset.plus(index), write.transaction_of, record) {
                // The shard wrote what it can't read.
                tracing::error!(partition = %self.partition.tp(), %error, "a coordinator contradicts itself");
                return Err(Over);
            }
        }
        Ok(())
    }

    fn batch_of(&self, write: &Write) -> Result<Batch, BatchError> {
        let mut builder = BatchBuilder::new(Compression::None, None);
        if let Some(producer) = write.transaction_of {
            builder.set_producer(producer.id, producer.epoch, Sequence::NONE);
            builder.set_transactional(true);
        }
        let timestamp = self.context.clock.timestamp();
        for record in &write.records {
            builder.append(timestamp, Some(&record.key), record.value.as_deref(), &[])?;
        }
        Batch::from_bytes(builder.build()?)
    }

    /// Returns the first record's offset.
    fn append(&mut self, batch: Result<Batch, BatchError>) -> Result<Offset, Over> {
        let appended =
            batch.map_err(PartitionError::from).and_then(|batch| self.partition.append_own(&batch, self.epoch));
        self.appended(appended)
    }

    fn appended(&mut self, appended: Result<OwnAppend, PartitionError>) -> Result<Offset, Over> {
        match appended {
            Ok(appended) => {
                self.end = appended.end_offset;
                Ok(appended.base_offset)
            }
            Err(error) => {
                tracing::warn!(partition = %self.partition.tp(), %error, "a coordinator's append failed: loading anew");
                Err(Over)
            }
        }
    }

    /// Lets out what is committed.
    fn release(&mut self) -> Result<(), Over> {
        // T38: in the epoch in which it was loaded, and at no other time.
        let positions = match self.partition.leader_positions() {
            Err(_) if mutation::is_on(Mutation::CoordinatorNotFenced) => return Ok(()),
            positions => positions.map_err(|_| Over)?,
        };
        if positions.leader_epoch != self.epoch && !mutation::is_on(Mutation::CoordinatorNotFenced) {
            return Err(Over);
        }
        while let Some(held) = self
            .held
            .pop_front_if(|held| held.until <= positions.high_watermark || mutation::is_on(Mutation::AnswerUncommitted))
        {
            for (token, result) in held.replies {
                // Who asked may have gone.
                if let Some(answer) = self.asked.remove(&token) {
                    let _ = answer.send(result.map_err(CallError::Shard));
                }
            }
            for action in held.actions {
                let (partition, unloaded) = (self.partition_id(), self.unloaded.clone());
                // Without anybody to act, the broker is ending.
                let _ = self.context.actions.send(CoordinatorAction { partition, unloaded, action });
            }
            if let Some(answer) = held.marker {
                let _ = answer.send(Ok(()));
            }
        }
        Ok(())
    }

    fn partition_id(&self) -> PartitionId {
        self.partition.tp().partition
    }

    fn leader(&self) -> Option<(highwater_types::BrokerId, LeaderEpoch)> {
        let image = self.context.partitions.image();
        let state = image.partition(self.partition.tp())?;
        state.leader.filter(|leader| *leader != self.context.partitions.me()).map(|leader| (leader, state.leader_epoch))
    }

    /// Everybody who waits is told; actions given out are void.
    fn throw_away(self, asks: &mut mpsc::Receiver<Ask<S>>) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Loading) != Phase::Loading);
        self.unloaded.cancel();
        let (partition, leader) = (self.partition_id(), self.leader());
        let lost = || CallError::Lost { partition, leader };
        for answer in self.asked.into_values() {
            let _ = answer.send(Err(lost()));
        }
        for answer in self.held.into_iter().filter_map(|held| held.marker) {
            let _ = answer.send(Err(lost()));
        }
        // These the shard never had.
        while let Ok(ask) = asks.try_recv() {
            let refusal = || CallError::NotCoordinator { partition, leader };
            match ask {
                Ask::Call { answer, .. } => _ = answer.send(Err(refusal())),
                Ask::Marker { answer, .. } => _ = answer.send(Err(refusal())),
            }
        }
    }
}

async fn at(clock: &crate::clock::Clock, due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep_until(clock.instant(due)).await,
        None => std::future::pending().await,
    }
}
