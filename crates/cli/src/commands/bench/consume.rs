//! `highwater bench consume`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use highwater_client::{
    Client, Compression, ConsumerConfig, Offset, OffsetAt, PartitionId, ProducerConfig, ProducerRecord, StartAt,
    TopicRef,
};
use tokio::task::JoinSet;

use super::place::{Bench, PlaceArgs};
use super::produce::own_cpu;
use super::report::{Measured, Report, Settings};
use crate::failure::{Failure, Outcome};
use crate::output::OutputArgs;

/// How long a reader waits for the next records before it gives up.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Measure reading: a topic from its beginning to its end.
///
/// Without --topic, one is made and filled first; what is then read comes from the brokers' memory as far as it holds
/// it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater bench consume --local --fill-mb 1000
  highwater bench consume --topic orders --consumers 3 --output json")]
pub struct Consume {
    /// Without --topic: how much to write before it is read, in millions of bytes.
    #[arg(long, default_value = "500", value_name = "MB")]
    fill_mb: u64,
    /// Without --topic: bytes of each record's value.
    #[arg(long, short = 's', default_value = "1024", value_parser = clap::value_parser!(u32).range(16..=16_777_216), value_name = "BYTES")]
    record_size: u32,
    /// Without --topic: codec of the batches.
    #[arg(long, short = 'z', default_value = "none")]
    compression: Compression,
    /// Consumers that share the partitions.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    consumers: u32,
    /// Read the topic so many times, one after the other; the best is reported.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was read, in how long.
#[derive(Default)]
struct Read {
    records: u64,
    bytes: u64,
}

impl Consume {
    pub async fn run(self) -> Outcome {
        let bench = Bench::set_up(&self.place).await?;
        if self.place.topic.is_none() {
            self.fill(&bench).await?;
        }
        let ends = bench.client.admin().list_offsets(&bench.topic, OffsetAt::Latest).await?;
        let starts = bench.client.admin().list_offsets(&bench.topic, OffsetAt::Earliest).await?;
        let at = |offsets: Vec<(PartitionId, highwater_client::TimestampedOffset)>| -> BTreeMap<PartitionId, Offset> {
            offsets.into_iter().map(|(id, found)| (id, found.offset.unwrap_or(Offset::ZERO))).collect()
        };
        let (starts, ends) = (at(starts), at(ends));
        let mut best: Option<Report> = None;
        for _ in 0..self.repeat {
            let (servers, client) = (bench.usage(), own_cpu());
            let began = Instant::now();
            let read = self.read(&bench, &starts, &ends).await?;
            let measured = Measured {
                records: read.records,
                bytes: read.bytes,
                failed: 0,
                took: began.elapsed(),
                client_cpu: own_cpu().saturating_sub(client),
            };
            let settings = Settings::of(&bench.shape, None);
            let report = Report::new("consume", settings, &measured, bench.usage_since(&servers));
            if best.as_ref().is_none_or(|best| best.mb_per_second < report.mb_per_second) {
                best = Some(report);
            }
        }
        if let Some(best) = best {
            best.print(self.output)?;
        }
        bench.tear_down().await
    }

    async fn fill(&self, bench: &Bench) -> Outcome {
        let config = ProducerConfig { compression: self.compression, ..ProducerConfig::default() };
        let producer = bench.client.producer(config).map_err(Failure::usage)?;
        let topic = TopicRef::from(&bench.topic);
        let size = self.record_size as usize;
        let mut value = vec![0; size];
        for number in 0..(self.fill_mb * 1_000_000).div_ceil(size as u64) {
            // Text-like bytes, of which no two records have the same.
            for (place, chunk) in value.chunks_mut(8).enumerate() {
                let word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(place as u32 % 64).to_be_bytes();
                chunk.copy_from_slice(&word[..chunk.len()]);
            }
            let record = ProducerRecord::new(&topic).value(Bytes::copy_from_slice(&value));
            // Its fate is told by the flush.
            drop(producer.send(record).await?);
        }
        producer.close().await.map_err(|error| Failure::of_code(error.first.code, &error.to_string()))
    }

    async fn read(
        &self,
        bench: &Bench,
        starts: &BTreeMap<PartitionId, Offset>,
        ends: &BTreeMap<PartitionId, Offset>,
    ) -> Outcome<Read> {
        let mut readers = JoinSet::new();
        for index in 0..self.consumers as usize {
            let share = ends.iter().filter(|(id, _)| id.get() as usize % self.consumers as usize == index);
            let share: Vec<(PartitionId, Offset, Offset)> =
                share.map(|(id, end)| (*id, starts.get(id).copied().unwrap_or(Offset::ZERO), *end)).collect();
            readers.spawn(read_share(bench.client.clone(), bench.topic.clone(), share));
        }
        let mut all = Read::default();
        while let Some(read) = readers.join_next().await {
            let read = read.map_err(Failure::failed)??;
            all.records += read.records;
            all.bytes += read.bytes;
        }
        Ok(all)
    }
}

async fn read_share(client: Client, topic: String, share: Vec<(PartitionId, Offset, Offset)>) -> Outcome<Read> {
    let mut left: u64 = share.iter().map(|(_, start, end)| end.distance_from(*start)).sum();
    let mut consumer = client.consumer(ConsumerConfig::default());
    let partitions: Vec<_> = share.iter().map(|(id, _, _)| (topic.clone(), *id, StartAt::Beginning)).collect();
    consumer.assign(partitions).await?;
    let mut read = Read::default();
    while left > 0 {
        let records = consumer.poll(SILENCE_MAX).await?;
        if records.is_empty() {
            return Err(Failure::failed(format!(
                "nothing more came within {SILENCE_MAX:?}; {left} records are missing"
            )));
        }
        left = left.saturating_sub(records.len() as u64);
        read.records += records.len() as u64;
        read.bytes += records.iter().map(|it| it.value.as_ref().map_or(0, Bytes::len) as u64).sum::<u64>();
    }
    Ok(read)
}
