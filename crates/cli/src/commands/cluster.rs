//! `highwater cluster`: runs a local cluster, shows a cluster, changes who its controllers are.

mod up;

pub use up::{EndSignal, check_controllers, print_cluster, this_binary};

use clap::{Args, Subcommand};
use highwater_client::{BrokerId, ClusterDescription, ControllerId, NodeAddress};
use serde::Serialize;

use crate::args::{ConnectArgs, block_on};
use crate::failure::{Failure, Outcome};
use crate::output::{OutputArgs, facts, line, table};

/// Run a local cluster, show one, change its controllers.
#[derive(Debug, Args)]
pub struct Cluster {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    Up(up::Up),
    Describe(Describe),
    AddController(AddController),
    RemoveController(RemoveController),
}

/// Show brokers, controllers, and how many partitions are short of replicas.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater cluster describe
  highwater cluster describe --bootstrap 10.0.0.1:9092 --output json")]
struct Describe {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Add a controller to the quorum: it must be running already, with controller.join = true.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  highwater cluster add-controller 4 10.0.0.4:9093")]
struct AddController {
    /// Its id.
    id: u64,
    /// Where it is reached.
    #[arg(value_name = "HOST:PORT")]
    address: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Remove a controller from the quorum; its process can then be ended for good.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  highwater cluster remove-controller 4")]
struct RemoveController {
    /// Its id.
    id: u64,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Serialize)]
struct ClusterOut {
    cluster_id: String,
    metadata_version: u64,
    active_controller: Option<u64>,
    topics: u32,
    partitions: u32,
    under_replicated_partitions: u32,
    offline_partitions: u32,
    controllers: Vec<ControllerOut>,
    brokers: Vec<BrokerOut>,
}

#[derive(Debug, Serialize)]
struct ControllerOut {
    id: u64,
    address: Option<String>,
    role: &'static str,
    matched_index: u64,
}

#[derive(Debug, Serialize)]
struct BrokerOut {
    id: u32,
    address: String,
    rack: Option<String>,
    state: &'static str,
    leads: usize,
    replicas: usize,
}

impl ClusterOut {
    fn of(cluster: ClusterDescription, held: impl Fn(BrokerId) -> (usize, usize)) -> Self {
        let active = cluster.active_controller;
        let controllers = cluster.controllers.into_iter().map(|it| ControllerOut {
            id: it.id.get(),
            address: it.address.map(|at| at.to_string()),
            role: match (active == Some(it.id), it.voter) {
                (true, _) => "active",
                (false, true) => "voter",
                (false, false) => "learner",
            },
            matched_index: it.matched_index,
        });
        let brokers = cluster.brokers.into_iter().map(|it| {
            let (leads, replicas) = held(it.id);
            BrokerOut {
                id: it.id.get(),
                address: it.address.to_string(),
                rack: it.rack,
                state: if it.fenced { "fenced" } else { "in service" },
                leads,
                replicas,
            }
        });
        Self {
            cluster_id: cluster.cluster_id,
            metadata_version: cluster.metadata_version.get(),
            active_controller: active.map(ControllerId::get),
            topics: cluster.topics,
            partitions: cluster.partitions,
            under_replicated_partitions: cluster.under_replicated_partitions,
            offline_partitions: cluster.offline_partitions,
            controllers: controllers.collect(),
            brokers: brokers.collect(),
        }
    }

    fn describe(&self) -> String {
        let head = facts(&[
            ("cluster", self.cluster_id.clone()),
            ("metadata version", self.metadata_version.to_string()),
            ("topics", self.topics.to_string()),
            ("partitions", self.partitions.to_string()),
            ("under-replicated", self.under_replicated_partitions.to_string()),
            ("offline", self.offline_partitions.to_string()),
        ]);
        let controllers = self.controllers.iter().map(|it| {
            let address = it.address.clone().unwrap_or_else(|| "-".to_owned());
            vec![it.id.to_string(), address, it.role.to_owned(), it.matched_index.to_string()]
        });
        let brokers = self.brokers.iter().map(|it| {
            vec![
                it.id.to_string(),
                it.address.clone(),
                it.rack.clone().unwrap_or_else(|| "-".to_owned()),
                it.state.to_owned(),
                it.leads.to_string(),
                it.replicas.to_string(),
            ]
        });
        format!(
            "{head}\n\n{}\n\n{}",
            table(&["#controller", "address", "role", "#log index"], controllers),
            table(&["#broker", "address", "rack", "state", "#leads", "#replicas"], brokers)
        )
    }
}

impl Cluster {
    pub fn run(self) -> Outcome {
        match self.command {
            ClusterCommand::Up(command) => command.run(),
            ClusterCommand::Describe(command) => block_on(command.run()),
            ClusterCommand::AddController(command) => block_on(command.run()),
            ClusterCommand::RemoveController(command) => block_on(command.run()),
        }
    }
}

impl Describe {
    async fn run(self) -> Outcome {
        let client = self.connect.connect().await?;
        let cluster = client.admin().describe_cluster().await?;
        let metadata = client.metadata();
        let partitions = || metadata.topics().flat_map(|topic| &topic.partitions);
        let held = |id| {
            let leads = partitions().filter(|it| it.leader == Some(id)).count();
            (leads, partitions().filter(|it| it.replicas.contains(&id)).count())
        };
        self.output.print(&ClusterOut::of(cluster, held), ClusterOut::describe)
    }
}

impl AddController {
    async fn run(self) -> Outcome {
        let address = NodeAddress::parse(&self.address).map_err(|_| {
            Failure::usage(format!(
                "{:?} is no address of a controller; write HOST:PORT, as in 10.0.0.4:9093",
                self.address
            ))
        })?;
        let client = self.connect.connect().await?;
        client.admin().add_controller(ControllerId::new(self.id), address).await?;
        line(format!("controller {} added; `highwater cluster describe` shows the quorum", self.id))
    }
}

impl RemoveController {
    async fn run(self) -> Outcome {
        let client = self.connect.connect().await?;
        client.admin().remove_controller(ControllerId::new(self.id)).await?;
        line(format!("controller {} removed; its process can be ended", self.id))
    }
}
