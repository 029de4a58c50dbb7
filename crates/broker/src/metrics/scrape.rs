//! A scrape of a broker: counters as they stand, and gauges looked up now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_coordination::{group, transaction};
use highwater_metrics::{Page, families as f};
use highwater_types::{ErrorCode, GROUPS_TOPIC, TRANSACTIONS_TOPIC, TopicId};

use super::{Api, BrokerMetrics, Topics};
use crate::cluster::ClusterLink;
use crate::coordinator::Coordinators;
use crate::core::Core;

/// For a coordinator to count what it has: one that is busy for longer is left out of this scrape.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// What a broker measures.
#[derive(Clone)]
pub struct BrokerScrape {
    core: Arc<Core>,
    link: ClusterLink,
    coordinators: Arc<Coordinators>,
}

impl BrokerScrape {
    pub(crate) fn new(core: Arc<Core>, link: ClusterLink, coordinators: Arc<Coordinators>) -> Self {
        Self { core, link, coordinators }
    }

    /// Puts everything on `page`.
    pub async fn write(&self, page: &mut Page) {
        let metrics = self.core.partitions.metrics();
        let log_bytes = self.partitions(page).await;
        self.topics(metrics, &log_bytes, page);
        self.requests(metrics, page);
        if let Some(door) = metrics.door.get() {
            door(page);
        }
        self.disks(page);
        self.cluster(page);
        self.groups(page).await;
        self.transactions(metrics, page).await;
    }

    /// Returns the size of the logs here, by topic.
    async fn partitions(&self, page: &mut Page) -> BTreeMap<TopicId, u64> {
        let all = self.core.partitions.all();
        let mut log_bytes: BTreeMap<TopicId, u64> = BTreeMap::new();
        let (mut led, mut under_replicated, mut under_min_isr, mut unusable) = (0, 0, 0, 0);
        let (mut lag_records, mut lag) = (0, Duration::ZERO);
        for (n, (tp, partition)) in all.iter().enumerate() {
            if n % 64 == 63 {
                // Others get their turn on this thread.
                tokio::task::yield_now().await;
            }
            let gauges = partition.gauges();
            *log_bytes.entry(tp.topic).or_default() += gauges.size_bytes;
            unusable += u32::from(gauges.is_unusable);
            if let Some(it) = gauges.led {
                led += 1;
                under_replicated += u32::from(it.is_under_replicated);
                under_min_isr += u32::from(it.is_under_min_isr);
                lag_records = lag_records.max(it.lag_records);
                lag = lag.max(it.lag);
            }
        }
        page.add(&f::PARTITIONS, &[], all.len());
        page.add(&f::PARTITIONS_LED, &[], led);
        page.add(&f::UNDER_REPLICATED, &[], under_replicated);
        page.add(&f::UNDER_MIN_ISR, &[], under_min_isr);
        page.add(&f::UNUSABLE, &[], unusable);
        page.add(&f::LAG_RECORDS, &[], lag_records);
        page.add(&f::LAG_SECONDS, &[], lag.as_secs_f64());
        log_bytes
    }

    fn topics(&self, metrics: &BrokerMetrics, log_bytes: &BTreeMap<TopicId, u64>, page: &mut Page) {
        let image = self.core.partitions.image();
        let (own, others) = metrics.topics.all(|topic| image.topic(topic).is_some());
        let mut other_log_bytes: u64 = log_bytes.values().sum();
        let mut add = |name: &str, counters: &super::TopicCounters, log_bytes: u64| {
            page.add(&f::TOPIC_BYTES_IN, &[name], counters.bytes_in.get());
            page.add(&f::TOPIC_RECORDS_IN, &[name], counters.records_in.get());
            page.add(&f::TOPIC_BYTES_OUT, &[name], counters.bytes_out.get());
            page.add(&f::TOPIC_RECORDS_OUT, &[name], counters.records_out.get());
            page.add(&f::TOPIC_COMMITTED, &[name], counters.committed.get());
            page.add(&f::TOPIC_LOG_BYTES, &[name], log_bytes);
        };
        for (id, counters) in own {
            // What the metadata does not know is on its way out.
            let Some(topic) = image.topic(id) else { continue };
            let bytes = log_bytes.get(&id).copied().unwrap_or(0);
            other_log_bytes -= bytes;
            add(topic.name.as_str(), &counters, bytes);
        }
        add(Topics::OTHERS, others, other_log_bytes);
    }

    fn requests(&self, metrics: &BrokerMetrics, page: &mut Page) {
        page.histogram(&f::PRODUCE_SECONDS, &[], &metrics.produce_took);
        page.histogram(&f::FETCH_SECONDS, &[], &metrics.fetch_took);
        for api in Api::ALL {
            for code in ErrorCode::ALL {
                // Those that never came would be most of the page; one is always there, so that the family is.
                let count = metrics.refused.of(api, *code).map_or(0, highwater_metrics::Counter::get);
                if count > 0 || *code == ErrorCode::NotEnoughReplicas {
                    page.add(&f::REQUESTS_REFUSED, &[api.name(), code.name()], count);
                }
            }
        }
        page.add(&f::PRODUCE_THROTTLED, &[], metrics.produce_throttled.get());
        page.add(&f::PRODUCE_PENDING_BYTES, &[], self.core.produce_budget.used());
        // In this order: one that closes in between is not counted twice.
        let closed = metrics.connections_closed.get();
        let accepted = metrics.connections_accepted.get();
        page.add(&f::CONNECTIONS, &[], accepted.saturating_sub(closed));
        page.add(&f::CONNECTIONS_ACCEPTED, &[], accepted);
        page.add(&f::CONNECTIONS_REFUSED, &[], metrics.connections_refused.get());
        page.add(&f::ISR_SHRINKS, &[], metrics.isr_shrinks.get());
        page.add(&f::ISR_EXPANSIONS, &[], metrics.isr_expansions.get());
        page.add(&f::LEADERSHIPS, &[], metrics.leaderships.get());
        page.add(&f::REPLICA_BYTES_IN, &[], metrics.replica_bytes_in.get());
        page.add(&f::REPLICA_BYTES_OUT, &[], metrics.replica_bytes_out.get());
        page.add(&f::COMPACTIONS, &["done"], metrics.compactions.get());
        page.add(&f::COMPACTIONS, &["failed"], metrics.compactions_failed.get());
        page.add(&f::COMPACTION_READ_BYTES, &[], metrics.compaction_bytes_before.get());
        page.add(&f::COMPACTION_WRITTEN_BYTES, &[], metrics.compaction_bytes_after.get());
    }

    fn disks(&self, page: &mut Page) {
        for (dir, sync_took) in self.core.partitions.sync_took() {
            let path = dir.path().to_string_lossy();
            let status = dir.status();
            page.histogram(&f::FSYNC_SECONDS, &[&path], &sync_took);
            page.add(&f::DISK_FREE_BYTES, &[&path], status.free_bytes());
            page.add(&f::DISK_FULL, &[&path], u8::from(status.is_full()));
            page.add(&f::DISK_OFFLINE, &[&path], u8::from(status.offline_reason().is_some()));
        }
    }

    fn cluster(&self, page: &mut Page) {
        let image = self.core.partitions.image();
        let is_registered = self.link.status().borrow().broker_epoch.is_some();
        let is_fenced = !image.is_active(self.core.config.id);
        page.add(&f::BROKER_REGISTERED, &[], u8::from(is_registered));
        page.add(&f::BROKER_FENCED, &[], u8::from(is_fenced));
        page.add(&f::METADATA_VERSION, &[], image.version.get());
    }

    async fn groups(&self, page: &mut Page) {
        let runtime = &self.coordinators.groups;
        let loaded = runtime.loaded();
        page.add(&f::COORDINATORS, &[GROUPS_TOPIC], loaded.len());
        let mut by_state: BTreeMap<&str, u64> = BTreeMap::from([("Stable", 0)]);
        let (mut members, mut epochs) = (0, 0);
        for partition in loaded {
            let counted = tokio::time::timeout(COUNT_TIMEOUT, runtime.call(partition, group::Request::CountGroups));
            // One that is busy, or not here any more.
            let Ok(Ok(group::Response::Counted(counts))) = counted.await else { continue };
            counts.by_state.iter().for_each(|(state, count)| *by_state.entry(state).or_default() += count);
            members += counts.members;
            epochs += counts.epochs;
        }
        by_state.iter().for_each(|(state, count)| page.add(&f::GROUPS, &[state], count));
        page.add(&f::GROUP_MEMBERS, &[], members);
        page.add(&f::GROUP_EPOCHS, &[], epochs);
    }

    async fn transactions(&self, metrics: &BrokerMetrics, page: &mut Page) {
        let runtime = &self.coordinators.transactions;
        let loaded = runtime.loaded();
        page.add(&f::COORDINATORS, &[TRANSACTIONS_TOPIC], loaded.len());
        let mut by_state: BTreeMap<&str, u64> = BTreeMap::from([("Ongoing", 0)]);
        for partition in loaded {
            let request = transaction::Request::CountTransactions;
            let counted = tokio::time::timeout(COUNT_TIMEOUT, runtime.call(partition, request));
            let Ok(Ok(transaction::Response::Counted(counts))) = counted.await else { continue };
            counts.iter().for_each(|(state, count)| *by_state.entry(state).or_default() += count);
        }
        by_state.iter().for_each(|(state, count)| page.add(&f::TRANSACTIONS, &[state], count));
        page.add(&f::TRANSACTIONS_ENDED, &["commit"], metrics.commits.get());
        page.add(&f::TRANSACTIONS_ENDED, &["abort"], metrics.aborts.get());
    }
}
