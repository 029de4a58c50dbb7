//! One node of the cluster: its machine, which outlives its process, and the switch by which the process is stopped.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use highwater_controller::MemStore;
use highwater_seams::{Entropy, SeededEntropy};
use highwater_storage::sim::{Crash, SimDisk};
use tokio::sync::watch;

/// What a node keeps its data on.
pub enum Storage {
    /// Of a broker.
    Disk(SimDisk),
    /// Of a controller.
    Store(Arc<MemStore>),
}

pub struct Node {
    pub storage: Storage,
    pub switch: Switch,
    random: SeededEntropy,
}

impl Node {
    pub fn new(storage: Storage, seed: u64) -> Self {
        Self { storage, switch: Switch::default(), random: SeededEntropy::new(seed) }
    }

    /// The disk of a broker.
    pub fn disk(&self) -> Option<&SimDisk> {
        match &self.storage {
            Storage::Disk(disk) => Some(disk),
            Storage::Store(_) => None,
        }
    }

    /// What the end of its process, or of its power, does to what it has written.
    pub fn crash(&self, power_loss: bool) {
        match &self.storage {
            Storage::Disk(disk) => disk.crash(if power_loss { Crash::Power } else { Crash::Process }),
            // Part of what was not synced may be on the device in either case: the store writes from a thread of its own.
            Storage::Store(store) => store.crash(self.random.below(store.unsynced() as u64 + 1) as usize),
        }
    }

    /// Its process is to die after so many more calls to its disk: of a controller, when it comes to the next.
    pub fn die_after(&self, calls: u64) {
        match &self.storage {
            Storage::Disk(disk) => disk.end_run_after(calls),
            Storage::Store(store) => store.end_life_after(calls),
        }
    }

    /// Whether it has come to that call.
    pub fn is_to_die(&self) -> bool {
        match &self.storage {
            Storage::Disk(disk) => disk.is_run_over(),
            Storage::Store(store) => store.is_life_over(),
        }
    }

    /// While it is stalled, nothing that waits for its disk goes on.
    pub fn stall(&self, stalled: bool) {
        match &self.storage {
            Storage::Disk(disk) => disk.stall(stalled),
            Storage::Store(store) => store.stall(stalled),
        }
    }
}

/// Between a node's process and the run that watches over it. Clones are the same switch.
#[derive(Clone, Default)]
pub struct Switch(Rc<Inner>);

#[derive(Default)]
struct Inner {
    stop: watch::Sender<bool>,
    /// Why the process has ended by itself.
    ended: RefCell<Option<String>>,
    /// A controller waits to be added to a cluster that exists.
    joins: Cell<bool>,
}

impl Switch {
    /// For a process that starts: nobody has told it to stop.
    pub fn started(&self) {
        self.0.stop.send_replace(false);
        self.0.ended.take();
    }

    /// Asks the process to end in good order.
    pub fn stop(&self) {
        self.0.stop.send_replace(true);
    }

    pub async fn stopped(&self) {
        // The sender is a part of this switch.
        let _ = self.0.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// The process ends, and why.
    pub fn ends(&self, why: String) {
        self.0.ended.replace(Some(why));
    }

    /// Why it has ended, once.
    pub fn take_end(&self) -> Option<String> {
        self.0.ended.take()
    }

    pub fn joins(&self) -> bool {
        self.0.joins.get()
    }

    pub fn set_joins(&self, joins: bool) {
        self.0.joins.set(joins);
    }
}
