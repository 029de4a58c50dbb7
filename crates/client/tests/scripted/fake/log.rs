//! A partition's log of the made-up cluster.

use bytes::Bytes;
use highwater_record::{Batch, BatchBuilder, Compression, split, stamp};
use highwater_types::{LeaderEpoch, Offset, TimestampMs};

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
        let records = self.batches.iter().flat_map(|batch| batch.records(1 << 20).unwrap());
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

    pub fn offset_for(&self, timestamp: i64) -> Option<(i64, i64)> {
        let mut records = self.batches.iter().flat_map(|batch| batch.records(1 << 20).unwrap()).map(Result::unwrap);
        records.find(|r| r.timestamp.get() >= timestamp).map(|r| (r.offset.get(), r.timestamp.get()))
    }
}
