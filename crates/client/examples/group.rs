//! Reads a topic as a member of a group, and says which partitions come and go:
//! `cargo run --example group -- 127.0.0.1:9092 GROUP TOPIC`. Start several; stop one.
use highwater_client::{Client, GroupCommitter, GroupConfig, PartitionId, RebalanceListener, TopicName, async_trait};

struct Say;

#[async_trait]
impl RebalanceListener for Say {
    async fn assigned(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        println!("mine: {partitions:?}");
    }
    async fn revoked(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        println!("given up: {partitions:?}");
    }
    async fn lost(&mut self, partitions: &[(TopicName, PartitionId)]) {
        println!("lost: {partitions:?}");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (servers, group) = (args.next().ok_or("which servers?")?, args.next().ok_or("which group?")?);
    let topic = args.next().ok_or("which topic?")?;
    let mut consumer = Client::connect(servers).await?.group_consumer(GroupConfig::new(group))?;
    consumer.subscribe_with(topic.as_str(), Say);
    loop {
        tokio::select! {
            record = consumer.next() => {
                let record = record?;
                println!("{}-{} @ {}: {:?}", record.topic, record.partition, record.offset, record.value);
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    Ok(consumer.close().await?)
}
