//! Streams the input, and kills a leader on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use highwater_client::{BrokerId, Offset, Outcome as WriteOutcome, PartitionId, ProducerConfig, ProducerRecord};
use highwater_testkit::history::{Event, Place, checksum};
use highwater_testkit::{NodeId, RecordId};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::Stage;
use super::input::{Input, InputRecord};
use crate::failure::{Failure, Outcome};

/// The header that says which line of the input a record is.
pub const LINE_HEADER: &str = "line";

/// How the stream went.
pub struct Streamed {
    pub took: Duration,
    /// From the moment at which a record was due to its acknowledgement, in microseconds.
    pub latency: Histogram<u64>,
    pub killed: BrokerId,
    /// The partitions that it led.
    pub killed_led: Vec<u32>,
    /// The longest time for which no write to one of these was acknowledged.
    pub stood_still: Duration,
    /// From the restarted broker's start until all replicas were in sync.
    pub back_in_sync: Duration,
}

/// One acknowledged record.
struct Acknowledged {
    partition: PartitionId,
    at: Instant,
    latency: Duration,
}

/// A leader that was killed.
struct Killed {
    broker: BrokerId,
    led: Vec<u32>,
    at: Instant,
}

impl Stage {
    pub async fn stream(&mut self, input: &Input, over: Duration) -> Outcome<Streamed> {
        let producer = self.client.producer(ProducerConfig::default()).map_err(Failure::failed)?;
        let topic: Arc<str> = self.topic.as_str().into();
        let total = input.records.len();
        let (kill_at, restart_at) = (total / 2, total - total / 5);
        let bar = progress_bar(total as u64);
        let began = Instant::now();
        let mut settling = JoinSet::new();
        let mut acknowledged = Vec::with_capacity(total);
        let mut killed = None;
        let mut restarted = None;
        for (number, record) in input.records.iter().enumerate() {
            if number == kill_at {
                killed = Some(self.kill_a_leader(&bar)?);
            }
            if number == restart_at {
                restarted = Some(self.restart(&bar, killed.as_ref())?);
            }
            let due = began + over.mul_f64(number as f64 / total as f64);
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
            let id = RecordId { writer: 0, number: number as u64 };
            let sum = checksum(record.key.as_deref(), Some(&record.value));
            self.history.record(Event::sent(id, &topic, sum));
            let delivery = producer.send(to_send(&topic, number, record)).await?;
            let (history, topic, bar) = (self.history.clone(), Arc::clone(&topic), bar.clone());
            settling.spawn(async move {
                let result = delivery.await;
                bar.inc(1);
                match result {
                    Ok(at) => {
                        let offset = at.offset.unwrap_or(Offset::ZERO);
                        let place = Place { topic, partition: at.partition };
                        history.record(Event::Acknowledged { id, place, offset });
                        let now = Instant::now();
                        let latency = now.saturating_duration_since(due);
                        Some(Acknowledged { partition: at.partition, at: now, latency })
                    }
                    Err(error) => {
                        let why = error.to_string();
                        history.record(match error.outcome {
                            WriteOutcome::NotApplied => Event::Refused { id, why },
                            WriteOutcome::Unknown => Event::Unknown { id, why },
                        });
                        None
                    }
                }
            });
            while let Some(done) = settling.try_join_next() {
                acknowledged.extend(done.map_err(Failure::failed)?);
            }
        }
        // Of what failed, the history tells.
        let _ = producer.close().await;
        acknowledged.extend(settling.join_all().await.into_iter().flatten());
        let took = began.elapsed();
        bar.finish_and_clear();
        let killed = match killed {
            Some(killed) => killed,
            None => self.kill_a_leader(&bar)?,
        };
        let restarted = match restarted {
            Some(restarted) => restarted,
            None => self.restart(&bar, Some(&killed))?,
        };
        self.wait_in_sync().await?;
        Ok(Streamed {
            took,
            latency: latencies(&acknowledged),
            stood_still: stood_still(&acknowledged, &killed),
            killed: killed.broker,
            killed_led: killed.led,
            back_in_sync: restarted.elapsed(),
        })
    }

    /// kill -9 of the leader of partition 0.
    fn kill_a_leader(&mut self, bar: &ProgressBar) -> Outcome<Killed> {
        let leaders = self.leaders();
        let broker = leaders.first().and_then(|(_, leader)| *leader);
        let broker = broker.ok_or_else(|| Failure::failed(format!("nobody leads {}/0", self.topic)))?;
        let led: Vec<u32> = leaders.iter().filter(|(_, leader)| *leader == Some(broker)).map(|(id, _)| *id).collect();
        bar.set_message(format!("broker {broker} killed"));
        self.cluster.kill(NodeId::Broker(broker))?;
        self.history.fault(format!("kill -9 of broker {broker}"));
        Ok(Killed { broker, led, at: Instant::now() })
    }

    fn restart(&mut self, bar: &ProgressBar, killed: Option<&Killed>) -> Outcome<Instant> {
        if let Some(killed) = killed {
            bar.set_message(format!("broker {} started again", killed.broker));
            self.cluster.start_node(NodeId::Broker(killed.broker))?;
            self.history.fault(format!("start of broker {}", killed.broker));
        }
        Ok(Instant::now())
    }
}

fn to_send(topic: &Arc<str>, number: usize, record: &InputRecord) -> ProducerRecord {
    let to_send = ProducerRecord::new(Arc::clone(topic)).value(record.value.clone());
    let to_send = to_send.header(LINE_HEADER, (number as u64).to_be_bytes().to_vec());
    match &record.key {
        Some(key) => to_send.key(key.clone()),
        None => to_send,
    }
}

/// Hidden where nobody looks: not on a terminal.
fn progress_bar(total: u64) -> ProgressBar {
    let style = "  {bar:40} {human_pos}/{human_len} records acknowledged  {msg}";
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

fn latencies(acknowledged: &[Acknowledged]) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 120_000_000, 3).expect("these bounds are in order");
    for it in acknowledged {
        histogram.saturating_record(u64::try_from(it.latency.as_micros()).unwrap_or(u64::MAX));
    }
    histogram
}

/// The longest gap between two acknowledgements in one of the killed leader's partitions, from the kill on.
fn stood_still(acknowledged: &[Acknowledged], killed: &Killed) -> Duration {
    let mut times: BTreeMap<u32, Vec<Instant>> = BTreeMap::new();
    for it in acknowledged.iter().filter(|it| killed.led.contains(&it.partition.get())) {
        times.entry(it.partition.get()).or_default().push(it.at);
    }
    let longest = |mut times: Vec<Instant>| {
        times.sort();
        // The last before the kill is where standing still began, at the latest at the kill.
        let from = times.partition_point(|at| *at <= killed.at);
        let began = times[..from].last().copied().unwrap_or(killed.at);
        let after = std::iter::once(began).chain(times[from..].iter().copied()).collect::<Vec<_>>();
        after.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    };
    times.into_values().map(longest).max().unwrap_or_default()
}
