//! The second act, first scene: a group of three reads the input as it comes, and one of them is killed on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use highwater_client::{NewTopic, ProducerConfig, ProducerRecord};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

use super::input::Input;
use super::{NODES, PARTITIONS, STEP_MAX, Stage};
use crate::commands::cluster::this_binary;
use crate::failure::{Failure, Outcome};

/// The members are processes of their own.
pub const MEMBERS: usize = 3;
/// The stream is stretched over so long, so that a member can die in the middle of it.
const STREAM: Duration = Duration::from_secs(3);

/// How it went.
pub struct Grouped {
    pub records: u64,
    /// Handed out again after the kill, because they were not committed; the sink counts them once.
    pub again: u64,
    /// From the kill to the first record of the dead member's partitions at another; none of a small input may be left for that.
    pub taken_over: Option<Duration>,
    /// The dead member's.
    pub partitions: Vec<u32>,
}

/// A line of a member's output: the record's place.
struct Seen {
    member: usize,
    partition: u32,
    offset: u64,
}

impl Stage {
    pub async fn group(&self, input: &Input) -> Outcome<Grouped> {
        let topic = format!("{}-for-a-group", self.topic);
        let new = NewTopic::new(&topic, PARTITIONS, NODES).config("min.insync.replicas", "2");
        self.client.admin().create_topic(new).await?;
        let (seen_in, mut seen) = mpsc::unbounded_channel();
        let mut members = Vec::new();
        for number in 0..MEMBERS {
            members.push(self.member(number, &topic, seen_in.clone())?);
        }
        drop(seen_in);
        self.all_have_partitions(&mut members).await?;

        let (killed_in, killed) = watch::channel(false);
        let writing = self.write_slowly(&topic, input, killed);
        let reading = read(input.records.len() as u64, &mut members, &mut seen, killed_in);
        let (written, grouped) = tokio::join!(writing, reading);
        written?;
        for (_, member) in &mut members {
            // The dead one is dead.
            let _ = member.kill().await;
        }
        grouped
    }

    fn member(&self, number: usize, topic: &str, seen: mpsc::UnboundedSender<Seen>) -> Outcome<Member> {
        let mut child = Command::new(this_binary()?)
            .args(["consume", topic, "--group", "quickstart", "--format", "%p %o"])
            .args(["--bootstrap", &self.cluster.bootstrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Failure::failed("a member of the group has no output"));
        };
        tokio::spawn(async move {
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let place = line.split_once(' ').and_then(|(p, o)| Some((p.parse().ok()?, o.parse().ok()?)));
                let Some((partition, offset)) = place else { continue };
                // Nobody counts any more.
                let _ = seen.send(Seen { member: number, partition, offset });
            }
        });
        Ok((BufReader::new(err).lines(), child))
    }

    /// Waits until each member has said that it was given partitions.
    async fn all_have_partitions(&self, members: &mut [Member]) -> Outcome {
        for (lines, _) in members {
            let told = async {
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.starts_with("assigned: ") {
                        return Ok(());
                    }
                    if let Some(error) = line.strip_prefix("error: ") {
                        return Err(Failure::failed(format!("a member of the group: {error}")));
                    }
                }
                Err(Failure::failed("a member of the group ended before it was given partitions"))
            };
            let in_time = tokio::time::timeout(STEP_MAX, told).await;
            in_time.map_err(|_| Failure::verification(format!("no partitions for a member within {STEP_MAX:?}")))??;
        }
        Ok(())
    }

    /// The second half waits for the death: written before it, all of it could have been read by then, and nothing would be left
    /// to take over.
    async fn write_slowly(&self, topic: &str, input: &Input, mut killed: watch::Receiver<bool>) -> Outcome {
        let producer = self.client.producer(ProducerConfig::default()).map_err(Failure::failed)?;
        let began = Instant::now();
        let total = input.records.len().max(1);
        for (index, record) in input.records.iter().enumerate() {
            if index % 100 == 0 {
                let due = STREAM.mul_f64(index as f64 / total as f64);
                tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            }
            // An error is a reader that gave up, which says so itself.
            if index == total.div_ceil(2) && killed.wait_for(|killed| *killed).await.is_err() {
                break;
            }
            let mut out = ProducerRecord::new(topic).value(record.value.clone());
            if let Some(key) = &record.key {
                out = out.key(key.clone());
            }
            // Flushed below, which tells of failures.
            drop(producer.send(out).await?);
        }
        producer.close().await.map_err(|error| Failure::of_code(error.first.code, &error.to_string()))
    }
}

type Member = (tokio::io::Lines<BufReader<tokio::process::ChildStderr>>, Child);

/// Counts each record once, kills a member on the way, and checks that what it had goes on elsewhere, in order.
async fn read(
    total: u64,
    members: &mut [Member],
    seen: &mut mpsc::UnboundedReceiver<Seen>,
    killed_in: watch::Sender<bool>,
) -> Outcome<Grouped> {
    let mut sink: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    let mut owner: BTreeMap<u32, usize> = BTreeMap::new();
    let (mut records, mut again) = (0, 0);
    let mut killed: Option<(usize, Instant, Vec<u32>)> = None;
    let mut taken_over = None;
    while records < total {
        let next = tokio::time::timeout(STEP_MAX, seen.recv()).await;
        let Ok(Some(Seen { member, partition, offset })) = next else {
            let left = total - records;
            return Err(Failure::verification(format!("the group did not read {left} records within {STEP_MAX:?}")));
        };
        let of_partition = sink.entry(partition).or_default();
        if !of_partition.insert(offset) {
            again += 1;
            continue;
        }
        if offset != 0 && !of_partition.contains(&(offset - 1)) {
            return Err(Failure::verification(format!("the group passed over records before {partition}@{offset}")));
        }
        records += 1;
        owner.insert(partition, member);
        match &killed {
            None if records > total / 3 => {
                // One that has partitions, or nothing would be taken over.
                let victim = member;
                members[victim].1.kill().await?;
                let its = owner.iter().filter(|(_, owner)| **owner == victim).map(|(partition, _)| *partition);
                killed = Some((victim, Instant::now(), its.collect()));
                killed_in.send_replace(true);
            }
            Some((victim, at, its)) if member != *victim && taken_over.is_none() && its.contains(&partition) => {
                taken_over = Some(at.elapsed());
            }
            _ => {}
        }
    }
    match killed {
        Some((_, _, partitions)) => Ok(Grouped { records, again, taken_over, partitions }),
        None => Err(Failure::verification("the group read everything before a member could be killed")),
    }
}
