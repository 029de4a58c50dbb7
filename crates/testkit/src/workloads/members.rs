//! Members of a consumer group that record what they are given, read and commit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_client::{
    Client, CommitError, ConsumeError, ConsumerRecord, GroupCommitter, GroupConfig, Offset, OffsetToCommit,
    PartitionId, RebalanceListener, StartAt, TopicName, async_trait,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::readers::seen;
use super::{Fallible, OwnRuntime, PAUSE};
use crate::history::{Event, History, Place, reader_of};

/// A commit for about so many records, and at least so often.
const COMMIT_EVERY: usize = 50;
const COMMIT_AT_LEAST: Duration = Duration::from_millis(200);

/// A running member, on a runtime of its own, so that it can die as a process does.
pub struct Member {
    number: u32,
    history: History,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    runtime: OwnRuntime,
}

impl Member {
    /// Starts member `number` (each life of one has its own) of the group that `config` names. Its commits are its own, and
    /// `auto_commit` is turned off.
    ///
    /// # Panics
    /// If there is no thread for it.
    pub fn start(bootstrap: &str, history: &History, number: u32, topic: &str, config: GroupConfig) -> Self {
        let runtime = OwnRuntime::start(format!("member-{number}"));
        let (stop, stopping) = watch::channel(false);
        let (bootstrap, topic, recorded) = (bootstrap.to_owned(), topic.to_owned(), history.clone());
        let task = runtime.spawn(async move {
            let client = Client::connect(&bootstrap).await.expect("the cluster is there");
            work(&client, recorded, number, &topic, config, stopping).await;
        });
        Self { number, history: history.clone(), stop, task, runtime }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    /// It commits what it has read, and leaves.
    ///
    /// # Panics
    /// If it did.
    pub async fn close(self) {
        self.stop.send_replace(true);
        let ended = self.task.await;
        drop(self.runtime);
        ended.expect("a member does not panic");
    }

    /// It is gone from one moment to the next: nothing is committed any more, and nobody is told.
    pub fn kill(self) {
        self.history.record(Event::MemberGone { member: self.number });
        self.task.abort();
        drop(self.runtime);
    }
}

/// Reads as member `number` until it is told to stop; then it commits what it has read, and leaves.
///
/// # Panics
/// If it can't go on.
pub async fn work(
    client: &Client,
    history: History,
    number: u32,
    topic: &str,
    config: GroupConfig,
    mut stopping: watch::Receiver<bool>,
) {
    let group: Arc<str> = config.group_id.as_str().into();
    let mut consumer =
        client.group_consumer(GroupConfig { auto_commit: false, ..config }).expect("the settings of a test's member");
    let notes = Arc::new(Notes { history, group, number, state: Mutex::default() });
    consumer.subscribe_with(topic, Listener(Arc::clone(&notes)));
    let mut last_commit = Instant::now();
    loop {
        let polled = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => break,
            polled = consumer.poll(Duration::from_millis(50)) => polled,
        };
        match polled {
            Ok(records) => records.iter().for_each(|record| notes.read(record)),
            // Coordinators and leaders that are gone for a while are what these tests are about.
            Err(error) if error.is_retriable() => {}
            // Whether it may be, the oracle says.
            Err(ConsumeError::LogTruncated { partition, diverged_at, .. }) => {
                notes.sought(topic, partition, diverged_at);
                match consumer.seek(topic, partition, StartAt::Offset(diverged_at)).await {
                    // Another member's by now.
                    Ok(()) | Err(ConsumeError::NotAssigned { .. }) => {}
                    Err(error) => panic!("member {number} can't go back: {error}"),
                }
            }
            Err(error) => panic!("member {number} can't go on: {error}"),
        }
        if notes.uncommitted() >= COMMIT_EVERY || last_commit.elapsed() >= COMMIT_AT_LEAST {
            last_commit = Instant::now();
            // What is refused or unknown is committed with what follows, or handed out again to the next owner.
            let _ = notes.commit(&consumer.committer(), |_, _| true).await;
        }
    }
    let _ = notes.commit(&consumer.committer(), |_, _| true).await;
    // Its partitions go to others with or without an answer.
    let _ = consumer.close().await;
}

/// Waits until nobody is in the group any more; who died is, until its session ends.
pub async fn all_have_left(client: &Client, group: &str, patience: Duration) -> Fallible<()> {
    let deadline = Instant::now() + patience;
    loop {
        let found = match client.admin().describe_group(group).await {
            Ok(group) if group.members.is_empty() => return Ok(()),
            Ok(group) => format!("{} member(s) are left", group.members.len()),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(format!("group {group} is not empty after {patience:?}: {found}").into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What one member knows of its partitions.
struct Notes {
    history: History,
    group: Arc<str>,
    number: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What each partition was read up to, and how many of these records are not committed.
    read: BTreeMap<(TopicName, PartitionId), (OffsetToCommit, usize)>,
    /// How often partitions were assigned: a partition that comes back may be read again from where another committed.
    lives: u32,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self, lives: u32) -> u32 {
        reader_of(self.number, lives)
    }

    fn read(&self, record: &ConsumerRecord) {
        let mut state = self.lock();
        let reader = self.reader(state.lives);
        let next = OffsetToCommit::after(record);
        let entry = state.read.entry((record.topic.clone(), record.partition)).or_insert_with(|| (next.clone(), 0));
        *entry = (next, entry.1 + 1);
        drop(state);
        self.history.record(seen(reader, &record.topic.as_str().into(), record));
    }

    fn sought(&self, topic: &str, partition: PartitionId, to: Offset) {
        let reader = self.reader(self.lock().lives);
        let place = Place::new(topic, partition.get());
        self.history.record(Event::Sought { reader, place, to: Some(to) });
    }

    fn uncommitted(&self) -> usize {
        self.lock().read.values().map(|(_, count)| count).sum()
    }

    async fn commit(
        &self,
        committer: &GroupCommitter,
        wanted: impl Fn(&TopicName, PartitionId) -> bool,
    ) -> Result<(), CommitError> {
        let offsets: Vec<OffsetToCommit> = {
            let state = self.lock();
            let of = state.read.iter().filter(|((topic, id), (_, count))| *count > 0 && wanted(topic, *id));
            of.map(|(_, (offset, _))| offset.clone()).collect()
        };
        if offsets.is_empty() {
            return Ok(());
        }
        let began = self.history.now();
        committer.commit(&offsets).await?;
        for offset in &offsets {
            self.history.record(Event::Committed {
                group: Arc::clone(&self.group),
                member: self.number,
                place: Place::new(&offset.topic, offset.partition.get()),
                offset: offset.position.offset,
                began,
            });
        }
        let mut state = self.lock();
        for ((topic, id), (read, count)) in &mut state.read {
            if offsets
                .iter()
                .any(|it| it.topic == topic.as_str() && it.partition == *id && it.position == read.position)
            {
                *count = 0;
            }
        }
        Ok(())
    }

    fn released(&self, partitions: &[(TopicName, PartitionId)]) {
        for (topic, id) in partitions {
            self.lock().read.remove(&(topic.clone(), *id));
            let (group, place) = (Arc::clone(&self.group), Place::new(topic.as_str(), id.get()));
            self.history.record(Event::Released { group, member: self.number, place });
        }
    }
}

struct Listener(Arc<Notes>);

#[async_trait]
impl RebalanceListener for Listener {
    async fn assigned(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        self.0.lock().lives += 1;
        for (topic, id) in partitions {
            let (group, place) = (Arc::clone(&self.0.group), Place::new(topic.as_str(), id.get()));
            self.0.history.record(Event::Assigned { group, member: self.0.number, place });
        }
    }

    async fn revoked(&mut self, partitions: &[(TopicName, PartitionId)], committer: &GroupCommitter) {
        let given_up = |topic: &TopicName, id| partitions.iter().any(|(name, other)| name == topic && *other == id);
        // Not taken: the next owner reads it again.
        let _ = self.0.commit(committer, given_up).await;
        self.0.released(partitions);
    }

    async fn lost(&mut self, partitions: &[(TopicName, PartitionId)]) {
        self.0.released(partitions);
    }
}
