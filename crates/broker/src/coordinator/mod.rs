//! What drives the coordinators: for each partition of an internal topic that this broker leads, a shard of
//! `highwater-coordination`, loaded from that partition's log and changed by appending to it.
//!
//! The rules are those at the top of the shard's module. **Invariants**
//! - A shard lives in one leader epoch of its partition: it appends in that one only, and goes when that is over (T38).
//! - It serves once everything that was in the log when this broker became leader is replayed and committed.
//! - Nothing leaves it (answers, refusals, actions) before what it was computed from is committed, readers included.
//! - Every call is answered, exactly once: by the shard, or with why there is none (any more).

mod coordinators;
mod error;
mod load;
mod producer_ids;
mod runtime;
mod shard_driver;
#[cfg(test)]
mod tests;

pub use coordinators::{Coordinators, TransactionActions};
pub use error::{CallError, MarkerRefused};
pub use producer_ids::ProducerIds;
pub use runtime::{CoordinatorAction, CoordinatorRuntime, RuntimeConfig};
