//! Creates a topic and describes its partitions: `cargo run --example admin -- 127.0.0.1:9092 TOPIC`.
use highwater_client::{Client, NewTopic};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (servers, topic) = (args.next().ok_or("which servers?")?, args.next().ok_or("which topic?")?);
    let admin = Client::connect(servers).await?.admin();
    admin.create_topic(NewTopic::new(&topic, 6, 3).config("min.insync.replicas", "2")).await?;
    for partition in admin.describe_partitions(&topic).await? {
        println!("{topic}-{} is led by {:?}", partition.partition, partition.leader);
    }
    Ok(())
}
