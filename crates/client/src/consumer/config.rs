//! Settings of a consumer.

use std::time::Duration;

use highwater_types::IsolationLevel;

/// What to do when a partition's position is not in the log: before its start, because retention or delete-records took
/// the records, or beyond its end. Truncation is never hidden by this: see
/// [`ConsumeError::LogTruncated`](crate::ConsumeError::LogTruncated).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OffsetReset {
    /// [`poll`](crate::Consumer::poll) returns
    /// [`ConsumeError::OffsetOutOfRange`](crate::ConsumeError::OffsetOutOfRange).
    #[default]
    Error,
    /// Go on at the first record there is.
    Earliest,
    /// Go on at the end.
    Latest,
    /// Go on at the first record that is no older than this.
    ByDuration(Duration),
}

/// Settings of a consumer.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// What to do when a position is not in the log.
    pub offset_reset: OffsetReset,
    /// [`ReadCommitted`](IsolationLevel::ReadCommitted): records of transactions once they are committed, in the order of
    /// their offsets, and never those of aborted ones; what lies behind an open transaction waits for its end.
    pub isolation: IsolationLevel,
    /// The reader's rack: with it, partitions are read from an in-sync replica of that rack, where there is one. Records come
    /// there a little later than at the leader.
    pub rack: Option<String>,
    /// Records that one [`poll`](crate::Consumer::poll) returns at most.
    pub poll_records_max: usize,
    /// Bytes of one partition asked for at once, and at which fetching ahead of it pauses.
    pub partition_bytes_max: u32,
    /// Bytes asked of one broker at once.
    pub fetch_bytes_max: u32,
    /// Bytes fetched ahead, of all partitions, above which fetching pauses. It may be passed by what is on its way.
    pub prefetch_bytes: usize,
    /// A broker waits for so many bytes before it answers.
    pub fetch_bytes_min: u32,
    /// But not longer than this.
    pub fetch_wait_max: Duration,
    /// Bound of one compressed batch's records, decompressed.
    pub decompressed_bytes_max: usize,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            offset_reset: OffsetReset::Error,
            isolation: IsolationLevel::ReadUncommitted,
            rack: None,
            poll_records_max: 4096,
            partition_bytes_max: 2 << 20,
            fetch_bytes_max: 8 << 20,
            prefetch_bytes: 64 << 20,
            fetch_bytes_min: 1,
            fetch_wait_max: Duration::from_millis(500),
            decompressed_bytes_max: 256 << 20,
        }
    }
}
