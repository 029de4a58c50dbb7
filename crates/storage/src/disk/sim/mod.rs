//! A disk in memory that does what real ones do at the worst moment: it loses what was not synced (data, and names in
//! folders that were not synced), tears writes, flips bits, fills up, fails and lies. Seeded: the same calls in the same
//! order have the same outcome.
//!
//! [`SimDisk`] is the hardware, which outlives a crash; [`SimDisk::mount`] is the disk as one run of a process sees it,
//! which a crash makes useless, so that nothing of the old process writes into the new one's files.

mod content;
mod mount;
mod tree;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use self::tree::{NodeId, Tree};
use super::Disk;

/// How long the simulated device takes. Zero needs no tokio timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SimLatency {
    /// Shortest and longest time of a sync, evenly drawn.
    pub sync: (Duration, Duration),
    /// Shortest and longest time of a cold read.
    pub read: (Duration, Duration),
}

impl SimLatency {
    /// About what a virtual SSD takes.
    pub fn ssd() -> Self {
        let micros = Duration::from_micros;
        Self { sync: (micros(150), micros(2_000)), read: (micros(50), micros(400)) }
    }
}

/// How a crash treats what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; the page cache lives on. Nothing is lost.
    Process,
    /// Power loss: of what was not synced, anything may be there or not, and half writes are possible.
    Power,
    /// Power loss in which nothing that was not synced survives.
    PowerLosingAll,
}

/// What goes wrong next.
#[derive(Debug, Clone, Default)]
struct Faults {
    fail_syncs: Option<String>,
    fail_writes: Option<String>,
    fail_reads: Option<String>,
    lie_about_syncs: bool,
}

/// A small generator (SplitMix64), so that the pure part of a simulation needs no dependency.
#[derive(Debug, Clone)]
pub(in crate::disk) struct SimRandom(u64);

impl SimRandom {
    pub(in crate::disk) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub(in crate::disk) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    fn between(&mut self, (low, high): (Duration, Duration)) -> Duration {
        let span = high.saturating_sub(low).as_nanos() as u64;
        low + Duration::from_nanos(self.below(span.saturating_add(1)))
    }
}

struct State {
    tree: Tree,
    random: SimRandom,
    faults: Faults,
    latency: SimLatency,
    /// Bytes that files may hold in all.
    capacity: u64,
    /// Counts crashes: a mount of an older run is dead.
    run: u64,
    locks: Vec<std::path::PathBuf>,
    /// So many more calls succeed in this run.
    calls_left: Option<u64>,
    syncs: u64,
}

/// The simulated hardware. Cloning gives another handle to the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    stalled: Arc<watch::Sender<bool>>,
}

impl SimDisk {
    /// An empty disk without a size limit and without latency.
    pub fn new(seed: u64) -> Self {
        let state = State {
            tree: Tree::new(),
            random: SimRandom(seed),
            faults: Faults::default(),
            latency: SimLatency::default(),
            capacity: u64::MAX,
            run: 0,
            locks: Vec::new(),
            calls_left: None,
            syncs: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), stalled: Arc::new(watch::Sender::new(false)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as the process sees it that starts now.
    pub fn mount(&self) -> Arc<dyn Disk> {
        let run = self.state().run;
        Arc::new(mount::Mount { disk: self.clone(), run })
    }

    /// Ends the present run: all its open files and locks are dead. What stays on the disk depends on `crash`.
    pub fn crash(&self, crash: Crash) {
        let mut state = self.state();
        state.run += 1;
        state.locks.clear();
        state.calls_left = None;
        let State { tree, random, .. } = &mut *state;
        match crash {
            Crash::Process => {}
            Crash::Power => tree.lose_unsynced(random, false),
            Crash::PowerLosingAll => tree.lose_unsynced(random, true),
        }
    }

    /// Another, empty disk is in its place.
    pub fn replace(&self) {
        self.crash(Crash::Process);
        self.state().tree = Tree::new();
    }

    pub fn set_latency(&self, latency: SimLatency) {
        self.state().latency = latency;
    }

    /// Sets how many bytes all files together may hold; more is refused with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// The present run ends after so many more calls, wherever that is: what follows fails. Then [`SimDisk::crash`] says what
    /// is left.
    pub fn end_run_after(&self, calls: u64) {
        self.state().calls_left = Some(calls);
    }

    /// Whether the calls that [`SimDisk::end_run_after`] left to the present run are used up.
    pub fn is_run_over(&self) -> bool {
        self.state().calls_left == Some(0)
    }

    /// While it is stalled, whatever waits for the device goes on waiting: syncs and cold reads.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// What a call takes that waits for the device.
    async fn pause(&self, time: Duration) {
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        // The sender is a part of this disk.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
    }

    /// From now on, syncs of files whose path contains `path_part` fail, and what they should have made durable is
    /// never durable even if a later sync succeeds, as on Linux (T44). `None` ends it.
    pub fn fail_syncs(&self, path_part: Option<&str>) {
        self.state().faults.fail_syncs = path_part.map(str::to_owned);
    }

    /// From now on, writes to files whose path contains `path_part` fail after a part of them was written.
    pub fn fail_writes(&self, path_part: Option<&str>) {
        self.state().faults.fail_writes = path_part.map(str::to_owned);
    }

    pub fn fail_reads(&self, path_part: Option<&str>) {
        self.state().faults.fail_reads = path_part.map(str::to_owned);
    }

    /// Syncs say that they succeeded and do nothing: what a test of the tests looks for.
    pub fn lie_about_syncs(&self, lie: bool) {
        self.state().faults.lie_about_syncs = lie;
    }

    /// Flips one bit of a file, in the page cache and on the device.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state();
        let file = state.tree.file_at(path)?;
        state.tree.content(file).flip(byte as usize, bit)
    }

    /// Flips a bit somewhere in a file, and says at which byte. `None` if the file is empty.
    pub fn flip_random_bit(&self, path: &Path) -> io::Result<Option<u64>> {
        let mut state = self.state();
        let file = state.tree.file_at(path)?;
        let len = state.tree.content(file).len();
        if len == 0 {
            return Ok(None);
        }
        let (byte, bit) = (state.random.below(len), state.random.below(8) as u8);
        state.tree.content(file).flip(byte as usize, bit)?;
        Ok(Some(byte))
    }

    /// One of `items`, drawn by the disk's own randomness.
    pub fn one_of<'i, T>(&self, items: &'i [T]) -> Option<&'i T> {
        let index = self.state().random.below(items.len() as u64);
        items.get(index as usize)
    }

    /// The paths of all files, sorted.
    pub fn files(&self) -> Vec<std::path::PathBuf> {
        self.state().tree.files()
    }

    /// How many syncs of files have succeeded.
    pub fn sync_count(&self) -> u64 {
        self.state().syncs
    }

    pub fn used_bytes(&self) -> u64 {
        self.state().tree.used_bytes()
    }
}

impl State {
    fn check_run(&mut self, run: u64) -> io::Result<()> {
        let is_over = self.calls_left == Some(0);
        self.calls_left = self.calls_left.map(|calls| calls.saturating_sub(1));
        if self.run == run && !is_over {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::NotConnected, "this run of the process has ended"))
        }
    }

    fn hit(fault: &Option<String>, path: &Path) -> bool {
        fault.as_ref().is_some_and(|part| path.to_string_lossy().contains(part.as_str()))
    }

    /// Begins a sync: what it covers, and how long it takes.
    fn begin_sync(&mut self, file: NodeId) -> (u64, Duration) {
        let covered = self.tree.content(file).written();
        (covered, self.random.between(self.latency.sync))
    }

    fn end_sync(&mut self, file: NodeId, path: &Path, covered: u64) -> io::Result<()> {
        if Self::hit(&self.faults.fail_syncs, path) {
            self.tree.content(file).doom(covered);
            return Err(io::Error::other("simulated: the device failed to write"));
        }
        if !self.faults.lie_about_syncs {
            self.tree.content(file).persist(covered);
        }
        self.syncs += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
