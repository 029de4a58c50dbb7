//! The leader's end of one follower's stream.
//!
//! Entries are acknowledgements first: each is taken as it comes. One that asks for records is answered when there are some:
//! at once, or when the partition says that its log has grown. An answer carries as many partitions as are ready and fit.
//! News of high watermark and log start ride along, or, where nothing else goes to the follower, come by themselves a little
//! later: nobody waits for them, so they must not cost an answer each (T27).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_protocol::internal::{ReplicaFetchPartition, ReplicaFetchPartitionResult, ReplicaFetchRequest};
use highwater_protocol::{Inbound, PartitionKey, status_from_error};
use highwater_replication::FollowerFetch;
use highwater_storage::ReadError;
use highwater_types::{BrokerEpoch, BrokerId, TopicPartition};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::cold_reads::{ColdRead, ColdReads};
use super::open_fetches::{Open, OpenFetches};
use super::service::{Place, Sessions};
use super::wire::{self, PARTITIONS_FIELD, RECORDS_FIELD};
use crate::core::Core;
use crate::partition::{News, PartitionError, ReadRecords};
use crate::services::error::{invalid, to_wire};
use crate::services::gather::Gathered;

/// Records of one partition in one answer: enough to be worth it, little enough that the others get their turn.
const PARTITION_BYTES_MAX: usize = 1 << 20;
/// Records in one answer, whatever the follower asks for.
const ANSWER_BYTES_MAX: usize = 16 << 20;
const ANSWER_BYTES_DEFAULT: usize = 8 << 20;
/// With less than this left, an answer is full.
const ANSWER_BYTES_LEFT_MIN: usize = 64 << 10;
/// How long news of positions wait for records to ride along with.
const POSITIONS_DELAY: Duration = Duration::from_millis(25);
/// A stream on which the first request does not come is nobody's.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

type Answers = mpsc::Sender<Result<Gathered, Status>>;

struct Session {
    core: Arc<Core>,
    follower: BrokerId,
    broker_epoch: BrokerEpoch,
    answer_bytes: usize,
    fetches: OpenFetches,
    reads: ColdReads,
    /// Records that were read from files.
    read: Vec<ColdRead>,
    /// Errors and divergences.
    results: Vec<ReplicaFetchPartitionResult>,
    /// Whose positions moved, and from when on that is worth an answer.
    moved: BTreeSet<TopicPartition>,
    moved_due: Option<Instant>,
}

/// Until the stream or the broker ends.
pub(super) async fn run(
    core: Arc<Core>,
    sessions: Arc<Sessions>,
    mut inbound: Inbound<ReplicaFetchRequest>,
    answers: Answers,
) {
    let first = tokio::select! {
        biased;
        () = core.stopping.cancelled() => return,
        first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, inbound.message()) => first,
    };
    let Ok(Ok(Some(first))) = first else { return };
    if first.broker_epoch < BrokerEpoch::FIRST.get() {
        let error = invalid("the first request of a replication stream states broker_id and broker_epoch");
        let _ = answers.send(Err(status_from_error(error))).await;
        return;
    }
    let follower = BrokerId::new(first.broker_id);
    let place = sessions.enter(follower);
    let mut session = Session {
        core,
        follower,
        broker_epoch: BrokerEpoch::new(first.broker_epoch),
        answer_bytes: ANSWER_BYTES_DEFAULT,
        fetches: OpenFetches::new(),
        reads: ColdReads::default(),
        read: Vec::new(),
        results: Vec::new(),
        moved: BTreeSet::new(),
        moved_due: None,
    };
    tracing::debug!(%follower, epoch = %session.broker_epoch, "a follower's session begins");
    session.take(first);
    let status = session.serve(&mut inbound, &answers, &place).await;
    tracing::debug!(%follower, ?status, "a follower's session ends");
    let partitions = session.fetches.close();
    if sessions.leave(&place) {
        partitions.iter().for_each(|partition| partition.on_replica_session_closed(follower));
    }
    if let Some(status) = status {
        // Who does not take it knows already.
        let _ = answers.try_send(Err(status));
    }
}

impl Session {
    /// Returns what the follower is to be told at the end.
    async fn serve(
        &mut self,
        inbound: &mut Inbound<ReplicaFetchRequest>,
        answers: &Answers,
        place: &Place,
    ) -> Option<Status> {
        let core = Arc::clone(&self.core);
        let dirty = Arc::clone(&self.fetches.dirty);
        loop {
            let has_answer = self.has_answer();
            let due = self.moved_due;
            tokio::select! {
                biased;
                () = core.stopping.cancelled() => {
                    return Some(status_from_error(to_wire(&PartitionError::ShuttingDown, &core.partitions.image())));
                }
                () = place.superseded.cancelled() => return Some(Status::aborted("a newer stream has taken over")),
                () = answers.closed() => return None,
                request = inbound.message() => match request {
                    Ok(Some(request)) => self.take(request),
                    Ok(None) => return None,
                    Err(status) => {
                        tracing::debug!(follower = %self.follower, %status, "a follower's stream broke");
                        return None;
                    }
                },
                () = dirty.changed() => self.look(),
                read = self.reads.next() => self.take_read(read),
                permit = answers.reserve(), if has_answer => {
                    let Ok(permit) = permit else { return None };
                    if let Some(answer) = self.answer() {
                        permit.send(Ok(answer));
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !has_answer => {}
            }
        }
    }

    fn take(&mut self, request: ReplicaFetchRequest) {
        if request.max_bytes > 0 {
            self.answer_bytes = (request.max_bytes as usize).min(ANSWER_BYTES_MAX);
        }
        for forgotten in &request.forgotten {
            if let Ok(tp) = forgotten.topic_partition() {
                if let Some(entry) = self.fetches.get(tp) {
                    entry.partition.on_replica_session_closed(self.follower);
                }
                self.forget(tp);
            }
        }
        for entry in &request.partitions {
            self.take_entry(entry);
        }
    }

    fn take_entry(&mut self, entry: &ReplicaFetchPartition) {
        let wants = entry.want_records;
        let (tp, fetch) = match wire::entry_from_wire(self.follower, self.broker_epoch, entry) {
            Ok(found) => found,
            Err(error) => {
                // Not even the name may be right: what came goes back.
                let (topic_id, partition) = (entry.topic_id.clone(), entry.partition);
                let error = Some(error.into());
                let result = ReplicaFetchPartitionResult { topic_id, partition, error, ..Default::default() };
                return self.results.push(result);
            }
        };
        let partitions = Arc::clone(&self.core.partitions);
        let noted = self.fetches.note(tp, fetch, || partitions.find(tp)).and_then(|entry| {
            let read = entry.partition.replica_fetch(&fetch, 0, false)?;
            Ok((entry, read))
        });
        match noted {
            Err(error) => self.refuse(tp, &fetch, &error, wants),
            Ok((entry, read)) => {
                entry.matches = read.diverging.is_none();
                if let Some(diverging) = read.diverging {
                    if wants || entry.open != Open::No {
                        entry.open = Open::No;
                        self.results.push(ReplicaFetchPartitionResult {
                            diverging: Some(wire::diverging_to_wire(diverging)),
                            high_watermark: read.high_watermark.get(),
                            log_start_offset: read.log_start.get(),
                            ..wire::result_head(tp, &fetch)
                        });
                    }
                    return;
                }
                if wants {
                    entry.open = Open::Waiting;
                }
                let has_news = entry.told != Some((read.high_watermark, read.log_start));
                if entry.open == Open::Waiting && read.log_end > fetch.fetch_offset {
                    self.fetches.make_ready(tp);
                } else if has_news {
                    self.note_moved(tp);
                }
            }
        }
    }

    /// Partitions have said that something is new.
    fn look(&mut self) {
        for (tp, news) in self.fetches.dirty.take() {
            let Some(entry) = self.fetches.get(tp) else { continue };
            if news.has(News::ROLE) {
                // Whoever waits must hear that the leader's epoch is over (T25).
                let fetch = entry.fetch;
                if let Err(error) = entry.partition.replica_fetch(&fetch, 0, false) {
                    self.refuse(tp, &fetch, &error, false);
                    continue;
                }
            }
            let Some(entry) = self.fetches.get(tp) else { continue };
            if news.has(News::LOG_END) && entry.open == Open::Waiting {
                self.fetches.make_ready(tp);
            }
            if news.has(News::POSITIONS) {
                self.note_moved(tp);
            }
        }
    }

    fn note_moved(&mut self, tp: TopicPartition) {
        self.moved.insert(tp);
        self.moved_due.get_or_insert_with(|| Instant::now() + POSITIONS_DELAY);
    }

    fn take_read(&mut self, read: ColdRead) {
        let Some(entry) = self.fetches.get(read.tp) else { return };
        if entry.open != Open::Reading || !is_same_question(&entry.fetch, &read.fetch) {
            return;
        }
        match read.found {
            // Retention, or a roll, was quicker: the next look finds where the records are now.
            Err(ReadError::Gone) => self.fetches.make_ready(read.tp),
            Err(error) => {
                let error = match error {
                    ReadError::Damaged(range) => {
                        entry.partition.note_damage(range);
                        PartitionError::Damaged(range)
                    }
                    error => error.into(),
                };
                self.refuse(read.tp, &read.fetch, &error, true);
            }
            Ok(_) => self.read.push(read),
        }
    }

    /// The entry was refused, or its fetch can't be answered: told if somebody waits for an answer.
    fn refuse(&mut self, tp: TopicPartition, fetch: &FollowerFetch, error: &PartitionError, wants: bool) {
        let was_open = self.forget(tp);
        if wants || was_open {
            let error = Some(to_wire(error, &self.core.partitions.image()));
            self.results.push(ReplicaFetchPartitionResult { error, ..wire::result_head(tp, fetch) });
        }
    }

    fn forget(&mut self, tp: TopicPartition) -> bool {
        self.moved.remove(&tp);
        self.fetches.forget(tp)
    }

    fn has_answer(&self) -> bool {
        !self.results.is_empty()
            || !self.read.is_empty()
            || self.fetches.has_ready()
            || self.moved_due.is_some_and(|due| due <= Instant::now())
    }

    /// All that can be said now and fits; `None` if that is nothing.
    fn answer(&mut self) -> Option<Gathered> {
        let mut answer = Answer::default();
        for result in self.results.drain(..) {
            answer.add(&result, &[]);
        }
        for read in std::mem::take(&mut self.read) {
            self.add_read(read, &mut answer);
        }
        while answer.record_bytes + ANSWER_BYTES_LEFT_MIN <= self.answer_bytes || answer.record_bytes == 0 {
            let Some(tp) = self.fetches.next_ready() else { break };
            if !self.add_ready(tp, &mut answer) {
                self.fetches.put_back(tp);
                break;
            }
        }
        // What could not be read after all is refused.
        for result in self.results.drain(..) {
            answer.add(&result, &[]);
        }
        self.add_moved(&mut answer);
        self.core.partitions.metrics().replica_bytes_out.add(answer.record_bytes as u64);
        (answer.results > 0).then_some(answer.message)
    }

    fn add_read(&mut self, read: ColdRead, answer: &mut Answer) {
        let Some(entry) = self.fetches.get(read.tp) else { return };
        let (Open::Reading, Ok(bytes)) = (entry.open, &read.found) else { return };
        if !is_same_question(&entry.fetch, &read.fetch) {
            return;
        }
        // T25: the partition may be led by another, or in another epoch, since the read began.
        let Some(positions) = entry.partition.replica_positions(read.fetch.leader_epoch) else {
            let error = PartitionError::NotLeader { leader: None, leader_epoch: read.fetch.leader_epoch };
            return self.refuse(read.tp, &read.fetch, &error, true);
        };
        entry.open = Open::No;
        entry.told = Some(positions);
        let fetch = entry.fetch;
        answer.add_records(read.tp, &fetch, positions, std::slice::from_ref(bytes));
    }

    /// False: it does not fit any more.
    fn add_ready(&mut self, tp: TopicPartition, answer: &mut Answer) -> bool {
        let left = self.answer_bytes.saturating_sub(answer.record_bytes);
        let max_bytes = PARTITION_BYTES_MAX.min(left);
        let is_first = answer.record_bytes == 0;
        let Some(entry) = self.fetches.get(tp) else { return true };
        let fetch = entry.fetch;
        let read = match entry.partition.replica_read(&fetch, max_bytes, is_first) {
            Ok(read) => read,
            Err(error) => {
                self.refuse(tp, &fetch, &error, true);
                return true;
            }
        };
        let positions = (read.high_watermark, read.log_start);
        match read.records {
            ReadRecords::Cached(pieces) => {
                entry.open = Open::No;
                entry.told = Some(positions);
                answer.add_records(tp, &fetch, positions, &pieces);
            }
            ReadRecords::File(file) => {
                entry.open = Open::Reading;
                self.reads.start(&self.core, tp, fetch, file, PARTITION_BYTES_MAX);
            }
            ReadRecords::None if read.log_end > fetch.fetch_offset => return false,
            ReadRecords::None => entry.open = Open::Waiting,
        }
        true
    }

    fn add_moved(&mut self, answer: &mut Answer) {
        self.moved_due = None;
        for tp in std::mem::take(&mut self.moved) {
            let Some(entry) = self.fetches.get(tp) else { continue };
            let positions = entry.partition.replica_positions(entry.fetch.leader_epoch);
            if positions.is_none() || positions == entry.told || !entry.matches {
                continue;
            }
            entry.told = positions;
            if let Some((high_watermark, log_start)) = positions {
                let result = ReplicaFetchPartitionResult {
                    high_watermark: high_watermark.get(),
                    log_start_offset: log_start.get(),
                    answers_fetch: false,
                    ..wire::result_head(tp, &entry.fetch)
                };
                answer.add(&result, &[]);
            }
        }
    }
}

/// Whether an answer to the one is an answer to the other: what is acknowledged may have moved on.
fn is_same_question(one: &FollowerFetch, other: &FollowerFetch) -> bool {
    (one.leader_epoch, one.fetch_offset, one.last_fetched_epoch)
        == (other.leader_epoch, other.fetch_offset, other.last_fetched_epoch)
}

/// A response as it is put together.
#[derive(Default)]
struct Answer {
    message: Gathered,
    results: usize,
    record_bytes: usize,
}

impl Answer {
    fn add(&mut self, result: &ReplicaFetchPartitionResult, records: &[Bytes]) {
        self.results += 1;
        self.message.field_with_payload(PARTITIONS_FIELD, result, RECORDS_FIELD, records);
    }

    fn add_records(
        &mut self,
        tp: TopicPartition,
        fetch: &FollowerFetch,
        positions: (highwater_types::Offset, highwater_types::Offset),
        records: &[Bytes],
    ) {
        self.record_bytes += records.iter().map(Bytes::len).sum::<usize>();
        let head = ReplicaFetchPartitionResult {
            high_watermark: positions.0.get(),
            log_start_offset: positions.1.get(),
            ..wire::result_head(tp, fetch)
        };
        self.add(&head, records);
    }
}
