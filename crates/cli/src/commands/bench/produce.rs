//! `highwater bench produce`.

use std::time::{Duration, Instant};

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
        let began = Instant::now();
        let warm = began + self.load.warm_up;
        let (sent, (servers, client)) = tokio::join!(self.load.run(&bench, began, warm), usage_at(&bench, warm));
        let sent = sent?;
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

/// What servers and client have used when the warm-up ends: what comes after is counted.
pub async fn usage_at(bench: &Bench, warm: Instant) -> (Vec<(String, Usage)>, Duration) {
    tokio::time::sleep_until(warm.into()).await;
    (bench.usage(), own_cpu())
}

/// Processor time that this process has used.
pub fn own_cpu() -> Duration {
    Usage::of(std::process::id()).unwrap_or_default().cpu
}
