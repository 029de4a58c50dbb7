//! What the clients do until the load ends.

use std::time::Duration;

use highwater_client::{Acks, Client};
use highwater_seams::SeededEntropy;
use highwater_testkit::workloads::appends::{Writers, WritersConfig};
use highwater_testkit::workloads::front::FrontReader;
use highwater_testkit::workloads::readers::{Reader, Tail, seek_about};
use highwater_testkit::workloads::subscribers::Subscriber;
use highwater_testkit::workloads::thin::Publisher;
use highwater_testkit::workloads::transactors::Transactor;
use highwater_testkit::workloads::{Running, leavers, lives, retention, shape, table, trims, zombies};

use super::mix::Work;
use super::{
    AUDIENCE, CLIENT, DELIVERY, FAST, Fallible, GROWTH, HASTY, HASTY_DELIVERY, HELD, LEDGER, LIVES, PARTITIONS,
    PARTITIONS_MAX, PATIENCE, RETAINED, SHORT_DELIVERY, TABLE, THIN, TOPIC, TRIMS, Workloads, numbers, patient,
    pipelines, topic,
};
use crate::cluster::{self, PORT};

/// What runs until the load ends.
#[derive(Default)]
pub(super) struct Load {
    writers: Vec<Writers>,
    transactors: Vec<Transactor>,
    others: Vec<Running>,
    lives: Option<Running<Fallible<u32>>>,
    followers: Vec<Tail>,
    subscribers: Vec<Running>,
}

impl Workloads {
    pub(super) fn load(&self, client: &Client) -> Load {
        let mut load = Load::default();
        let random = SeededEntropy::new(self.world.seed().rotate_left(41));
        let draw = |topic: &str, acks| shape::draw(&random, topic, PARTITIONS, acks, DELIVERY);
        let writers = |config: &WritersConfig| Writers::start(client, &self.history, config);
        let follow = |reader, topic: &str| Tail::start_as(client, &self.history, reader, topic);
        let two = |first, config| WritersConfig { writers: 2, first_writer: first, ..config };
        let history = || self.history.clone();
        let front = |topic: &str, reader| FrontReader {
            client: client.clone(),
            history: history(),
            topic: topic.into(),
            partitions: PARTITIONS,
            reader,
            every: Duration::from_millis(700),
        };

        load.followers.push(follow(Reader::of_all(numbers::FOLLOWER), TOPIC));
        let idempotent = |mut config: WritersConfig| {
            config.producer.idempotence = Some(true);
            config
        };
        load.writers.push(writers(&two(numbers::APPENDS, idempotent(draw(TOPIC, Acks::All)))));
        if self.transacts() {
            load.followers.push(follow(Reader::of_committed(numbers::LEDGER_FOLLOWER), LEDGER));
            load.followers.push(follow(Reader::of_all(numbers::LEDGER_FOLLOWER_OF_ALL), LEDGER));
        }
        if self.has(Work::Transactions) {
            for number in numbers::TRANSACTORS {
                load.transactors.push(Transactor::start(client, &self.history, number, LEDGER, PARTITIONS, None));
            }
        }
        if self.has(Work::Held) {
            for number in numbers::HELD {
                load.transactors.push(Transactor::start(client, &self.history, number, LEDGER, PARTITIONS, Some(HELD)));
            }
        }
        if self.has(Work::Zombies) {
            let (first, ledger) = (numbers::ZOMBIES, LEDGER.into());
            load.others.push(Running::start(|stopping| {
                let client = client.clone();
                zombies::follow_one_another(client, history(), "zombie".into(), first, ledger, PARTITIONS, stopping)
            }));
        }
        if self.has(Work::Pipeline) {
            load.followers.push(follow(Reader::of_committed(numbers::OUT_FOLLOWER), pipelines::OUT));
        }
        if self.has(Work::Table) {
            load.others.push(Running::start(|stopping| {
                table::write(client.clone(), history(), numbers::TABLE, TABLE.into(), patient(), stopping)
            }));
        }
        if self.has(Work::Trims) {
            load.followers.push(follow(Reader::of_all(numbers::TRIMS_FOLLOWER), TRIMS));
            load.writers.push(writers(&two(numbers::TRIMS, idempotent(draw(TRIMS, Acks::All)))));
            load.others.push(Running::start(|stopping| trims::trim(front(TRIMS, numbers::TRIMMER), stopping)));
        }
        if self.has(Work::Retention) {
            load.followers.push(follow(Reader::of_all(numbers::RETAINED_FOLLOWER), RETAINED));
            load.followers.push(follow(Reader::of_committed(numbers::RETAINED_FOLLOWER_OF_COMMITTED), RETAINED));
            load.writers.push(writers(&retention::writers(RETAINED, PARTITIONS, numbers::RETAINED, DELIVERY)));
            let number = numbers::RETAINED_TRANSACTOR;
            load.transactors.push(Transactor::start(client, &self.history, number, RETAINED, PARTITIONS, Some(HELD)));
            load.others.push(Running::start(|stopping| front(RETAINED, numbers::RETAINED_LOOKER).look(stopping)));
        }
        if self.has(Work::Lives) {
            let mut config = idempotent(draw(LIVES, Acks::All));
            (config.first_writer, config.producer.delivery_timeout) = (numbers::LIVES, SHORT_DELIVERY);
            load.lives = Some(Running::start(|stopping| {
                let (client, topic) = (client.clone(), topic(LIVES));
                lives::live_and_die(client, history(), topic, config, numbers::LIVES, PATIENCE, stopping)
            }));
        }
        if self.has(Work::Growth) {
            load.followers.push(follow(Reader::of_all(numbers::GROWTH_FOLLOWER), GROWTH));
            let mut config = idempotent(draw(GROWTH, Acks::All));
            (config.first_writer, config.keys) = (numbers::GROWTH, 1_000);
            load.writers.push(writers(&config));
            let every = Duration::from_secs(4);
            load.others.push(Running::start(|stopping| {
                lives::grow(client.clone(), history(), GROWTH.to_owned(), PARTITIONS_MAX, every, stopping)
            }));
        }
        if self.has(Work::Thin) {
            load.followers.push(follow(Reader::of_committed(numbers::THIN_FOLLOWER), THIN));
            for (writer, name) in numbers::THIN.into_iter().zip([None, Some("press".to_owned())]) {
                let publisher = Publisher {
                    net: self.world.seams(CLIENT).net,
                    brokers: doors(),
                    history: history(),
                    writer,
                    topic: THIN.into(),
                    name,
                    patience: DELIVERY,
                };
                let every = Duration::from_millis(100);
                load.others.push(Running::start(|stopping| publisher.publish(every, stopping)));
            }
        }
        if self.has(Work::Subscribers) {
            for first_reader in numbers::SUBSCRIBERS {
                let subscriber = Subscriber {
                    net: self.world.seams(CLIENT).net,
                    brokers: doors(),
                    history: history(),
                    group: AUDIENCE.into(),
                    topic: TOPIC.into(),
                    first_reader,
                };
                load.subscribers.push(Running::start(|stopping| subscriber.subscribe(stopping)));
            }
        }
        if self.has(Work::Seeks) {
            let reader = Reader::of_all(numbers::SEEKER);
            load.others
                .push(Running::start(|stopping| seek_about(client.clone(), history(), reader, TOPIC.into(), stopping)));
        }
        if self.has(Work::Leavers) {
            load.others.push(Running::start(|stopping| {
                let (client, group) = (client.clone(), "visitors".to_owned());
                leavers::come_and_go(client, history(), group, TOPIC.into(), numbers::LEAVERS, stopping)
            }));
        }
        if self.has(Work::Acks) {
            load.followers.push(follow(Reader::of_all(numbers::FAST_FOLLOWER), FAST));
            for (acks, first) in [Acks::All, Acks::Leader, Acks::None].into_iter().zip(numbers::FAST..) {
                load.writers.push(writers(&WritersConfig { first_writer: first, ..draw(FAST, acks) }));
            }
        }
        if self.has(Work::Hasty) {
            load.followers.push(follow(Reader::of_all(numbers::HASTY_FOLLOWER), HASTY));
            for (first, idempotence) in numbers::HASTY.into_iter().zip([true, false]) {
                let mut config = draw(HASTY, Acks::All);
                (config.first_writer, config.producer.idempotence) = (first, Some(idempotence));
                config.producer.delivery_timeout = HASTY_DELIVERY;
                load.writers.push(writers(&config));
            }
        }
        load
    }
}

impl Load {
    /// Ends it, waiting until every record is settled. Returns in which life the topic is that has several, and who still reads: alone,
    /// and in a group.
    pub(super) async fn end(self) -> Fallible<(u32, Vec<Tail>, Vec<Running>)> {
        self.others.iter().for_each(Running::tell);
        if let Some(lives) = &self.lives {
            lives.tell();
        }
        for writers in self.writers {
            writers.stop().await;
        }
        for transactor in self.transactors {
            transactor.stop().await;
        }
        for other in self.others {
            other.stop().await;
        }
        let life = match self.lives {
            Some(lives) => lives.stop().await?,
            None => 0,
        };
        Ok((life, self.followers, self.subscribers))
    }
}

/// Of thin clients: any broker's.
fn doors() -> Vec<(String, u16)> {
    cluster::brokers().into_iter().map(|host| (host, PORT)).collect()
}
