//! Gets back from leaders what this broker's disks have damaged (T43, P6): followers only, one range after the other.
//!
//! A leader whose followers are held up by damage, for they need what nobody but it has had, gives up those offsets and nothing
//! else, where the topic's policy is to go on without what is lost (an unclean election made it leader). It says so.
//!
//! What is damaged was synced once; it is fetched as any reader would fetch it, so it is committed at the leader, and it is
//! written where it was. Who leads a partition that is damaged here is the controller's business: it has been told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::v1::data_client::DataClient;
use highwater_protocol::{MESSAGE_SIZE_MAX, topic_id_bytes, v1};
use highwater_record::{Batch, split_prefix};
use highwater_storage::{DamagedRange, HealError};
use highwater_types::{BrokerId, LeaderEpoch, TopicPartition};
use tokio::time::MissedTickBehavior;

use super::Outside;
use crate::core::Core;
use crate::partition::Partition;

const LOOK_PERIOD: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const BYTES_AT_ONCE: u32 = 4 << 20;

/// Until the broker stops.
pub(super) async fn run(core: Arc<Core>, outside: Arc<Outside>) {
    let mut interval = tokio::time::interval(LOOK_PERIOD);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut noted = BTreeMap::new();
    loop {
        interval.tick().await;
        let unusable = core.partitions.unusable();
        noted.retain(|tp, _| unusable.contains(tp));
        for tp in unusable {
            let Ok(partition) = core.partitions.find(tp) else { continue };
            while let Some((range, leader, leader_epoch)) = partition.to_heal() {
                if let Err(why) = heal(&core, &outside, &partition, range, leader, leader_epoch).await {
                    tracing::warn!(partition = %tp, %range, %leader, why, "not healed yet");
                    break;
                }
            }
            give_up(&partition, &mut noted).await;
        }
    }
}

/// When a leader's damage was first seen here: what followers say later they say knowing of it.
type Noted = BTreeMap<TopicPartition, (DamagedRange, LeaderEpoch, Duration)>;

async fn give_up(partition: &Arc<Partition>, noted: &mut Noted) {
    let tp = partition.tp();
    let Some((range, epoch, now)) = partition.damaged_as_leader() else {
        noted.remove(&tp);
        return;
    };
    let since = match noted.get(&tp) {
        Some((known, in_epoch, since)) if (known.start, *in_epoch) == (range.start, epoch) => *since,
        _ => {
            noted.insert(tp, (range, epoch, now));
            return;
        }
    };
    let Some(fillers) = partition.to_give_up(range, epoch, since) else { return };
    match replace(partition, range, fillers).await {
        Ok(()) => tracing::error!(partition = %tp, %range, "damaged, and no replica has another copy: given up"),
        Err(why) => tracing::warn!(partition = %tp, %range, why, "not given up yet"),
    }
}

/// One range, or the first part of it.
async fn heal(
    core: &Core,
    outside: &Outside,
    partition: &Arc<Partition>,
    range: DamagedRange,
    leader: BrokerId,
    leader_epoch: LeaderEpoch,
) -> Result<(), String> {
    let batches = fetch(core, outside, partition, range, leader, leader_epoch).await?;
    replace(partition, range, batches).await
}

async fn replace(partition: &Arc<Partition>, range: DamagedRange, batches: Vec<Batch>) -> Result<(), String> {
    let job = partition.begin_heal(range).map_err(|error| error.to_string())?;
    match job.run(batches).await {
        Ok(healed) => match partition.finish_heal(healed) {
            true => Ok(()),
            false => Err("the log was truncated meanwhile".to_owned()),
        },
        Err(error) => {
            partition.abandon_heal();
            if let HealError::BeginsEarlier { range, at } = error {
                partition.note_damage(DamagedRange { start: at, end: range.start });
            }
            Err(error.to_string())
        }
    }
}

async fn fetch(
    core: &Core,
    outside: &Outside,
    partition: &Partition,
    range: DamagedRange,
    leader: BrokerId,
    leader_epoch: LeaderEpoch,
) -> Result<Vec<Batch>, String> {
    let image = core.partitions.image();
    let broker = image.broker(leader).ok_or("the metadata does not say where the leader listens")?;
    let channel = outside.peers.channel(&broker.internal_endpoint);
    let mut client = DataClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX);
    let tp = partition.tp();
    let request = v1::FetchRequest {
        request_id: 1,
        max_wait_ms: 0,
        max_bytes: BYTES_AT_ONCE,
        partitions: vec![v1::FetchPartition {
            topic_id: topic_id_bytes(tp.topic),
            partition: tp.partition.get(),
            fetch_offset: range.start.get(),
            leader_epoch: leader_epoch.get(),
            last_fetched_epoch: LeaderEpoch::NONE.get(),
            max_bytes: BYTES_AT_ONCE,
            not_elsewhere: true,
        }],
        ..v1::FetchRequest::default()
    };
    let answer = async {
        let mut answers = client.fetch(tokio_stream::once(request)).await?.into_inner();
        answers.message().await
    };
    let answer = tokio::time::timeout(CALL_TIMEOUT, answer).await.map_err(|_| "the leader does not answer")?;
    let answer = answer.map_err(|status| status.to_string())?.ok_or("the leader ended the stream")?;
    let result = answer.partitions.into_iter().next();
    if let Some(error) = answer.error.or_else(|| result.as_ref().and_then(|result| result.error.clone())) {
        return Err(error.message);
    }
    let records = result.map(|result| result.records).unwrap_or_default();
    let batches = split_prefix(records).map_err(|error| error.to_string())?;
    if batches.is_empty() { Err("nothing of it is committed at the leader yet".to_owned()) } else { Ok(batches) }
}
