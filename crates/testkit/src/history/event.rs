//! The words of a history.

use std::sync::Arc;
use std::time::Duration;

use highwater_types::{Offset, PartitionId};
use serde::{Deserialize, Serialize};

/// Names a record over the whole history: the `number`-th that `writer` sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordId {
    pub writer: u32,
    pub number: u64,
}

impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record {} of writer {}", self.number, self.writer)
    }
}

/// A partition, as clients name it. A topic that was deleted and made again has another name in a history: see
/// [`life_of`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub topic: Arc<str>,
    pub partition: PartitionId,
}

impl Place {
    pub fn new(topic: &str, partition: u32) -> Self {
        Self { topic: topic.into(), partition: PartitionId::new(partition) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// The name in a history of the `life`-th topic that is called `topic`.
pub fn life_of(topic: &str, life: u32) -> Arc<str> {
    format!("{topic}#{life}").into()
}

/// Names a transaction over the whole history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TransactionId {
    pub writer: u32,
    pub number: u64,
}

impl std::fmt::Display for TransactionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "transaction {} of writer {}", self.number, self.writer)
    }
}

/// What a producer was told of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    Committed,
    Aborted,
    /// Neither: it was cut off, or killed, while it asked.
    Unknown,
}

/// What an acknowledgement stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckedBy {
    Nobody,
    Leader,
    All,
}

/// How a topic loses records by intention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// By delete-records only, which the history has.
    #[default]
    OnRequest,
    /// The oldest go: its start moves by itself.
    Retention,
    /// Those go whose key has a newer one.
    Compaction,
}

/// Something that works again, of which somebody has made sure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "sign")]
pub enum Sign {
    /// A write with acks=all was acknowledged, and read again.
    Written { place: Place },
    /// All replicas are in sync.
    InSync { place: Place },
    /// A transaction over all partitions was committed.
    Transacted { topic: Arc<str> },
    /// The group has read, and committed, past where it was.
    Consumed { group: Arc<str> },
}

impl std::fmt::Display for Sign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Written { place } => write!(f, "a write to {place} that is acknowledged and read"),
            Self::InSync { place } => write!(f, "all replicas of {place} in sync"),
            Self::Transacted { topic } => write!(f, "a committed transaction over {topic}"),
            Self::Consumed { group } => write!(f, "progress of group {group}"),
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A writer begins: what it asks for. One that does not say does what the expectations say.
    Writer { writer: u32, acks: AckedBy, idempotent: bool },
    /// A topic is there. `synced`: an acknowledged record is on the disks, not only in the memory, of its replicas.
    /// `dense`: each offset is a record's; none goes to what ends a transaction.
    Topic { topic: Arc<str>, synced: bool, removal: Removal, dense: bool },
    /// What the topic lets go of by itself, and no more: at least its last `records` offsets stay in each partition, and what is younger
    /// than `age`.
    Keeps { topic: Arc<str>, records: Option<u64>, age: Option<Duration> },
    /// Records of `from` are copied to `to`, each once, by transactions that move the offsets of `group` along.
    Copies { group: Arc<str>, from: Arc<str>, to: Arc<str> },
    /// Handed to the producer. A writer's numbers grow, in the order of its sends.
    Sent {
        id: RecordId,
        topic: Arc<str>,
        checksum: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Arc<str>>,
        /// It deletes its key.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tombstone: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transaction: Option<TransactionId>,
    },
    /// The producer said: written, with the acks asked for.
    Acknowledged { id: RecordId, place: Place, offset: Offset },
    /// The producer said: failed, and nothing was written.
    Refused { id: RecordId, why: String },
    /// The producer said: failed, and it can't tell whether it was written.
    Unknown { id: RecordId, why: String },
    /// The `instance`-th producer that goes by this transactional id was let in: those before it are fenced.
    LetIn { producer: Arc<str>, instance: u32 },
    /// Its producer begins a transaction.
    Began { transaction: TransactionId, producer: Arc<str>, instance: u32 },
    /// The producer said what became of it. `asked`: when it was asked for.
    Ended { transaction: TransactionId, told: Told, asked: Duration, why: String },
    /// A reader that is given what is committed only. One that does not say is given everything.
    ReadsCommitted { reader: u32 },
    /// A reader was given this record. `id` is `None` for one that carries no id.
    Read {
        reader: u32,
        place: Place,
        offset: Offset,
        id: Option<RecordId>,
        checksum: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timestamp_ms: Option<i64>,
    },
    /// A reader has read everything of `place` from `from` (inclusive) to `to` (exclusive). `began`: before it asked where
    /// the end is.
    ReadWhole { reader: u32, place: Place, from: Offset, to: Offset, began: Duration },
    /// A reader goes on at `to`, or, not knowing where that is, at a start or an end.
    Sought { reader: u32, place: Place, to: Option<Offset> },
    /// A reader was told that there is no such offset: the log has `start` to `end` (exclusive).
    OutOfRange { reader: u32, place: Place, offset: Offset, start: Offset, end: Offset },
    /// Something asked was answered with an error.
    Failed { what: String, why: String },
    /// The first offset with this time or a later one; `None`: there is none.
    FoundByTime { place: Place, timestamp_ms: i64, offset: Option<Offset>, asked: Duration },
    /// Somebody asks that the records before `before` go.
    DeleteRecords { place: Place, before: Offset },
    /// It was told that they are gone for good; the partition begins here.
    Deleted { place: Place, start: Offset },
    /// The partition begins here, as its leader said.
    Starts { place: Place, offset: Offset, asked: Duration },
    /// A member of a group was given the partition. Members are numbered over the whole history, each life its own number.
    Assigned { group: Arc<str>, member: u32, place: Place },
    /// The member gave it back, or heard that it has lost it.
    Released { group: Arc<str>, member: u32, place: Place },
    /// The member was killed or paused: what it had may go to others without its knowing.
    MemberGone { member: u32 },
    /// The coordinator took the offset. `began`: when the member asked for it.
    Committed { group: Arc<str>, member: u32, place: Place, offset: Offset, began: Duration },
    /// Where the group is, as its coordinator said, with no transaction open.
    GroupIsAt { group: Arc<str>, place: Place, offset: Offset },
    /// Something was broken on purpose, or repaired.
    Fault { what: String },
    /// What a node had not synced is gone.
    PowerLost { node: String },
    /// A node's wall clock is wrong: by it, what is young may be old.
    ClockWrong { node: String },
    /// Nothing is broken on purpose from here on.
    Healed,
    /// Something works.
    Works { sign: Sign },
}

impl Event {
    /// A record without a key, outside of transactions.
    pub fn sent(id: RecordId, topic: &Arc<str>, checksum: u32) -> Self {
        Self::sent_in(None, id, topic, checksum)
    }

    /// A record of a transaction.
    pub fn sent_in(transaction: Option<TransactionId>, id: RecordId, topic: &Arc<str>, checksum: u32) -> Self {
        Self::Sent { id, topic: Arc::clone(topic), checksum, key: None, tombstone: false, transaction }
    }
}

/// Readers from here on are members of groups: each of their lives in a group is a reader of its own.
pub const FIRST_MEMBER_READER: u32 = 10_000;

/// The reader that a member is, the `lives`-th time that it was given partitions.
pub fn reader_of(member: u32, lives: u32) -> u32 {
    member * FIRST_MEMBER_READER + lives
}

/// The member that a reader is, if it is one.
pub fn member_of(reader: u32) -> Option<u32> {
    Some(reader / FIRST_MEMBER_READER).filter(|member| *member > 0)
}

/// An event and when it happened, since the history began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    pub at: Duration,
    #[serde(flatten)]
    pub event: Event,
}
