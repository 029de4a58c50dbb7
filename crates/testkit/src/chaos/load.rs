//! What clients do while things break: idempotent writers, producers of transactions, readers of both kinds, and a group
//! whose members come, go and die.

use std::time::Duration;

use highwater_client::{Client, GroupConfig, NewTopic};
use highwater_seams::{Entropy as _, SeededEntropy};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{ChaosError, Finding};
use crate::History;
use crate::history::{Event, Removal};
use crate::workloads::appends::{Writers, WritersConfig};
use crate::workloads::members::Member;
use crate::workloads::readers::{Reader, Tail};
use crate::workloads::transactors::Transactor;

const WRITERS: u32 = 3;
/// Writers of transactions, numbered after those of single records.
const TRANSACTORS: u32 = 2;
const MEMBERS_MAX: usize = 3;
/// Readers of a history, each with a number: one follows single records, one committed transactions; at the end both are read whole.
pub const FOLLOWING: [u32; 2] = [1, 2];
pub const LAST: [u32; 2] = [3, 4];
/// How long clients may take to settle what they have begun, once nothing is broken any more.
const SETTLE_MAX: Duration = Duration::from_secs(150);

/// The topics of one round, and how many partitions each has.
#[derive(Debug, Clone)]
pub struct Topics {
    /// Of single records.
    pub events: String,
    /// Of transactions.
    pub ledger: String,
    pub group: String,
    pub partitions: u32,
}

impl Topics {
    pub fn new(stamp: &str, partitions: u32) -> Self {
        Self {
            events: format!("chaos-{stamp}"),
            ledger: format!("chaos-{stamp}-ledger"),
            group: format!("chaos-{stamp}-group"),
            partitions,
        }
    }

    pub async fn create(&self, client: &Client, brokers: u32) -> Result<(), ChaosError> {
        for name in [&self.events, &self.ledger] {
            let replicas = brokers.min(3);
            let topic = NewTopic::new(name, self.partitions, replicas).config("segment.bytes", "1048576");
            client.admin().create_topic(topic).await.map_err(ChaosError::Topic)?;
        }
        Ok(())
    }

    /// What fails is left there.
    pub async fn delete(&self, client: &Client) {
        for name in [&self.events, &self.ledger] {
            if let Err(error) = client.admin().delete_topic(name).await {
                tracing::warn!(name, %error, "a topic of a round was not deleted");
            }
        }
    }
}

pub struct Load {
    topics: Topics,
    history: History,
    writers: Writers,
    tails: [Tail; 2],
    transactors: Vec<Transactor>,
    churn: JoinHandle<Vec<Member>>,
    stop_churn: watch::Sender<bool>,
}

impl Load {
    pub fn start(client: &Client, bootstrap: &str, history: &History, topics: &Topics, seed: u64) -> Self {
        let burst = WritersConfig {
            writers: WRITERS,
            // Some 600 records a second in all: enough to see a stall, and little enough to keep it all in memory.
            burst: 2,
            every: Duration::from_millis(10),
            ..WritersConfig::new(&topics.events, topics.partitions)
        };
        let writers = Writers::start(client, history, &burst);
        for (name, dense) in [(&topics.events, true), (&topics.ledger, false)] {
            history.record(Event::Topic {
                topic: name.as_str().into(),
                synced: true,
                removal: Removal::OnRequest,
                dense,
            });
        }
        let tails = [
            Tail::start_as(client, history, Reader::of_all(FOLLOWING[0]), &topics.events),
            Tail::start_as(client, history, Reader::of_committed(FOLLOWING[1]), &topics.ledger),
        ];
        let transactors = (1..=TRANSACTORS)
            .map(|number| Transactor::start(client, history, WRITERS + number, &topics.ledger, topics.partitions, None))
            .collect();
        let (stop_churn, stopping) = watch::channel(false);
        let members = Members { bootstrap: bootstrap.to_owned(), history: history.clone(), topics: topics.clone() };
        let churn = tokio::spawn(members.churn(SeededEntropy::new(seed.rotate_left(29)), stopping));
        Self { topics: topics.clone(), history: history.clone(), writers, tails, transactors, churn, stop_churn }
    }

    /// Ends everything in good order, the members last: once `group_has_read` says that there is nothing more for them.
    pub async fn stop(self, group_has_read: impl AsyncFnOnce() -> Option<Finding>) -> Vec<Finding> {
        let Self { topics, history, writers, tails, transactors, churn, stop_churn } = self;
        let mut ends = Ends { history: history.clone(), findings: Vec::new() };
        stop_churn.send_replace(true);
        ends.wait("the writers", writers.stop()).await;
        for transactor in transactors {
            ends.wait("a producer of transactions", transactor.stop()).await;
        }
        for (tail, topic) in tails.into_iter().zip([&topics.events, &topics.ledger]) {
            if let Some(Err(error)) = ends.wait("a reader", tail.stop()).await {
                ends.found(format!("the reader of {topic} gave up: {error}"));
            }
        }
        let members = ends.wait("the members' keeper", async { churn.await.unwrap_or_else(resume) }).await;
        ends.findings.extend(group_has_read().await);
        for member in members.into_iter().flatten() {
            ends.wait("a member", member.close()).await;
        }
        ends.findings
    }
}

fn resume<T>(error: tokio::task::JoinError) -> T {
    std::panic::resume_unwind(error.into_panic())
}

/// The ends of clients; those that don't come, or not in good order, are findings.
struct Ends {
    history: History,
    findings: Vec<Finding>,
}

impl Ends {
    async fn wait<T: Send + 'static>(&mut self, who: &str, end: impl Future<Output = T> + Send + 'static) -> Option<T> {
        match timeout(SETTLE_MAX, tokio::spawn(end)).await {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => {
                let panic = error.try_into_panic().ok();
                let text = panic.as_ref().and_then(|panic| {
                    panic
                        .downcast_ref::<String>()
                        .cloned()
                        .or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()))
                });
                self.found(format!("{who} could not go on: {}", text.unwrap_or_else(|| "it was aborted".to_owned())));
            }
            Err(_) => self.found(format!("{who} did not come to an end within {SETTLE_MAX:?}")),
        }
        None
    }

    fn found(&mut self, what: String) {
        self.findings.push(Finding::liveness(self.history.now(), what));
    }
}

/// Members of the group, each a process as far as the cluster can tell.
struct Members {
    bootstrap: String,
    history: History,
    topics: Topics,
}

impl Members {
    fn start(&self, number: u32) -> Member {
        Member::start(&self.bootstrap, &self.history, number, &self.topics.events, GroupConfig::new(&self.topics.group))
    }

    /// One comes, leaves or dies every few seconds. The first stays: somebody must read on.
    async fn churn(self, random: SeededEntropy, mut stopping: watch::Receiver<bool>) -> Vec<Member> {
        let mut members = vec![self.start(1), self.start(2)];
        let mut next = 3;
        loop {
            let pause = Duration::from_millis(2_000 + random.below(4_000));
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return members,
                () = sleep(pause) => {}
            }
            let some = 1 + random.below(members.len().saturating_sub(1).max(1) as u64) as usize;
            match random.below(3) {
                0 if members.len() > 1 => members.remove(some).kill(),
                1 if members.len() > 1 => {
                    // Leaving takes as long as the coordinator is away; what comes of it is the others' business.
                    tokio::spawn(members.remove(some).close());
                }
                _ if members.len() < MEMBERS_MAX => {
                    members.push(self.start(next));
                    next += 1;
                }
                _ => {}
            }
        }
    }
}

/// Waits until `condition` holds; returns how long that took.
pub async fn until(within: Duration, mut condition: impl AsyncFnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if condition().await {
            return Some(start.elapsed());
        }
        if start.elapsed() >= within {
            return None;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
