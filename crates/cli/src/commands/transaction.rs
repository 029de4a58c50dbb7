//! `highwater transaction`: transactions, and the repair of those that hang.

use std::time::Duration;

use clap::{Args, Subcommand};
use highwater_client::{HangingTransaction, TransactionDescription};
use serde::Serialize;

use super::consume::time;
use crate::args::{ConnectArgs, block_on, parse_seconds};
use crate::failure::{Failure, Outcome};
use crate::output::{OutputArgs, facts, line, list, table};

/// List and describe transactions; find and abort those that hang.
#[derive(Debug, Args)]
pub struct Transaction {
    #[command(subcommand)]
    command: TransactionCommand,
}

#[derive(Debug, Subcommand)]
enum TransactionCommand {
    List(List),
    Describe(Describe),
    FindHanging(FindHanging),
    Abort(Abort),
}

/// List all transactional ids, and what they are up to.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater transaction list
  highwater transaction list --open --output json")]
struct List {
    /// Only those with an open transaction, or one that is being ended.
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Show what a transactional id is up to.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  highwater transaction describe order-totals-1")]
struct Describe {
    /// The transactional id.
    id: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Find transactions that are open in a partition, and that no coordinator will end: readers of committed records wait there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater transaction find-hanging
  highwater transaction find-hanging --topic orders --older-than 3600")]
struct FindHanging {
    /// Only in this topic.
    #[arg(long, short = 't')]
    topic: Option<String>,
    /// Nothing written for so many seconds. Younger ones may only look so.
    #[arg(long, default_value = "900", value_parser = parse_seconds, value_name = "SECONDS")]
    older_than: Duration,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// End a hanging transaction in its partition. Its records are never shown to readers of committed records.
///
/// Only what `find-hanging` shows can be ended so; a transaction that its coordinator knows ends by its producer or its timeout.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  highwater transaction abort --topic orders --partition 3 --producer-id 4711")]
struct Abort {
    /// The topic.
    #[arg(long, short = 't')]
    topic: String,
    /// The partition.
    #[arg(long, short = 'p')]
    partition: u32,
    /// The producer that left it open.
    #[arg(long, value_name = "ID")]
    producer_id: i64,
    /// Nothing written for so many seconds.
    #[arg(long, default_value = "900", value_parser = parse_seconds, value_name = "SECONDS")]
    older_than: Duration,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl Transaction {
    pub fn run(self) -> Outcome {
        block_on(async {
            match self.command {
                TransactionCommand::List(command) => command.list().await,
                TransactionCommand::Describe(command) => command.describe().await,
                TransactionCommand::FindHanging(command) => command.find().await,
                TransactionCommand::Abort(command) => command.abort().await,
            }
        })
    }
}

#[derive(Serialize)]
struct Row {
    transactional_id: String,
    producer_id: i64,
    producer_epoch: i32,
    state: String,
    timeout_ms: u64,
    started_at: Option<String>,
    partitions: Vec<String>,
    coordinator: u32,
}

impl From<TransactionDescription> for Row {
    fn from(found: TransactionDescription) -> Self {
        Self {
            transactional_id: found.transactional_id,
            producer_id: found.producer_id.get(),
            producer_epoch: found.producer_epoch,
            state: found.state,
            timeout_ms: u64::try_from(found.timeout.as_millis()).unwrap_or(u64::MAX),
            started_at: found.started_at.map(|at| time::show(at.get())),
            partitions: found.partitions.iter().map(|(topic, id)| format!("{topic}/{id}")).collect(),
            coordinator: found.coordinator,
        }
    }
}

fn or_dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".to_owned())
}

impl List {
    async fn list(self) -> Outcome {
        let found = self.connect.connect().await?.admin().list_transactions().await?;
        let is_open = |state: &str| matches!(state, "Ongoing" | "PrepareCommit" | "PrepareAbort");
        let rows: Vec<Row> = found.into_iter().filter(|it| !self.open || is_open(&it.state)).map(Row::from).collect();
        self.output.print(&rows, |rows| {
            table(
                &["transactional id", "#producer", "#epoch", "state", "started", "partitions", "#coordinator"],
                rows.iter().map(|row| {
                    vec![
                        row.transactional_id.clone(),
                        row.producer_id.to_string(),
                        row.producer_epoch.to_string(),
                        row.state.clone(),
                        or_dash(&row.started_at),
                        list(&row.partitions),
                        row.coordinator.to_string(),
                    ]
                }),
            )
        })
    }
}

impl Describe {
    async fn describe(self) -> Outcome {
        let found = self.connect.connect().await?.admin().describe_transaction(&self.id).await?;
        self.output.print(&Row::from(found), |row| {
            facts(&[
                ("transactional id", row.transactional_id.clone()),
                ("producer id", format!("{}, epoch {}", row.producer_id, row.producer_epoch)),
                ("state", row.state.clone()),
                ("timeout", format!("{} ms", row.timeout_ms)),
                ("started", or_dash(&row.started_at)),
                ("partitions", list(&row.partitions)),
                ("coordinator", format!("broker {}", row.coordinator)),
            ])
        })
    }
}

#[derive(Serialize)]
struct HangingRow {
    topic: String,
    partition: u32,
    producer_id: i64,
    producer_epoch: i32,
    start_offset: Option<i64>,
    last_written: String,
}

impl From<&HangingTransaction> for HangingRow {
    fn from(found: &HangingTransaction) -> Self {
        Self {
            topic: found.topic.to_string(),
            partition: found.partition.get(),
            producer_id: found.producer.producer_id.get(),
            producer_epoch: found.producer.producer_epoch,
            start_offset: found.producer.transaction_start.map(|offset| offset.get()),
            last_written: time::show(found.producer.last_timestamp.get()),
        }
    }
}

impl FindHanging {
    async fn find(self) -> Outcome {
        let admin = self.connect.connect().await?.admin();
        let found = admin.find_hanging_transactions(self.topic.as_deref(), self.older_than).await?;
        let rows: Vec<HangingRow> = found.iter().map(HangingRow::from).collect();
        self.output.print(&rows, |rows| {
            table(
                &["topic", "#partition", "#producer", "#epoch", "#start offset", "last written"],
                rows.iter().map(|row| {
                    vec![
                        row.topic.clone(),
                        row.partition.to_string(),
                        row.producer_id.to_string(),
                        row.producer_epoch.to_string(),
                        row.start_offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
                        row.last_written.clone(),
                    ]
                }),
            )
        })
    }
}

impl Abort {
    async fn abort(self) -> Outcome {
        let Self { topic, partition, producer_id, older_than, connect } = self;
        let admin = connect.connect().await?.admin();
        let found = admin.find_hanging_transactions(Some(&topic), older_than).await?;
        let is_it =
            |it: &&HangingTransaction| it.partition.get() == partition && it.producer.producer_id.get() == producer_id;
        let Some(hanging) = found.iter().find(is_it) else {
            return Err(Failure::failed(format!(
                "no transaction of producer {producer_id} hangs in {topic}/{partition}; \
                 `highwater transaction find-hanging` shows those that do"
            )));
        };
        admin.abort_hanging_transaction(hanging).await?;
        line(format!("the transaction of producer {producer_id} in {topic}/{partition} is aborted"))
    }
}
