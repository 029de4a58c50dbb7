//! Prints a topic from its beginning on: `cargo run --example consume -- 127.0.0.1:9092 TOPIC`.
use highwater_client::{Client, ConsumerConfig, StartAt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (servers, topic) = (args.next().ok_or("which servers?")?, args.next().ok_or("which topic?")?);
    let mut consumer = Client::connect(servers).await?.consumer(ConsumerConfig::default());
    consumer.assign_topic(&topic, StartAt::Beginning).await?;
    loop {
        for record in consumer.poll(std::time::Duration::from_secs(1)).await? {
            println!("{}-{} @ {}: {:?}", record.topic, record.partition, record.offset, record.value);
        }
    }
}
