//! The follower's end of the stream to one leader: asks for what comes next in every partition, appends what comes, and
//! acknowledges what the disk has.
//!
//! An answer is taken whole before the next request is made, so that one request carries the questions and acknowledgements of
//! many partitions. A partition that fails pauses alone; a stream that fails is opened anew after a pause, and then
//! everything is asked again.

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::internal::{
    ForgottenPartition, ReplicaFetchPartitionResult, ReplicaFetchRequest, ReplicaFetchResponse,
};
use highwater_protocol::{Inbound, MESSAGE_SIZE_MAX, PartitionKey, code_of, topic_id_bytes, v1};
use highwater_record::split;
use highwater_replication::{Asked, FollowerReaction};
use highwater_types::{BrokerEpoch, BrokerId, ErrorCode, TopicPartition};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::Outside;
use super::following::Followed;
use super::wire;
use crate::backoff::Backoff;
use crate::core::Core;
use crate::partition::{Partition, PartitionError};

/// Called without tonic's own client, which copies every payload that it takes.
const REPLICATE: &str = "/highwater.internal.v1.Replication/Replicate";
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_MOST: Duration = Duration::from_secs(1);
/// Bound of one answer's records.
const ANSWER_BYTES_MAX: u32 = 8 << 20;
/// Requests made and not yet taken by the connection.
const REQUESTS_AHEAD: usize = 1;

pub(super) enum Change {
    /// From this leader, in another leader epoch than before.
    Follow(Arc<Partition>),
    Leave(TopicPartition),
}

struct Fetcher {
    core: Arc<Core>,
    outside: Arc<Outside>,
    leader: BrokerId,
    followed: Followed,
    reconnect: Backoff,
}

/// Why a session ended.
enum End {
    /// Nothing is followed from this leader any more.
    Idle,
    /// Nobody will say any more what to follow.
    Over,
    Broken(String),
}

/// Until the broker stops.
pub(super) async fn run(
    core: Arc<Core>,
    outside: Arc<Outside>,
    leader: BrokerId,
    mut changes: mpsc::UnboundedReceiver<Change>,
) {
    let reconnect = Backoff::new(RECONNECT_FIRST, RECONNECT_MOST);
    let mut fetcher = Fetcher { core, outside, leader, followed: Followed::new(), reconnect };
    loop {
        while fetcher.followed.is_empty() {
            let Some(change) = changes.recv().await else { return };
            fetcher.take_change(change);
        }
        let why = match fetcher.session(&mut changes).await {
            End::Idle => continue,
            End::Over => return,
            End::Broken(why) => why,
        };
        let pause = fetcher.reconnect.next(&*fetcher.outside.entropy);
        tracing::debug!(%leader, why, ?pause, "no replication stream");
        let again = Instant::now() + pause;
        loop {
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Some(change) => fetcher.take_change(change),
                    None => return,
                },
                () = tokio::time::sleep_until(again) => break,
            }
        }
    }
}

impl Fetcher {
    fn take_change(&mut self, change: Change) {
        match change {
            Change::Follow(partition) => self.followed.add(partition),
            Change::Leave(tp) => self.followed.remove(tp),
        }
    }

    async fn session(&mut self, changes: &mut mpsc::UnboundedReceiver<Change>) -> End {
        let broker_epoch = (self.outside.broker_epoch)();
        if broker_epoch == BrokerEpoch::NONE {
            return End::Broken("this broker is not registered yet".to_owned());
        }
        let image = self.core.partitions.image();
        let Some(endpoint) = image.broker(self.leader).map(|broker| broker.internal_endpoint.clone()) else {
            return End::Broken("the metadata does not say where the leader listens".to_owned());
        };
        self.followed.start_over();
        let channel = self.outside.peers.channel(&endpoint);
        let (requests, to_send) = mpsc::channel(REQUESTS_AHEAD);
        let opened = tokio::time::timeout(
            OPEN_TIMEOUT,
            Inbound::<ReplicaFetchResponse>::call(channel, REPLICATE, ReceiverStream::new(to_send), MESSAGE_SIZE_MAX),
        )
        .await;
        let mut answers = match opened {
            Ok(Ok(answers)) => answers,
            Ok(Err(status)) => return End::Broken(status.to_string()),
            Err(_) => return End::Broken(format!("{endpoint} has not answered for {OPEN_TIMEOUT:?}")),
        };
        let dirty = Arc::clone(&self.followed.dirty);
        let mut is_first = true;
        loop {
            if self.followed.is_empty() {
                return End::Idle;
            }
            let retry = self.followed.next_retry();
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Some(change) => self.take_change(change),
                    None => return End::Over,
                },
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        self.reconnect.reset();
                        if let Err(why) = self.take(answer) {
                            return End::Broken(why);
                        }
                    }
                    Ok(None) => return End::Broken("the leader ended the stream".to_owned()),
                    Err(status) => return End::Broken(status.to_string()),
                },
                () = dirty.changed() => self.followed.take_news(),
                () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                    self.followed.take_due();
                }
                permit = requests.reserve(), if self.followed.has_request() => {
                    let Ok(permit) = permit else { return End::Broken("the stream is closed".to_owned()) };
                    if let Some(mut request) = self.request(broker_epoch, is_first) {
                        if is_first {
                            request.broker_id = (self.core.partitions.me()).get();
                            request.broker_epoch = broker_epoch.get();
                            request.max_bytes = ANSWER_BYTES_MAX;
                        }
                        is_first = false;
                        permit.send(request);
                    }
                }
            }
        }
    }

    /// All questions and acknowledgements that there are.
    fn request(&mut self, broker_epoch: BrokerEpoch, is_first: bool) -> Option<ReplicaFetchRequest> {
        // What came to disk just now is acknowledged right here.
        self.followed.take_news();
        let want = std::mem::take(&mut self.followed.want);
        let acknowledge = std::mem::take(&mut self.followed.acknowledge);
        let mut partitions = Vec::with_capacity(want.len() + acknowledge.len());
        for &tp in want.union(&acknowledge) {
            let Some(following) = self.followed.get(tp) else { continue };
            // If it follows another leader by now, that change is on its way here.
            let Some((leader, mut fetch)) = following.partition.follower_fetch(broker_epoch) else { continue };
            if leader != self.leader {
                continue;
            }
            fetch.disk_full = following.disk_full;
            // An answer is known by how the log ended when it was asked for. A log all of whose records have gone ends otherwise
            // than before, so that its open question has to be asked anew.
            let asks = Asked::from(&fetch);
            let wants = want.contains(&tp) || following.asked.is_some_and(|asked| asked != asks);
            if wants {
                following.asked = Some(asks);
            }
            partitions.push(wire::entry_to_wire(tp, &fetch, wants));
        }
        let forgotten = std::mem::take(&mut self.followed.forgotten);
        let forgotten = forgotten
            .into_iter()
            .map(|tp| ForgottenPartition { topic_id: topic_id_bytes(tp.topic), partition: tp.partition.get() });
        let request =
            ReplicaFetchRequest { partitions, forgotten: forgotten.collect(), ..ReplicaFetchRequest::default() };
        (is_first || !request.partitions.is_empty() || !request.forgotten.is_empty()).then_some(request)
    }

    /// Fails if the session can't go on.
    fn take(&mut self, answer: ReplicaFetchResponse) -> Result<(), String> {
        if let Some(error) = answer.error {
            return Err(error.message);
        }
        for result in answer.partitions {
            self.take_result(result)?;
        }
        Ok(())
    }

    fn take_result(&mut self, mut result: ReplicaFetchPartitionResult) -> Result<(), String> {
        let tp = result.topic_partition().map_err(|error| error.to_string())?;
        let Some(following) = self.followed.get(tp) else { return Ok(()) };
        let error = result.error.take();
        if result.answers_fetch {
            // What is not about the open fetch is of a leader epoch, or a log, that is over.
            if following.asked != Some(wire::asked(&result)) {
                return Ok(());
            }
            following.asked = None;
        }
        if let Some(error) = error {
            return self.take_error(tp, &result, &error);
        }
        let batches = match split(std::mem::take(&mut result.records)) {
            Ok(batches) => batches,
            Err(error) => {
                tracing::error!(partition = %tp, leader = %self.leader, %error, "the leader sent damaged records");
                self.retry(tp);
                return Ok(());
            }
        };
        let response = wire::response_from_wire(&result, &batches);
        match following.partition.on_leader_response(&response, &batches) {
            Ok(followed) if result.answers_fetch => {
                if followed.appended || followed.truncated {
                    following.disk_full = false;
                    following.backoff.reset();
                    self.followed.want.insert(tp);
                } else {
                    // It changed nothing: to ask the same again at once could go on for ever.
                    self.retry(tp);
                }
            }
            Ok(_) => {}
            Err(error) => self.not_taken(tp, &error),
        }
        Ok(())
    }

    /// The leader refused, or can't answer.
    fn take_error(
        &mut self,
        tp: TopicPartition,
        result: &ReplicaFetchPartitionResult,
        error: &v1::Error,
    ) -> Result<(), String> {
        let Some(following) = self.followed.get(tp) else { return Ok(()) };
        let (code, leader) = (code_of(error), self.leader);
        match code {
            ErrorCode::DamagedData | ErrorCode::StorageOffline | ErrorCode::Internal | ErrorCode::InvalidRequest => {
                tracing::warn!(partition = %tp, %leader, ?code, message = error.message, "the leader can't serve it");
            }
            _ => tracing::debug!(partition = %tp, %leader, ?code, message = error.message, "refused by the leader"),
        }
        match following.partition.on_leader_error(&wire::error_from_wire(result, error)) {
            Ok(FollowerReaction::RestartAt(_)) => {
                following.backoff.reset();
                self.followed.want.insert(tp);
            }
            Ok(FollowerReaction::NewSession) => return Err(error.message.clone()),
            // Newer metadata, if that is what it takes, asks by itself and at once. But the leader may just not have heard
            // yet that it leads.
            Ok(FollowerReaction::RetryLater | FollowerReaction::WaitForMetadata) => self.retry(tp),
            Err(error) => self.not_taken(tp, &error),
        }
        Ok(())
    }

    /// The own log could not do what the answer asked for.
    fn not_taken(&mut self, tp: TopicPartition, error: &PartitionError) {
        match error.code() {
            // Somebody else is followed by now, or nobody: it has been said, and is on its way here.
            ErrorCode::NotLeader
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::BrokerShuttingDown => {}
            // T46: it goes on by itself once there is space. Until then the leader is to do without this replica.
            ErrorCode::DiskFull => {
                if let Some(following) = self.followed.get(tp) {
                    following.disk_full = true;
                    self.followed.acknowledge.insert(tp);
                }
                self.retry(tp);
            }
            // The controller has been told; only a restart helps.
            ErrorCode::StorageOffline => {
                tracing::warn!(partition = %tp, %error, "not followed any more");
                self.followed.remove(tp);
            }
            code => {
                tracing::error!(partition = %tp, leader = %self.leader, ?code, %error, "can't follow");
                self.retry(tp);
            }
        }
    }

    fn retry(&mut self, tp: TopicPartition) {
        let entropy = Arc::clone(&self.outside.entropy);
        if let Some(following) = self.followed.get(tp) {
            let pause = following.backoff.next(&*entropy);
            self.followed.retry_after(tp, pause);
        }
    }
}
