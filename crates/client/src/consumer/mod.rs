//! The consumer: reads the partitions assigned to it, fetching ahead of what is polled.
//!
//! One task for each broker (`tasks/fetch`) keeps a Fetch stream and puts whole batches, their CRCs checked, into the
//! `assignment`; [`Consumer::poll`] takes them out, partition by turn, and cuts them into records.

mod aborted;
mod assignment;
mod config;
pub(crate) mod group;
mod partition;
mod record;
mod shared;
mod start;
mod tasks;

pub use config::{ConsumerConfig, OffsetReset};
pub use group::{
    Assignor, CommittedOffset, GroupCommitter, GroupConfig, GroupConsumer, GroupMetadata, NoListener, OffsetToCommit,
    RebalanceListener, Subscription,
};
pub use record::{ConsumerRecord, Position, StartAt};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_record::{BatchError, Records};
use highwater_types::{LeaderEpoch, PartitionId, TopicName, TopicPartition};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout_at};

use crate::ConsumeError;
use crate::client::ClientInner;
use crate::consumer::assignment::Taken;
use crate::consumer::partition::PartitionFetch;
use crate::consumer::shared::Shared;
use crate::consumer::start::Start;
use crate::metadata::TopicMetadata;
use crate::producer::PartitionNumber;

/// Reads the partitions assigned to it, each in the order of its offsets, committed records only.
///
/// - It never skips in silence: a position that is not in the log is an error (or resets, if so
///   [configured](OffsetReset)), a truncated log and damaged batches always are. Such an error stops its partition until
///   a [`seek`](Self::seek); the others go on.
/// - Losing a broker is no error: fetching goes on at the next leader.
pub struct Consumer {
    shared: Arc<Shared>,
    in_hand: Option<InHand>,
}

/// A batch that is handed out in part.
struct InHand {
    id: TopicPartition,
    topic: TopicName,
    leader_epoch: LeaderEpoch,
    next: Position,
    end: Position,
    records: Records,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.done.send_replace(true);
    }
}

impl Consumer {
    pub(crate) fn new(client: Arc<ClientInner>, config: ConsumerConfig) -> Self {
        let shared = Arc::new(Shared::new(client, config));
        tokio::spawn(tasks::supervise::supervise(Arc::clone(&shared)));
        Self { shared, in_hand: None }
    }

    /// Reads exactly these partitions from now on. Positions are found before it returns: with [`StartAt::End`], every
    /// record acknowledged after that is read. On an error, what was assigned before stays.
    pub async fn assign<T: AsRef<str>, P: Into<PartitionNumber>>(
        &mut self,
        partitions: impl IntoIterator<Item = (T, P, StartAt)>,
    ) -> Result<(), ConsumeError> {
        let mut topics: BTreeMap<String, Arc<TopicMetadata>> = BTreeMap::new();
        let mut starts = Vec::new();
        for (name, partition, at) in partitions {
            let name = name.as_ref();
            let topic = match topics.get(name) {
                Some(topic) => Arc::clone(topic),
                None => start::topic(&self.shared.client, name).await?,
            };
            topics.insert(name.to_owned(), Arc::clone(&topic));
            let partition = partition.into().0;
            if topic.partition(partition).is_none() {
                let partitions = topic.partitions.len() as u32;
                return Err(ConsumeError::UnknownPartition { topic: name.to_owned(), partition, partitions });
            }
            starts.push(Start { topic, partition, at });
        }
        self.begin(starts).await
    }

    /// Reads all partitions of this topic, and no other topic, from now on. As [`assign`](Self::assign); partitions that
    /// the topic gets later are read from their beginning.
    pub async fn assign_topic(&mut self, topic: &str, at: StartAt) -> Result<(), ConsumeError> {
        let topic = start::topic(&self.shared.client, topic).await?;
        let starts =
            topic.partitions.iter().map(|p| Start { topic: Arc::clone(&topic), partition: p.id, at }).collect();
        self.begin(starts).await?;
        self.shared.lock().keep_whole(&topic);
        self.shared.attention.notify_one();
        Ok(())
    }

    async fn begin(&mut self, starts: Vec<Start>) -> Result<(), ConsumeError> {
        let positions = start::resolve(&self.shared.client, self.shared.config.isolation, &starts).await?;
        let assigned = starts.into_iter().zip(positions).map(|(start, at)| (start.id(), start.topic.name.clone(), at));
        self.in_hand = None;
        self.shared.lock().replace(assigned.collect(), &self.shared.client.image());
        self.shared.attention.notify_one();
        Ok(())
    }

    /// What is assigned, in no particular order.
    pub fn assignment(&self) -> Vec<(TopicName, PartitionId)> {
        self.shared.lock().iter().map(|partition| (partition.topic.clone(), partition.id.partition)).collect()
    }

    /// Goes on reading an assigned partition elsewhere. Also ends the stop after an error.
    pub async fn seek(
        &mut self,
        topic: &str,
        partition: impl Into<PartitionNumber>,
        at: impl Into<StartAt>,
    ) -> Result<(), ConsumeError> {
        let partition = partition.into().0;
        let id = self.assigned(topic, partition)?;
        let known = start::topic(&self.shared.client, topic).await?;
        if known.id != id.topic {
            return Err(ConsumeError::TopicRecreated { topic: topic.to_owned() });
        }
        let start = Start { topic: known, partition, at: at.into() };
        let positions = start::resolve(&self.shared.client, self.shared.config.isolation, &[start]).await?;
        if self.in_hand.as_ref().is_some_and(|in_hand| in_hand.id == id) {
            self.in_hand = None;
        }
        for position in positions {
            self.shared.lock().seek(id, position);
        }
        Ok(())
    }

    /// Stops fetching and handing out an assigned partition, which stays assigned. What was fetched ahead is kept.
    pub fn pause(&mut self, topic: &str, partition: impl Into<PartitionNumber>) -> Result<(), ConsumeError> {
        let id = self.assigned(topic, partition.into().0)?;
        if let Some(in_hand) = self.in_hand.take_if(|in_hand| in_hand.id == id) {
            self.shared.lock().seek(id, in_hand.next);
        }
        self.shared.lock().set_paused(id, true);
        Ok(())
    }

    /// Goes on with a paused partition, where it was.
    pub fn resume(&mut self, topic: &str, partition: impl Into<PartitionNumber>) -> Result<(), ConsumeError> {
        let id = self.assigned(topic, partition.into().0)?;
        self.shared.lock().set_paused(id, false);
        self.shared.arrived.notify_one();
        Ok(())
    }

    fn assigned(&self, topic: &str, partition: PartitionId) -> Result<TopicPartition, ConsumeError> {
        let found = self.shared.lock().find(topic, partition).map(|found| found.id);
        found.ok_or_else(|| ConsumeError::NotAssigned { topic: topic.to_owned(), partition })
    }

    /// Where the next record of an assigned partition will be looked for; `None` if it is not assigned. Kept as it is,
    /// and passed as [`StartAt::Position`] later, it detects truncation.
    pub fn position(&self, topic: &str, partition: impl Into<PartitionNumber>) -> Option<Position> {
        let assignment = self.shared.lock();
        let found = assignment.find(topic, partition.into().0)?;
        match &self.in_hand {
            Some(in_hand) if in_hand.id == found.id => Some(in_hand.next),
            _ => Some(found.position()),
        }
    }

    /// Returns records as soon as there are some, at most `poll_records_max`; none if there are none within `wait`.
    ///
    /// Fails when a partition can't be read on; what was read of it before is returned first. Dropping this future
    /// before it is ready loses no record.
    pub async fn poll(&mut self, wait: Duration) -> Result<Vec<ConsumerRecord>, ConsumeError> {
        let deadline = Instant::now() + wait;
        // A loop over this must not keep the fetchers from a runtime of one thread.
        consume_budget().await;
        loop {
            let in_hand = self.in_hand.as_ref().map(|in_hand| in_hand.id);
            if let Some(error) = self.shared.lock().take_error(in_hand) {
                return Err(error);
            }
            let records = self.take_records();
            if !records.is_empty() {
                return Ok(records);
            }
            // Something may have become visible only now, such as the error of a batch that could not be read.
            if self.shared.lock().has_error() {
                continue;
            }
            if timeout_at(deadline, self.shared.arrived.notified()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    /// Reads these partitions too.
    fn add(&mut self, partitions: Vec<(TopicPartition, TopicName, Position)>) {
        self.shared.lock().add(partitions, &self.shared.client.image());
        self.shared.attention.notify_one();
    }

    /// Reads this partition no more.
    fn remove(&mut self, id: TopicPartition) {
        self.in_hand.take_if(|in_hand| in_hand.id == id);
        self.shared.lock().remove(id);
    }

    /// Every partition read, and where the next record of it will be looked for.
    fn positions(&self) -> Vec<(TopicPartition, TopicName, Position)> {
        let in_hand = self.in_hand.as_ref().map(|in_hand| (in_hand.id, in_hand.next));
        let at = |partition: &PartitionFetch| match in_hand {
            Some((id, next)) if id == partition.id => next,
            _ => partition.position(),
        };
        self.shared.lock().iter().map(|partition| (partition.id, partition.topic.clone(), at(partition))).collect()
    }

    fn take_records(&mut self) -> Vec<ConsumerRecord> {
        let max = self.shared.config.poll_records_max.max(1);
        let mut out = Vec::new();
        while out.len() < max {
            if self.in_hand.is_none() {
                let Some(taken) = self.shared.lock().take(&self.shared.config) else { break };
                match InHand::new(&taken, self.shared.config.decompressed_bytes_max) {
                    Ok(in_hand) => self.in_hand = in_hand,
                    Err(error) => self.damaged(&taken, error),
                }
            }
            let Some(in_hand) = &mut self.in_hand else { continue };
            match in_hand.take(max, &mut out) {
                Ok(true) => {}
                Ok(false) => self.in_hand = None,
                Err(error) => {
                    let (id, at) = (in_hand.id, in_hand.next);
                    self.in_hand = None;
                    self.shared.lock().fail_at(id, at, error);
                }
            }
        }
        out
    }

    fn damaged(&self, taken: &Taken, error: BatchError) {
        self.shared.lock().fail_at(taken.id, taken.fetched.from, error);
    }
}

impl InHand {
    /// `None` for a batch without records for applications.
    fn new(taken: &Taken, limit: usize) -> Result<Option<Self>, BatchError> {
        let header = taken.fetched.batch.header();
        if header.attributes.is_control() {
            return Ok(None);
        }
        let records = taken.fetched.batch.records(limit)?;
        Ok(Some(Self {
            id: taken.id,
            topic: taken.topic.clone(),
            leader_epoch: header.leader_epoch,
            next: taken.fetched.from,
            end: Position { offset: header.next_offset(), leader_epoch: header.leader_epoch },
            records,
        }))
    }

    /// Takes records until `out` has `max`. Whether more may be left.
    fn take(&mut self, max: usize, out: &mut Vec<ConsumerRecord>) -> Result<bool, BatchError> {
        while out.len() < max {
            let Some(record) = self.records.next() else {
                self.next = self.end;
                return Ok(false);
            };
            let record = record?;
            if record.offset < self.next.offset {
                continue;
            }
            self.next = Position { offset: record.offset.next(), leader_epoch: self.leader_epoch };
            out.push(ConsumerRecord {
                topic: self.topic.clone(),
                partition: self.id.partition,
                offset: record.offset,
                leader_epoch: self.leader_epoch,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
            });
        }
        Ok(true)
    }
}
