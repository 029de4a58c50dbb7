//! Thin clients that subscribe: members of a group whose membership a broker keeps for them. They know no more of the cluster than some
//! brokers' addresses, and go to the next one when theirs is gone, or silent.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use highwater_protocol::v1::{
    self, AssignmentChangeKind, records_client::RecordsClient, subscribe_request::Request, subscribe_response::Response,
};
use highwater_seams::{Net, channel};
use highwater_types::{Offset, PartitionId};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{PAUSE, go_on};
use crate::history::{Event, History, Place, checksum, record_id};

/// How long a broker has to let it in, and may be silent: there is always something to hand out.
const SILENCE: Duration = Duration::from_secs(5);
/// Records that may be handed out ahead.
const CREDIT: u64 = 100;

/// A subscriber.
pub struct Subscriber {
    pub net: Arc<dyn Net>,
    /// Any brokers, by host and port.
    pub brokers: Vec<(String, u16)>,
    pub history: History,
    pub group: Arc<str>,
    pub topic: Arc<str>,
    /// Each stream is a reader of its own, numbered from here on.
    pub first_reader: u32,
}

impl Subscriber {
    /// Subscribes, commits all that it is given, and subscribes again elsewhere when that ends; until told to stop.
    pub async fn subscribe(self, mut stopping: watch::Receiver<bool>) {
        for turn in 0_u32.. {
            let (host, port) = &self.brokers[turn as usize % self.brokers.len()];
            let over = self.through(host, *port, self.first_reader + turn, stopping.clone()).await;
            if over.is_some() || !go_on(&mut stopping, PAUSE).await {
                return;
            }
        }
    }

    /// One stream, as `reader`. `Some`: it was told to stop.
    async fn through(&self, host: &str, port: u16, reader: u32, mut stopping: watch::Receiver<bool>) -> Option<()> {
        let (requests, to_send) = mpsc::channel(100);
        let ask = async |request| requests.send(v1::SubscribeRequest { request: Some(request) }).await.ok();
        ask(Request::Join(v1::SubscribeJoin {
            group_id: self.group.to_string(),
            topics: vec![self.topic.to_string()],
            credit: CREDIT,
            ..v1::SubscribeJoin::default()
        }))
        .await?;
        let sending = stream::unfold(to_send, |mut to_send| async { Some((to_send.recv().await?, to_send)) });
        let mut door = RecordsClient::new(channel(&self.net, host, port));
        let mut answers = timeout(SILENCE, door.subscribe(sending)).await.ok()?.ok()?.into_inner();
        loop {
            let answer = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return Some(()),
                answer = timeout(SILENCE, answers.message()) => answer.ok()?.ok()??,
            };
            match answer.response? {
                Response::Delivery(delivery) => {
                    delivery.records.iter().for_each(|record| self.seen(reader, record));
                    let up_to_delivery = delivery.delivery_id;
                    ask(Request::Commit(v1::SubscribeCommit { up_to_delivery, ..v1::SubscribeCommit::default() }))
                        .await?;
                    ask(Request::Credit(v1::SubscribeCredit { records: delivery.records.len() as u64 })).await?;
                }
                Response::Change(change) => match change.kind() {
                    AssignmentChangeKind::Assigned => change.partitions.iter().for_each(|partition| {
                        let place = self.place(partition.partition);
                        // Where the group has committed, or before that.
                        self.history.record(Event::Sought { reader, place, to: None });
                    }),
                    AssignmentChangeKind::Revoked if change.awaits_release => {
                        ask(Request::Release(v1::SubscribeRelease { change_id: change.change_id })).await?;
                    }
                    _ => {}
                },
                // What is not committed is handed out again, to whoever is next.
                Response::Commit(_) => {}
            }
        }
    }

    fn place(&self, partition: u32) -> Place {
        Place { topic: Arc::clone(&self.topic), partition: PartitionId::new(partition) }
    }

    fn seen(&self, reader: u32, record: &v1::ReadRecord) {
        self.history.record(Event::Read {
            reader,
            place: self.place(record.partition),
            offset: Offset::new(record.offset),
            id: record.value.as_deref().and_then(record_id),
            checksum: checksum(record.key.as_deref(), record.value.as_deref()),
            timestamp_ms: Some(record.timestamp_ms),
        });
    }
}
