//! Reading one partition: where fetching is, and what is fetched and not handed out.

use std::collections::VecDeque;

use bytes::Bytes;
use highwater_record::{Batch, BatchError, BatchHeader, HEADER_LEN};
use highwater_types::{BrokerId, LeaderEpoch, TopicName, TopicPartition};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::consumer::Position;

pub(crate) struct PartitionFetch {
    pub id: TopicPartition,
    pub topic: TopicName,
    /// Where the next fetch begins.
    pub next: Position,
    pub leader: Option<BrokerId>,
    pub epoch: LeaderEpoch,
    /// Grows whenever what is in flight must be ignored: after a seek, a reset, or a change of leader.
    pub token: u64,
    pub in_flight: bool,
    pub retry_at: Option<Instant>,
    pub backoff: Backoff,
    /// Answers in a row that were damaged.
    pub damaged: u32,
    /// An error was reported; nothing is fetched until a seek.
    pub failed: bool,
    pub buffered: VecDeque<Fetched>,
    pub buffered_bytes: usize,
}

/// A batch that is not handed out yet.
pub(crate) struct Fetched {
    pub batch: Batch,
    /// The position before it: records below are not asked for.
    pub from: Position,
}

impl PartitionFetch {
    pub fn new(id: TopicPartition, topic: TopicName, next: Position, token: u64, backoff: Backoff) -> Self {
        Self {
            id,
            topic,
            next,
            leader: None,
            epoch: LeaderEpoch::NONE,
            token,
            in_flight: false,
            retry_at: None,
            backoff,
            damaged: 0,
            failed: false,
            buffered: VecDeque::new(),
            buffered_bytes: 0,
        }
    }

    /// Where the next record handed out will be, but for what the consumer has in hand.
    pub fn position(&self) -> Position {
        self.buffered.front().map_or(self.next, |fetched| fetched.from)
    }

    /// Goes on elsewhere; what is fetched or in flight is forgotten. Returns the bytes freed.
    pub fn restart(&mut self, next: Position, token: u64) -> usize {
        self.next = next;
        self.token = token;
        self.in_flight = false;
        self.retry_at = None;
        self.backoff.reset();
        self.damaged = 0;
        self.failed = false;
        self.buffered.clear();
        std::mem::take(&mut self.buffered_bytes)
    }

    /// Takes in the records of an answer. Returns the bytes that are now buffered, and what was wrong with the rest.
    pub fn take_in(&mut self, records: Bytes) -> (usize, Option<BatchError>) {
        let found = records.len();
        let mut rest = records;
        let mut taken = 0;
        let mut wrong = None;
        while !rest.is_empty() {
            match self.cut(&mut rest) {
                Ok(Some(batch)) => {
                    let next = batch.header().next_offset();
                    let from = self.next;
                    // A batch from before the position has nothing that was asked for.
                    if next > from.offset {
                        self.next = Position { offset: next, leader_epoch: batch.header().leader_epoch };
                        taken += batch.bytes().len();
                        self.buffered.push_back(Fetched { batch, from });
                    }
                }
                // The last one is cut by the size of the answer.
                Ok(None) => break,
                Err(error) => {
                    wrong = Some(error);
                    break;
                }
            }
        }
        if taken == 0 && found > 0 && wrong.is_none() {
            wrong = Some(BatchError::Empty { found });
        }
        self.buffered_bytes += taken;
        (taken, wrong)
    }

    /// Cuts the first batch off `rest`; `None` if it is not all there.
    fn cut(&self, rest: &mut Bytes) -> Result<Option<Batch>, BatchError> {
        if rest.len() < HEADER_LEN {
            return Ok(None);
        }
        let header = BatchHeader::parse(rest)?;
        if header.total_len() > rest.len() {
            return Ok(None);
        }
        let batch = Batch::from_bytes(rest.split_to(header.total_len()))?;
        if let Some(last) = self.buffered.back()
            && batch.header().base_offset <= last.batch.header().last_offset()
            && batch.header().next_offset() > self.next.offset
        {
            let found = batch.header().base_offset.get();
            let why = "it lies within the batch before it";
            return Err(BatchError::Field { at: 0, field: "base offset", found, why });
        }
        Ok(Some(batch))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use highwater_record::{BatchBuilder, Compression, stamp};
    use highwater_types::{Offset, PartitionId, TimestampMs, TopicId};

    use super::*;

    fn batch(base: i64, records: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None, None);
        for _ in 0..records {
            builder.append(TimestampMs::new(1), None, Some(b"value"), &[]).unwrap();
        }
        let mut bytes = builder.build().unwrap().to_vec();
        stamp(&mut bytes, Offset::new(base), LeaderEpoch::new(4));
        bytes
    }

    fn partition(at: i64) -> PartitionFetch {
        let id = TopicPartition::new(TopicId::from_u128(1), PartitionId::new(0));
        let next = Position { offset: Offset::new(at), leader_epoch: LeaderEpoch::NONE };
        let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        PartitionFetch::new(id, TopicName::new("t").unwrap(), next, 1, backoff)
    }

    #[test]
    fn whole_batches_are_taken_and_a_cut_one_is_asked_for_again() {
        let mut partition = partition(2);
        let mut bytes = [batch(0, 5), batch(5, 5), batch(10, 5)].concat();
        bytes.truncate(bytes.len() - 3);
        let (taken, wrong) = partition.take_in(bytes.into());
        assert_eq!((taken, wrong), (batch(0, 5).len() * 2, None));
        assert_eq!(partition.next, Position { offset: Offset::new(10), leader_epoch: LeaderEpoch::new(4) });
        assert_eq!(partition.position().offset, Offset::new(2));
    }

    #[test]
    fn what_comes_before_a_damaged_batch_is_kept_and_the_damage_is_told() {
        let mut partition = partition(0);
        let mut bytes = [batch(0, 5), batch(5, 5)].concat();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let (taken, wrong) = partition.take_in(bytes.into());
        assert_eq!(taken, batch(0, 5).len());
        assert!(matches!(wrong, Some(BatchError::Crc { .. })));
        assert_eq!(partition.next.offset, Offset::new(5));
    }

    #[test]
    fn an_answer_without_progress_is_an_error_and_overlapping_batches_are_too() {
        assert!(partition(10).take_in(batch(0, 5).into()).1.is_some());
        assert!(partition(0).take_in(batch(0, 5)[..30].to_vec().into()).1.is_some());
        let mut overlapped = partition(0);
        let (_, wrong) = overlapped.take_in([batch(0, 5), batch(3, 5)].concat().into());
        assert!(matches!(wrong, Some(BatchError::Field { .. })));
    }
}
