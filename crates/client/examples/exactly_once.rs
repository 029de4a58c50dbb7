//! Consume, transform, produce: every record of one topic has its effect on the other exactly once, whatever is killed
//! and started again: `cargo run --example exactly_once -- 127.0.0.1:9092 GROUP FROM TO`.
use std::collections::BTreeMap;
use std::time::Duration;

use highwater_client::{
    Client, ConsumeError, GroupConfig, IsolationLevel, OffsetToCommit, ProducerRecord, TransactionError,
    TransactionalConfig,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = |what| args.next().ok_or(what);
    let (servers, group, from, to) =
        (arg("which servers?")?, arg("which group?")?, arg("from which topic?")?, arg("to which topic?")?);
    let client = Client::connect(servers).await?;
    let mut config = GroupConfig { auto_commit: false, ..GroupConfig::new(group) };
    config.consumer.isolation = IsolationLevel::ReadCommitted;
    let mut consumer = client.group_consumer(config)?;
    consumer.subscribe(from.as_str());
    // One id for each running instance, kept over its restarts.
    let id = format!("{from}-to-{to}-{}", std::env::var("INSTANCE").unwrap_or_default());
    let mut producer = client.transactional_producer(TransactionalConfig::new(id)).await?;
    loop {
        let records = consumer.poll(Duration::from_secs(1)).await?;
        let Some(last) = records.last() else { continue };
        println!("{} records up to {}-{} @ {}", records.len(), last.topic, last.partition, last.offset);
        let transaction = producer.begin().await?;
        let (mut begins, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for record in &records {
            let mut output =
                ProducerRecord::new(&to).value(record.value.clone().unwrap_or_default().to_ascii_uppercase());
            if let Some(key) = &record.key {
                output = output.key(key.clone());
            }
            // What becomes of it, `commit` knows.
            drop(transaction.send(output).await?);
            let partition = (record.topic.clone(), record.partition);
            begins.entry(partition.clone()).or_insert(record.offset);
            ends.insert(partition, OffsetToCommit::after(record));
        }
        let offsets: Vec<_> = ends.into_values().collect();
        let done = match transaction.send_offsets(&offsets, &consumer.group_metadata()).await {
            Ok(()) => transaction.commit().await,
            Err(error) => transaction.abort().await.and(Err(error)),
        };
        match done {
            Ok(()) => {}
            Err(error @ (TransactionError::Aborted { .. } | TransactionError::Offsets { .. })) => {
                // Nothing of it happened: back to where it began, and again.
                eprintln!("{error}");
                for ((topic, partition), offset) in begins {
                    match consumer.seek(topic.as_str(), partition, offset).await {
                        // Another member's by now: it begins where the group is.
                        Ok(()) | Err(ConsumeError::NotAssigned { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
