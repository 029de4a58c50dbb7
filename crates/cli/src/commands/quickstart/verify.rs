//! Reads everything back, and holds it against what was acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_client::{ConsumerConfig, ConsumerRecord, Offset, OffsetAt, PartitionId, StartAt};
use highwater_testkit::RecordId;
use highwater_testkit::history::{Event, Place, checksum};
use highwater_testkit::oracle::{Expectations, Report, check};

use super::input::Input;
use super::stream::LINE_HEADER;
use super::{STEP_MAX, Stage};
use crate::failure::{Failure, Outcome};

/// What came back.
pub struct Verified {
    pub report: Report,
    pub bytes: u64,
    pub took: Duration,
    /// Keys whose records are not all in one partition, or are out of order there.
    pub keys_out_of_order: Vec<String>,
    pub keys: usize,
}

impl Verified {
    /// Whether every promise was kept.
    pub fn kept(&self) -> bool {
        let report = &self.report;
        report.violations.is_empty() && self.keys_out_of_order.is_empty() && report.acknowledged == report.sent
    }

    pub fn what_broke(&self) -> String {
        let mut text = format!("a promise was broken: {}", self.report);
        if let Some(key) = self.keys_out_of_order.first() {
            text.push_str(&format!("\n  {} keys are out of order, {key:?} is one", self.keys_out_of_order.len()));
        }
        text
    }
}

impl Stage {
    pub async fn verify(&self, input: &Input) -> Outcome<Verified> {
        let (began, began_at) = (Instant::now(), self.history.now());
        let ends = self.client.admin().list_offsets(&self.topic, OffsetAt::Latest).await?;
        let ends: BTreeMap<PartitionId, Offset> =
            ends.into_iter().map(|(id, end)| (id, end.offset.unwrap_or(Offset::ZERO))).collect();
        let mut consumer = self.client.consumer(ConsumerConfig::default());
        consumer.assign_topic(&self.topic, StartAt::Beginning).await?;
        let mut left: u64 = ends.values().map(|end| end.distance_from(Offset::ZERO)).sum();
        let mut records = Vec::new();
        while left > 0 {
            let polled = consumer.poll(STEP_MAX).await?;
            if polled.is_empty() {
                return Err(Failure::verification(format!("{left} records could not be read within {STEP_MAX:?}")));
            }
            left = left.saturating_sub(polled.len() as u64);
            records.extend(polled);
        }
        let took = began.elapsed();
        let topic: Arc<str> = self.topic.as_str().into();
        for record in &records {
            self.history.record(read_event(&topic, record));
        }
        for (partition, to) in ends {
            let place = Place { topic: Arc::clone(&topic), partition };
            self.history.record(Event::ReadWhole { reader: 0, place, from: Offset::ZERO, to, began: began_at });
        }
        let report = check(&self.history.events(), &Expectations::default());
        let bytes =
            |it: &ConsumerRecord| it.value.as_ref().map_or(0, Bytes::len) + it.key.as_ref().map_or(0, Bytes::len);
        Ok(Verified {
            report,
            bytes: records.iter().map(|it| bytes(it) as u64).sum(),
            took,
            keys_out_of_order: keys_out_of_order(&records),
            keys: input.records.iter().filter_map(|it| it.key.as_ref()).collect::<BTreeSet<_>>().len(),
        })
    }
}

fn line_of(record: &ConsumerRecord) -> Option<u64> {
    let header = record.headers.iter().find(|header| header.name == LINE_HEADER)?;
    Some(u64::from_be_bytes(header.value.as_deref()?.try_into().ok()?))
}

fn read_event(topic: &Arc<str>, record: &ConsumerRecord) -> Event {
    Event::Read {
        reader: 0,
        place: Place { topic: Arc::clone(topic), partition: record.partition },
        offset: record.offset,
        id: line_of(record).map(|number| RecordId { writer: 0, number }),
        checksum: checksum(record.key.as_deref(), record.value.as_deref()),
        timestamp_ms: None,
    }
}

/// Keys whose lines, at their first appearance, do not come in the order of the input, or not from one partition.
fn keys_out_of_order(records: &[ConsumerRecord]) -> Vec<String> {
    let mut of_key: HashMap<&Bytes, (PartitionId, u64, BTreeSet<u64>)> = HashMap::new();
    let mut out_of_order = BTreeSet::new();
    for record in records {
        let (Some(key), Some(line)) = (&record.key, line_of(record)) else { continue };
        let (partition, newest, seen) = of_key.entry(key).or_insert((record.partition, line, BTreeSet::new()));
        let is_copy = !seen.insert(line);
        if *partition != record.partition || (!is_copy && line < *newest) {
            out_of_order.insert(String::from_utf8_lossy(key).into_owned());
        }
        *newest = (*newest).max(line);
    }
    out_of_order.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_client::{LeaderEpoch, TimestampMs, TopicName};
    use highwater_record::Header;

    fn record(key: &'static str, partition: u32, line: u64) -> ConsumerRecord {
        let header =
            Header { name: Bytes::from(LINE_HEADER), value: Some(Bytes::copy_from_slice(&line.to_be_bytes())) };
        ConsumerRecord {
            topic: TopicName::new("t").unwrap(),
            partition: PartitionId::new(partition),
            offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::FIRST,
            timestamp: TimestampMs::new(0),
            key: Some(Bytes::from(key)),
            value: None,
            headers: vec![header],
        }
    }

    #[test]
    fn order_by_key_is_checked_over_copies_and_partitions() {
        let good = [record("a", 0, 1), record("b", 1, 0), record("a", 0, 3), record("a", 0, 1), record("a", 0, 3)];
        assert!(keys_out_of_order(&good).is_empty());
        assert_eq!(keys_out_of_order(&[record("a", 0, 3), record("a", 0, 1)]), ["a"]);
        assert_eq!(keys_out_of_order(&[record("a", 0, 1), record("a", 1, 2)]), ["a"]);
    }
}
