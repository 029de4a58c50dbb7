//! `highwater bench`: measures a cluster, one that runs or one of its own.
//!
//! At a fixed rate the load is an open loop: each record is due at a moment that does not depend on how the cluster
//! does, and its latency counts from then on. So a stall shows in the latencies of all records that were due in it
//! (no coordinated omission). Without a rate, records are sent as fast as they are taken.

mod consume;
mod coordinator;
mod end_to_end;
mod load;
mod place;
mod produce;
mod rebalance;
mod report;
mod transaction;

use clap::{Args, Subcommand};

use crate::args::block_on;
use crate::failure::Outcome;

/// Measure throughput and latency.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Produce(produce::Produce),
    Consume(consume::Consume),
    EndToEnd(end_to_end::EndToEnd),
    Transaction(transaction::Transaction),
    Rebalance(rebalance::Rebalance),
    Coordinator(coordinator::Coordinator),
}

impl Bench {
    pub fn run(self) -> Outcome {
        match self.command {
            BenchCommand::Produce(command) => block_on(command.run()),
            BenchCommand::Consume(command) => block_on(command.run()),
            BenchCommand::EndToEnd(command) => block_on(command.run()),
            BenchCommand::Transaction(command) => block_on(command.run()),
            BenchCommand::Rebalance(command) => block_on(command.run()),
            BenchCommand::Coordinator(command) => block_on(command.run()),
        }
    }
}
