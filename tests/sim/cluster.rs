//! A whole cluster in one process: real controllers and brokers on simulated network, disks, clock and entropy.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_broker::{Broker, BrokerConfig, ExtraServices};
use highwater_controller::{Controller, ControllerConfig, MemStore};
use highwater_gateway::{Gateway, GatewayLimits};
use highwater_seams::Seams;
use highwater_storage::sim::{SimDisk, SimLatency};
use highwater_types::{BrokerId, ControllerId};

use crate::node::{Node, Storage, Switch};
use crate::world::World;

/// Controllers that found the cluster. One more runs and waits to be added.
pub const CONTROLLERS: u64 = 3;
pub const BROKERS: u32 = 3;
pub const PORT: u16 = 9092;

pub fn controller_host(id: u64) -> String {
    format!("controller-{id}")
}

pub fn broker_host(id: u32) -> String {
    format!("broker-{id}")
}

pub fn bootstrap() -> Vec<String> {
    (1..=BROKERS).map(|id| format!("{}:{PORT}", broker_host(id))).collect()
}

pub fn brokers() -> Vec<String> {
    (1..=BROKERS).map(broker_host).collect()
}

/// With the one that waits.
pub fn controllers() -> Vec<String> {
    (1..=CONTROLLERS + 1).map(controller_host).collect()
}

/// All nodes, by host name.
pub type Nodes = BTreeMap<String, Node>;

/// How often old records are let go of where that matters.
const RETENTION_INTERVAL_MS: u64 = 500;

/// Registers all nodes with the simulation. `retains`: records go by their age and size while it runs.
pub fn build(sim: &mut turmoil::Sim<'_>, world: &World, retains: bool) -> Nodes {
    let controllers = (1..=CONTROLLERS + 1).map(|id| (controller_host(id), controller(sim, world, id)));
    let mut nodes: Nodes = controllers.collect();
    nodes.extend((1..=BROKERS).map(|id| (broker_host(id), broker(sim, world, id, retains))));
    nodes
}

fn founders() -> BTreeMap<ControllerId, (String, u16)> {
    (1..=CONTROLLERS).map(|id| (ControllerId::new(id), (controller_host(id), PORT))).collect()
}

fn controller(sim: &mut turmoil::Sim<'_>, world: &World, id: u64) -> Node {
    let host = controller_host(id);
    let store = Arc::new(MemStore::new(Duration::from_micros(500)));
    let node = Node::new(Storage::Store(Arc::clone(&store)), world.seed().wrapping_add(id).rotate_left(9));
    node.switch.set_joins(id > CONTROLLERS);
    let (world, switch, name) = (world.clone(), node.switch.clone(), host.clone());
    sim.host(host.as_str(), move || {
        switch.started();
        let config = ControllerConfig {
            id: ControllerId::new(id),
            listen_host: name.clone(),
            listen_port: PORT,
            advertised: (name.clone(), PORT),
            initial_voters: if switch.joins() { BTreeMap::new() } else { founders() },
            join: switch.joins(),
            // Few enough that logs are purged and snapshots sent within a run.
            snapshot_interval_entries: 200,
            // Most who start have more than one piece of the past to read through.
            delta_bytes_max: 2_000,
            ..ControllerConfig::default()
        };
        let (world, store, switch, name) = (world.clone(), Arc::clone(&store), switch.clone(), name.clone());
        async move {
            switch.ends(control(config, &world, &name, store, &switch).await);
            Ok(())
        }
    });
    node
}

/// A controller's process. Returns why it ended.
async fn control(config: ControllerConfig, world: &World, host: &str, store: Arc<MemStore>, switch: &Switch) -> String {
    let handle = match Controller::start(config, world.seams(host), store).await {
        Ok(handle) => handle,
        Err(error) => return format!("could not start: {error}"),
    };
    let why = tokio::select! {
        biased;
        () = switch.stopped() => "was told to stop".to_owned(),
        why = handle.failed() => why,
    };
    handle.shutdown().await;
    why
}

fn broker(sim: &mut turmoil::Sim<'_>, world: &World, id: u32, retains: bool) -> Node {
    let host = broker_host(id);
    let disk = SimDisk::new(world.seed().wrapping_add(u64::from(id)));
    disk.set_latency(SimLatency::ssd());
    let node = Node::new(Storage::Disk(disk.clone()), world.seed());
    let plain = BrokerConfig::default();
    let config = BrokerConfig {
        id: BrokerId::new(id),
        listen_host: host.clone(),
        listen_port: PORT,
        advertised: Some((host.clone(), PORT)),
        controllers: founders().into_values().collect(),
        data_dirs: vec![PathBuf::from("/data")],
        // Shorter than the longest fault, so that the living take over from the dead.
        group_session_timeout_ms: 3_000,
        compaction_interval_ms: 1_000,
        retention_interval_ms: if retains { RETENTION_INTERVAL_MS } else { plain.retention_interval_ms },
        ..plain
    };
    let (world, switch, name) = (world.clone(), node.switch.clone(), host.clone());
    sim.host(host.as_str(), move || {
        switch.started();
        let (config, world, disk, switch, name) =
            (config.clone(), world.clone(), disk.clone(), switch.clone(), name.clone());
        async move {
            switch.ends(serve(config, &world, &name, &disk, &switch).await);
            Ok(())
        }
    });
    node
}

/// The door of thin clients, a client of the broker that it is in.
fn thin_clients(host: &str, seams: Seams) -> ExtraServices {
    let host = host.to_owned();
    ExtraServices::new(&[highwater_gateway::SERVICE_NAME], move |routes, broker| {
        Gateway::new(format!("{host}:{}", broker.port), GatewayLimits::default(), seams, broker.ending).mount(routes)
    })
}

/// A broker's process. Returns why it ended.
async fn serve(config: BrokerConfig, world: &World, host: &str, disk: &SimDisk, switch: &Switch) -> String {
    let handle = match Broker::start_with(
        config,
        world.seams(host),
        disk.mount(),
        thin_clients(host, world.seams(host)),
    )
    .await
    {
        Ok(handle) => handle,
        Err(error) => return format!("could not start: {error}"),
    };
    let why = tokio::select! {
        biased;
        () = switch.stopped() => "was told to stop".to_owned(),
        why = handle.fatal() => why.to_string(),
    };
    handle.shutdown().await;
    why
}
