//! The clients of a simulated cluster: the testkit's workloads on hosts of the simulation, which ones and in which shape as the
//! seed says.

pub mod members;
pub mod pipelines;

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use highwater_client::{Client, NewTopic, ProducerConfig};
use highwater_testkit::History;
use highwater_testkit::history::{Event, Removal};
use highwater_testkit::workloads::appends::{Writers, WritersConfig};
use highwater_testkit::workloads::readers::{Reader, Tail, read_whole, read_whole_as};
use highwater_testkit::workloads::transactors::Transactor;
use highwater_testkit::workloads::{Running, create, table};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::bootstrap;
use crate::operator::{self, Operator};
use crate::world::World;
use members::Members;
use pipelines::Pipelines;

pub use highwater_testkit::workloads::Fallible;

const CLIENT: &str = "client";

pub const TOPIC: &str = "orders";
/// Written in transactions.
const LEDGER: &str = "ledger";
const TABLE: &str = "table";
pub const PARTITIONS: u32 = 3;
const REPLICAS: u32 = 3;
/// How long a client looks for a broker that answers, and how long the cluster has to give everything back.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a record may wait for its acknowledgement.
const DELIVERY: Duration = Duration::from_secs(60);

/// Numbers of writers and readers, which are unique over a history.
mod numbers {
    pub const APPENDS: u32 = 1;
    pub const TRANSACTORS: [u32; 2] = [21, 22];
    pub const TABLE: u32 = 31;

    pub const FOLLOWER: u32 = 1;
    pub const WHOLE: u32 = 2;
    pub const LEDGER_FOLLOWER: u32 = 3;
    pub const LEDGER_WHOLE: u32 = 4;
    pub const OUT_FOLLOWER: u32 = 5;
    pub const OUT_WHOLE: u32 = 6;
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
    history: History,
    operator: Operator,
    members: Members,
    pipelines: Pipelines,
    stop: watch::Sender<bool>,
    is_ready: Rc<Cell<bool>>,
}

impl Workloads {
    /// Registers their hosts.
    pub fn start(sim: &mut turmoil::Sim<'_>, world: &World, history: &History, operator: &Operator) -> Self {
        let work = Self {
            world: world.clone(),
            history: history.clone(),
            operator: operator.clone(),
            members: Members::join(sim, world, history),
            pipelines: Pipelines::start(sim, world),
            stop: watch::Sender::new(false),
            is_ready: Rc::default(),
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

    async fn live(self) -> Fallible<()> {
        let client = connect(&self.world, CLIENT, PATIENCE).await?;
        let history = &self.history;
        self.make_topics(&client).await?;
        self.is_ready.set(true);

        let follower = Tail::start(&client, history, numbers::FOLLOWER, TOPIC);
        let ledger_follower = Tail::start_as(&client, history, Reader::of_committed(numbers::LEDGER_FOLLOWER), LEDGER);
        let out_follower =
            Tail::start_as(&client, history, Reader::of_committed(numbers::OUT_FOLLOWER), pipelines::OUT);
        let writers = Writers::start(&client, history, &appends());
        let table = Running::start(|stopping| {
            table::write(client.clone(), history.clone(), numbers::TABLE, TABLE.into(), patient(), stopping)
        });
        let transactors: Vec<_> = numbers::TRANSACTORS
            .iter()
            .map(|number| Transactor::start(&client, history, *number, LEDGER, PARTITIONS))
            .collect();
        // Never an error: this has a sender of its own.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;

        table.tell();
        writers.stop().await;
        table.stop().await;
        for transactor in transactors {
            transactor.stop().await;
        }
        self.members.have_read_all(PATIENCE).await?;
        self.pipelines.have_done_all(&client, history, PATIENCE).await?;
        read_whole(&client, history, numbers::WHOLE, TOPIC, PATIENCE).await?;
        read_whole(&client, history, numbers::WHOLE, TABLE, PATIENCE).await?;
        for (reader, topic) in [(numbers::LEDGER_WHOLE, LEDGER), (numbers::OUT_WHOLE, pipelines::OUT)] {
            read_whole_as(&client, history, Reader::of_committed(reader), topic, &topic.into(), PATIENCE).await?;
        }
        for follower in [follower, ledger_follower, out_follower] {
            follower.stop().await?;
        }
        self.operator.has_done_all(PATIENCE).await?;
        operator::is_whole(&client, PATIENCE).await
    }

    async fn make_topics(&self, client: &Client) -> Fallible<()> {
        create(client, topic(TOPIC), PATIENCE).await?;
        for name in [LEDGER, pipelines::OUT] {
            create(client, topic(name), PATIENCE).await?;
            self.history.record(Event::Topic {
                topic: name.into(),
                synced: true,
                removal: Removal::OnRequest,
                dense: false,
            });
        }
        create(client, table::topic(TABLE, PARTITIONS, REPLICAS), PATIENCE).await?;
        self.history.record(table::described(TABLE));
        self.history.record(pipelines::described());
        Ok(())
    }
}

fn topic(name: &str) -> NewTopic {
    NewTopic::new(name, PARTITIONS, REPLICAS).config("min.insync.replicas", "2").config("segment.bytes", "32768")
}

fn patient() -> ProducerConfig {
    ProducerConfig { delivery_timeout: DELIVERY, ..ProducerConfig::default() }
}

fn appends() -> WritersConfig {
    WritersConfig {
        writers: 2,
        first_writer: numbers::APPENDS,
        value_bytes: 64,
        burst: 5,
        every: Duration::from_millis(20),
        producer: patient(),
        ..WritersConfig::new(TOPIC, PARTITIONS)
    }
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
