//! Chaos on real processes: a short run over all kinds of faults, and what only a real kernel and a network that can be cut
//! show. `highwater chaos` does the same for as long as one likes.
//!
//! `HIGHWATER_CHAOS_SEED` and `HIGHWATER_CHAOS_SECONDS` choose another run.

#[path = "../processes/common.rs"]
#[allow(dead_code, reason = "shared with the tests of processes; not all of it is used here")]
mod common;

mod attached;
mod disk;
mod network;
mod short;
