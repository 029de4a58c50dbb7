//! The transaction coordinator: what a transactional id is up to, and the two phases that end a transaction.
//!
//! Every transaction has a producer epoch to itself (KIP-890): however it ends, the epoch is bumped, its markers carry the
//! bumped one, and the producer goes on with that. So whatever comes late from a transaction (a write, a verification, an
//! end) names an epoch that is over, and can't hit the next one (T33, T34). While the markers are written, nobody joins the next.
//!
//! **Invariants.** A transaction that is prepared has its result for good: it ends with that one on exactly the partitions
//! that it had then. Per producer id epochs only grow. All that decides is in the records (T36); what is in memory
//! alone (timers, which markers are reported already) can be lost at any moment, at the price of doing something again.

mod error;
mod record;
mod request;
mod shard;
mod state;
mod timers;

pub use error::Error;
pub use request::{Action, Request, Response, TransactionDescription};
pub use shard::{TransactionConfig, TransactionShard};
pub use state::TransactionState;

#[cfg(test)]
mod tests;
