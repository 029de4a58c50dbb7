//! Appends of producers, at the leader.

use std::time::Duration;

use highwater_record::Batch;
use highwater_storage::AppendError;
use highwater_types::LeaderEpoch;

use super::{News, Partition, PartitionError, State, Wakes, must_sync};
use crate::produce::{AckWaiter, Acks, ProduceResult, Produced, Ticket};

/// Deadlines are the requests' own; the queues know none.
const NO_DEADLINE: Duration = Duration::MAX;

impl Partition {
    /// Appends validated batches, whole or not at all, and completes the ticket: now, or once they are acknowledged.
    pub(crate) fn append(&self, batches: &[Batch], acks: Acks, asked: LeaderEpoch, ticket: Ticket<'_>) {
        let done = self.with(|state, wakes| state.append(self, batches, acks, asked, &ticket, wakes));
        if let Some(result) = done {
            ticket.request.complete(ticket.slot, result);
        }
    }
}

impl State {
    /// `None`: it is waited for.
    fn append(
        &mut self,
        partition: &Partition,
        batches: &[Batch],
        acks: Acks,
        asked: LeaderEpoch,
        ticket: &Ticket<'_>,
        wakes: &mut Wakes,
    ) -> Option<ProduceResult> {
        let timestamp_type = self.config.timestamp_type;
        let (leader, log) = match self.leading(partition.env.me, asked) {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        // T15: before the append; the queue checks again at completion.
        if acks == Acks::All && !leader.has_min_isr() {
            let (in_sync, needed) = (leader.isr().len(), leader.config().min_insync);
            return Some(Err(PartitionError::NotEnoughReplicas { in_sync, needed }));
        }
        let leader_epoch = leader.leader_epoch();
        let timestamp = partition.env.clock.timestamp();
        let appended = match log.append_leader(batches, leader_epoch, timestamp_type, timestamp) {
            Ok(appended) => appended,
            Err(error) => {
                if matches!(error, AppendError::Io(_) | AppendError::Offline(_)) {
                    wakes.unusable();
                }
                return Some(Err(error.into()));
            }
        };
        let produced = Produced {
            base_offset: appended.base_offset,
            append_time: appended.append_time,
            log_start: log.start_offset(),
            leader_epoch,
        };
        let effects = leader.on_append(appended.end_offset, partition.env.clock.now());
        wakes.news(&self.subscriptions, News::LOG_END);
        let synced = must_sync(&self.config);
        if synced {
            wakes.flush();
        }
        let waiter = || AckWaiter { request: ticket.request.clone(), slot: ticket.slot, produced };
        let done = match acks {
            Acks::None => true,
            Acks::Leader => {
                if synced {
                    self.syncing.insert(appended.end_offset, NO_DEADLINE, waiter());
                }
                !synced
            }
            Acks::All => {
                self.committing.insert(appended.end_offset, NO_DEADLINE, waiter());
                false
            }
        };
        // Alone in the ISR, the append may be committed by now: the waiter is in the queue already.
        self.carry_out(partition, effects, wakes);
        done.then_some(Ok(produced))
    }
}
