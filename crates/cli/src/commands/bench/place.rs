//! Where a benchmark runs: against a cluster that is there, or one that it starts; in a topic that is there, or one
//! that it makes and removes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use highwater_client::{Client, NewTopic};
use highwater_testkit::usage::Usage;
use highwater_testkit::{LocalCluster, LocalClusterConfig, NodeId};

use super::report::ServerUse;
use crate::args::{ConnectArgs, parse_pair};
use crate::commands::cluster::this_binary;
use crate::failure::{Failure, Outcome};

#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// Measure a cluster started for this alone, on this machine: 3 controllers and 3 brokers as processes. Then the
    /// servers' processor time and memory are reported too.
    #[arg(long)]
    pub local: bool,
    /// With --local: a setting of every node, by name and as TOML; can be given several times.
    #[arg(long, value_parser = parse_pair, value_name = "NAME=VALUE", requires = "local")]
    pub set: Vec<(String, String)>,
    /// Use this topic, and leave it; otherwise one is made, and deleted at the end.
    #[arg(long, short = 't', value_name = "NAME")]
    pub topic: Option<String>,
    /// Partitions of the topic that is made.
    #[arg(long, short = 'p', default_value = "6", value_parser = clap::value_parser!(u32).range(1..))]
    pub partitions: u32,
    /// Replicas of each.
    #[arg(long, short = 'r', default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    pub replication_factor: u32,
    /// When a replica counts a record as its own: once it is on its disk (sync), or in its page cache (replicated).
    #[arg(long, value_enum, default_value_t)]
    pub durability: DurabilityArg,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArg {
    #[default]
    Sync,
    Replicated,
}

impl DurabilityArg {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Replicated => "replicated",
        }
    }
}

/// What the topic measured is like, whoever made it.
#[derive(Debug, Clone)]
pub struct Shape {
    pub partitions: usize,
    pub replication_factor: usize,
    pub durability: String,
}

impl Shape {
    async fn of(client: &Client, topic: &str) -> Outcome<Self> {
        let described = client.admin().describe_topic(topic).await?;
        Ok(Self {
            partitions: described.partitions.len(),
            replication_factor: described.partitions.iter().map(|it| it.replicas.len()).max().unwrap_or(0),
            durability: described.configs.get("durability").cloned().unwrap_or_else(|| "sync".to_owned()),
        })
    }
}

/// A cluster and a topic to measure.
pub struct Bench {
    pub client: Client,
    /// How others reach the cluster.
    pub bootstrap: String,
    pub topic: String,
    pub shape: Shape,
    made_topic: bool,
    local: Option<LocalCluster>,
}

impl Bench {
    pub async fn set_up(args: &PlaceArgs) -> Outcome<Self> {
        let mut connect = args.connect.clone();
        let local = match args.local {
            false => None,
            true => {
                let config =
                    LocalClusterConfig { settings: args.set.clone(), ..LocalClusterConfig::new(this_binary()?) };
                let cluster = LocalCluster::start(config).await?;
                connect.bootstrap = cluster.bootstrap();
                Some(cluster)
            }
        };
        let client = connect.connect().await?;
        let (topic, made_topic) = match &args.topic {
            Some(topic) => (topic.clone(), false),
            None => {
                let stamp = highwater_seams::Seams::real().entropy.next_u64();
                let topic = format!("bench-{stamp:016x}");
                let new = NewTopic::new(&topic, args.partitions, args.replication_factor)
                    .config("durability", args.durability.name());
                client.admin().create_topic(new).await?;
                (topic, true)
            }
        };
        let shape = Shape::of(&client, &topic).await?;
        Ok(Self { client, bootstrap: connect.bootstrap, topic, shape, made_topic, local })
    }

    /// Kills (kill -9) a node of a cluster that is ours.
    pub fn kill(&mut self, node: NodeId) -> Outcome {
        match &mut self.local {
            Some(cluster) => Ok(cluster.kill(node)?),
            None => Err(Failure::usage("only nodes of a cluster started for this (--local) can be killed")),
        }
    }

    /// What each server has used so far; none if the cluster is not ours.
    pub fn usage(&self) -> Vec<(String, Usage)> {
        let nodes = self.local.iter().flat_map(LocalCluster::nodes);
        nodes.filter_map(|(id, node)| Some((id.to_string(), Usage::of(node.pid()?)?))).collect()
    }

    /// What the servers used since `before`.
    pub fn usage_since(&self, before: &[(String, Usage)]) -> Vec<ServerUse> {
        let one = |(node, now): (String, Usage)| {
            let then = before.iter().find(|(name, _)| *name == node).map(|(_, usage)| usage.cpu).unwrap_or_default();
            ServerUse {
                node,
                cpu_seconds: now.cpu.saturating_sub(then).as_secs_f64(),
                resident_bytes: now.resident_bytes,
                resident_bytes_max: now.resident_bytes_max,
            }
        };
        self.usage().into_iter().map(one).collect()
    }

    pub async fn tear_down(self) -> Outcome {
        if self.made_topic && self.local.is_none() {
            self.client.admin().delete_topic(&self.topic).await?;
        }
        if let Some(cluster) = self.local {
            cluster.shutdown(Duration::from_secs(10)).await?;
        }
        Ok(())
    }
}
