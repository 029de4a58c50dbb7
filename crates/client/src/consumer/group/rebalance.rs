//! What is done within a poll about partitions that come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use highwater_types::{PartitionId, TopicId, TopicName, TopicPartition};
use tokio::time::Instant;

use super::membership::Partitions;
use super::shared::Losses;
use super::{GroupConsumer, offsets};
use crate::consumer::start::{self, Start};
use crate::consumer::{OffsetReset, Position, StartAt};
use crate::{ConsumeError, TopicMetadata};

impl GroupConsumer {
    /// Gives up and takes what the coordinator says.
    pub(super) async fn reconcile(&mut self) -> Result<(), ConsumeError> {
        self.group.has_news.store(false, Ordering::Release);
        loop {
            let losses = self.group.losses();
            let plan = self.group.lock().plan();
            if !plan.lost.is_empty() {
                let names = self.names(&plan.lost);
                self.drop_partitions(&plan.lost, &names);
                self.listener.lost(&names).await;
                self.group.lock().forget_lost(&plan.lost);
                continue;
            }
            let failure = self.group.lock().failure().cloned();
            if let Some(failure) = failure {
                let group = self.group.config.group_id.clone();
                return Err(ConsumeError::Group { group, code: failure.code, message: failure.message });
            }
            if !plan.revoke.is_empty() {
                self.revoke(&plan.revoke).await;
                continue;
            }
            if plan.take.is_empty() || !self.take(&plan.take, losses).await? {
                return Ok(());
            }
        }
    }

    async fn revoke(&mut self, revoked: &Partitions) {
        let names = self.names(revoked);
        if self.group.config.auto_commit {
            let mut positions = self.committable(true);
            positions.retain(|(id, _, _)| revoked.contains(id));
            // What the application did not pass is not taken from it: it polls.
            let deadline = self.group.revocation_deadline();
            if let Err(error) = self.commit_positions(positions, deadline).await {
                tracing::warn!(group = self.group.config.group_id, %error,
                    "not committed before its partitions are given up; their next owner repeats some records");
            }
        }
        let committer = self.committer();
        self.listener.revoked(&names, &committer).await;
        self.drop_partitions(revoked, &names);
        self.group.lock().released(revoked, Instant::now());
        self.group.wake.notify_one();
    }

    fn drop_partitions(&mut self, partitions: &Partitions, names: &[(TopicName, PartitionId)]) {
        for id in partitions {
            self.inner.remove(*id);
            self.committed.remove(id);
        }
        let stays = |name: &TopicName, at: PartitionId| !names.iter().any(|(n, p)| *p == at && n == name);
        self.buffered.retain(|record| stays(&record.topic, record.partition));
        self.unpassed.retain(|(topic, partition, _)| stays(topic, *partition));
    }

    /// Begins to read these. Whether there may be more to do.
    async fn take(&mut self, wanted: &Partitions, losses: Losses) -> Result<bool, ConsumeError> {
        let image = self.group.client.image();
        let topics: BTreeMap<_, _> = image.topics().map(|topic| (topic.id, topic)).collect();
        // What this client does not know yet is taken once it does.
        let is_known =
            |id: &&TopicPartition| topics.get(&id.topic).is_some_and(|t| t.partition(id.partition).is_some());
        let known: Vec<TopicPartition> = wanted.iter().filter(is_known).copied().collect();
        if known.is_empty() {
            return Ok(false);
        }
        // What else is held may be lost meanwhile; the application is to hear of that first.
        let Some(found) = losses.or(self.starts(&known, &topics)).await else { return Ok(true) };
        let (starts, positions) = found?;
        let taken = self.group.lock().take(&known.iter().copied().collect(), Instant::now());
        let begun = starts.iter().zip(positions).map(|(start, at)| (start.id(), start.topic.name.clone(), at));
        let begun: Vec<_> = begun.filter(|(id, _, _)| taken.contains(id)).collect();
        let names: Vec<_> = begun.iter().map(|(id, topic, _)| (topic.clone(), id.partition)).collect();
        for start in &starts {
            if let StartAt::Position(at) = start.at
                && taken.contains(&start.id())
            {
                self.committed.insert(start.id(), at);
            }
        }
        self.inner.add(begun);
        self.group.wake.notify_one();
        if !names.is_empty() {
            let committer = self.committer();
            self.listener.assigned(&names, &committer).await;
        }
        Ok(!names.is_empty())
    }

    /// Where these are to be read from, as far as it is known, and what that comes to.
    async fn starts(
        // Exclusively: a listener need not be `Sync`.
        &mut self,
        wanted: &[TopicPartition],
        topics: &BTreeMap<TopicId, &Arc<TopicMetadata>>,
    ) -> Result<(Vec<Start>, Vec<Position>), ConsumeError> {
        let deadline = self.group.request_deadline();
        let who = offsets::Committing { group: self.group.config.group_id.clone(), ..Default::default() };
        let found = offsets::fetch(&self.group.coordinator, who, wanted, true, deadline).await;
        let found = found.map_err(|error| self.unavailable(error))?;
        let start = |id: &TopicPartition| {
            let topic = Arc::clone(topics[&id.topic]);
            let at = match found.get(id) {
                Some(committed) => StartAt::Position(offsets::position(committed)),
                None => self.reset(&topic.name, id.partition)?,
            };
            Ok(Start { topic, partition: id.partition, at })
        };
        let starts: Vec<Start> = wanted.iter().map(start).collect::<Result<_, ConsumeError>>()?;
        let positions = start::resolve(&self.group.client, self.group.config.consumer.isolation, &starts).await?;
        Ok((starts, positions))
    }

    fn reset(&self, topic: &TopicName, partition: PartitionId) -> Result<StartAt, ConsumeError> {
        Ok(match self.group.config.offset_reset {
            OffsetReset::Earliest => StartAt::Beginning,
            OffsetReset::Latest => StartAt::End,
            OffsetReset::ByDuration(age) => StartAt::Timestamp(self.ago(age)),
            OffsetReset::Error => {
                let group = self.group.config.group_id.clone();
                return Err(ConsumeError::NoOffset { group, topic: topic.to_string(), partition });
            }
        })
    }

    fn unavailable(&self, error: crate::AdminError) -> ConsumeError {
        let crate::AdminError { what, code, message, .. } = error;
        if code.is_retriable() {
            return ConsumeError::Unavailable { what, waited: self.group.client.request_timeout, code, message };
        }
        ConsumeError::Group { group: self.group.config.group_id.clone(), code, message }
    }
}
