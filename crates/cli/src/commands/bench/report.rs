//! What a benchmark found, as a table or JSON.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::{LoadArgs, Sent};
use super::place::Shape;
use crate::failure::{Failure, Outcome};
use crate::output::{OutputArgs, bytes, facts, thousands};

#[derive(Debug, Serialize)]
pub struct Report {
    pub what: &'static str,
    pub settings: Settings,
    pub seconds: f64,
    pub records: u64,
    pub failed: u64,
    pub records_per_second: f64,
    /// Millions of bytes of values a second.
    pub mb_per_second: f64,
    /// Of the values, in milliseconds; absent where none was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Latency>,
    pub client_cpu_seconds: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ServerUse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers_cpu_seconds_per_million_records: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Settings {
    pub record_size: Option<u32>,
    pub rate: Option<u64>,
    pub acks: Option<String>,
    pub compression: Option<String>,
    pub partitions: usize,
    pub replication_factor: usize,
    pub durability: String,
    pub producers: Option<u32>,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
    pub samples: u64,
}

#[derive(Debug, Serialize)]
pub struct ServerUse {
    pub node: String,
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub resident_bytes_max: u64,
}

impl Settings {
    pub fn of(shape: &Shape, load: Option<&LoadArgs>) -> Self {
        Self {
            record_size: load.map(|it| it.record_size),
            rate: load.and_then(|it| it.rate),
            acks: load.map(|it| it.acks.to_string()),
            compression: load.map(|it| it.compression.to_string()),
            partitions: shape.partitions,
            replication_factor: shape.replication_factor,
            durability: shape.durability.clone(),
            producers: load.map(|it| it.producers),
        }
    }

    fn words(&self) -> String {
        let mut words = Vec::new();
        if let Some(size) = self.record_size {
            words.push(format!("{size} bytes a record"));
        }
        words.push(match self.rate {
            Some(rate) => format!("{} records/s (open loop)", thousands(rate)),
            None => "as fast as it goes".to_owned(),
        });
        words.extend(self.acks.as_ref().map(|acks| format!("acks={acks}")));
        words.extend(self.compression.as_ref().map(|codec| format!("compression {codec}")));
        words.push(format!("{} partitions", self.partitions));
        words.push(format!("replication factor {}", self.replication_factor));
        words.push(format!("durability {}", self.durability));
        words.extend(self.producers.map(|count| format!("{count} producer(s)")));
        words.join(", ")
    }
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile: f64| ms(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(histogram.max()),
            mean: histogram.mean() / 1000.0,
            samples: histogram.len(),
        })
    }
}

/// The run's size and time.
pub struct Measured {
    pub records: u64,
    pub bytes: u64,
    pub failed: u64,
    pub took: Duration,
    pub client_cpu: Duration,
}

impl Report {
    pub fn new(what: &'static str, settings: Settings, measured: &Measured, servers: Vec<ServerUse>) -> Self {
        let seconds = measured.took.as_secs_f64().max(1e-9);
        let cpu: f64 = servers.iter().map(|it| it.cpu_seconds).sum();
        let per_million = (!servers.is_empty() && measured.records > 0).then(|| cpu * 1e6 / measured.records as f64);
        Self {
            what,
            settings,
            seconds,
            records: measured.records,
            failed: measured.failed,
            records_per_second: measured.records as f64 / seconds,
            mb_per_second: measured.bytes as f64 / 1e6 / seconds,
            latency_ms: None,
            client_cpu_seconds: measured.client_cpu.as_secs_f64(),
            servers,
            servers_cpu_seconds_per_million_records: per_million,
        }
    }

    #[must_use]
    pub fn with_latency(mut self, histogram: &Histogram<u64>) -> Self {
        self.latency_ms = Latency::of(histogram);
        self
    }

    pub fn print(&self, output: OutputArgs) -> Outcome {
        output.print(self, Self::words)
    }

    fn words(&self) -> String {
        let mut lines = vec![
            ("benchmark", self.what.to_owned()),
            ("load", self.settings.words()),
            (
                "throughput",
                format!(
                    "{:.1} MB/s, {} records/s ({} records in {:.1} s)",
                    self.mb_per_second,
                    thousands(self.records_per_second as u64),
                    thousands(self.records),
                    self.seconds
                ),
            ),
        ];
        if let Some(it) = &self.latency_ms {
            lines.push((
                "latency",
                format!(
                    "p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.1} ms ({} samples)",
                    it.p50,
                    it.p90,
                    it.p99,
                    it.p999,
                    it.max,
                    thousands(it.samples)
                ),
            ));
        }
        if self.failed > 0 {
            lines.push(("failed", format!("{} records", thousands(self.failed))));
        }
        lines.push(("client", format!("{:.1} s of processor time", self.client_cpu_seconds)));
        if let Some(per_million) = self.servers_cpu_seconds_per_million_records {
            let cpu: f64 = self.servers.iter().map(|it| it.cpu_seconds).sum();
            lines.push(("servers", format!("{cpu:.1} s of processor time, {per_million:.2} s per million records")));
            let memory = self.servers.iter().map(|it| format!("{} {}", it.node, bytes(it.resident_bytes_max)));
            lines.push(("memory", format!("at most: {}", memory.collect::<Vec<_>>().join(", "))));
        }
        facts(&lines)
    }
}

/// A benchmark of which records failed is none.
pub fn all_written(sent: &Sent) -> Outcome {
    match &sent.first_failure {
        None => Ok(()),
        Some(first) => {
            Err(Failure::verification(format!("{} record(s) were not acknowledged; the first: {first}", sent.failed)))
        }
    }
}
