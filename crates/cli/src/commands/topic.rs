//! `highwater topic`: creates, shows, changes and deletes topics.

use std::str::FromStr;

use clap::{Args, Subcommand};
use highwater_client::{
    Admin, AdminError, BrokerId, ErrorCode, NewTopic, Offset, PartitionDescription, PartitionId, TopicAlteration,
    TopicMetadata,
};
use highwater_types::is_internal_topic;
use serde::Serialize;

use crate::args::{ConnectArgs, block_on, parse_pair};
use crate::failure::{Failure, Outcome};
use crate::output::{OutputArgs, bytes, facts, line, list, table};

/// Create, list, describe, alter and delete topics.
#[derive(Debug, Args)]
pub struct Topic {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    Create(Create),
    List(List),
    Describe(Describe),
    Alter(Alter),
    Delete(Delete),
    DeleteRecords(DeleteRecords),
    ElectLeaders(ElectLeaders),
}

/// Create a topic.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater topic create orders --partitions 6 --replication-factor 3
  highwater topic create metrics -p 12 --config durability=replicated
  highwater topic create pinned --assignment 1:2:3 --assignment 2:3:1")]
struct Create {
    /// Its name: a-z, A-Z, 0-9, '.', '_' and '-'.
    name: String,
    /// How many partitions; the cluster's default if not said.
    #[arg(long, short = 'p', value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "assignment")]
    partitions: Option<u32>,
    /// How many replicas of each; the cluster's default if not said.
    #[arg(long, short = 'r', value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "assignment")]
    replication_factor: Option<u32>,
    /// A config other than its default (`topic describe` shows all); can be given several times.
    #[arg(long = "config", short = 'c', value_parser = parse_pair, value_name = "NAME=VALUE")]
    configs: Vec<(String, String)>,
    /// The brokers of one partition, the preferred leader first; once for each partition.
    #[arg(long, value_name = "ID:ID:...")]
    assignment: Vec<Assignment>,
    /// Succeed, and change nothing, if the topic is there already.
    #[arg(long)]
    if_not_exists: bool,
    /// Only check whether it could be created.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// List all topics.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater topic list
  highwater topic list --output json")]
struct List {
    /// Also the cluster's own topics, whose names begin with __.
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Show a topic: partitions, leaders, replicas, offsets, configs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater topic describe orders
  highwater topic describe orders --output json")]
struct Describe {
    /// Its name.
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Change configs of a topic, or add partitions.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater topic alter orders --set retention.ms=3600000 --set min.insync.replicas=2
  highwater topic alter orders --unset retention.ms
  highwater topic alter orders --partitions 12    # keys then go to other partitions")]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
struct Alter {
    /// Its name.
    name: String,
    /// Set a config; can be given several times.
    #[arg(long, value_parser = parse_pair, value_name = "NAME=VALUE", group = "change")]
    set: Vec<(String, String)>,
    /// Put a config back to its default; can be given several times.
    #[arg(long, value_name = "NAME", group = "change")]
    unset: Vec<String>,
    /// Grow to so many partitions.
    #[arg(long, short = 'p', value_parser = clap::value_parser!(u32).range(1..), group = "change")]
    partitions: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Delete a topic and all its records.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  highwater topic delete orders")]
struct Delete {
    /// Its name.
    name: String,
    /// Succeed if there is no such topic.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Delete the oldest records of a partition.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater topic delete-records orders --partition 0 --before 1000
  highwater topic delete-records orders --partition 0 --before end")]
struct DeleteRecords {
    /// The topic's name.
    name: String,
    /// The partition.
    #[arg(long)]
    partition: u32,
    /// Records below this offset are deleted; `end`: all committed ones.
    #[arg(long, value_name = "OFFSET|end")]
    before: Before,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Move leadership back to the preferred (first) replica of each partition, where that is in sync.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater topic elect-leaders            # of all topics
  highwater topic elect-leaders orders")]
struct ElectLeaders {
    /// The topics; all if none is named.
    names: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone)]
struct Assignment(Vec<BrokerId>);

impl FromStr for Assignment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let ids: Result<Vec<BrokerId>, _> = text.split(':').map(str::parse).collect();
        ids.map(Self).map_err(|_| "must be broker ids separated by colons, as in 1:2:3".to_owned())
    }
}

#[derive(Debug, Clone, Copy)]
struct Before(Option<Offset>);

impl FromStr for Before {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "end" {
            return Ok(Self(None));
        }
        match text.parse::<i64>() {
            Ok(offset) if offset >= 0 => Ok(Self(Some(Offset::new(offset)))),
            _ => Err("must be an offset, or end".to_owned()),
        }
    }
}

/// A topic, as printed.
#[derive(Debug, Serialize)]
struct TopicOut {
    name: String,
    topic_id: String,
    replication_factor: usize,
    partitions: Vec<PartitionOut>,
    /// Set on the topic, or (where described) all of them.
    configs: Vec<ConfigOut>,
}

#[derive(Debug, Serialize)]
struct ConfigOut {
    name: String,
    value: String,
    overridden: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    help: String,
}

#[derive(Debug, Serialize)]
struct PartitionOut {
    partition: u32,
    leader: Option<u32>,
    leader_epoch: i32,
    replicas: Vec<u32>,
    isr: Vec<u32>,
    elr: Vec<u32>,
    /// As the leader says; absent where nobody was asked or nobody leads.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    log: Option<LogOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct LogOut {
    log_start_offset: i64,
    high_watermark: i64,
    log_end_offset: i64,
    size_bytes: u64,
    replica_progress: Vec<ProgressOut>,
}

#[derive(Debug, Serialize)]
struct ProgressOut {
    broker: u32,
    acknowledged_offset: Option<i64>,
    in_sync: bool,
    behind_ms: u128,
}

impl TopicOut {
    fn of(topic: &TopicMetadata) -> Self {
        let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.get()).collect();
        let partition = |it: &highwater_client::PartitionMetadata| PartitionOut {
            partition: it.id.get(),
            leader: it.leader.map(BrokerId::get),
            leader_epoch: it.leader_epoch.get(),
            replicas: numbers(&it.replicas),
            isr: numbers(&it.isr),
            elr: numbers(&it.elr),
            log: None,
            error: None,
        };
        let config = |(name, value): (&String, &String)| ConfigOut {
            name: name.clone(),
            value: value.clone(),
            overridden: true,
            help: String::new(),
        };
        Self {
            name: topic.name.to_string(),
            topic_id: topic.id.to_string(),
            replication_factor: topic.partitions.iter().map(|it| it.replicas.len()).max().unwrap_or(0),
            partitions: topic.partitions.iter().map(partition).collect(),
            configs: topic.configs.iter().map(config).collect(),
        }
    }

    fn under_replicated(&self) -> usize {
        self.partitions.iter().filter(|it| it.isr.len() < it.replicas.len()).count()
    }

    fn set_configs(&self) -> String {
        list(self.configs.iter().filter(|it| it.overridden).map(|it| format!("{}={}", it.name, it.value)))
    }

    /// Takes in what the leaders say.
    fn add(&mut self, described: Vec<PartitionDescription>) {
        for it in described {
            let Some(partition) = self.partitions.get_mut(it.partition.get() as usize) else { continue };
            if let Some((code, message)) = it.error {
                partition.error = Some(format!("{message} ({code})"));
                continue;
            }
            let progress = it.replicas.iter().map(|replica| ProgressOut {
                broker: replica.broker.get(),
                acknowledged_offset: replica.acknowledged_offset.map(Offset::get),
                in_sync: replica.in_sync,
                behind_ms: replica.behind.as_millis(),
            });
            partition.log = Some(LogOut {
                log_start_offset: it.log_start_offset.get(),
                high_watermark: it.high_watermark.get(),
                log_end_offset: it.log_end_offset.get(),
                size_bytes: it.size_bytes,
                replica_progress: progress.collect(),
            });
        }
    }

    /// Partitions in a table, with a head of facts and, if they are all known, the configs.
    fn describe(&self) -> String {
        let of_log = |it: &PartitionOut, get: fn(&LogOut) -> String| it.log.as_ref().map_or("-".to_owned(), get);
        let rows = self.partitions.iter().map(|it| {
            vec![
                it.partition.to_string(),
                it.leader.map_or("none".to_owned(), |leader| leader.to_string()),
                it.leader_epoch.to_string(),
                list(&it.replicas),
                list(&it.isr),
                list(&it.elr),
                of_log(it, |log| log.log_start_offset.to_string()),
                of_log(it, |log| log.high_watermark.to_string()),
                of_log(it, |log| log.log_end_offset.to_string()),
                of_log(it, |log| bytes(log.size_bytes)),
            ]
        });
        let heads =
            ["#partition", "#leader", "#epoch", "replicas", "isr", "elr", "#start", "#high watermark", "#end", "#size"];
        let mut text = facts(&[
            ("topic", self.name.clone()),
            ("topic id", self.topic_id.clone()),
            ("partitions", self.partitions.len().to_string()),
            ("replication factor", self.replication_factor.to_string()),
            ("under-replicated", self.under_replicated().to_string()),
        ]);
        text.push_str(&format!("\n\n{}", table(&heads, rows)));
        for it in &self.partitions {
            if let Some(error) = &it.error {
                text.push_str(&format!("\npartition {}: {error}", it.partition));
            }
        }
        if !self.configs.is_empty() {
            let rows = self.configs.iter().map(|it| {
                let set = if it.overridden { "yes" } else { "" };
                vec![it.name.clone(), it.value.clone(), set.to_owned(), it.help.clone()]
            });
            text.push_str(&format!("\n\n{}", table(&["config", "value", "set", "meaning"], rows)));
        }
        text
    }
}

impl Topic {
    pub fn run(self) -> Outcome {
        match self.command {
            TopicCommand::Create(command) => block_on(command.run()),
            TopicCommand::List(command) => block_on(command.run()),
            TopicCommand::Describe(command) => block_on(command.run()),
            TopicCommand::Alter(command) => block_on(command.run()),
            TopicCommand::Delete(command) => block_on(command.run()),
            TopicCommand::DeleteRecords(command) => block_on(command.run()),
            TopicCommand::ElectLeaders(command) => block_on(command.run()),
        }
    }
}

impl Create {
    async fn run(self) -> Outcome {
        let client = self.connect.connect().await?;
        let mut topic = if self.assignment.is_empty() {
            NewTopic::new(&self.name, self.partitions.unwrap_or(0), self.replication_factor.unwrap_or(0))
        } else {
            NewTopic::with_assignments(&self.name, self.assignment.into_iter().map(|it| it.0).collect())
        };
        for (name, value) in self.configs {
            topic = topic.config(name, value);
        }
        if self.dry_run {
            topic = topic.validate_only();
        }
        let created = match client.admin().create_topic(topic).await {
            Err(error) if self.if_not_exists && error.code == ErrorCode::TopicAlreadyExists => {
                return line(format!("topic {} is there already", self.name));
            }
            other => TopicOut::of(&other?),
        };
        self.output.print(&created, |it| {
            let done = if self.dry_run { "could be created" } else { "created" };
            let (partitions, replicas) = (it.partitions.len(), it.replication_factor);
            format!("topic {} {done}: {partitions} partition(s) of {replicas} replica(s)", it.name)
        })
    }
}

impl List {
    async fn run(self) -> Outcome {
        let client = self.connect.connect().await?;
        let topics = client.admin().list_topics().await?;
        let shown = topics.iter().map(TopicOut::of).filter(|it| self.internal || !is_internal_topic(&it.name));
        let topics: Vec<TopicOut> = shown.collect();
        self.output.print(&topics, |topics| {
            let rows = topics.iter().map(|it| {
                vec![
                    it.name.clone(),
                    it.partitions.len().to_string(),
                    it.replication_factor.to_string(),
                    it.under_replicated().to_string(),
                    it.partitions.iter().filter(|partition| partition.leader.is_none()).count().to_string(),
                    it.set_configs(),
                ]
            });
            table(&["topic", "#partitions", "#replicas", "#under-replicated", "#offline", "configs set"], rows)
        })
    }
}

impl Describe {
    async fn run(self) -> Outcome {
        let admin = self.connect.connect().await?.admin();
        let described = describe(&admin, &self.name).await?;
        self.output.print(&described, TopicOut::describe)
    }
}

async fn describe(admin: &Admin, name: &str) -> Result<TopicOut, AdminError> {
    let mut topic = TopicOut::of(&admin.describe_topic(name).await?);
    topic.add(admin.describe_partitions(name).await?);
    let config = |it: highwater_client::TopicConfigEntry| ConfigOut {
        name: it.key,
        value: it.value,
        overridden: it.overridden,
        help: it.help,
    };
    topic.configs = admin.describe_topic_configs(name).await?.into_iter().map(config).collect();
    Ok(topic)
}

impl Alter {
    async fn run(self) -> Outcome {
        let client = self.connect.connect().await?;
        let mut change = TopicAlteration::new();
        for (name, value) in self.set {
            change = change.set(name, value);
        }
        for name in self.unset {
            change = change.unset(name);
        }
        if let Some(partitions) = self.partitions {
            change = change.partitions(partitions);
        }
        let altered = TopicOut::of(&client.admin().alter_topic(&self.name, change).await?);
        self.output.print(&altered, |it| {
            format!(
                "topic {} altered: {} partition(s), configs set: {}",
                it.name,
                it.partitions.len(),
                it.set_configs()
            )
        })
    }
}

impl Delete {
    async fn run(self) -> Outcome {
        let client = self.connect.connect().await?;
        match client.admin().delete_topic(&self.name).await {
            Err(error) if self.if_exists && error.code == ErrorCode::UnknownTopic => {
                line(format!("there is no topic {}", self.name))
            }
            Err(error) => Err(error.into()),
            Ok(()) => line(format!("topic {} deleted", self.name)),
        }
    }
}

impl DeleteRecords {
    async fn run(self) -> Outcome {
        let client = self.connect.connect().await?;
        let partition = PartitionId::new(self.partition);
        let start = client.admin().delete_records(&self.name, partition, self.before.0).await.map_err(Failure::from)?;
        line(format!("{}/{partition} now starts at offset {start}", self.name))
    }
}

impl ElectLeaders {
    async fn run(self) -> Outcome {
        let client = self.connect.connect().await?;
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let moved = client.admin().elect_preferred_leaders(&names).await?;
        line(format!("{moved} partition(s) got a new leader"))
    }
}
