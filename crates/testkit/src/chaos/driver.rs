//! Does what the schedule says, and remembers what it has done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_client::Client;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::fault::{Fault, Target};
use super::schedule::Schedule;
use super::subject::Subject;
use super::{ChaosError, Finding};
use crate::History;
use crate::local_cluster::{Action, NodeId};
use crate::proxy::{Aftermath, Effect, Impairment, ImpairmentId, Side};

/// How often nodes are looked after while nothing else is to be done.
const EVERY: Duration = Duration::from_millis(50);
/// How long a node may take to end in good order. It moves leadership away first, for which it needs the others.
const END_MAX: Duration = Duration::from_secs(40);
/// How long it is tried to find out who the active controller is.
const ASK_MAX: Duration = Duration::from_secs(1);

/// A fault as it came about. Times are the history's.
#[derive(Debug, Clone)]
pub struct Struck {
    pub fault: Fault,
    /// Who was hit.
    pub nodes: Vec<NodeId>,
    pub from: Duration,
    pub to: Duration,
    /// Why nothing came of it.
    pub skipped: Option<String>,
}

impl Struck {
    /// The fault, with the nodes that it has found.
    pub fn describe(&self) -> String {
        let named = self.fault.targets().iter().all(|target| matches!(target, Target::Node(_)));
        let who = self.nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
        if named || who.is_empty() { self.fault.to_string() } else { format!("{} ({who})", self.fault) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begin(usize),
    /// The other state of a cut that comes and goes.
    Turn(usize),
    End(usize),
}

/// What is to be undone.
enum Held {
    /// Nodes to start again.
    Dead(Vec<NodeId>),
    /// A node that was told to end, and since when.
    Ending(NodeId, Instant),
    Paused(NodeId),
    Impaired(Vec<ImpairmentId>, Aftermath),
    Full(NodeId),
}

pub struct Driver<'a> {
    subject: &'a mut Subject,
    client: &'a Client,
    topic: &'a str,
    history: &'a History,
    steps: BTreeMap<(Duration, Step), ()>,
    schedule: &'a Schedule,
    struck: BTreeMap<usize, Struck>,
    held: BTreeMap<usize, Held>,
    /// Told to end, and not seen to have done so.
    ending: BTreeSet<NodeId>,
    findings: Vec<Finding>,
    say: &'a mut (dyn FnMut(&str) + Send),
}

impl<'a> Driver<'a> {
    pub fn new(
        subject: &'a mut Subject,
        client: &'a Client,
        topic: &'a str,
        history: &'a History,
        schedule: &'a Schedule,
        say: &'a mut (dyn FnMut(&str) + Send),
    ) -> Self {
        let mut steps = BTreeMap::new();
        for (number, episode) in schedule.0.iter().enumerate() {
            steps.insert((episode.from, Step::Begin(number)), ());
            steps.insert((episode.to, Step::End(number)), ());
        }
        Self {
            subject,
            client,
            topic,
            history,
            steps,
            schedule,
            struck: BTreeMap::new(),
            held: BTreeMap::new(),
            ending: BTreeSet::new(),
            findings: Vec::new(),
            say,
        }
    }

    /// All of the schedule, until `length` has passed; or, when told to stop, no more faults, and the ends of those that have begun.
    pub async fn run(
        mut self,
        length: Duration,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(Vec<Struck>, Vec<Finding>), ChaosError> {
        let start = Instant::now();
        loop {
            if *stop.borrow() {
                self.steps.retain(|(_, step), ()| matches!(step, Step::End(number) if self.held.contains_key(number)));
            }
            let hurry = *stop.borrow();
            let due = self.steps.first_key_value().map(|((at, step), ())| (*at, *step));
            match due {
                Some((at, step)) if hurry || start.elapsed() >= at => {
                    self.steps.remove(&(at, step));
                    self.take(step, start.elapsed()).await?;
                }
                None if hurry || start.elapsed() >= length => break,
                due => {
                    let at = due.map_or(length, |(at, _)| at);
                    let wait = at.saturating_sub(start.elapsed()).min(EVERY);
                    tokio::select! {
                        biased;
                        _ = stop.wait_for(|stop| *stop) => {}
                        () = sleep(wait) => {}
                    }
                }
            }
            self.look_after().await?;
        }
        Ok((self.struck.into_values().collect(), self.findings))
    }

    async fn take(&mut self, step: Step, now: Duration) -> Result<(), ChaosError> {
        match step {
            Step::Begin(number) => self.begin(number).await,
            Step::Turn(number) => {
                self.turn(number, now);
                Ok(())
            }
            Step::End(number) => self.end(number, now).await,
        }
    }

    async fn begin(&mut self, number: usize) -> Result<(), ChaosError> {
        let fault = self.schedule.0[number].fault.clone();
        let from = self.history.now();
        let mut struck = Struck { fault: fault.clone(), nodes: Vec::new(), from, to: from, skipped: None };
        match self.resolve(&fault).await {
            Ok(nodes) => {
                struck.nodes = nodes;
                // The search has taken time.
                struck.from = self.history.now();
                (self.say)(&struck.describe());
                self.history.fault(struck.describe());
                if let Some(held) = self.strike(number, &fault, &struck.nodes).await? {
                    self.held.insert(number, held);
                }
                struck.to = self.history.now();
            }
            Err(why) => struck.skipped = Some(why),
        }
        self.struck.insert(number, struck);
        Ok(())
    }

    /// The nodes that are hit; or why there are none.
    async fn resolve(&self, fault: &Fault) -> Result<Vec<NodeId>, String> {
        let all = || self.subject.nodes();
        let mut nodes: Vec<NodeId> = match fault {
            Fault::KillAll => all(),
            Fault::KillBrokers => all().into_iter().filter(|node| node.is_broker()).collect(),
            Fault::KillControllers => all().into_iter().filter(|node| !node.is_broker()).collect(),
            _ => Vec::new(),
        };
        for target in fault.targets() {
            nodes.push(match target {
                Target::Node(node) => node,
                Target::Leader(partition) => {
                    let metadata = self.client.metadata();
                    let partitions = metadata.topic(self.topic).map_or(&[][..], |topic| &topic.partitions);
                    let leader = partitions.get(partition as usize).and_then(|it| it.leader);
                    leader.map(NodeId::Broker).ok_or_else(|| format!("nobody led partition {partition}"))?
                }
                Target::ActiveController => {
                    let asked = timeout(ASK_MAX, self.client.admin().describe_cluster()).await;
                    let active = asked.ok().and_then(Result::ok).and_then(|cluster| cluster.active_controller);
                    active.map(NodeId::Controller).ok_or("no active controller was found")?
                }
            });
        }
        if matches!(nodes[..], [a, b] if a == b) {
            return Err(format!("both ends were {}", nodes[0]));
        }
        Ok(nodes)
    }

    async fn strike(&mut self, number: usize, fault: &Fault, nodes: &[NodeId]) -> Result<Option<Held>, ChaosError> {
        let aftermath = |resets: bool| if resets { Aftermath::Reset } else { Aftermath::Deliver };
        let both = |a: Side, b: Side, effect| {
            [Impairment { from: a, to: b, effect }, Impairment { from: b, to: a, effect }].to_vec()
        };
        Ok(match (fault, nodes) {
            (Fault::Kill(_) | Fault::KillAll | Fault::KillBrokers | Fault::KillControllers, nodes) => {
                for node in nodes {
                    self.ending.remove(node);
                    self.subject.act(*node, Action::Kill).await?;
                }
                Some(Held::Dead(nodes.to_vec()))
            }
            (Fault::Hang(_), [node]) => {
                self.subject.act(*node, Action::Pause).await?;
                Some(Held::Paused(*node))
            }
            (Fault::Restart(_), [node]) => {
                self.ending.insert(*node);
                self.subject.act(*node, Action::Stop).await?;
                Some(Held::Ending(*node, Instant::now()))
            }
            (Fault::Cut { resets, .. }, [a, b]) => {
                self.impair(both(Side::Node(*a), Side::Node(*b), Effect::Cut), aftermath(*resets))
            }
            (Fault::OneWay { resets, .. }, [a, b]) => {
                let one = Impairment { from: Side::Node(*a), to: Side::Node(*b), effect: Effect::Cut };
                self.impair(vec![one], aftermath(*resets))
            }
            (Fault::Isolate { resets, .. }, [node]) => {
                self.impair(both(Side::Node(*node), Side::All, Effect::Cut), aftermath(*resets))
            }
            (Fault::Flap { period, .. }, [a, b]) => {
                self.turn_later(number, self.schedule.0[number].from + *period);
                self.impair(both(Side::Node(*a), Side::Node(*b), Effect::Cut), Aftermath::Deliver)
            }
            (Fault::Delay { delay, .. }, [node]) => {
                self.impair(both(Side::Node(*node), Side::All, Effect::Delay(*delay)), Aftermath::Deliver)
            }
            (Fault::Throttle { bytes_per_second, .. }, [node]) => {
                let effect = Effect::Throttle(*bytes_per_second);
                self.impair(both(Side::Node(*node), Side::All, effect), Aftermath::Deliver)
            }
            (Fault::Reset(_), [node]) => {
                if let Some(network) = self.subject.network() {
                    network.reset(Side::Node(*node), Side::All);
                }
                None
            }
            (Fault::DiskFull { left, .. }, [broker]) => match self.subject.disk(*broker) {
                Some(disk) => {
                    disk.fill(*left).map_err(|source| ChaosError::Disk { broker: *broker, source })?;
                    Some(Held::Full(*broker))
                }
                None => None,
            },
            _ => None,
        })
    }

    fn impair(&self, impairments: Vec<Impairment>, aftermath: Aftermath) -> Option<Held> {
        let network = self.subject.network()?;
        Some(Held::Impaired(impairments.into_iter().map(|it| network.impair(it)).collect(), aftermath))
    }

    fn turn_later(&mut self, number: usize, at: Duration) {
        if at < self.schedule.0[number].to {
            self.steps.insert((at, Step::Turn(number)), ());
        }
    }

    fn turn(&mut self, number: usize, now: Duration) {
        let Fault::Flap { period, .. } = &self.schedule.0[number].fault else { return };
        let (period, Some(network)) = (*period, self.subject.network()) else { return };
        match self.held.remove(&number) {
            Some(Held::Impaired(ids, aftermath)) => ids.into_iter().for_each(|id| network.lift(id, aftermath)),
            _ => {
                let nodes = self.struck.get(&number).map_or(&[][..], |struck| &struck.nodes);
                if let [a, b] = *nodes {
                    let cut = |from, to| Impairment { from: Side::Node(from), to: Side::Node(to), effect: Effect::Cut };
                    let held = self.impair(vec![cut(a, b), cut(b, a)], Aftermath::Deliver);
                    held.into_iter().for_each(|held| _ = self.held.insert(number, held));
                }
            }
        }
        self.turn_later(number, now + period);
    }

    async fn end(&mut self, number: usize, now: Duration) -> Result<(), ChaosError> {
        match self.held.remove(&number) {
            None => {}
            Some(Held::Dead(nodes)) => {
                for node in nodes {
                    self.subject.act(node, Action::Start).await?;
                }
            }
            Some(Held::Paused(node)) => self.subject.act(node, Action::Resume).await?,
            Some(Held::Full(broker)) => {
                if let Some(disk) = self.subject.disk(broker) {
                    disk.free().map_err(|source| ChaosError::Disk { broker, source })?;
                }
            }
            Some(Held::Impaired(ids, aftermath)) => {
                if let Some(network) = self.subject.network() {
                    ids.into_iter().for_each(|id| network.lift(id, aftermath));
                }
            }
            Some(Held::Ending(node, since)) => {
                self.look_after().await?;
                if self.ending.contains(&node) && since.elapsed() < END_MAX {
                    // Still at it.
                    self.held.insert(number, Held::Ending(node, since));
                    self.steps.insert((now + EVERY, Step::End(number)), ());
                    return Ok(());
                }
                if self.ending.remove(&node) {
                    let what = format!("{node} did not end within {END_MAX:?} of SIGTERM");
                    self.findings.push(Finding::liveness(self.history.now(), what));
                    self.subject.act(node, Action::Kill).await?;
                }
                self.subject.act(node, Action::Start).await?;
            }
        }
        if let Some(struck) = self.struck.get_mut(&number).filter(|struck| struck.skipped.is_none()) {
            struck.to = self.history.now();
            self.history.fault(format!("end of: {}", struck.describe()));
        }
        Ok(())
    }

    /// A node that ended and was not told to is a finding, and is started again.
    async fn look_after(&mut self) -> Result<(), ChaosError> {
        for (node, how) in self.subject.ended().await? {
            if self.ending.remove(&node) {
                continue;
            }
            let log = self.subject.log_tail(node);
            let what = format!("{node} ended by itself ({how}); its log says:\n{log}");
            (self.say)(&what);
            self.findings.push(Finding::liveness(self.history.now(), what));
            self.subject.act(node, Action::Start).await?;
        }
        Ok(())
    }
}
