//! A partition's log of the made-up cluster.

use std::collections::BTreeMap;

use bytes::Bytes;
use highwater_record::{
    Batch, BatchBuilder, Compression, EndTransactionMarker, TransactionResult, control_batch, split, stamp,
};
use highwater_types::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

#[derive(Default)]
pub struct FakeLog {
    pub batches: Vec<Batch>,
    pub start: i64,
    pub epoch: i32,
}

impl FakeLog {
    pub fn end(&self) -> i64 {
        self.batches.last().map_or(self.start, |batch| batch.header().next_offset().get())
    }

    /// As a leader appends what a producer sends: numbered batches once, and only without a gap. Returns the base offset.
    pub fn append_checked(&mut self, bytes: &Bytes) -> Result<i64, ErrorCode> {
        let mut base = None;
        for batch in split(bytes.clone()).expect("the client sends sound batches") {
            let at = match self.stored(&batch)? {
                Some(at) => at,
                None => self.append(batch.bytes()),
            };
            base.get_or_insert(at);
        }
        Ok(base.expect("at least one batch"))
    }

    /// Where a numbered batch is already; `Err` if it can't be the next.
    fn stored(&self, batch: &Batch) -> Result<Option<i64>, ErrorCode> {
        let header = batch.header();
        if header.producer_id == ProducerId::NONE {
            return Ok(None);
        }
        let own = self.batches.iter().map(Batch::header).filter(|known| known.producer_id == header.producer_id);
        let own: Vec<_> = own.collect();
        if own.last().is_some_and(|last| last.producer_epoch > header.producer_epoch) {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        let same =
            own.iter().filter(|known| known.producer_epoch == header.producer_epoch && !known.attributes.is_control());
        let same: Vec<_> = same.collect();
        let first = header.base_sequence.get();
        if let Some(known) = same.iter().rev().take(5).find(|known| known.base_sequence.get() == first) {
            return Ok(Some(known.base_offset.get()));
        }
        let next = same.last().map(|last| last.base_sequence.get() + last.record_count);
        match next {
            None if first == 0 => Ok(None),
            None => Err(ErrorCode::UnknownProducerId),
            Some(next) if next == first => Ok(None),
            Some(next) if first < next => Err(ErrorCode::DuplicateSequence),
            Some(_) => Err(ErrorCode::OutOfOrderSequence),
        }
    }

    /// Appends whole batches; returns the base offset.
    pub fn append(&mut self, bytes: &Bytes) -> i64 {
        let base = self.end();
        for batch in split(bytes.clone()).expect("the client sends sound batches") {
            let mut bytes = batch.bytes().to_vec();
            stamp(&mut bytes, Offset::new(self.end()), LeaderEpoch::new(self.epoch));
            self.batches.push(Batch::from_bytes(bytes.into()).unwrap());
        }
        base
    }

    /// Appends one batch of these values, at times 1000, 1001 and so on by offset.
    pub fn append_values(&mut self, values: &[&str]) {
        let mut builder = BatchBuilder::new(Compression::None, None);
        for (index, value) in values.iter().enumerate() {
            let time = TimestampMs::new(1000 + self.end() + index as i64);
            builder.append(time, None, Some(value.as_bytes()), &[]).unwrap();
        }
        self.append(&builder.build().unwrap());
    }

    pub fn values(&self) -> Vec<String> {
        let data = self.batches.iter().filter(|batch| !batch.header().attributes.is_control());
        let records = data.flat_map(|batch| batch.records(1 << 20).unwrap());
        records.map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap()).collect()
    }

    /// The batches from the one that holds `offset` on.
    pub fn read(&self, offset: i64, max_bytes: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for batch in self.batches.iter().filter(|batch| batch.header().next_offset().get() > offset) {
            if !bytes.is_empty() && bytes.len() + batch.bytes().len() > max_bytes {
                break;
            }
            bytes.extend_from_slice(batch.bytes());
        }
        bytes
    }

    /// The aborted transactions that end at or after `offset`: producer, first offset.
    pub fn aborted_from(&self, offset: i64) -> Vec<(i64, i64)> {
        let mut open = BTreeMap::new();
        let mut aborted = Vec::new();
        for batch in &self.batches {
            let header = batch.header();
            let producer = header.producer_id.get();
            if !header.attributes.is_control() {
                if header.attributes.is_transactional() {
                    open.entry(producer).or_insert(header.base_offset.get());
                }
                continue;
            }
            let record = batch.records(1 << 10).unwrap().next().unwrap().unwrap();
            let marker = EndTransactionMarker::parse(&record).unwrap().unwrap();
            if let Some(first) = open.remove(&producer)
                && marker.result == TransactionResult::Abort
                && header.base_offset.get() >= offset
            {
                aborted.push((producer, first));
            }
        }
        aborted
    }

    /// Ends the transaction of a producer, if it wrote here.
    pub fn end_transaction(&mut self, producer: i64, epoch: i32, commit: bool) {
        let (id, epoch) = (ProducerId::new(producer), ProducerEpoch::new(epoch as i16));
        let is_its = |batch: &Batch| batch.header().producer_id == id && batch.header().producer_epoch == epoch;
        if self.batches.iter().any(is_its) {
            let result = if commit { TransactionResult::Commit } else { TransactionResult::Abort };
            let marker = EndTransactionMarker { result, coordinator_epoch: 0 };
            self.append(&control_batch(marker, id, epoch.next(), TimestampMs::new(1)).unwrap());
        }
    }

    pub fn offset_for(&self, timestamp: i64) -> Option<(i64, i64)> {
        let mut records = self.batches.iter().flat_map(|batch| batch.records(1 << 20).unwrap()).map(Result::unwrap);
        records.find(|r| r.timestamp.get() >= timestamp).map(|r| (r.offset.get(), r.timestamp.get()))
    }
}
