//! Members of a group that leave it, and then commit an offset as if they had not.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{
    Client, GroupConfig, GroupMetadata, LeaderEpoch, Offset, OffsetToCommit, PartitionId, Position, TransactionError,
};
use highwater_types::MemberEpoch;
use tokio::sync::watch;
use tokio::time::Instant;

use super::go_on;
use super::transactors::config;
use crate::history::{Event, History, Place};

/// How long a member has to be let in.
const LET_IN: Duration = Duration::from_secs(5);

/// One member after the other, numbered from `first` on and in no group of another's, until told to stop. None is given anything by the
/// time that it commits, so that a commit that is taken shows.
pub async fn come_and_go(
    client: Client,
    history: History,
    group: String,
    topic: Arc<str>,
    first: u32,
    mut stopping: watch::Receiver<bool>,
) {
    for member in first.. {
        if !go_on(&mut stopping, Duration::from_millis(100)).await {
            return;
        }
        let Some(was) = visit(&client, &group, &topic).await else { continue };
        let began = history.now();
        let offset = Offset::new(i64::from(member - first));
        if commit_as(&client, &was, &topic, offset).await.is_ok() {
            let (group, place) = (group.as_str().into(), Place::new(&topic, 0));
            history.record(Event::Committed { group, member, place, offset, began });
        }
    }
}

/// Who it was, once it has left; `None`: it was not let in.
async fn visit(client: &Client, group: &str, topic: &str) -> Option<GroupMetadata> {
    let config = GroupConfig { auto_commit: false, ..GroupConfig::new(group) };
    let mut consumer = client.group_consumer(config).ok()?;
    consumer.subscribe(topic);
    let until = Instant::now() + LET_IN;
    while consumer.group_metadata().member_epoch <= MemberEpoch::new(0) && Instant::now() < until {
        // What it is given is nobody's business.
        let _ = consumer.poll(Duration::from_millis(50)).await;
    }
    let was = Some(consumer.group_metadata()).filter(|was| was.member_epoch > MemberEpoch::new(0));
    consumer.close().await.ok()?;
    was
}

async fn commit_as(client: &Client, who: &GroupMetadata, topic: &str, offset: Offset) -> Result<(), TransactionError> {
    let mut producer = client.transactional_producer(config(&format!("leaver-of-{}", who.group_id))).await?;
    let transaction = producer.begin().await?;
    let position = Position { offset, leader_epoch: LeaderEpoch::NONE };
    let to =
        OffsetToCommit { topic: topic.to_owned(), partition: PartitionId::new(0), position, metadata: String::new() };
    match transaction.send_offsets(&[to], who).await {
        Ok(()) => transaction.commit().await,
        Err(error) => transaction.abort().await.and(Err(error)),
    }
}
