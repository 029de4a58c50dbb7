//! Fetch requests of consumers, for every front door.
//!
//! An attempt looks at each partition once. One that found too little may be repeated when something is new: each attempt
//! checks leader, epoch and offsets anew, so a long poll is answered by what holds when it ends (T25). Records in memory are
//! handed on as they are; those in files are read after the attempt, outside of any lock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_storage::{AbortedTransaction, ReadError};
use highwater_types::{BrokerId, LeaderEpoch, Offset, TopicPartition};

use crate::partition::{FetchFrom, FetchWaiter, Near, PartitionError, PartitionRead, ReadBounds, ReadRecords};
use crate::partitions::Partitions;

/// A fetch request.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// The caller's own.
    pub token: u64,
    pub max_wait: Duration,
    pub min_bytes: usize,
    pub max_bytes: usize,
    pub partitions: Vec<FetchFrom>,
    /// Where the reader is; `None`: leaders alone serve it.
    pub near: Option<Reader>,
    /// Whether the positions of partitions without records are wanted as well.
    pub with_empty: bool,
}

/// A reader that may read from the replicas near it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    pub rack: String,
    /// As in [`Near`].
    pub spread: u64,
}

/// What one attempt found.
pub struct Attempt {
    /// Partitions with records, errors, or another replica to read from.
    pub found: Vec<(FetchFrom, Result<PartitionRead, PartitionError>)>,
    /// Answers the request by itself, without waiting for more.
    pub is_enough: bool,
    /// Whether `found` has records in files: see [`Partitions::read`].
    pub needs_read: bool,
}

/// The answer for one partition.
#[derive(Debug)]
pub struct FetchedPartition {
    pub partition: TopicPartition,
    pub result: Result<Fetched, PartitionError>,
}

/// Records, and the positions when they were read.
#[derive(Debug)]
pub struct Fetched {
    pub high_watermark: Offset,
    pub last_stable: Offset,
    /// As in [`PartitionRead`].
    pub aborted: Vec<AbortedTransaction>,
    pub log_start: Offset,
    pub leader_epoch: LeaderEpoch,
    /// Whole batches; the first may begin before the offset asked for.
    pub records: Vec<Bytes>,
    /// As in [`PartitionRead`].
    pub preferred: Option<BrokerId>,
}

impl Partitions {
    /// Looks at each partition of `request`, beginning with another one each time the token changes, so that a full answer
    /// does not starve the last ones. `waiter` is left with the partitions that have nothing.
    pub fn fetch(&self, request: &FetchRequest, waiter: Option<&Arc<FetchWaiter>>) -> Attempt {
        let count = request.partitions.len();
        let first = (request.token % count.max(1) as u64) as usize;
        let mut attempt = Attempt { found: Vec::new(), is_enough: count == 0, needs_read: false };
        let (mut bytes, mut bytes_left) = (0, request.max_bytes);
        let near = request.near.as_ref().map(|reader| self.near(reader));
        for from in request.partitions[first..].iter().chain(&request.partitions[..first]) {
            let nothing_yet = bytes == 0 && !attempt.needs_read;
            if bytes_left == 0 && !nothing_yet && !request.with_empty {
                break;
            }
            let max_bytes = from.max_bytes.min(bytes_left);
            let read = match self.find(from.partition) {
                Ok(partition) => {
                    let bounds = ReadBounds { max_bytes, at_least_one: nothing_yet, near: near.as_ref() };
                    partition.fetch(from, bounds, waiter)
                }
                Err(error) => Err(error),
            };
            let read = read.map(|read| if bytes_left == 0 && !nothing_yet { read.without_records() } else { read });
            match &read {
                Err(_) | Ok(PartitionRead { preferred: Some(_), .. }) => attempt.is_enough = true,
                Ok(read) => match read.records.bytes() {
                    Some(0) if !request.with_empty => continue,
                    Some(found) => {
                        bytes += found;
                        bytes_left = bytes_left.saturating_sub(found);
                    }
                    None => {
                        attempt.needs_read = true;
                        bytes_left = bytes_left.saturating_sub(max_bytes);
                    }
                },
            }
            attempt.found.push((*from, read));
        }
        // How much is in a file shows when it is read; there is something.
        attempt.is_enough |= attempt.needs_read || bytes >= request.min_bytes.max(1);
        attempt
    }

    fn near(&self, reader: &Reader) -> Near {
        let image = self.image();
        let brokers = image.brokers.values().filter(|broker| broker.rack.as_deref() == Some(&*reader.rack));
        Near { brokers: brokers.map(|broker| broker.id).collect(), spread: reader.spread }
    }

    /// Reads what `attempt` found in files.
    pub async fn read(&self, attempt: Attempt) -> Vec<FetchedPartition> {
        let mut answer = Vec::with_capacity(attempt.found.len());
        for (from, read) in attempt.found {
            let result = match read {
                Ok(read) => self.read_partition(&from, read).await,
                Err(error) => Err(error),
            };
            answer.push(FetchedPartition { partition: from.partition, result });
        }
        answer
    }

    async fn read_partition(&self, from: &FetchFrom, read: PartitionRead) -> Result<Fetched, PartitionError> {
        let PartitionRead { high_watermark, last_stable, aborted, log_start, leader_epoch, records, preferred } = read;
        let fetched =
            |records| Fetched { high_watermark, last_stable, aborted, log_start, leader_epoch, records, preferred };
        match records {
            ReadRecords::None => Ok(fetched(Vec::new())),
            ReadRecords::Cached(pieces) => Ok(fetched(pieces)),
            ReadRecords::File(file) => match file.run().await {
                Ok(bytes) => Ok(fetched(vec![bytes])),
                // Retention took the file: the reader asks again, and is told where the log starts by now.
                Err(ReadError::Gone) => Ok(fetched(Vec::new())),
                Err(ReadError::Damaged(range)) => {
                    if let Ok(partition) = self.find(from.partition) {
                        partition.note_damage(range);
                    }
                    Err(PartitionError::Damaged(range))
                }
                Err(error) => Err(error.into()),
            },
        }
    }
}

impl Attempt {
    /// The answer of an attempt that found nothing in files.
    pub fn into_answer(self) -> Vec<FetchedPartition> {
        let fetched = |read: PartitionRead| Fetched {
            high_watermark: read.high_watermark,
            last_stable: read.last_stable,
            aborted: read.aborted,
            log_start: read.log_start,
            leader_epoch: read.leader_epoch,
            preferred: read.preferred,
            records: match read.records {
                ReadRecords::Cached(pieces) => pieces,
                ReadRecords::None | ReadRecords::File(_) => Vec::new(),
            },
        };
        let of = |(from, read): (FetchFrom, Result<PartitionRead, PartitionError>)| FetchedPartition {
            partition: from.partition,
            result: read.map(fetched),
        };
        self.found.into_iter().map(of).collect()
    }
}
