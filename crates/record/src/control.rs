//! Control batches: the markers that end a transaction in a partition.
//!
//! The one record of such a batch has as key a version and a type (16 bit each), and as value a version (16 bit) and
//! the coordinator's epoch (32 bit), all big-endian, as Kafka writes them (`EndTxnMarker`).

use bytes::Bytes;
use highwater_types::{ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType};

use crate::header::{Attributes, field};
use crate::{BatchBuilder, BatchError, Compression, Record, RecordProblem};

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionResult {
    Abort,
    Commit,
}

/// The end of a transaction of one producer, in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndTransactionMarker {
    pub result: TransactionResult,
    /// The leader epoch of the coordinator's partition: an older coordinator's markers are refused.
    pub coordinator_epoch: i32,
}

const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// The batch that marks the end of `producer`'s transaction.
pub fn control_batch(
    marker: EndTransactionMarker,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    timestamp: TimestampMs,
) -> Result<Bytes, BatchError> {
    let kind = match marker.result {
        TransactionResult::Abort => ABORT,
        TransactionResult::Commit => COMMIT,
    };
    let mut key = [0; 4];
    key[..2].copy_from_slice(&VERSION.to_be_bytes());
    key[2..].copy_from_slice(&kind.to_be_bytes());
    let mut value = [0; 6];
    value[..2].copy_from_slice(&VERSION.to_be_bytes());
    value[2..].copy_from_slice(&marker.coordinator_epoch.to_be_bytes());
    let mut builder = BatchBuilder::with_capacity(Compression::None, None, 32);
    builder.set_producer(producer_id, producer_epoch, Sequence::NONE);
    builder.append(timestamp, Some(&key), Some(&value), &[])?;
    builder.finish(Attributes::new(Compression::None, TimestampType::CreateTime).transactional().control())
}

impl EndTransactionMarker {
    /// Reads the record of a control batch. `None` for a type of marker that this version does not know, which is to
    /// be passed over.
    pub fn parse(record: &Record) -> Result<Option<Self>, BatchError> {
        let bad = |what| BatchError::Record { at: 0, index: 0, problem: RecordProblem::Control(what) };
        let key = record.key.as_deref().filter(|key| key.len() >= 4).ok_or_else(|| bad("its key is too short"))?;
        if i16::from_be_bytes(field(key, 0)) < 0 {
            return Err(bad("its key's version is negative"));
        }
        let result = match i16::from_be_bytes(field(key, 2)) {
            ABORT => TransactionResult::Abort,
            COMMIT => TransactionResult::Commit,
            _ => return Ok(None),
        };
        let value = record.value.as_deref().filter(|value| value.len() >= 6);
        let value = value.ok_or_else(|| bad("its value is too short"))?;
        if i16::from_be_bytes(field(value, 0)) < 0 {
            return Err(bad("its value's version is negative"));
        }
        Ok(Some(Self { result, coordinator_epoch: i32::from_be_bytes(field(value, 2)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;

    fn record(key: &[u8], value: &[u8]) -> Record {
        Record {
            offset: highwater_types::Offset::ZERO,
            timestamp: TimestampMs::new(0),
            key: Some(Bytes::copy_from_slice(key)),
            value: Some(Bytes::copy_from_slice(value)),
            headers: Vec::new(),
        }
    }

    #[test]
    fn markers_round_trip() {
        for result in [TransactionResult::Abort, TransactionResult::Commit] {
            let marker = EndTransactionMarker { result, coordinator_epoch: 7 };
            let bytes =
                control_batch(marker, ProducerId::new(42), ProducerEpoch::new(3), TimestampMs::new(1000)).unwrap();
            let batch = Batch::from_bytes(bytes).unwrap();
            let header = batch.header();
            assert!(header.attributes.is_control() && header.attributes.is_transactional());
            assert_eq!(
                (header.producer_id.get(), header.producer_epoch.get(), header.base_sequence.get()),
                (42, 3, -1)
            );
            let records: Vec<_> = batch.records(0).unwrap().map(Result::unwrap).collect();
            assert_eq!(records.len(), 1);
            assert_eq!(EndTransactionMarker::parse(&records[0]).unwrap(), Some(marker));
        }
    }

    #[test]
    fn unknown_types_are_passed_over_and_short_ones_refused() {
        assert_eq!(EndTransactionMarker::parse(&record(&[0, 0, 0, 2], &[])), Ok(None));
        assert!(EndTransactionMarker::parse(&record(&[0, 0, 0], &[0; 6])).is_err());
        assert!(EndTransactionMarker::parse(&record(&[0, 0, 0, 1], &[0; 5])).is_err());
        assert!(EndTransactionMarker::parse(&record(&[0xff, 0, 0, 1], &[0; 6])).is_err());
    }
}
