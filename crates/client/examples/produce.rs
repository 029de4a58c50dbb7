//! Sends ten records and says where each went: `cargo run --example produce -- 127.0.0.1:9092 TOPIC`.
use highwater_client::{Client, ProducerConfig, ProducerRecord};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (servers, topic) = (args.next().ok_or("which servers?")?, args.next().ok_or("which topic?")?);
    let producer = Client::connect(servers).await?.producer(ProducerConfig::default())?;
    for number in 0..10 {
        let record = ProducerRecord::new(&topic).key(format!("key-{number}")).value(format!("value-{number}"));
        let at = producer.send(record).await?.await?;
        println!("{topic}-{} at {:?}", at.partition, at.offset);
    }
    Ok(producer.close().await?)
}
