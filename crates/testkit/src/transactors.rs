//! Producers of transactions over several partitions, some committed and some aborted, that remember what they were told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_client::{Client, ProducerRecord, TransactionError, TransactionalConfig, TransactionalProducer};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::history::{RecordId, Told, Transacted, payload};

/// Records of each partition in a transaction.
const PER_PARTITION: u64 = 2;

/// What all transactors have done so far, in the order in which it ended.
pub type Done = Arc<Mutex<Vec<Transacted>>>;

/// A running producer.
pub struct Transactor {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Transactor {
    /// Starts writer `number`, whose transactional id is its own. Every third transaction is aborted.
    pub fn start(client: &Client, number: u32, topic: &str, partitions: u32, done: &Done) -> Self {
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(run(client.clone(), number, topic.to_owned(), partitions, Arc::clone(done), stopping));
        Self { stop, task }
    }

    /// Ends after the transaction that is open.
    ///
    /// # Panics
    /// If it did.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("a transactor does not panic");
    }
}

async fn run(client: Client, number: u32, topic: String, partitions: u32, done: Done, stopping: watch::Receiver<bool>) {
    let mut producer: Option<TransactionalProducer> = None;
    let mut next = 0;
    for turn in 0_u64.. {
        if *stopping.borrow() {
            break;
        }
        let open = match &mut producer {
            Some(open) => open,
            None => {
                let mut config = TransactionalConfig::new(format!("transactor-{number}"));
                config.timeout = Duration::from_secs(10);
                match client.transactional_producer(config).await {
                    Ok(new) => producer.insert(new),
                    // A coordinator that is gone for a while.
                    Err(error) if !error.is_fatal() => continue,
                    Err(error) => panic!("transactor {number}: {error}"),
                }
            }
        };
        let records: Vec<RecordId> =
            (0..u64::from(partitions) * PER_PARTITION).map(|n| RecordId { writer: number, number: next + n }).collect();
        next += records.len() as u64;
        let (told, ended) = transact(open, &topic, partitions, &records, turn % 3 != 2).await;
        done.lock().unwrap_or_else(PoisonError::into_inner).push(Transacted { records, told });
        if let Err(error) = ended
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

async fn transact(
    producer: &mut TransactionalProducer,
    topic: &str,
    partitions: u32,
    records: &[RecordId],
    commit: bool,
) -> (Told, Result<(), TransactionError>) {
    let transaction = match producer.begin().await {
        Ok(transaction) => transaction,
        // Nothing of it was sent.
        Err(error) => return (Told::Aborted, Err(error)),
    };
    for (record, partition) in records.iter().zip((0..partitions).cycle()) {
        // What becomes of it, the end tells.
        if let Ok(delivery) =
            transaction.send(ProducerRecord::new(topic).partition(partition).value(payload(*record, 80))).await
        {
            drop(delivery);
        }
    }
    if !commit {
        let ended = transaction.abort().await;
        // Not told that it is aborted, it can't be committed either: nobody asked for that.
        return (Told::Aborted, ended);
    }
    match transaction.commit().await {
        Ok(()) => (Told::Committed, Ok(())),
        Err(error @ TransactionError::Unavailable { .. }) => (Told::Unknown, Err(error)),
        Err(error) => (Told::Aborted, Err(error)),
    }
}
