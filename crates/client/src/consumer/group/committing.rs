//! What a member commits by itself: positions up to what was handed out.

use futures::FutureExt as _;
use highwater_types::{LeaderEpoch, TopicName, TopicPartition};
use tokio::time::{Instant, timeout_at};

use super::{GroupConsumer, OffsetToCommit};
use crate::consumer::Position;
use crate::{CommitError, ErrorCode};

pub(super) type Committed = Vec<(TopicPartition, Position)>;

impl GroupConsumer {
    /// Where each partition goes on after what was handed out; without `with_last`, what was handed out last does not
    /// count.
    pub(super) fn committable(&self, with_last: bool) -> Vec<(TopicPartition, TopicName, Position)> {
        let mut positions = self.inner.positions();
        for (id, topic, at) in &mut positions {
            let waiting = self.buffered.iter().find(|r| r.partition == id.partition && r.topic == *topic);
            if let Some(record) = waiting {
                *at = Position { offset: record.offset, leader_epoch: LeaderEpoch::NONE };
            }
            let last = self.unpassed.iter().find(|(name, p, _)| *p == id.partition && name == topic);
            if let Some((_, _, before)) = last.filter(|_| !with_last) {
                // The application may have committed it itself, which nothing takes back.
                let known = self.committed.get(id).filter(|known| known.offset > before.offset);
                *at = *known.unwrap_or(before);
            }
        }
        positions.retain(|(id, _, at)| self.committed.get(id).is_none_or(|known| known.offset != at.offset));
        positions
    }

    pub(super) async fn commit_positions(
        &mut self,
        positions: Vec<(TopicPartition, TopicName, Position)>,
        deadline: Instant,
    ) -> Result<(), CommitError> {
        self.end_commit(Some(deadline)).await;
        let (offsets, positions) = to_commit(positions);
        self.group.commit(&offsets, deadline).await?;
        self.committed.extend(positions);
        Ok(())
    }

    /// Begins an auto commit, if it is time for one.
    pub(super) fn commit_when_due(&mut self) {
        if !self.group.config.auto_commit || Instant::now() < self.next_commit {
            return;
        }
        self.next_commit = Instant::now() + self.group.config.auto_commit_interval;
        if self.end_commit(None).now_or_never().is_none() {
            return;
        }
        let (offsets, positions) = to_commit(self.committable(true));
        if !offsets.is_empty() {
            self.committing = Some((self.commit_async(offsets), positions));
        }
    }

    /// Takes in the result of the auto commit that is on its way; waits for it until `deadline`.
    async fn end_commit(&mut self, deadline: Option<Instant>) {
        let Some((handle, _)) = &mut self.committing else { return };
        let ended = match deadline {
            Some(deadline) => timeout_at(deadline, handle).await.ok(),
            None => Some(handle.await),
        };
        let Some((_, positions)) = self.committing.take() else { return };
        match ended {
            Some(Ok(Ok(()))) => {
                let assigned = self.inner.shared.lock();
                self.committed.extend(positions.into_iter().filter(|(id, _)| assigned.contains(*id)));
            }
            Some(Ok(Err(error))) if error.code == ErrorCode::UnknownMemberId => {}
            Some(Ok(Err(error))) => {
                tracing::warn!(group = self.group.config.group_id, %error, "auto commit failed; the next one tries again");
            }
            _ => {}
        }
    }
}

fn to_commit(positions: Vec<(TopicPartition, TopicName, Position)>) -> (Vec<OffsetToCommit>, Committed) {
    let one = |(id, topic, position): (TopicPartition, TopicName, Position)| {
        let topic = topic.to_string();
        let offset = OffsetToCommit { topic, partition: id.partition, position, metadata: String::new() };
        (offset, (id, position))
    };
    positions.into_iter().map(one).unzip()
}
