//! Producers of transactions: lists of records appended to all partitions of a topic, some committed and some aborted.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{
    Client, ProducerRecord, Transaction, TransactionError, TransactionalConfig, TransactionalProducer,
};
use tokio::sync::watch;

use super::Running;
use crate::history::{Event, History, RecordId, Told, TransactionId, checksum, payload};

/// Records of each partition in a transaction.
const PER_PARTITION: u64 = 2;

/// A running producer.
pub struct Transactor(Running);

impl Transactor {
    /// Starts writer `number`, whose transactional id is its own. Every third transaction is aborted. Those that are `held` have
    /// their records in the log, each in a batch of its own, and stay open for so long before they end.
    pub fn start(
        client: &Client,
        history: &History,
        number: u32,
        topic: &str,
        partitions: u32,
        held: Option<Duration>,
    ) -> Self {
        let producer: Arc<str> = format!("transactor-{number}").into();
        let work = Work { history: history.clone(), writer: number, producer, topic: topic.into(), partitions, held };
        let client = client.clone();
        Self(Running::start(|stopping| run(client, work, stopping)))
    }

    /// Ends after the transaction that is open.
    ///
    /// # Panics
    /// If it did.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

/// What one writer of transactions does.
pub struct Work {
    pub history: History,
    pub writer: u32,
    /// The transactional id.
    pub producer: Arc<str>,
    pub topic: Arc<str>,
    pub partitions: u32,
    /// How long a transaction stays open once its records are in the log; `None`: they are not waited for.
    pub held: Option<Duration>,
}

async fn run(client: Client, work: Work, stopping: watch::Receiver<bool>) {
    let mut producer: Option<TransactionalProducer> = None;
    let mut instance = 0;
    for turn in 0_u64.. {
        if *stopping.borrow() {
            break;
        }
        let open = match &mut producer {
            Some(open) => open,
            None => match client.transactional_producer(config(&work.producer)).await {
                Ok(new) => {
                    instance += 1;
                    work.history.record(Event::LetIn { producer: Arc::clone(&work.producer), instance });
                    producer.insert(new)
                }
                // A coordinator that is gone for a while.
                Err(error) if !error.is_fatal() => continue,
                Err(error) => panic!("{}: {error}", work.producer),
            },
        };
        let ended = work.transact(open, instance, turn, turn % 3 != 2).await;
        if let Err((told, error)) = ended
            && (error.is_fatal() || told == Told::Unknown)
        {
            // Its successor decides what is left open.
            producer = None;
        }
    }
    if let Some(producer) = producer {
        let _ = producer.close().await;
    }
}

/// Of a producer of transactions that are short.
pub fn config(producer: &str) -> TransactionalConfig {
    let mut config = TransactionalConfig::new(producer.to_owned());
    config.timeout = Duration::from_secs(10);
    config
}

/// A transaction whose records are sent.
pub struct Open<'w, 'p> {
    work: &'w Work,
    transaction: TransactionId,
    open: Transaction<'p>,
}

impl Work {
    /// One transaction, the writer's `turn`-th.
    pub async fn transact(
        &self,
        producer: &mut TransactionalProducer,
        instance: u32,
        turn: u64,
        commit: bool,
    ) -> Result<(), (Told, TransactionError)> {
        match self.open(producer, instance, turn).await {
            Ok(open) => open.end(commit).await,
            // Nothing of it was sent.
            Err(error) => Err((Told::Aborted, error)),
        }
    }

    /// Begins it, and sends its records.
    pub async fn open<'w, 'p>(
        &'w self,
        producer: &'p mut TransactionalProducer,
        instance: u32,
        turn: u64,
    ) -> Result<Open<'w, 'p>, TransactionError> {
        let transaction = TransactionId { writer: self.writer, number: turn };
        let open = producer.begin().await?;
        self.history.record(Event::Began { transaction, producer: Arc::clone(&self.producer), instance });
        let count = u64::from(self.partitions) * PER_PARTITION;
        for (number, partition) in (turn * count..).zip((0..self.partitions).cycle().take(count as usize)) {
            let id = RecordId { writer: self.writer, number };
            let value = payload(id, 80);
            let sum = checksum(None, Some(&value));
            self.history.record(Event::sent_in(Some(transaction), id, &self.topic, sum));
            // What becomes of it, the end tells.
            let record = ProducerRecord::new(Arc::clone(&self.topic)).partition(partition).value(value);
            if let Ok(delivery) = open.send(record).await
                && self.held.is_some()
            {
                let _ = delivery.await;
            }
        }
        if let Some(held) = self.held {
            tokio::time::sleep(held).await;
        }
        Ok(Open { work: self, transaction, open })
    }
}

impl Open<'_, '_> {
    /// Asks for its end.
    pub async fn end(self, commit: bool) -> Result<(), (Told, TransactionError)> {
        let history = &self.work.history;
        let asked = history.now();
        let (told, ended) = if commit {
            match self.open.commit().await {
                Ok(()) => (Told::Committed, Ok(())),
                Err(error @ TransactionError::Unavailable { .. }) => (Told::Unknown, Err(error)),
                Err(error) => (Told::Aborted, Err(error)),
            }
        } else {
            // Not told that it is aborted, it can't be committed either: nobody asked for that.
            (Told::Aborted, self.open.abort().await)
        };
        let why = ended.as_ref().err().map_or_else(|| "as asked".to_owned(), ToString::to_string);
        history.record(Event::Ended { transaction: self.transaction, told, asked, why });
        ended.map_err(|error| (told, error))
    }
}
