//! Follows a history as it grows, to tell when a cluster works again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_client::Client;
use tokio::time::timeout;

use super::Finding;
use super::load::{Topics, until};
use crate::history::{Event, History, Place, RecordId, Told, member_of};

/// The deadline of a question to the cluster.
const ASK_MAX: Duration = Duration::from_secs(2);

pub struct Watcher<'a> {
    client: &'a Client,
    history: &'a History,
    topics: &'a Topics,
    /// Events looked at so far.
    seen: usize,
    /// When each partition acknowledged last.
    written: BTreeMap<Place, Duration>,
    /// When the group's last commit of each partition was begun.
    committed: BTreeMap<Place, Duration>,
    /// Acknowledged, and not yet read by a member.
    unread: BTreeSet<RecordId>,
    /// Read by a member before its writer heard of it.
    read_early: BTreeSet<RecordId>,
    /// When the last transaction was committed.
    transacted: Duration,
}

impl<'a> Watcher<'a> {
    pub fn new(client: &'a Client, history: &'a History, topics: &'a Topics) -> Self {
        Self {
            client,
            history,
            topics,
            seen: 0,
            written: BTreeMap::new(),
            committed: BTreeMap::new(),
            unread: BTreeSet::new(),
            read_early: BTreeSet::new(),
            transacted: Duration::ZERO,
        }
    }

    fn catch_up(&mut self) {
        let new = self.history.events_from(self.seen);
        self.seen += new.len();
        for timed in new {
            match timed.event {
                Event::Acknowledged { id, place, .. } if *place.topic == *self.topics.events => {
                    self.written.insert(place, timed.at);
                    if !self.read_early.remove(&id) {
                        self.unread.insert(id);
                    }
                }
                Event::Read { reader, id: Some(id), .. } if member_of(reader).is_some() => {
                    let was_acknowledged = self.unread.remove(&id);
                    if !was_acknowledged {
                        self.read_early.insert(id);
                    }
                }
                Event::Ended { told: Told::Committed, .. } => self.transacted = timed.at,
                Event::Committed { place, began, .. } => _ = self.committed.insert(place, began),
                _ => {}
            }
        }
    }

    fn not_since(&self, times: &BTreeMap<Place, Duration>, since: Duration) -> Vec<String> {
        let places = (0..self.topics.partitions).map(|partition| Place::new(&self.topics.events, partition));
        places.filter(|place| times.get(place).is_none_or(|at| *at <= since)).map(|place| place.to_string()).collect()
    }

    pub fn all_written_since(&mut self, since: Duration) -> bool {
        self.catch_up();
        self.not_since(&self.written, since).is_empty()
    }

    /// Everything works: writes, transactions, the group; and no replica is behind.
    pub async fn is_whole_since(&mut self, since: Duration) -> bool {
        self.missing(since).await.is_empty()
    }

    pub async fn missing_since(&mut self, since: Duration) -> String {
        self.missing(since).await.join("; ")
    }

    /// What does not work, cheap questions first: the others are asked only once these are answered.
    async fn missing(&mut self, since: Duration) -> Vec<String> {
        self.catch_up();
        let mut missing = Vec::new();
        let partitions = self.not_since(&self.written, since);
        if !partitions.is_empty() {
            missing.push(format!("no write was acknowledged by {}", partitions.join(", ")));
        }
        let partitions = self.not_since(&self.committed, since);
        if !partitions.is_empty() {
            missing.push(format!("the group has committed nothing of {}", partitions.join(", ")));
        }
        if self.transacted <= since {
            missing.push("no transaction was committed".to_owned());
        }
        if missing.is_empty() {
            match timeout(ASK_MAX, self.client.admin().describe_cluster()).await {
                Ok(Ok(cluster)) => {
                    let behind = cluster.under_replicated_partitions + cluster.offline_partitions;
                    if behind > 0 {
                        missing.push(format!("{behind} partition(s) have a replica that is not in sync, or no leader"));
                    }
                    if let Some(broker) = cluster.brokers.iter().find(|broker| broker.fenced) {
                        missing.push(format!("broker {} is fenced", broker.id));
                    }
                }
                Ok(Err(error)) => missing.push(format!("the cluster does not describe itself: {error}")),
                Err(_) => missing.push(format!("the cluster does not describe itself within {ASK_MAX:?}")),
            }
        }
        missing
    }

    /// Waits until a member has read every record that was acknowledged.
    pub async fn group_reads_all(&mut self, within: Duration) -> Option<Finding> {
        let read = until(within, async || {
            self.catch_up();
            self.unread.is_empty()
        });
        if read.await.is_some() {
            return None;
        }
        let first = self.unread.first().map(ToString::to_string).unwrap_or_default();
        let what = format!(
            "{} acknowledged record(s) were read by no member within {within:?}, such as {first}",
            self.unread.len()
        );
        Some(Finding::of("P5", self.history.now(), what))
    }
}
