//! Reading one partition: where fetching is, and what is fetched and not handed out.

use std::collections::VecDeque;

use bytes::Bytes;
use highwater_record::{Batch, BatchError, BatchHeader, HEADER_LEN};
use highwater_types::{BrokerId, LeaderEpoch, TopicName, TopicPartition};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::consumer::Position;
use crate::consumer::aborted::Aborted;

pub(crate) struct PartitionFetch {
    pub id: TopicPartition,
    pub topic: TopicName,
    /// Where the next fetch begins.
    pub next: Position,
    pub leader: Option<BrokerId>,
    pub epoch: LeaderEpoch,
    /// The replica that the leader has named to read from instead, and until when it is asked without asking the leader again.
    pub preferred: Option<(BrokerId, Instant)>,
    /// A replica failed: the leader itself is to be read from until then.
    pub leader_until: Option<Instant>,
    /// Grows whenever what is in flight must be ignored: after a seek, a reset, or a change of leader.
    pub token: u64,
    pub in_flight: bool,
    pub retry_at: Option<Instant>,
    pub backoff: Backoff,
    /// Answers in a row that were damaged.
    pub damaged: u32,
    /// An error was reported; nothing is fetched until a seek.
    pub failed: bool,
    /// Neither fetched nor handed out, until it is resumed.
    pub paused: bool,
    pub buffered: VecDeque<Fetched>,
    pub buffered_bytes: usize,
}

/// A batch that is not handed out yet.
pub(crate) struct Fetched {
    pub batch: Batch,
    /// The position before it: records below are not asked for.
    pub from: Position,
}

/// What became of an answer's records.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TakenIn {
    /// Now buffered.
    pub bytes: usize,
    /// The position moved, if only past what is not to be seen.
    pub advanced: bool,
    /// What is wrong with the rest.
    pub wrong: Option<BatchError>,
}

impl PartitionFetch {
    pub fn new(id: TopicPartition, topic: TopicName, next: Position, token: u64, backoff: Backoff) -> Self {
        Self {
            id,
            topic,
            next,
            leader: None,
            epoch: LeaderEpoch::NONE,
            preferred: None,
            leader_until: None,
            token,
            in_flight: false,
            retry_at: None,
            backoff,
            damaged: 0,
            failed: false,
            paused: false,
            buffered: VecDeque::new(),
            buffered_bytes: 0,
        }
    }

    /// Where the next record handed out will be, but for what the consumer has in hand.
    pub fn position(&self) -> Position {
        self.buffered.front().map_or(self.next, |fetched| fetched.from)
    }

    /// Whom to ask.
    pub fn source(&self) -> Option<BrokerId> {
        self.preferred.map(|(broker, _)| broker).or(self.leader)
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

    /// Takes in the records of an answer, but for what `aborted` hides.
    pub fn take_in(&mut self, records: Bytes, mut aborted: Aborted) -> TakenIn {
        let found = records.len();
        let began = self.next;
        let mut rest = records;
        let mut taken = 0;
        let mut wrong = None;
        while !rest.is_empty() {
            match self.cut(&mut rest) {
                Ok(Some(batch)) => {
                    let next = batch.header().next_offset();
                    let from = self.next;
                    let hidden = aborted.hides(batch.header());
                    // A batch from before the position has nothing that was asked for.
                    if next > from.offset {
                        self.next = Position { offset: next, leader_epoch: batch.header().leader_epoch };
                        // Compaction leaves empty ones.
                        if !hidden && batch.header().record_count > 0 {
                            taken += batch.bytes().len();
                            self.buffered.push_back(Fetched { batch, from });
                        }
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
        let advanced = self.next != began;
        if !advanced && found > 0 && wrong.is_none() {
            wrong = Some(BatchError::Empty { found });
        }
        self.buffered_bytes += taken;
        TakenIn { bytes: taken, advanced, wrong }
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

    use highwater_protocol::v1;
    use highwater_record::{
        BatchBuilder, Compression, EndTransactionMarker, LENGTH_PREFIX, TransactionResult, control_batch, set_producer,
        stamp,
    };
    use highwater_types::{Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicId};

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
        let taken = partition.take_in(bytes.into(), Aborted::default());
        assert_eq!(taken, TakenIn { bytes: batch(0, 5).len() * 2, advanced: true, wrong: None });
        assert_eq!(partition.next, Position { offset: Offset::new(10), leader_epoch: LeaderEpoch::new(4) });
        assert_eq!(partition.position().offset, Offset::new(2));
    }

    #[test]
    fn what_comes_before_a_damaged_batch_is_kept_and_the_damage_is_told() {
        let mut partition = partition(0);
        let mut bytes = [batch(0, 5), batch(5, 5)].concat();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let taken = partition.take_in(bytes.into(), Aborted::default());
        assert_eq!(taken.bytes, batch(0, 5).len());
        assert!(matches!(taken.wrong, Some(BatchError::Crc { .. })));
        assert_eq!(partition.next.offset, Offset::new(5));
    }

    #[test]
    fn an_answer_without_progress_is_an_error_and_overlapping_batches_are_too() {
        let wrong = |at, bytes: Vec<u8>| partition(at).take_in(bytes.into(), Aborted::default()).wrong;
        assert!(wrong(10, batch(0, 5)).is_some());
        assert!(wrong(0, batch(0, 5)[..30].to_vec()).is_some());
        let overlapping = wrong(0, [batch(0, 5), batch(3, 5)].concat());
        assert!(matches!(overlapping, Some(BatchError::Field { .. })));
    }

    fn transactional(producer: i64, base: i64, records: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None, None);
        builder.set_producer(ProducerId::new(producer), ProducerEpoch::FIRST, Sequence::FIRST);
        builder.set_transactional(true);
        for _ in 0..records {
            builder.append(TimestampMs::new(1), None, Some(b"value"), &[]).unwrap();
        }
        let mut bytes = builder.build().unwrap().to_vec();
        stamp(&mut bytes, Offset::new(base), LeaderEpoch::new(4));
        bytes
    }

    fn marker(producer: i64, at: i64, result: TransactionResult) -> Vec<u8> {
        let marker = EndTransactionMarker { result, coordinator_epoch: 0 };
        let (id, epoch) = (ProducerId::new(producer), ProducerEpoch::FIRST);
        let mut bytes = control_batch(marker, id, epoch, TimestampMs::new(1)).unwrap().to_vec();
        stamp(&mut bytes, Offset::new(at), LeaderEpoch::new(4));
        bytes
    }

    fn bases(partition: &PartitionFetch) -> Vec<i64> {
        partition.buffered.iter().map(|fetched| fetched.batch.header().base_offset.get()).collect()
    }

    #[test]
    fn t32_aborted_records_and_markers_are_passed_over_and_nothing_else() {
        use TransactionResult::{Abort, Commit};
        let log = [
            transactional(1, 0, 2),
            transactional(2, 2, 2),
            batch(4, 1),
            marker(1, 5, Abort),
            transactional(1, 6, 1),
            marker(2, 7, Commit),
            marker(1, 8, Commit),
            transactional(2, 9, 1),
            marker(2, 10, Abort),
        ];
        let named = |producer_id, first_offset| v1::AbortedTransaction { producer_id, first_offset };
        let mut reader = partition(0);
        let taken = reader.take_in(log.concat().into(), Aborted::new(&[named(2, 9), named(1, 0)]));
        assert_eq!((taken.wrong, bases(&reader), reader.next.offset.get()), (None, vec![2, 4, 6], 11));
        // An answer that begins within the aborted transaction, and has nothing to show, moves the position all the same.
        let mut late = partition(1);
        let taken = late.take_in([&log[0][..], &log[3]].concat().into(), Aborted::new(&[named(1, 0)]));
        assert_eq!((taken, late.next.offset.get()), (TakenIn { bytes: 0, advanced: true, wrong: None }, 6));
        // Uncommitted readers see the records, and no marker.
        let mut uncommitted = partition(0);
        uncommitted.take_in(log.concat().into(), Aborted::default());
        assert_eq!(bases(&uncommitted), [0, 2, 4, 6, 9]);
    }

    /// As compaction leaves it: five offsets, no record.
    fn emptied(base: i64) -> Vec<u8> {
        let mut bytes = batch(base, 5)[..HEADER_LEN].to_vec();
        bytes[8..12].copy_from_slice(&((HEADER_LEN - LENGTH_PREFIX) as i32).to_be_bytes());
        bytes[HEADER_LEN - 4..].copy_from_slice(&0i32.to_be_bytes());
        // Sums it up again.
        set_producer(&mut bytes, ProducerId::NONE, ProducerEpoch::NONE, Sequence::NONE);
        bytes
    }

    #[test]
    fn an_empty_batch_moves_the_position_alone_or_among_others() {
        let mut alone = partition(2);
        let taken = alone.take_in(emptied(0).into(), Aborted::default());
        assert_eq!(taken, TakenIn { bytes: 0, advanced: true, wrong: None });
        assert_eq!((alone.position().offset.get(), bases(&alone)), (5, vec![]));
        let mut among = partition(0);
        let taken = among.take_in([batch(0, 5), emptied(5), batch(10, 5)].concat().into(), Aborted::default());
        assert_eq!((taken.wrong, bases(&among), among.next.offset.get()), (None, vec![0, 10], 15));
    }
}
