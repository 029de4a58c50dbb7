//! The second act, second scene: a transaction that is aborted, and one that is committed.

use std::collections::BTreeMap;
use std::time::Instant;

use highwater_client::{
    Client, ConsumerConfig, IsolationLevel, NewTopic, OffsetAt, ProducerRecord, StartAt, TransactionError,
    TransactionalConfig,
};

use super::{NODES, PARTITIONS, STEP_MAX, Stage};
use crate::failure::{Failure, Outcome};

/// Records of each transaction, over all partitions.
const RECORDS: usize = 600;

/// What readers found.
pub struct Transacted {
    pub partitions: u32,
    /// By a reader of committed records.
    pub committed: usize,
    /// By one of all records.
    pub all: usize,
}

impl From<TransactionError> for Failure {
    fn from(error: TransactionError) -> Self {
        Self::of_code(error.code(), &error.to_string())
    }
}

impl Stage {
    pub async fn transact(&self) -> Outcome<Transacted> {
        let topic = format!("{}-in-transactions", self.topic);
        let new = NewTopic::new(&topic, PARTITIONS, NODES).config("min.insync.replicas", "2");
        self.client.admin().create_topic(new).await?;
        let mut producer = self.client.transactional_producer(TransactionalConfig::new("quickstart")).await?;
        for word in ["aborted", "committed"] {
            let transaction = producer.begin().await?;
            let mut deliveries = Vec::with_capacity(RECORDS);
            for number in 0..RECORDS {
                let partition = (number % PARTITIONS as usize) as u32;
                let record = ProducerRecord::new(&topic).partition(partition).value(format!("{word} {number}"));
                deliveries.push(transaction.send(record).await?);
            }
            // An abort drops what has not left yet, and there would be nothing for readers to pass over.
            for delivery in deliveries {
                delivery.await?;
            }
            if word == "committed" { transaction.commit().await? } else { transaction.abort().await? }
        }
        producer.close().await?;
        let committed = read(&self.client, &topic, IsolationLevel::ReadCommitted).await?;
        let all = read(&self.client, &topic, IsolationLevel::ReadUncommitted).await?;
        let found = Transacted {
            partitions: PARTITIONS,
            committed: committed.get("committed").copied().unwrap_or(0),
            all: all.values().sum(),
        };
        if committed.len() != 1 || found.committed != RECORDS || found.all != 2 * RECORDS {
            return Err(Failure::verification(format!(
                "of a committed and an aborted transaction of {RECORDS} records each, a reader of committed records found {committed:?}, \
                 one of all records {}",
                found.all
            )));
        }
        Ok(found)
    }
}

/// How many records begin with which word, up to where the partitions end now.
async fn read(client: &Client, topic: &str, isolation: IsolationLevel) -> Outcome<BTreeMap<String, usize>> {
    let ends = client.admin().list_offsets(topic, OffsetAt::Latest).await?;
    let mut consumer = client.consumer(ConsumerConfig { isolation, ..ConsumerConfig::default() });
    consumer.assign_topic(topic, StartAt::Beginning).await?;
    let mut found = BTreeMap::new();
    let began = Instant::now();
    loop {
        let behind = ends.iter().any(|(id, end)| {
            let position = consumer.position(topic, *id).map(|position| position.offset);
            end.offset.is_some_and(|end| position < Some(end))
        });
        if !behind {
            return Ok(found);
        }
        if began.elapsed() > STEP_MAX {
            return Err(Failure::verification(format!(
                "the records of transactions could not be read within {STEP_MAX:?}"
            )));
        }
        for record in consumer.poll(std::time::Duration::from_millis(200)).await? {
            let value = record.value.as_deref().unwrap_or_default();
            let word = String::from_utf8_lossy(value).split(' ').next().unwrap_or_default().to_owned();
            *found.entry(word).or_default() += 1;
        }
    }
}
