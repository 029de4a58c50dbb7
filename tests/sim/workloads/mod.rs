//! The clients of a simulated cluster: the testkit's workloads on hosts of the simulation, which ones and in which shape as the
//! seed says.

mod load;
pub mod members;
pub mod mix;
pub mod pipelines;

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use highwater_client::{Client, NewTopic, ProducerConfig};
use highwater_seams::{Entropy, SeededEntropy};
use highwater_testkit::History;
use highwater_testkit::history::{Event, FIRST_MEMBER_READER, Removal, Sign, life_of};
pub use highwater_testkit::workloads::Fallible;
use highwater_testkit::workloads::probe::{Probe, Subjects};
use highwater_testkit::workloads::readers::{Reader, read_whole_as, unread};
use highwater_testkit::workloads::retention::Bound;
use highwater_testkit::workloads::{create, retention, table};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::bootstrap;
use crate::operator::{self, Operator};
use crate::world::World;
use members::Members;
use mix::{Mix, Work};
use pipelines::Pipelines;

const CLIENT: &str = "client";

pub const TOPIC: &str = "orders";
/// Written in transactions.
const LEDGER: &str = "ledger";
const TABLE: &str = "table";
/// Its records are deleted from the front.
const TRIMS: &str = "trims";
/// Its oldest records go by themselves.
const RETAINED: &str = "retained";
/// It is deleted and made again.
const LIVES: &str = "lives";
const GROWTH: &str = "growth";
/// Written by thin clients.
const THIN: &str = "thin";
/// A group of thin clients.
const AUDIENCE: &str = "audience";
/// Its replicas do not sync before they acknowledge.
const FAST: &str = "fast";
/// Its writers do not wait for long.
const HASTY: &str = "hasty";
pub const PARTITIONS: u32 = 3;
const PARTITIONS_MAX: u32 = 6;
const REPLICAS: u32 = 3;
/// How long a client looks for a broker that answers, and how long the cluster has to give everything back.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a record may wait for its acknowledgement.
const DELIVERY: Duration = Duration::from_secs(60);
/// A topic that is deleted does not come back: its writers are not to wait for it.
const SHORT_DELIVERY: Duration = Duration::from_secs(8);
/// Less than a leader that comes late may take.
const HASTY_DELIVERY: Duration = Duration::from_millis(1_500);
/// How long a transaction stays open.
const HELD: Duration = Duration::from_millis(300);

/// Numbers of writers and readers, which are unique over a history.
mod numbers {
    pub const APPENDS: u32 = 1;
    pub const FAST: u32 = 11;
    pub const TRANSACTORS: [u32; 2] = [21, 22];
    pub const HELD: [u32; 2] = [23, 24];
    pub const TABLE: u32 = 31;
    pub const TRIMS: u32 = 41;
    pub const THIN: [u32; 2] = [51, 52];
    pub const GROWTH: u32 = 61;
    /// And the one after it.
    pub const RETAINED: u32 = 81;
    pub const RETAINED_TRANSACTOR: u32 = 83;
    pub const HASTY: [u32; 2] = [65, 66];
    /// And the one after it.
    pub const PROBE: u32 = 71;
    /// And those after it.
    pub const LIVES: u32 = 1_000;
    pub const ZOMBIES: u32 = 2_000;
    pub const LEAVERS: u32 = 3_000;

    pub const FOLLOWER: u32 = 1;
    pub const LEDGER_FOLLOWER: u32 = 2;
    pub const LEDGER_FOLLOWER_OF_ALL: u32 = 3;
    pub const OUT_FOLLOWER: u32 = 4;
    pub const TRIMS_FOLLOWER: u32 = 5;
    pub const FAST_FOLLOWER: u32 = 6;
    pub const THIN_FOLLOWER: u32 = 7;
    pub const TRIMMER: u32 = 8;
    pub const SEEKER: u32 = 9;
    pub const GROWTH_FOLLOWER: u32 = 10;
    /// Of all in the end, and of what is committed.
    pub const WHOLE: u32 = 11;
    pub const WHOLE_COMMITTED: u32 = 12;
    pub const PROBE_READER: u32 = 13;
    pub const HASTY_FOLLOWER: u32 = 14;
    pub const RETAINED_FOLLOWER: u32 = 15;
    pub const RETAINED_FOLLOWER_OF_COMMITTED: u32 = 16;
    pub const RETAINED_LOOKER: u32 = 17;
    /// And those after each.
    pub const SUBSCRIBERS: [u32; 2] = [4_000, 7_000];
}

/// Hosts of clients that may die.
pub fn mortals() -> Vec<String> {
    [members::hosts(), pipelines::hosts()].concat()
}

/// Hosts of all clients.
pub fn hosts() -> Vec<String> {
    [vec![CLIENT.to_owned(), operator::HOST.to_owned()], mortals()].concat()
}

/// All clients of a run. Clones share them.
#[derive(Clone)]
pub struct Workloads {
    world: World,
    mix: Mix,
    history: History,
    operator: Operator,
    members: Members,
    pipelines: Pipelines,
    stop: watch::Sender<bool>,
    is_ready: Rc<Cell<bool>>,
    signs: Rc<RefCell<Vec<Sign>>>,
}

impl Workloads {
    /// Registers their hosts.
    pub fn start(sim: &mut turmoil::Sim<'_>, world: &World, mix: &Mix, history: &History, operator: &Operator) -> Self {
        let work = Self {
            world: world.clone(),
            mix: mix.clone(),
            history: history.clone(),
            operator: operator.clone(),
            members: Members::join(sim, world, history),
            pipelines: Pipelines::start(sim, world, mix.contains(&Work::Pipeline)),
            stop: watch::Sender::new(false),
            is_ready: Rc::default(),
            signs: Rc::default(),
        };
        let client = work.clone();
        sim.client(CLIENT, async move { client.live().await.map_err(plain) });
        work
    }

    /// Whether all topics are there, so that the load has begun.
    pub fn is_ready(&self) -> bool {
        self.is_ready.get()
    }

    /// Ends the load; what follows is to find everything whole.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// To be told of every crash: what a dead member had may go to others.
    pub fn crashes(&self, host: &str, at: Duration) {
        self.members.crashes(host, at);
    }

    /// What must have been seen to work since the last fault.
    pub fn signs(&self) -> Vec<Sign> {
        self.signs.borrow().clone()
    }

    fn has(&self, work: Work) -> bool {
        self.mix.contains(&work)
    }

    /// Whether the ledger is written to.
    fn transacts(&self) -> bool {
        self.has(Work::Transactions) || self.has(Work::Zombies) || self.has(Work::Held)
    }

    async fn live(self) -> Fallible<()> {
        let client = connect(&self.world, CLIENT, PATIENCE).await?;
        self.make_topics(&client).await?;
        self.is_ready.set(true);
        let load = self.load(&client);
        // Never an error: this has a sender of its own.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;

        let mut subjects = self.subjects();
        let probe = Probe {
            client: client.clone(),
            history: self.history.clone(),
            writer: numbers::PROBE,
            reader: numbers::PROBE_READER,
            patience: PATIENCE,
        };
        // Not only once everything that waited is settled.
        let (ended, signs) = tokio::join!(load.end(), probe.look(&subjects));
        self.signs.replace(signs);
        let (life, followers, subscribers) = ended?;
        if self.has(Work::Lives) {
            subjects.topics.push((LIVES.to_owned(), life_of(LIVES, life)));
        }
        self.members.have_read_all(PATIENCE).await?;
        if self.has(Work::Subscribers) {
            self.subscribers_have_read_all().await?;
        }
        for subscriber in subscribers {
            subscriber.stop().await;
        }
        if self.has(Work::Pipeline) {
            self.pipelines.have_done_all(&client, &self.history, PATIENCE).await?;
        }
        self.read_everything(&client, &subjects).await?;
        for follower in followers {
            follower.stop().await?;
        }
        self.operator.has_done_all(PATIENCE).await?;
        operator::is_whole(&client, PATIENCE).await
    }

    async fn make_topics(&self, client: &Client) -> Fallible<()> {
        self.make(client, topic(TOPIC), TOPIC, true, Removal::OnRequest, true).await?;
        if self.transacts() {
            self.make(client, topic(LEDGER), LEDGER, true, Removal::OnRequest, false).await?;
        }
        if self.has(Work::Pipeline) {
            self.make(client, topic(pipelines::OUT), pipelines::OUT, true, Removal::OnRequest, false).await?;
            self.history.record(pipelines::described());
        }
        if self.has(Work::Table) {
            let topic = table::topic(TABLE, PARTITIONS, REPLICAS);
            self.make(client, topic, TABLE, true, Removal::Compaction, false).await?;
        }
        if self.has(Work::Trims) {
            self.make(client, topic(TRIMS), TRIMS, true, Removal::OnRequest, true).await?;
        }
        if self.has(Work::Retention) {
            let bound = self.bound();
            let topic = retention::topic(RETAINED, PARTITIONS, REPLICAS, bound);
            self.make(client, topic, RETAINED, true, Removal::Retention, false).await?;
            self.history.record(retention::described(RETAINED, bound));
        }
        if self.has(Work::Growth) {
            let small = NewTopic::new(GROWTH, 1, REPLICAS).config("min.insync.replicas", "2");
            self.make(client, small, GROWTH, true, Removal::OnRequest, true).await?;
        }
        if self.has(Work::Thin) {
            self.make(client, topic(THIN), THIN, true, Removal::OnRequest, false).await?;
        }
        if self.has(Work::Acks) {
            let fast = topic(FAST).config("durability", "replicated").config("unclean.leader.election", "balanced");
            self.make(client, fast, FAST, false, Removal::OnRequest, true).await?;
        }
        if self.has(Work::Hasty) {
            self.make(client, topic(HASTY), HASTY, true, Removal::OnRequest, true).await?;
        }
        Ok(())
    }

    /// What lets records go.
    fn bound(&self) -> Bound {
        let random = SeededEntropy::new(self.world.seed().rotate_left(43) ^ 0x0062_6f75_6e64);
        if random.below(2) == 0 { Bound::Size } else { Bound::Age }
    }

    async fn make(
        &self,
        client: &Client,
        topic: NewTopic,
        name: &str,
        synced: bool,
        removal: Removal,
        dense: bool,
    ) -> Fallible<()> {
        create(client, topic, PATIENCE).await?;
        self.history.record(Event::Topic { topic: name.into(), synced, removal, dense });
        Ok(())
    }

    /// What must work in the end.
    fn subjects(&self) -> Subjects {
        let mut topics = vec![(TOPIC.to_owned(), Arc::from(TOPIC))];
        let mut add = |is_there: bool, topic: &str, name: Arc<str>| {
            if is_there {
                topics.push((topic.to_owned(), name));
            }
        };
        let transacts = self.transacts();
        add(transacts, LEDGER, LEDGER.into());
        add(self.has(Work::Table), TABLE, TABLE.into());
        add(self.has(Work::Trims), TRIMS, TRIMS.into());
        add(self.has(Work::Retention), RETAINED, RETAINED.into());
        add(self.has(Work::Growth), GROWTH, GROWTH.into());
        add(self.has(Work::Thin), THIN, THIN.into());
        add(self.has(Work::Acks), FAST, FAST.into());
        add(self.has(Work::Hasty), HASTY, HASTY.into());
        let groups = std::iter::once(members::GROUP).chain(self.has(Work::Subscribers).then_some(AUDIENCE));
        Subjects {
            topics,
            transactional: transacts.then(|| (LEDGER.into(), PARTITIONS)),
            groups: groups.map(|group| (group.into(), TOPIC.into())).collect(),
        }
    }

    async fn subscribers_have_read_all(&self) -> Fallible<()> {
        let deadline = Instant::now() + PATIENCE;
        let first = numbers::SUBSCRIBERS[0];
        loop {
            let unread = unread(&self.history, TOPIC, |reader| (first..FIRST_MEMBER_READER).contains(&reader));
            let Some(one) = unread.first() else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(format!("subscribers were not given {} record(s), such as {one}", unread.len()).into());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn read_everything(&self, client: &Client, subjects: &Subjects) -> Fallible<()> {
        let of_all = Reader::of_all(numbers::WHOLE);
        let of_committed = Reader::of_committed(numbers::WHOLE_COMMITTED);
        // Of publishers that can be sure of once, attempts that were taken back are there for readers of everything.
        for (topic, name) in subjects.topics.iter().filter(|(topic, _)| topic != THIN) {
            read_whole_as(client, &self.history, of_all, topic, name, PATIENCE).await?;
        }
        let transactional = [
            (self.transacts(), LEDGER),
            (self.has(Work::Pipeline), pipelines::OUT),
            (self.has(Work::Thin), THIN),
            (self.has(Work::Retention), RETAINED),
        ];
        for (_, topic) in transactional.into_iter().filter(|(is_there, _)| *is_there) {
            read_whole_as(client, &self.history, of_committed, topic, &topic.into(), PATIENCE).await?;
        }
        Ok(())
    }
}

fn topic(name: &str) -> NewTopic {
    NewTopic::new(name, PARTITIONS, REPLICAS).config("min.insync.replicas", "2").config("segment.bytes", "32768")
}

fn patient() -> ProducerConfig {
    ProducerConfig { delivery_timeout: DELIVERY, ..ProducerConfig::default() }
}

/// As turmoil asks for.
pub fn plain(error: Box<dyn Error + Send + Sync>) -> Box<dyn Error> {
    error
}

/// A client on `host`, once any broker answers.
pub async fn connect(world: &World, host: &str, patience: Duration) -> Fallible<Client> {
    let deadline = Instant::now() + patience;
    loop {
        let attempt = Client::builder().bootstrap(bootstrap()).seams(world.seams(host)).build().await;
        match attempt {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
