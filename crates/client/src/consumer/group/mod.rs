//! The consumer as a member of a group: partitions come and go by the coordinator's assignment.
//!
//! The `membership` decides what to send and what to give up and take; one task (`heartbeat`) sends it. What changes for
//! the application happens within its own poll, between two batches of records: first what it handed out is committed,
//! then the listener is told, then the partition is given up, then the coordinator told. So nobody is handed a record of
//! a partition that was given up, and nobody gives up what was not committed.

mod committing;
mod config;
mod heartbeat;
mod listener;
mod membership;
pub(crate) mod offsets;
mod rebalance;
mod shared;

pub use config::{Assignor, GroupConfig, Subscription};
pub use listener::{NoListener, RebalanceListener};
pub use offsets::{CommittedOffset, OffsetToCommit};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::Stream;
use highwater_types::{LeaderEpoch, MemberEpoch, PartitionId, TimestampMs, TopicName, TopicPartition};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::ClientInner;
use crate::consumer::group::membership::Partitions;
use crate::consumer::group::shared::GroupShared;
use crate::consumer::{Consumer, ConsumerConfig, ConsumerRecord, OffsetReset, Position, StartAt};
use crate::producer::PartitionNumber;
use crate::{CommitError, ConsumeError, InvalidSetting};

/// A member of a consumer group: reads the partitions that the group's coordinator assigns to it.
///
/// - Joining, heartbeats, and rejoining after it was fenced go by themselves. Partitions come and go within
///   [`poll`](Self::poll) and its like; a [`RebalanceListener`] is told.
/// - It begins where the group has committed, and elsewhere by the [reset policy](GroupConfig::offset_reset). A committed
///   offset under which the log was truncated is [reported](ConsumeError::LogTruncated), never reset in silence.
/// - Records are handed out at least once: after a failure, the next owner begins at the last commit.
/// - [`close`](Self::close) it, so that its partitions go to others at once. Dropped, it leaves too, but commits nothing.
pub struct GroupConsumer {
    inner: Consumer,
    group: Arc<GroupShared>,
    listener: Box<dyn RebalanceListener>,
    /// Taken from the inner consumer, and not handed out.
    buffered: VecDeque<ConsumerRecord>,
    /// Where partitions were before what was last handed out of them.
    unpassed: Vec<(TopicName, PartitionId, Position)>,
    /// What is known to be committed.
    committed: BTreeMap<TopicPartition, Position>,
    /// The auto commit that is on its way, and what it is of.
    committing: Option<(JoinHandle<Result<(), CommitError>>, committing::Committed)>,
    next_commit: Instant,
}

/// Commits offsets of one member, from anywhere. Cloning is cheap.
#[derive(Clone)]
pub struct GroupCommitter {
    group: Arc<GroupShared>,
}

/// Who commits, as of now: with it, a transaction's offsets are refused if the partitions are another's by then (KIP-447).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group.
    pub group_id: String,
    /// The member; empty: not checked.
    pub member_id: String,
    /// What it has reached of the group's epochs.
    pub member_epoch: MemberEpoch,
    /// A static member's name.
    pub instance_id: Option<String>,
}

impl GroupCommitter {
    /// Commits these offsets, and waits for it. Fails if the member was fenced, or nobody answers within the client's
    /// request timeout.
    pub async fn commit(&self, offsets: &[OffsetToCommit]) -> Result<(), CommitError> {
        self.group.commit(offsets, self.group.request_deadline()).await
    }

    /// The member as it is now.
    pub fn metadata(&self) -> GroupMetadata {
        let who = self.group.committing();
        GroupMetadata {
            group_id: who.group,
            member_id: who.member,
            member_epoch: MemberEpoch::new(who.epoch),
            instance_id: Some(who.instance).filter(|instance| !instance.is_empty()),
        }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.group.done.send_replace(true);
    }
}

impl GroupConsumer {
    pub(crate) fn new(client: Arc<ClientInner>, config: GroupConfig) -> Result<Self, InvalidSetting> {
        config.check()?;
        let fetching = ConsumerConfig { offset_reset: config.offset_reset, ..config.consumer.clone() };
        let inner = Consumer::new(Arc::clone(&client), fetching);
        let group = Arc::new(GroupShared::new(client, config));
        tokio::spawn(heartbeat::heartbeat(Arc::clone(&group)));
        let next_commit = Instant::now() + group.config.auto_commit_interval;
        Ok(Self {
            inner,
            group,
            listener: Box::new(NoListener),
            buffered: VecDeque::new(),
            unpassed: Vec::new(),
            committed: BTreeMap::new(),
            committing: None,
            next_commit,
        })
    }

    /// Joins the group and reads these topics from now on, or changes what is read. Returns at once: partitions come
    /// within the polls that follow.
    pub fn subscribe(&mut self, subscription: impl Into<Subscription>) {
        self.group.lock().subscribe(subscription.into().into_wire(), Instant::now());
        self.group.wake.notify_one();
    }

    /// As [`subscribe`](Self::subscribe), with a listener in the place of the one before.
    pub fn subscribe_with(&mut self, subscription: impl Into<Subscription>, listener: impl RebalanceListener) {
        self.listener = Box::new(listener);
        self.subscribe(subscription);
    }

    /// Returns records as soon as there are some; none if there are none within `wait` (longer, while a rebalance needs
    /// it). What the poll before handed out counts as processed from here on.
    ///
    /// Fails when a partition can't be read on, or when the group does not take this member; other partitions go on with
    /// the next poll. Dropping this future before it is ready loses no record.
    pub async fn poll(&mut self, wait: Duration) -> Result<Vec<ConsumerRecord>, ConsumeError> {
        let _polling = self.group.polling();
        self.unpassed.clear();
        if self.buffered.is_empty() {
            self.fill(Some(Instant::now() + wait)).await?;
        } else {
            self.reconcile().await?;
            self.commit_when_due();
        }
        let records = Vec::from(std::mem::take(&mut self.buffered));
        let mut last = None;
        for record in &records {
            // Records of a partition come in runs.
            if last != Some((&record.topic, record.partition)) {
                last = Some((&record.topic, record.partition));
                if !self.unpassed.iter().any(|(topic, at, _)| *at == record.partition && *topic == record.topic) {
                    self.unpassed.push(before(record));
                }
            }
        }
        Ok(records)
    }

    /// The next record. What was handed out before counts as processed from here on. Dropping this future before it is
    /// ready loses no record.
    pub async fn next(&mut self) -> Result<ConsumerRecord, ConsumeError> {
        self.unpassed.clear();
        if self.buffered.is_empty() || self.group.has_news.load(Ordering::Acquire) {
            let _polling = self.group.polling();
            self.reconcile().await?;
            while self.buffered.is_empty() {
                self.fill(None).await?;
            }
        }
        self.group.touch();
        self.commit_when_due();
        loop {
            if let Some(record) = self.buffered.pop_front() {
                self.unpassed.push(before(&record));
                return Ok(record);
            }
            self.fill(None).await?;
        }
    }

    /// Record after record, for ever, as [`next`](Self::next) gives them. An error does not end it.
    pub fn stream(&mut self) -> impl Stream<Item = Result<ConsumerRecord, ConsumeError>> + Send + '_ {
        futures::stream::unfold(self, |consumer| async move {
            let next = consumer.next().await;
            Some((next, consumer))
        })
    }

    /// Commits the position of every partition, up to all that was handed out so far, and waits for it.
    pub async fn commit(&mut self) -> Result<(), CommitError> {
        let positions = self.committable(true);
        self.commit_positions(positions, self.group.request_deadline()).await
    }

    /// Commits these offsets, and waits for it.
    pub async fn commit_sync(&mut self, offsets: &[OffsetToCommit]) -> Result<(), CommitError> {
        self.committer().commit(offsets).await?;
        for offset in offsets {
            if let Some(id) = self.id(&offset.topic, offset.partition) {
                self.committed.insert(id, offset.position);
            }
        }
        Ok(())
    }

    /// Begins to commit these offsets. The handle tells how it ended; dropping it stops nothing.
    pub fn commit_async(&mut self, offsets: Vec<OffsetToCommit>) -> JoinHandle<Result<(), CommitError>> {
        let committer = self.committer();
        tokio::spawn(async move { committer.commit(&offsets).await })
    }

    /// To commit from elsewhere.
    pub fn committer(&self) -> GroupCommitter {
        GroupCommitter { group: Arc::clone(&self.group) }
    }

    /// Who this member is now, for [`Transaction::send_offsets`](crate::Transaction::send_offsets).
    pub fn group_metadata(&self) -> GroupMetadata {
        self.committer().metadata()
    }

    /// What the group has committed for these partitions; those without are left out.
    pub fn committed(
        &self,
        partitions: &[(TopicName, PartitionId)],
    ) -> impl Future<Output = Result<Vec<CommittedOffset>, crate::AdminError>> + Send + 'static {
        let group = Arc::clone(&self.group);
        let image = group.client.image();
        let id = |(topic, partition): &(TopicName, PartitionId)| {
            image.topic(topic.as_str()).map(|topic| TopicPartition::new(topic.id, *partition))
        };
        let ids: Vec<_> = partitions.iter().filter_map(id).collect();
        async move {
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            group.fetch(&ids, group.request_deadline()).await
        }
    }

    /// The partitions that are this member's, as of the last poll.
    pub fn assignment(&self) -> Vec<(TopicName, PartitionId)> {
        self.inner.assignment()
    }

    /// Where the next record of an assigned partition is; `None` if it is not this member's.
    pub fn position(&self, topic: &str, partition: impl Into<PartitionNumber>) -> Option<Position> {
        let partition = partition.into().0;
        let waiting =
            self.buffered.iter().find(|record| record.partition == partition && record.topic.as_str() == topic);
        let at = self.inner.position(topic, partition)?;
        Some(waiting.map_or(at, |record| Position { offset: record.offset, leader_epoch: LeaderEpoch::NONE }))
    }

    /// Goes on reading one of this member's partitions elsewhere. Also ends the stop after an error.
    pub async fn seek(
        &mut self,
        topic: &str,
        partition: impl Into<PartitionNumber>,
        at: impl Into<StartAt>,
    ) -> Result<(), ConsumeError> {
        let partition = partition.into().0;
        self.inner.seek(topic, partition, at).await?;
        self.buffered.retain(|record| record.partition != partition || record.topic.as_str() != topic);
        self.unpassed.retain(|(name, at, _)| *at != partition || name.as_str() != topic);
        Ok(())
    }

    /// Stops fetching and handing out one of this member's partitions, which stays its own.
    pub fn pause(&mut self, topic: &str, partition: impl Into<PartitionNumber>) -> Result<(), ConsumeError> {
        let partition = partition.into().0;
        self.inner.pause(topic, partition)?;
        // What waits to be handed out is fetched again.
        let is_it = |record: &ConsumerRecord| record.partition == partition && record.topic.as_str() == topic;
        if let Some(first) = self.buffered.iter().find(|record| is_it(record)) {
            let at = Position { offset: first.offset, leader_epoch: LeaderEpoch::NONE };
            if let Some(id) = self.id(first.topic.as_str(), partition) {
                self.inner.shared.lock().seek(id, at);
            }
            self.buffered.retain(|record| !is_it(record));
        }
        Ok(())
    }

    /// Goes on with a paused partition.
    pub fn resume(&mut self, topic: &str, partition: impl Into<PartitionNumber>) -> Result<(), ConsumeError> {
        self.inner.resume(topic, partition)
    }

    /// Leaves the group, so that others take over at once. With auto commit, first commits what was passed by a following
    /// poll; what the last poll handed out counts as processed only if it was [committed](Self::commit). A static member
    /// keeps its partitions for the session timeout. The listener is told that its partitions are revoked.
    pub async fn close(mut self) -> Result<(), CommitError> {
        let mut result = Ok(());
        if self.group.config.auto_commit && self.group.lock().is_member() {
            let positions = self.committable(false);
            result = self.commit_positions(positions, self.group.revocation_deadline()).await;
        }
        let owned = self.group.lock().owned().clone();
        let names = self.names(&owned);
        if !names.is_empty() {
            let committer = self.committer();
            self.listener.revoked(&names, &committer).await;
        }
        heartbeat::leave(&self.group).await;
        result
    }

    /// Waits for records, until `deadline`. What is due for the group is done meanwhile.
    async fn fill(&mut self, deadline: Option<Instant>) -> Result<(), ConsumeError> {
        let group = Arc::clone(&self.group);
        loop {
            let news = group.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            self.reconcile().await?;
            self.commit_when_due();
            let mut until = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            if group.config.auto_commit {
                until = until.min(self.next_commit.max(Instant::now()));
            }
            let polled = tokio::select! {
                biased;
                () = news => continue,
                polled = self.inner.poll(until.saturating_duration_since(Instant::now())) => polled,
            };
            match polled {
                Ok(records) if records.is_empty() => {
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Ok(());
                    }
                }
                Ok(records) => {
                    self.buffered = records.into();
                    return Ok(());
                }
                Err(error) => self.reset_by_duration(error).await?,
            }
        }
    }

    async fn reset_by_duration(&mut self, error: ConsumeError) -> Result<(), ConsumeError> {
        match (&error, self.group.config.offset_reset) {
            (ConsumeError::OffsetOutOfRange { topic, partition, .. }, OffsetReset::ByDuration(age)) => {
                let at = StartAt::Timestamp(self.ago(age));
                self.inner.seek(topic, *partition, at).await
            }
            _ => Err(error),
        }
    }

    fn ago(&self, age: Duration) -> TimestampMs {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        TimestampMs::new(self.group.client.seams.clock.now_ms().saturating_sub(age).max(0))
    }

    fn id(&self, topic: &str, partition: PartitionId) -> Option<TopicPartition> {
        self.inner.shared.lock().find(topic, partition).map(|found| found.id)
    }

    /// The names of these, as far as they are known.
    fn names(&self, partitions: &Partitions) -> Vec<(TopicName, PartitionId)> {
        let assignment = self.inner.shared.lock();
        let read = assignment.iter().filter(|partition| partitions.contains(&partition.id));
        read.map(|partition| (partition.topic.clone(), partition.id.partition)).collect()
    }
}

/// Where its partition was before this record.
fn before(record: &ConsumerRecord) -> (TopicName, PartitionId, Position) {
    let at = Position { offset: record.offset, leader_epoch: LeaderEpoch::NONE };
    (record.topic.clone(), record.partition, at)
}
