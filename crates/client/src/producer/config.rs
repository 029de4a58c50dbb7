//! Settings of a producer.

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::{MESSAGE_SIZE_MAX, v1};
use highwater_record::Compression;

use crate::InvalidSetting;
use crate::producer::partitioner::Partitioner;

/// When a record counts as delivered. See [`ProducerConfig`] for what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Acks {
    /// Once it was handed to the connection. Nobody tells whether it arrived.
    None,
    /// Once it is in the leader's log: lost if the leader dies before a follower has it.
    Leader,
    /// Once it is committed, on every in-sync replica.
    #[default]
    All,
}

impl From<Acks> for v1::Acks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::None => Self::None,
            Acks::Leader => Self::Leader,
            Acks::All => Self::All,
        }
    }
}

/// Written as in the command line: `none`, `leader`, `all`, or Kafka's `0`, `1`, `-1`.
impl std::str::FromStr for Acks {
    type Err = InvalidSetting;
    fn from_str(text: &str) -> Result<Self, InvalidSetting> {
        match text {
            "none" | "0" => Ok(Self::None),
            "leader" | "1" => Ok(Self::Leader),
            "all" | "-1" => Ok(Self::All),
            _ => Err(InvalidSetting {
                setting: "acks",
                value: text.to_owned(),
                allowed: "none, leader or all (0, 1 or -1)",
            }),
        }
    }
}

impl std::fmt::Display for Acks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Leader => "leader",
            Self::All => "all",
        })
    }
}

/// How records without an explicit partition are placed.
#[derive(Clone, Default)]
pub enum Partitioning {
    /// With a key: by its hash, the same partition as Kafka's default. Without: stay with one partition for a batch's
    /// worth of bytes, then go on to another that has little queued, so that batches are large.
    #[default]
    KeyOrSticky,
    /// One partition after the other, keys or not.
    RoundRobin,
    /// As this says.
    Custom(Arc<dyn Partitioner>),
}

impl std::fmt::Debug for Partitioning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::KeyOrSticky => "KeyOrSticky",
            Self::RoundRobin => "RoundRobin",
            Self::Custom(_) => "Custom",
        })
    }
}

/// Settings of a producer. The defaults lose nothing, duplicate nothing, and suit most uses.
///
/// What a record whose [`Delivery`](crate::Delivery) succeeded is worth, and what a failed one may have left behind:
///
/// | strategy | settings | acknowledged means | in the log afterwards |
/// |---|---|---|---|
/// | at most once | `acks: None` | handed to the connection | once, or not at all; never twice. Nothing is sent a second time |
/// | at least once | `acks: All`, idempotence off | committed: lost by no order of failures while one eligible replica keeps its disk | once or more: a retry after a lost answer writes it again |
/// | at least once, weaker | `acks: Leader` | in the leader's log | as above, but lost if the leader dies before a follower has it |
/// | without duplicates | the default: `acks: All` with idempotence | committed | exactly once, over retries, changes of leader and restarts of brokers (KIP-98); in order within a partition |
/// | exactly once | [`Client::transactional_producer`](crate::Client::transactional_producer) | with `commit`: all of a transaction, over all its partitions and consumed offsets | seen once by `read_committed` consumers, or not at all |
///
/// Idempotence ends where the producer does: a record that failed with [`Outcome::Unknown`](crate::Outcome) may be in
/// the log, and sending it again, by this or another producer, is another record. The producer never does so by itself:
/// what it can't resolve it reports. Order within a partition holds for all of them but that such a record may still
/// appear after later ones.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// When a record counts as delivered.
    pub acks: Acks,
    /// Whether batches are numbered, so that their leader stores each of them once however often it is sent. Needs
    /// `acks: All`; `None`: on with it, and off without.
    pub idempotence: Option<bool>,
    /// Codec of the batches.
    pub compression: Compression,
    /// The codec's own level; `None`: its default.
    pub compression_level: Option<i32>,
    /// Bytes at which a batch is closed, before compression. A topic's `max.message.bytes` bounds it further.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more records. With zero it goes as soon as the partition has
    /// nothing in flight: under load, batches fill by themselves while the one before is on its way.
    pub linger: Duration,
    /// Requests on their way to one broker at once. A partition is in one of them at most, which keeps its order over
    /// retries.
    pub in_flight_max: usize,
    /// Bytes of batches at which a request is full. One batch always goes; with idempotence, five of a partition at most.
    pub request_bytes_max: usize,
    /// Bytes of records accepted but not yet settled; above this, [`send`](crate::Producer::send) waits.
    pub buffer_bytes: usize,
    /// From [`send`](crate::Producer::send) to the end of all retries; then a record fails. Also the bound of the wait
    /// for buffer space.
    pub delivery_timeout: Duration,
    /// How long one attempt may take.
    pub request_timeout: Duration,
    /// Wait before the first retry; doubles with each (and varies by a fifth, so that clients do not march in step).
    pub retry_backoff: Duration,
    /// Bound of that doubling.
    pub retry_backoff_max: Duration,
    /// How records without an explicit partition are placed.
    pub partitioning: Partitioning,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotence: None,
            compression: Compression::None,
            compression_level: None,
            batch_bytes: 256 << 10,
            linger: Duration::ZERO,
            in_flight_max: 5,
            request_bytes_max: 2 << 20,
            buffer_bytes: 64 << 20,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(20),
            retry_backoff_max: Duration::from_secs(1),
            partitioning: Partitioning::KeyOrSticky,
        }
    }
}

impl ProducerConfig {
    /// Sets [`idempotence`](Self::idempotence) on or off.
    #[must_use]
    pub fn idempotence(self, on: bool) -> Self {
        Self { idempotence: Some(on), ..self }
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        self.idempotence.unwrap_or(self.acks == Acks::All)
    }

    pub(crate) fn check(&self) -> Result<(), InvalidSetting> {
        let within = |setting, value: usize, max: usize, allowed| {
            let fits = (1..=max).contains(&value);
            if fits { Ok(()) } else { Err(InvalidSetting { setting, value: value.to_string(), allowed }) }
        };
        if self.is_idempotent() && self.acks != Acks::All {
            let value = format!("on with acks={}", self.acks);
            let allowed = "idempotence needs acks=all: set that, or turn idempotence off";
            return Err(InvalidSetting { setting: "idempotence", value, allowed });
        }
        within("batch_bytes", self.batch_bytes, 64 << 20, "1 byte to 64 MiB")?;
        within("in_flight_max", self.in_flight_max, 1000, "1 to 1000")?;
        within("request_bytes_max", self.request_bytes_max, MESSAGE_SIZE_MAX - (1 << 20), "1 byte to 64 MiB")?;
        within("buffer_bytes", self.buffer_bytes, u32::MAX as usize, "1 byte to 4 GiB")?;
        let positive = |setting, value: Duration| {
            let allowed = "more than zero";
            if value.is_zero() { Err(InvalidSetting { setting, value: "zero".to_owned(), allowed }) } else { Ok(()) }
        };
        positive("delivery_timeout", self.delivery_timeout)?;
        positive("request_timeout", self.request_timeout)
    }
}
