//! A record on its way out, and positions.

use bytes::Bytes;
use highwater_record::Header;
use highwater_types::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicName};

/// A record as it was read. Key, value and headers are slices of the answer that they came in (or, compressed, of their
/// batch), which stays in memory while one of them does: copy what is kept for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset.
    pub offset: Offset,
    /// The reign in which it was written; with the offset after it, a [`Position`] that detects truncation.
    pub leader_epoch: LeaderEpoch,
    /// The producer's time, or the leader's where the topic says LogAppendTime.
    pub timestamp: TimestampMs,
    /// The key, if there is one.
    pub key: Option<Bytes>,
    /// The value, if there is one.
    pub value: Option<Bytes>,
    /// In the producer's order.
    pub headers: Vec<Header>,
}

/// Where reading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch of the record before it; [`LeaderEpoch::NONE`] if it is not known. Kept with the offset, it lets
    /// a later run find out that the log was truncated below (KIP-320).
    pub leader_epoch: LeaderEpoch,
}

/// Where to begin reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The first record there is.
    Beginning,
    /// After the last committed record there is now.
    End,
    /// This offset.
    Offset(Offset),
    /// The first record with this timestamp or a later one; if there is none, the end.
    Timestamp(TimestampMs),
    /// Where an earlier run was, with truncation detection.
    Position(Position),
}

impl From<Offset> for StartAt {
    fn from(offset: Offset) -> Self {
        Self::Offset(offset)
    }
}
impl From<Position> for StartAt {
    fn from(position: Position) -> Self {
        Self::Position(position)
    }
}
