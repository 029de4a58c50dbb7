//! `highwater bench end-to-end`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use highwater_client::{Client, ConsumerConfig, StartAt};
use tokio::sync::watch;

use super::load::{LoadArgs, latencies, stamp};
use super::place::{Bench, PlaceArgs};
use super::produce::{own_cpu, usage_at};
use super::report::{Measured, Report, Settings, all_written};
use crate::failure::{Failure, Outcome};
use crate::output::OutputArgs;

/// Measure how long a record takes from when it was due at the producer until a consumer has it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater bench end-to-end --local --rate 10000
  highwater bench end-to-end --local --rate 50000 --record-size 100 --durability replicated")]
pub struct EndToEnd {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl EndToEnd {
    pub async fn run(self) -> Outcome {
        let bench = Bench::set_up(&self.place).await?;
        let began = Instant::now();
        let seen = Arc::new(Mutex::new(Seen { latency: latencies(), records: 0, last: began, warm: None }));
        let (assigned, mut ready) = watch::channel(false);
        let reader = tokio::spawn(read(bench.client.clone(), bench.topic.clone(), began, Arc::clone(&seen), assigned));
        // If the reader fails before, its error is told below.
        let _ = ready.wait_for(|ready| *ready).await;
        let warm = Instant::now() + self.load.warm_up;
        seen.lock().unwrap_or_else(PoisonError::into_inner).warm = Some(warm);
        let (sent, (servers, client)) = tokio::join!(self.load.run(&bench, began, warm), usage_at(&bench, warm));
        let sent = sent?;
        let (records, latency, last) = wait_for_all(&seen, sent.records).await;
        let took = last.saturating_duration_since(warm);
        if reader.is_finished() {
            reader.await.map_err(Failure::failed)??;
            return Err(Failure::failed("the consumer ended before all was read"));
        }
        reader.abort();
        let measured = Measured {
            records,
            bytes: records * u64::from(self.load.record_size),
            failed: sent.failed,
            took,
            client_cpu: own_cpu().saturating_sub(client),
        };
        let used = bench.usage_since(&servers);
        let report = Report::new("end-to-end", Settings::of(&bench.shape, Some(&self.load)), &measured, used);
        report.with_latency(&latency).print(self.output)?;
        bench.tear_down().await?;
        all_written(&sent)?;
        if records < sent.records {
            let missing = sent.records - records;
            return Err(Failure::verification(format!("{missing} acknowledged record(s) did not reach the consumer")));
        }
        Ok(())
    }
}

struct Seen {
    latency: Histogram<u64>,
    records: u64,
    last: Instant,
    /// Records due from here on count; none does before it is known.
    warm: Option<Instant>,
}

/// Waits until the reader has seen `records`, or nothing for a while.
async fn wait_for_all(seen: &Mutex<Seen>, records: u64) -> (u64, Histogram<u64>, Instant) {
    let silence_max = Duration::from_secs(10);
    let waiting = Instant::now();
    loop {
        {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.records >= records || (seen.last.elapsed() > silence_max && waiting.elapsed() > silence_max) {
                return (seen.records, seen.latency.clone(), seen.last);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read(
    client: Client,
    topic: String,
    began: Instant,
    seen: Arc<Mutex<Seen>>,
    assigned: watch::Sender<bool>,
) -> Outcome {
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign_topic(&topic, StartAt::End).await?;
    assigned.send_replace(true);
    loop {
        let records = match consumer.poll(Duration::from_secs(1)).await {
            Ok(records) => records,
            Err(error) if error.is_retriable() => continue,
            Err(error) => return Err(error.into()),
        };
        let now = Instant::now();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for due in records.iter().filter_map(|it| Some(began + stamp(it.value.as_deref()?)?)) {
            if seen.warm.is_some_and(|warm| due >= warm) {
                let latency = now.saturating_duration_since(due);
                seen.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
                seen.records += 1;
                seen.last = now;
            }
        }
    }
}
