//! The segmented log of one partition, on a [`Disk`] that is real or simulated.
//!
//! A partition's folder holds segments (`<20-digit base offset>.log`, whole record batches one after the other), beside
//! each an offset index and a time index (rebuildable), the leader epochs (`leader-epochs`), what the batches don't
//! say (`checkpoint`: start offset, recovery point, high watermark), whose it is (`topic-id`), and what is known of
//! producers (`<offset>.producers`, which saves reading the log again).
//!
//! - [`Log`]: append, read, truncate, retain, heal; its owner keeps it in a mutex.
//! - [`Flusher`]: group commit for the logs of a data dir. fsync is never under a log's lock (T24).
//! - [`DataDir`]: a configured folder with its lock, identity, clean-shutdown marker, and health ([`DirStatus`]).
//! - [`sim::SimDisk`]: a disk that loses, tears, flips, fills up, fails and lies.
//!
//! **Invariants**: what a [`Log`] calls durable survives power loss; what was synced is never cut by recovery, and
//! damage in it is reported, not served (P6); after a failed write or sync nothing is written any more (T44).

mod cache;
mod checkpoint;
mod compaction;
mod config;
mod data_dir;
mod disk;
pub mod dump;
mod epoch_file;
mod error;
mod flusher;
mod index;
mod log;
mod log_folder;
mod producers;
mod recovery;
mod scan;
mod segment;
mod status;
mod time_index;

pub use cache::CacheBudget;
pub use compaction::{
    Compacted, CompactionError, CompactionJob, CompactionLimits, CompactionNeed, Rewritten, Settlement,
};
pub use config::{CompactionConfig, LogConfig};
pub use data_dir::{DataDir, DataDirError, OpenedDataDir};
pub use disk::{
    DirEntry, Disk, DiskFile, DiskJob, DiskLock, DiskSpace, OpenMode, RealDisk, is_disk_full, read_small_file,
    replace_file, run_on, sim,
};
pub use error::{AppendError, DamagedRange, HealError, LogError, OpenError, ReadError};
pub use flusher::{FlushHandle, Flushable, Flusher};
pub use log::{
    Appended, DeletedSegment, DeletionReason, FileRead, HealJob, Healed, Log, NewestSearch, OpenLog, ReadPlan, SyncJob,
    TimestampFound, TimestampSearch,
};
pub use producers::{
    AbortedTransaction, BATCHES_KEPT, DuplicateOf, OngoingTransaction, ProducerDescription, ProducerStateError,
    ProducerStates, SequenceCheck,
};
pub use recovery::RecoveryReport;
pub use scan::Fault;
pub use status::DirStatus;
