//! The seams through which running code reaches the world, so that a whole cluster also runs inside one deterministic
//! test: network ([`Net`]), wall clock ([`WallClock`]) and randomness ([`Entropy`]). The disk has its own seam, in
//! `highwater-storage`. Elapsed time comes from `tokio::time` alone, which a simulation can pause.
//!
//! **Invariant**: no other crate but the binary, the tests and `testkit` names `tokio::net`, `std::net` sockets,
//! `SystemTime`, or a random number generator.

mod clock;
mod entropy;
mod net;

pub use clock::{SystemClock, WallClock};
pub use entropy::{Entropy, OsEntropy, SeededEntropy};
pub use net::{BoxedIo, Io, Listener, Net, TcpNet, channel, incoming};

use std::sync::Arc;

/// All seams, handed to every component at its start.
#[derive(Clone)]
pub struct Seams {
    pub net: Arc<dyn Net>,
    pub clock: Arc<dyn WallClock>,
    pub entropy: Arc<dyn Entropy>,
}

impl Seams {
    /// The real world.
    pub fn real() -> Self {
        Self { net: Arc::new(TcpNet), clock: Arc::new(SystemClock), entropy: Arc::new(OsEntropy) }
    }
}
