//! The record batch v2 of Kafka: the one format of producers, log files, replication and consumers.
//!
//! A batch is built once, by the producer ([`BatchBuilder`]); a leader checks it wholly ([`validate_produce`]) and
//! [`stamp`]s it; from then on its bytes are only cut ([`split`]), stored and passed on. Layout: KIP-98 and
//! `DefaultRecordBatch` of Apache Kafka.
//!
//! Pure, and made for hostile input: nothing here panics on any bytes, and no size, count or length off the wire is
//! believed before the bytes that it claims were seen (T47).

mod batch;
mod builder;
mod compact;
mod compression;
mod control;
mod epochs;
mod error;
mod header;
mod murmur;
mod record;
mod sliding;
mod validate;
mod varint;

pub use batch::{Batch, set_append_time, set_producer, split, split_prefix, stamp};
pub use builder::BatchBuilder;
pub use compact::{FILLER_OFFSETS_MAX, Unpacked, filler};
pub use compression::{Compression, UnknownCompression};
pub use control::{EndTransactionMarker, TransactionResult, control_batch};
pub use epochs::{EpochHistory, EpochOrderError};
pub use error::{BatchError, RecordProblem, RefusedRecords};
pub use header::{Attributes, BatchHeader, HEADER_LEN, LENGTH_PREFIX, MAGIC};
pub use murmur::{murmur2, partition_for_key};
pub use record::{Header, Record, Records};
pub use validate::{ProduceLimits, Step, Validation, validate_produce};
