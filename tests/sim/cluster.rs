//! A whole cluster in one process: real controllers, brokers and clients on simulated network, disks, clock and entropy.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use highwater_broker::{Broker, BrokerConfig};
use highwater_controller::{Controller, ControllerConfig, MemStore};
use highwater_seams::{Seams, SeededEntropy, WallClock};
use highwater_storage::sim::{Crash, SimDisk, SimLatency};
use highwater_testkit::sim_net::SimNet;
use highwater_types::{BrokerId, ControllerId};

pub const CONTROLLERS: u64 = 3;
pub const BROKERS: u32 = 3;
const PORT: u16 = 9092;

/// Simulated wall time: the simulation's own, and how far this host's clock is off.
struct SimClock(Arc<AtomicI64>);

impl WallClock for SimClock {
    fn now_ms(&self) -> i64 {
        // Any fixed epoch does; this one is in 2026.
        let now = 1_790_000_000_000 + turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_millis() as i64);
        now + self.0.load(Ordering::Relaxed)
    }
}

/// Seams of one node in one of its lives.
pub fn seams(seed: u64, host: &str, skew: &Arc<AtomicI64>) -> Seams {
    let life = turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64;
    let name = host.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    Seams {
        net: Arc::new(SimNet),
        clock: Arc::new(SimClock(Arc::clone(skew))),
        entropy: Arc::new(SeededEntropy::new(seed ^ name ^ life)),
    }
}

pub fn controller_host(id: u64) -> String {
    format!("controller-{id}")
}

pub fn broker_host(id: u32) -> String {
    format!("broker-{id}")
}

pub fn bootstrap() -> Vec<String> {
    (1..=BROKERS).map(|id| format!("{}:{PORT}", broker_host(id))).collect()
}

/// The hardware under the nodes, which outlives their crashes.
pub struct Hardware {
    pub disks: BTreeMap<String, SimDisk>,
    pub stores: BTreeMap<String, Arc<MemStore>>,
    /// In milliseconds.
    skews: BTreeMap<String, Arc<AtomicI64>>,
}

impl Hardware {
    /// Does something to the disk of a broker; controllers have none of this kind.
    pub fn with_disk(&self, host: &str, work: impl FnOnce(&SimDisk)) {
        if let Some(disk) = self.disks.get(host) {
            work(disk);
        }
    }

    pub fn set_skew(&self, host: &str, ms: i64) {
        if let Some(skew) = self.skews.get(host) {
            skew.store(ms, Ordering::Relaxed);
        }
    }

    /// What a crash of `host` does to its disk.
    pub fn crash(&self, host: &str, crash: Crash) {
        if let Some(disk) = self.disks.get(host) {
            disk.crash(crash);
        }
        if let Some(store) = self.stores.get(host) {
            store.crash();
        }
    }
}

/// Registers all nodes with the simulation.
pub fn build(sim: &mut turmoil::Sim<'_>, seed: u64) -> Hardware {
    let voters: BTreeMap<ControllerId, (String, u16)> =
        (1..=CONTROLLERS).map(|id| (ControllerId::new(id), (controller_host(id), PORT))).collect();
    let mut hardware = Hardware { disks: BTreeMap::new(), stores: BTreeMap::new(), skews: BTreeMap::new() };

    for id in 1..=CONTROLLERS {
        let host = controller_host(id);
        let store = Arc::new(MemStore::new(Duration::from_micros(500)));
        hardware.stores.insert(host.clone(), Arc::clone(&store));
        let skew = Arc::clone(hardware.skews.entry(host.clone()).or_default());
        let config = ControllerConfig {
            id: ControllerId::new(id),
            listen_host: host.clone(),
            listen_port: PORT,
            advertised: (host.clone(), PORT),
            initial_voters: voters.clone(),
            ..ControllerConfig::default()
        };
        let name = host.clone();
        sim.host(host.as_str(), move || {
            let (config, store, name, skew) = (config.clone(), Arc::clone(&store), name.clone(), Arc::clone(&skew));
            async move {
                let handle = Controller::start(config, seams(seed, &name, &skew), store).await?;
                std::future::pending::<()>().await;
                drop(handle);
                Ok(())
            }
        });
    }

    for id in 1..=BROKERS {
        let host = broker_host(id);
        let disk = SimDisk::new(seed.wrapping_add(u64::from(id)));
        disk.set_latency(SimLatency::ssd());
        hardware.disks.insert(host.clone(), disk.clone());
        let skew = Arc::clone(hardware.skews.entry(host.clone()).or_default());
        let config = BrokerConfig {
            id: BrokerId::new(id),
            listen_host: host.clone(),
            listen_port: PORT,
            advertised: Some((host.clone(), PORT)),
            controllers: voters.values().cloned().collect(),
            data_dirs: vec![PathBuf::from("/data")],
            // Shorter than the longest fault, so that the living take over from the dead.
            group_session_timeout_ms: 3_000,
            compaction_interval_ms: 1_000,
            ..BrokerConfig::default()
        };
        let name = host.clone();
        sim.host(host.as_str(), move || {
            let (config, disk, name, skew) = (config.clone(), disk.mount(), name.clone(), Arc::clone(&skew));
            async move {
                let handle = Broker::start(config, seams(seed, &name, &skew), disk).await?;
                std::future::pending::<()>().await;
                drop(handle);
                Ok(())
            }
        });
    }
    hardware
}
