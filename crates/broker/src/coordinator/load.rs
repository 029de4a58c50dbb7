//! Reading a shard back from its partition's log.

use highwater_coordination::{CoordinatorRecord, CorruptRecord, EndMarker, ProducerIdentity, Shard};
use highwater_record::{Batch, EndTransactionMarker, TransactionResult, split};
use highwater_storage::ReadError;
use highwater_types::{LeaderEpoch, Offset, ProducerId};

use crate::partition::{Partition, PartitionError, ReadRecords};

/// Read in one go.
const READ_BYTES: usize = 1 << 20;
/// Records replayed before others get their turn on the thread.
const RECORDS_PER_TURN: usize = 256;

/// Why a shard could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// Also that this broker does not lead in that epoch (any more).
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// Trying again would find the same.
    #[error(transparent)]
    Corrupt(#[from] CorruptRecord),
}

/// Replays what the log has from its start to its present end, which is returned. Gives way to others often.
pub(super) async fn load<S: Shard>(
    shard: &mut S,
    partition: &Partition,
    epoch: LeaderEpoch,
    decompressed_bytes_max: usize,
) -> Result<Offset, LoadError> {
    let positions = partition.leader_positions()?;
    let (mut next, end) = (positions.log_start, positions.log_end);
    let mut since_yield = 0;
    while next < end {
        let pieces = match partition.read_own(epoch, next, READ_BYTES)? {
            ReadRecords::None => Vec::new(),
            ReadRecords::Cached(pieces) => pieces,
            ReadRecords::File(file) => match file.run().await {
                Ok(bytes) => vec![bytes],
                Err(ReadError::Gone) => Vec::new(),
                Err(ReadError::Damaged(range)) => {
                    partition.note_damage(range);
                    return Err(PartitionError::Damaged(range).into());
                }
                Err(error) => return Err(PartitionError::from(error).into()),
            },
        };
        let before = next;
        for piece in pieces {
            for batch in split(piece).map_err(|error| corrupt(next, &error))? {
                next = next.max(batch.header().next_offset());
                replay_batch(shard, &batch, decompressed_bytes_max, &mut since_yield).await?;
            }
        }
        if next == before {
            // A file that is gone was compacted or retained: what replaces it is found anew.
            tokio::task::yield_now().await;
            next = next.max(partition.leader_positions()?.log_start);
        }
    }
    Ok(end)
}

fn corrupt(offset: Offset, problem: &dyn std::fmt::Display) -> CorruptRecord {
    CorruptRecord { offset, problem: problem.to_string() }
}

async fn replay_batch<S: Shard>(
    shard: &mut S,
    batch: &Batch,
    decompressed_bytes_max: usize,
    since_yield: &mut usize,
) -> Result<(), CorruptRecord> {
    let header = batch.header();
    let producer = ProducerIdentity { id: header.producer_id, epoch: header.producer_epoch };
    let is_transactional = header.attributes.is_transactional() && header.producer_id != ProducerId::NONE;
    let records = batch.records(decompressed_bytes_max).map_err(|error| corrupt(header.base_offset, &error))?;
    for record in records {
        let record = record.map_err(|error| corrupt(header.base_offset, &error))?;
        let offset = record.offset;
        if header.attributes.is_control() {
            // A kind of marker that only newer versions know ends no transaction.
            if let Some(marker) = EndTransactionMarker::parse(&record).map_err(|error| corrupt(offset, &error))? {
                shard.replay_marker(offset, end_marker(producer, marker));
            }
        } else {
            let Some(key) = record.key else { return Err(corrupt(offset, &"it has no key")) };
            let record = CoordinatorRecord { key, value: record.value };
            shard.replay(offset, is_transactional.then_some(producer), &record)?;
        }
        *since_yield += 1;
        if *since_yield == RECORDS_PER_TURN {
            *since_yield = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// A marker as shards know it.
pub(super) fn end_marker(producer: ProducerIdentity, marker: EndTransactionMarker) -> EndMarker {
    EndMarker { producer, commit: marker.result == TransactionResult::Commit }
}
