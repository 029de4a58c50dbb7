//! `highwater bench transaction`.

use std::time::{Duration, Instant};

use clap::Args;
use highwater_client::{ProducerRecord, TransactionalConfig};

use super::load::latencies;
use super::place::{Bench, PlaceArgs};
use super::produce::own_cpu;
use super::report::{Measured, Report, Settings};
use crate::args::parse_seconds;
use crate::failure::Outcome;
use crate::output::OutputArgs;

/// Measure transactions, one after the other: how long from begin to the answer to commit.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater bench transaction --local                    # one record each
  highwater bench transaction --local --records 10000")]
pub struct Transaction {
    /// Records of each transaction, over all partitions of the topic.
    #[arg(long, short = 'n', default_value = "1", value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    records: u32,
    /// Bytes of each record's value.
    #[arg(long, short = 's', default_value = "1024", value_parser = clap::value_parser!(u32).range(0..=1_000_000), value_name = "BYTES")]
    record_size: u32,
    /// For how long, after the warm-up, in seconds.
    #[arg(long, short = 'd', default_value = "10", value_parser = parse_seconds, value_name = "SECONDS")]
    duration: Duration,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Before anything is measured: coordinators are found, connections made.
const WARM_UP: Duration = Duration::from_secs(2);

impl Transaction {
    pub async fn run(self) -> Outcome {
        let bench = Bench::set_up(&self.place).await?;
        let id = format!("bench-{}", bench.topic);
        let mut producer = bench.client.transactional_producer(TransactionalConfig::new(id)).await?;
        let value = bytes::Bytes::from(vec![b'x'; self.record_size as usize]);
        let (warm, mut latency, mut transactions) = (Instant::now() + WARM_UP, latencies(), 0_u64);
        let (mut servers, mut client) = (bench.usage(), own_cpu());
        let mut began = None;
        loop {
            let begin = Instant::now();
            if begin >= warm && began.is_none() {
                (began, servers, client) = (Some(begin), bench.usage(), own_cpu());
            }
            if began.is_some_and(|began| began.elapsed() >= self.duration) {
                break;
            }
            let transaction = producer.begin().await?;
            for _ in 0..self.records {
                // What becomes of it, the commit tells.
                drop(transaction.send(ProducerRecord::new(&bench.topic).value(value.clone())).await?);
            }
            transaction.commit().await?;
            if began.is_some() {
                transactions += 1;
                latency.saturating_record(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
        }
        let took = began.map(|began| began.elapsed()).unwrap_or_default();
        producer.close().await?;
        let records = transactions * u64::from(self.records);
        let measured = Measured {
            records,
            bytes: records * u64::from(self.record_size),
            failed: 0,
            took,
            client_cpu: own_cpu().saturating_sub(client),
        };
        let used = bench.usage_since(&servers);
        let report = Report::new("transaction", Settings::of(&bench.shape, None), &measured, used);
        report.with_latency(&latency).print(self.output)?;
        bench.tear_down().await
    }
}
