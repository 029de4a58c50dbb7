//! What a subscribed stream has handed out, may hand out, and has yet to commit. Pure: no clock, no network.
//!
//! Invariants: no record is handed out without credit, none of a partition after its revocation began, and an offset to
//! commit is never beyond what was handed out up to the delivery that the client names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use highwater_client::{ConsumerRecord, OffsetToCommit, PartitionId, Position, TopicName};
use highwater_protocol::v1;

use crate::error::invalid;
use crate::wire;

/// A partition by its name.
pub(crate) type Slot = (TopicName, PartitionId);

/// Deliveries remembered one by one; older ones are remembered as one.
const DELIVERIES_MAX: usize = 10_000;

#[derive(Default)]
pub(crate) struct Session {
    credit: u64,
    /// Not handed out yet.
    pending: VecDeque<ConsumerRecord>,
    last_delivery: u64,
    /// Handed out one by one and not committed, oldest first: where each partition goes on after that delivery.
    handed: VecDeque<(u64, Vec<(Slot, Position)>)>,
    /// Handed out up to `older_delivery`, or part of a commit that failed.
    older: BTreeMap<Slot, Position>,
    older_delivery: u64,
    last_change: u64,
    revocation: Option<Revocation>,
}

struct Revocation {
    change_id: u64,
    is_released: bool,
}

impl Session {
    pub fn grant(&mut self, records: u64) {
        self.credit = self.credit.saturating_add(records);
    }

    /// Takes what was read; it waits for credit.
    pub fn keep(&mut self, records: Vec<ConsumerRecord>) {
        self.pending.extend(records);
    }

    /// Whether records wait for credit.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn can_deliver(&self) -> bool {
        self.credit > 0 && self.is_waiting()
    }

    /// The next delivery of about `bytes_max`, as far as the credit goes.
    pub fn deliver(&mut self, bytes_max: usize) -> Option<v1::SubscribeDelivery> {
        let mut records = Vec::new();
        let mut positions: BTreeMap<Slot, Position> = BTreeMap::new();
        let mut bytes = 0;
        while self.credit > 0 && bytes < bytes_max {
            let Some(record) = self.pending.pop_front() else { break };
            let position = Position { offset: record.offset.next(), leader_epoch: record.leader_epoch };
            positions.insert((record.topic.clone(), record.partition), position);
            let record = wire::consumed(record);
            bytes += wire::bytes_of(&record);
            records.push(record);
            self.credit -= 1;
        }
        if records.is_empty() {
            return None;
        }
        self.last_delivery += 1;
        self.handed.push_back((self.last_delivery, positions.into_iter().collect()));
        if self.handed.len() > DELIVERIES_MAX
            && let Some((id, positions)) = self.handed.pop_front()
        {
            self.older_delivery = id;
            self.older.extend(positions);
        }
        Some(v1::SubscribeDelivery { delivery_id: self.last_delivery, records })
    }

    /// What to commit for this request. Nothing at all is a success.
    pub fn commit(&mut self, request: &v1::SubscribeCommit) -> Result<Vec<OffsetToCommit>, v1::Error> {
        let mut out: BTreeMap<Slot, OffsetToCommit> = BTreeMap::new();
        let mut named = Vec::new();
        for offset in &request.offsets {
            let topic = TopicName::new(&offset.topic).map_err(|error| invalid(error.to_string()))?;
            if offset.offset < 0 {
                return Err(invalid(format!("{} is no offset; they are numbered from 0", offset.offset)));
            }
            let position = Position {
                offset: highwater_client::Offset::new(offset.offset),
                leader_epoch: highwater_client::LeaderEpoch::NONE,
            };
            let slot = (topic, PartitionId::new(offset.partition));
            named.push((slot, position, offset.metadata.clone()));
        }
        for (slot, position) in self.take_up_to(request.up_to_delivery)? {
            out.insert(slot.clone(), to_commit(slot, position, String::new()));
        }
        for (slot, position, metadata) in named {
            self.forget_below(&slot, position);
            out.insert(slot.clone(), to_commit(slot, position, metadata));
        }
        Ok(out.into_values().collect())
    }

    /// These were not committed: the next commit by delivery takes them along.
    pub fn commit_failed(&mut self, offsets: Vec<OffsetToCommit>) {
        for offset in offsets {
            if let Ok(topic) = TopicName::new(&offset.topic) {
                let older = self.older.entry((topic, offset.partition)).or_insert(offset.position);
                *older = offset.position.max(*older);
            }
        }
    }

    fn take_up_to(&mut self, delivery: u64) -> Result<BTreeMap<Slot, Position>, v1::Error> {
        let last = self.last_delivery;
        if delivery == 0 {
            return Ok(BTreeMap::new());
        }
        if delivery > last {
            return Err(invalid(format!("delivery {delivery} was not handed out yet; the last one is {last}")));
        }
        if delivery < self.older_delivery {
            let message = format!("delivery {delivery} is too long ago, before the last {DELIVERIES_MAX}");
            return Err(invalid(message + "; commit a later one, or by offsets"));
        }
        let mut positions = std::mem::take(&mut self.older);
        while let Some((_, handed)) = self.handed.pop_front_if(|(id, _)| *id <= delivery) {
            positions.extend(handed);
        }
        Ok(positions)
    }

    fn forget_below(&mut self, slot: &Slot, position: Position) {
        let is_done = |of: &Slot, at: &Position| of == slot && at.offset <= position.offset;
        self.older.retain(|of, at| !is_done(of, at));
        for (_, handed) in &mut self.handed {
            handed.retain(|(of, at)| !is_done(of, at));
        }
        // The empty ones stay, for their ids.
    }

    /// The number of the next change, for those that nobody releases.
    pub fn next_change(&mut self) -> u64 {
        self.last_change += 1;
        self.last_change
    }

    /// Begins to revoke: nothing more of these is handed out. Its number, and whether the client has records of them that
    /// it may want to commit.
    pub fn begin_revocation(&mut self, partitions: &[Slot]) -> (u64, bool) {
        let partitions: BTreeSet<Slot> = partitions.iter().cloned().collect();
        self.drop_pending(&partitions);
        let is_handed = self.handed.iter().flat_map(|(_, handed)| handed).map(|(slot, _)| slot);
        let awaits = is_handed.chain(self.older.keys()).any(|slot| partitions.contains(slot));
        let change_id = self.next_change();
        self.revocation = Some(Revocation { change_id, is_released: !awaits });
        (change_id, awaits)
    }

    /// What the client says of a revocation. One that is over is no error: it may just have been.
    pub fn release(&mut self, change_id: u64) -> Result<(), v1::Error> {
        if change_id == 0 || change_id > self.last_change {
            return Err(invalid(format!("there was no change {change_id}")));
        }
        if let Some(revocation) = &mut self.revocation
            && revocation.change_id == change_id
        {
            revocation.is_released = true;
        }
        Ok(())
    }

    pub fn is_released(&self) -> bool {
        self.revocation.as_ref().is_none_or(|it| it.is_released)
    }

    /// These are gone: what was handed out of them can't be committed any more.
    pub fn remove(&mut self, partitions: &[Slot]) {
        let partitions: BTreeSet<Slot> = partitions.iter().cloned().collect();
        self.revocation = None;
        self.drop_pending(&partitions);
        self.older.retain(|slot, _| !partitions.contains(slot));
        for (_, handed) in &mut self.handed {
            handed.retain(|(slot, _)| !partitions.contains(slot));
        }
    }

    fn drop_pending(&mut self, partitions: &BTreeSet<Slot>) {
        self.pending.retain(|record| !partitions.contains(&(record.topic.clone(), record.partition)));
    }
}

fn to_commit((topic, partition): Slot, position: Position, metadata: String) -> OffsetToCommit {
    OffsetToCommit { topic: topic.to_string(), partition, position, metadata }
}
