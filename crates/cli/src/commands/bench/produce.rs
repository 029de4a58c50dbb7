//! `highwater bench produce`.

use std::time::Instant;

use clap::Args;
use highwater_testkit::usage::Usage;

use super::load::LoadArgs;
use super::place::{Bench, PlaceArgs};
use super::report::{Measured, Report, Settings, all_written};
use crate::failure::Outcome;
use crate::output::OutputArgs;

/// Measure writing: how much, and how long until it is acknowledged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater bench produce --local                              # as fast as it goes
  highwater bench produce --local --rate 10000 --duration 30   # 10 MB/s, for latencies
  highwater bench produce -b 10.0.0.1:9092 --record-size 100 --output json")]
pub struct Produce {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Produce {
    pub async fn run(self) -> Outcome {
        let bench = Bench::set_up(&self.place).await?;
        let (servers, client) = (bench.usage(), own_cpu());
        let began = Instant::now();
        let sent = self.load.run(&bench, began, began + self.load.warm_up).await?;
        let measured = Measured {
            records: sent.records,
            bytes: sent.records * u64::from(self.load.record_size),
            failed: sent.failed,
            took: sent.took,
            client_cpu: own_cpu().saturating_sub(client),
        };
        let used = bench.usage_since(&servers);
        let report = Report::new("produce", Settings::of(&bench.shape, Some(&self.load)), &measured, used);
        report.with_latency(&sent.latency).print(self.output)?;
        bench.tear_down().await?;
        all_written(&sent)
    }
}

/// Processor time that this process has used.
pub fn own_cpu() -> std::time::Duration {
    Usage::of(std::process::id()).unwrap_or_default().cpu
}
