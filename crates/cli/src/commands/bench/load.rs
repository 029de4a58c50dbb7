//! The load: what is sent, how fast, for how long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use clap::Args;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use highwater_client::{Acks, Compression, Producer, ProducerConfig, ProducerRecord, TopicRef};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::place::Bench;
use crate::args::parse_seconds;
use crate::failure::{Failure, Outcome};

/// So many latencies a second are enough to tell the 99.9th percentile; more would measure the measuring.
const SAMPLES_PER_SECOND: u64 = 20_000;
/// How often a sender at a fixed rate looks for what is due. Finer than the runtime's timers, which know whole milliseconds
/// only: what they are late would be measured as latency of the cluster.
const TICK: Duration = Duration::from_micros(200);

#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Bytes of each record's value.
    #[arg(long, short = 's', default_value = "1024", value_parser = clap::value_parser!(u32).range(16..=16_777_216), value_name = "BYTES")]
    pub record_size: u32,
    /// Records a second, in all; without it, as many as are taken.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "RECORDS")]
    pub rate: Option<u64>,
    /// For how long, after the warm-up, in seconds.
    #[arg(long, short = 'd', default_value = "10", value_parser = parse_seconds, value_name = "SECONDS")]
    pub duration: Duration,
    /// How long the same load runs before anything is measured, in seconds.
    #[arg(long, default_value = "2", value_parser = parse_seconds, value_name = "SECONDS")]
    pub warm_up: Duration,
    /// When a record counts as written: none, leader or all.
    #[arg(long, default_value = "all")]
    pub acks: Acks,
    /// Codec of the batches: none, gzip, snappy, lz4 or zstd.
    #[arg(long, short = 'z', default_value = "none")]
    pub compression: Compression,
    /// Send without numbers, so that retries can leave duplicates: to see what the numbers cost.
    #[arg(long)]
    pub no_idempotence: bool,
    /// Bytes at which a batch is sent. [default: the client's]
    #[arg(long, value_name = "BYTES")]
    pub batch_bytes: Option<usize>,
    /// How long a batch that is not full waits for more records, in milliseconds. [default: the client's]
    #[arg(long, value_name = "MS")]
    pub linger_ms: Option<f64>,
    /// Requests on their way to one broker at once. [default: the client's]
    #[arg(long, value_name = "COUNT")]
    pub in_flight: Option<usize>,
    /// Producers, each with its own connections.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub producers: u32,
    /// Give each record one of so many keys; without it, records have no key.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "COUNT")]
    pub keys: Option<u64>,
}

/// What a load did after its warm-up.
pub struct Sent {
    /// Acknowledged, if acknowledgements were asked for.
    pub records: u64,
    pub failed: u64,
    pub first_failure: Option<String>,
    pub took: Duration,
    /// From due (at a fixed rate) or sent to acknowledged, in microseconds.
    pub latency: Histogram<u64>,
}

/// Microseconds up to ten minutes, three digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("these bounds are in order")
}

/// Where the senders of one load meet.
struct Shared {
    /// The clock of record stamps starts here.
    began: Instant,
    warm: Instant,
    end: Instant,
    latency: Mutex<Histogram<u64>>,
    sent: AtomicU64,
}

impl LoadArgs {
    pub fn producer(&self, bench: &Bench) -> Outcome<Producer> {
        let mut config = ProducerConfig { acks: self.acks, compression: self.compression, ..ProducerConfig::default() };
        if self.no_idempotence {
            config.idempotence = Some(false);
        }
        config.batch_bytes = self.batch_bytes.unwrap_or(config.batch_bytes);
        config.in_flight_max = self.in_flight.unwrap_or(config.in_flight_max);
        if let Some(ms) = self.linger_ms {
            let linger = Duration::try_from_secs_f64(ms / 1000.0);
            config.linger = linger.map_err(|_| Failure::usage(format!("--linger-ms can't be {ms}")))?;
        }
        bench.client.producer(config).map_err(Failure::usage)
    }

    /// Runs the load. `began` is the zero of the stamps in the records; those due from `warm` on count.
    pub async fn run(&self, bench: &Bench, began: Instant, warm: Instant) -> Outcome<Sent> {
        let shared = Arc::new(Shared {
            began,
            warm,
            end: warm + self.duration,
            latency: Mutex::new(latencies()),
            sent: AtomicU64::new(0),
        });
        let mut senders = JoinSet::new();
        for index in 0..self.producers {
            let producer = self.producer(bench)?;
            let sender = Sender { producer, topic: TopicRef::from(&bench.topic), index, args: self.clone() };
            senders.spawn(sender.run(Arc::clone(&shared)));
        }
        let mut failed = 0;
        let mut first_failure = None;
        while let Some(done) = senders.join_next().await {
            if let Some((count, first)) = done.map_err(Failure::failed)?? {
                failed += count;
                first_failure.get_or_insert(first);
            }
        }
        let took = shared.warm.elapsed();
        let latency = shared.latency.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let records = shared.sent.load(Ordering::Relaxed).saturating_sub(failed);
        Ok(Sent { records, failed, first_failure, took, latency })
    }
}

struct Sender {
    producer: Producer,
    topic: TopicRef,
    index: u32,
    args: LoadArgs,
}

/// How many records failed, and why the first did.
type Failures = Option<(u64, String)>;

impl Sender {
    async fn run(self, shared: Arc<Shared>) -> Outcome<Failures> {
        let (samples_in, samples) = mpsc::unbounded_channel();
        let sampler = tokio::spawn(sample(samples, Arc::clone(&shared)));
        let stopped = match self.args.rate {
            Some(rate) => self.at_rate(rate, &shared, &samples_in).await,
            None => self.flat_out(&shared, &samples_in).await,
        };
        drop(samples_in);
        let flushed = self.producer.close().await;
        sampler.await.map_err(Failure::failed)?;
        stopped?;
        Ok(flushed.err().map(|error| (error.failed, error.first.to_string())))
    }

    /// Open loop: record number n is due at n times the interval, whatever happened to the others.
    async fn at_rate(&self, rate: u64, shared: &Shared, samples: &Samples) -> Outcome {
        let interval = Duration::from_secs_f64(f64::from(self.args.producers) / rate as f64);
        let every = (rate / SAMPLES_PER_SECOND).max(1);
        let start = Instant::now() + interval.mul_f64(f64::from(self.index) / f64::from(self.args.producers));
        let ticks = ticker(interval.max(TICK));
        let mut number = 0;
        loop {
            let now = Instant::now();
            loop {
                let due = start + interval.mul_f64(number as f64);
                if due >= shared.end {
                    return Ok(());
                }
                if due > now {
                    break;
                }
                self.send(number, due, shared, samples, every).await?;
                number += 1;
            }
            ticks.notified().await;
        }
    }

    async fn flat_out(&self, shared: &Shared, samples: &Samples) -> Outcome {
        let mut number = 0;
        let mut now = Instant::now();
        // At a million records a second, asking for the time is no small part.
        while now < shared.end {
            for _ in 0..32 {
                self.send(number, now, shared, samples, 64).await?;
                number += 1;
            }
            now = Instant::now();
        }
        Ok(())
    }

    async fn send(&self, number: u64, due: Instant, shared: &Shared, samples: &Samples, every: u64) -> Outcome {
        let stamp = due.saturating_duration_since(shared.began);
        let mut record = ProducerRecord::new(&self.topic).value(value(stamp, number, self.args.record_size as usize));
        if let Some(keys) = self.args.keys {
            // Spread over the keys, not one after the other.
            let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys;
            record = record.key(format!("key-{key}"));
        }
        let delivery = self.producer.send(record).await?;
        if due >= shared.warm {
            shared.sent.fetch_add(1, Ordering::Relaxed);
            if number.is_multiple_of(every) {
                // Closed only if the sampler is gone, and then its end tells why.
                let _ = samples.send((due, delivery));
            }
        }
        Ok(())
    }
}

/// Notifies at a steady pace, from a thread of its own, until it is dropped.
fn ticker(period: Duration) -> Arc<Notify> {
    let ticks = Arc::new(Notify::new());
    let ticking = Arc::downgrade(&ticks);
    std::thread::spawn(move || {
        while let Some(ticks) = ticking.upgrade() {
            ticks.notify_one();
            drop(ticks);
            std::thread::sleep(period);
        }
    });
    ticks
}

type Samples = mpsc::UnboundedSender<(Instant, highwater_client::Delivery)>;

async fn sample(mut samples: mpsc::UnboundedReceiver<(Instant, highwater_client::Delivery)>, shared: Arc<Shared>) {
    let mut open = FuturesUnordered::new();
    let mut latency = latencies();
    let mut take = |settled: Option<Instant>| {
        if let Some(due) = settled {
            latency.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    };
    loop {
        tokio::select! {
            biased;
            Some(settled) = open.next(), if !open.is_empty() => take(settled),
            sample = samples.recv() => match sample {
                Some((due, delivery)) => open.push(async move { delivery.await.ok().map(|_| due) }),
                None => break,
            },
        }
    }
    while let Some(settled) = open.next().await {
        take(settled);
    }
    // Same bounds on both sides: adding can't fail.
    let _ = shared.latency.lock().unwrap_or_else(PoisonError::into_inner).add(latency);
}

/// A value: the stamp in nanoseconds, the number, and bytes that do not compress.
fn value(stamp: Duration, number: u64, size: usize) -> Bytes {
    thread_local! {
        static FILL: Bytes = noise(1 << 20);
    }
    let mut value = BytesMut::with_capacity(size.max(16));
    value.put_u64(u64::try_from(stamp.as_nanos()).unwrap_or(u64::MAX));
    value.put_u64(number);
    FILL.with(|fill| {
        while value.len() < size {
            let from = (number as usize).wrapping_mul(4099) % (fill.len() / 2);
            let take = (size - value.len()).min(fill.len() - from);
            value.put_slice(&fill[from..from + take]);
        }
    });
    value.freeze()
}

/// The stamp that a value carries.
pub fn stamp(value: &[u8]) -> Option<Duration> {
    Some(Duration::from_nanos(u64::from_be_bytes(value.get(..8)?.try_into().ok()?)))
}

fn noise(size: usize) -> Bytes {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = BytesMut::with_capacity(size);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.put_u64(state);
    }
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_its_size_and_carries_its_stamp() {
        for size in [16, 17, 100, 1024, 3 << 20] {
            let value = value(Duration::from_nanos(77), 5, size);
            assert_eq!(value.len(), size);
            assert_eq!(stamp(&value), Some(Duration::from_nanos(77)));
        }
    }
}
