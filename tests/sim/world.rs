//! What every host of one simulation shares: the seed, the network's connections, and the clocks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use highwater_seams::{Seams, SeededEntropy, WallClock};
use highwater_testkit::sim_net::Connections;

/// Clones are the same world.
#[derive(Clone)]
pub struct World {
    seed: u64,
    pub connections: Connections,
    /// How far each host's clock is off, in milliseconds.
    skews: Rc<RefCell<BTreeMap<String, Arc<AtomicI64>>>>,
}

/// Simulated wall time: the simulation's own, and how far this host's clock is off.
struct SimClock(Arc<AtomicI64>);

impl WallClock for SimClock {
    fn now_ms(&self) -> i64 {
        // Any fixed epoch does; this one is in 2026.
        let now = 1_790_000_000_000 + turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_millis() as i64);
        now + self.0.load(Ordering::Relaxed)
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self { seed, connections: Connections::default(), skews: Rc::default() }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Seams of one host in one of its lives.
    pub fn seams(&self, host: &str) -> Seams {
        let life = turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64;
        let name =
            host.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Seams {
            net: Arc::new(self.connections.of(host)),
            clock: Arc::new(SimClock(self.skew(host))),
            entropy: Arc::new(SeededEntropy::new(self.seed ^ name ^ life)),
        }
    }

    /// Sets how far the host's wall clock is off.
    pub fn set_skew(&self, host: &str, ms: i64) {
        self.skew(host).store(ms, Ordering::Relaxed);
    }

    fn skew(&self, host: &str) -> Arc<AtomicI64> {
        Arc::clone(self.skews.borrow_mut().entry(host.to_owned()).or_default())
    }
}
