//! `highwater consume --group`: as a member of a group.

use std::io::Write as _;
use std::time::Duration;

use highwater_client::{
    Client, GroupCommitter, GroupConfig, OffsetReset, PartitionId, RebalanceListener, StartAt, TopicName, async_trait,
};

use super::Consume;
use crate::commands::cluster::EndSignal;
use crate::failure::{Failure, Outcome};

/// Without a record for so long, what was printed is handed on.
const IDLE: Duration = Duration::from_millis(20);

/// Tells on standard error what the group hands to this member; standard output is for records.
struct Teller;

#[async_trait]
impl RebalanceListener for Teller {
    async fn assigned(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        eprintln!("assigned: {}", names(partitions));
    }
    async fn revoked(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        eprintln!("revoked: {}", names(partitions));
    }
    async fn lost(&mut self, partitions: &[(TopicName, PartitionId)]) {
        eprintln!("lost: {}", names(partitions));
    }
}

fn names(partitions: &[(TopicName, PartitionId)]) -> String {
    partitions.iter().map(|(topic, id)| format!("{topic}/{id}")).collect::<Vec<_>>().join(" ")
}

/// Until `--max` records or a signal; then it commits what it has printed, and leaves.
pub async fn consume(args: &Consume, client: &Client, group: &str) -> Outcome {
    let mut config = GroupConfig::new(group);
    config.instance_id.clone_from(&args.instance_id);
    config.consumer = args.config();
    "highwater consume".clone_into(&mut config.client_id);
    config.offset_reset = match args.from.0 {
        StartAt::Beginning => OffsetReset::Earliest,
        StartAt::End => OffsetReset::Latest,
        _ => {
            return Err(Failure::usage(
                "with --group, --from is beginning or end: where the group has committed nothing",
            ));
        }
    };
    let mut end = EndSignal::new()?;
    let mut consumer = client.group_consumer(config).map_err(Failure::usage)?;
    consumer.subscribe_with(args.topic.as_str(), Teller);
    let mut out = std::io::BufWriter::with_capacity(256 << 10, std::io::stdout());
    let mut left = args.max.unwrap_or(u64::MAX);
    while left > 0 {
        let next = tokio::select! {
            biased;
            () = end.wait() => break,
            next = tokio::time::timeout(IDLE, consumer.next()) => next,
        };
        match next {
            Ok(record) => {
                left -= 1;
                args.format.write(&mut out, &record?)?;
            }
            // Nothing more for now: whoever reads on gets what there is.
            Err(_) => out.flush()?,
        }
    }
    out.flush()?;
    // What was printed is done.
    consumer.commit().await?;
    Ok(consumer.close().await?)
}
