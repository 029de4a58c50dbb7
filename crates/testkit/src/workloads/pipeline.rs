//! Consume, transform, produce, and commit in one transaction: pipelines that can be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_client::{
    AdminError, Client, ConsumeError, GroupConfig, GroupConsumer, GroupMetadata, IsolationLevel, Offset,
    OffsetToCommit, PartitionId, ProducerRecord, StartAt, TransactionError, TransactionalConfig, TransactionalProducer,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{OwnRuntime, insist};
use crate::history::{Event, History, Place, RecordId, Timed};

/// Long enough for a broker's death within a transaction, short enough for a test that waits for what a dead one left open.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);

/// A running pipeline, on a runtime of its own, so that it can die as a process does.
pub struct Pipeline {
    number: u32,
    history: History,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    runtime: OwnRuntime,
}

impl Pipeline {
    /// Copies what comes in `from` to `to`, as a member of `group`. Pipelines of the same `number` have the same
    /// transactional id: a new one fences the one before.
    ///
    /// # Panics
    /// If there is no thread for it.
    pub fn start(bootstrap: &str, history: &History, number: u32, group: &str, from: &str, to: &str) -> Self {
        let runtime = OwnRuntime::start(format!("pipeline-{number}"));
        let (stop, stopping) = watch::channel(false);
        let (bootstrap, group, from, to) = (bootstrap.to_owned(), group.to_owned(), from.to_owned(), to.to_owned());
        let task = runtime.spawn(async move {
            let client = Client::connect(&bootstrap).await.expect("the cluster is there");
            work(&client, number, &group, [&from, &to], stopping).await;
        });
        Self { number, history: history.clone(), stop, task, runtime }
    }

    /// Ends after the transaction that is open.
    ///
    /// # Panics
    /// If it did.
    pub async fn close(self) {
        self.stop.send_replace(true);
        let ended = self.task.await;
        drop(self.runtime);
        ended.expect("a pipeline does not panic");
    }

    /// It is gone from one moment to the next, and leaves open what is open.
    pub fn kill(self) {
        self.history.fault(format!("pipeline {} dies", self.number));
        self.task.abort();
        drop(self.runtime);
    }
}

/// Copies what comes in the one topic to the other until it is told to stop; see [`Pipeline::start`].
///
/// # Panics
/// If it can't go on.
pub async fn work(
    client: &Client,
    number: u32,
    group: &str,
    [from, to]: [&str; 2],
    mut stopping: watch::Receiver<bool>,
) {
    let mut config = GroupConfig { auto_commit: false, ..GroupConfig::new(group) };
    config.consumer.isolation = IsolationLevel::ReadCommitted;
    config.consumer.poll_records_max = 200;
    let mut consumer = client.group_consumer(config).expect("the settings of a test's consumer");
    consumer.subscribe(from);
    let mut producer = None;
    loop {
        let polled = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => break,
            polled = consumer.poll(Duration::from_millis(50)) => polled,
        };
        let records = match polled {
            Ok(records) => records,
            Err(error) if error.is_retriable() => continue,
            // Whether it may be, the oracle says.
            Err(ConsumeError::LogTruncated { partition, diverged_at, .. }) => {
                match consumer.seek(from, partition, StartAt::Offset(diverged_at)).await {
                    // Another member's by now.
                    Ok(()) | Err(ConsumeError::NotAssigned { .. }) => continue,
                    Err(error) => panic!("pipeline {number} can't go back: {error}"),
                }
            }
            Err(error) => panic!("pipeline {number} can't read on: {error}"),
        };
        if records.is_empty() {
            continue;
        }
        let mut begins = BTreeMap::new();
        for record in &records {
            begins.entry((record.topic.clone(), record.partition)).or_insert(record.offset);
        }
        let done = transact(client, &mut producer, number, &consumer.group_metadata(), &records, to).await;
        if let Err(error) = done {
            tracing::debug!(number, %error, "again");
            if error.is_fatal() || matches!(error, TransactionError::Unavailable { .. }) {
                // Its successor ends what it left open. Whether a commit was decided, the group's offsets will tell.
                producer = None;
            }
            rewind(&mut consumer, begins, from).await;
        }
    }
    // Its partitions go to others with or without an answer.
    let _ = consumer.close().await;
    if let Some(producer) = producer {
        let _ = producer.close().await;
    }
}

async fn transact(
    client: &Client,
    producer: &mut Option<TransactionalProducer>,
    number: u32,
    group: &GroupMetadata,
    records: &[highwater_client::ConsumerRecord],
    to: &str,
) -> Result<(), TransactionError> {
    let producer = match producer {
        Some(producer) => producer,
        None => {
            let mut config = TransactionalConfig::new(format!("pipeline-{number}"));
            config.timeout = TRANSACTION_TIMEOUT;
            producer.insert(client.transactional_producer(config).await?)
        }
    };
    let transaction = producer.begin().await?;
    let mut ends = BTreeMap::new();
    for record in records {
        let mut output = ProducerRecord::new(to).value(record.value.clone().unwrap_or_default());
        if let Some(key) = &record.key {
            output = output.key(key.clone());
        }
        // What becomes of it, the commit tells.
        if let Ok(delivery) = transaction.send(output).await {
            drop(delivery);
        }
        ends.insert((record.topic.clone(), record.partition), OffsetToCommit::after(record));
    }
    let offsets: Vec<_> = ends.into_values().collect();
    match transaction.send_offsets(&offsets, group).await {
        Ok(()) => transaction.commit().await,
        Err(error) => transaction.abort().await.and(Err(error)),
    }
}

/// Back to where the group is; where it has committed nothing, to where these records began.
async fn rewind(
    consumer: &mut GroupConsumer,
    begins: BTreeMap<(highwater_client::TopicName, PartitionId), Offset>,
    from: &str,
) {
    let partitions: Vec<_> = begins.keys().cloned().collect();
    loop {
        let committed = match consumer.committed(&partitions).await {
            Ok(committed) => committed,
            // A coordinator that is gone for a while.
            Err(error) if error.is_retriable() => continue,
            Err(error) => panic!("the group's offsets can't be read: {error}"),
        };
        for (topic, id) in begins.keys() {
            let at = committed.iter().find(|it| it.topic == *topic && it.partition == *id);
            let start = at.map_or(StartAt::Beginning, |it| StartAt::Offset(it.position.offset));
            match consumer.seek(from, *id, start).await {
                // Another member's by now: it begins where the group is.
                Ok(()) | Err(ConsumeError::NotAssigned { .. }) => {}
                Err(error) => panic!("can't go back: {error}"),
            }
        }
        return;
    }
}

/// That a pipeline copies what comes in `from` to `to`.
pub fn described(group: &str, from: &str, to: &str) -> Event {
    Event::Copies { group: group.into(), from: from.into(), to: to.into() }
}

/// What of the records acknowledged in `from` no reader of committed records has found in `to`.
pub fn not_copied(events: &[Timed], from: &str, to: &str) -> BTreeSet<RecordId> {
    let (mut waiting, mut copied) = (BTreeSet::new(), BTreeSet::new());
    for timed in events {
        match &timed.event {
            Event::Acknowledged { id, place, .. } if &*place.topic == from => _ = waiting.insert(*id),
            Event::Read { place, id: Some(id), .. } if &*place.topic == to => _ = copied.insert(*id),
            _ => {}
        }
    }
    waiting.retain(|id| !copied.contains(id));
    waiting
}

/// Records where the group is in all partitions of `topic`, once no transaction could move it.
pub async fn record_offsets(
    client: &Client,
    history: &History,
    group: &str,
    topic: &str,
    patience: Duration,
) -> Result<(), AdminError> {
    let admin = client.admin();
    let described = insist(patience, || admin.describe_topic(topic)).await?;
    for partition in &described.partitions {
        let at = insist(patience, || admin.stable_group_offset(group, topic, partition.id)).await?;
        history.record(Event::GroupIsAt {
            group: group.into(),
            place: Place::new(topic, partition.id.get()),
            offset: at.map_or(Offset::ZERO, |at| at.position.offset),
        });
    }
    Ok(())
}
