//! Fetch: records as they lie in the log, in sessions or without.
//!
//! As the gRPC door does it: a request that finds too little leaves word with its partitions and looks again when there is
//! something new; what holds at the end is answered (T25). Records go out as the pieces that the log has.

mod encode;
pub(crate) mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use highwater_broker::Api as Measured;
use highwater_broker::fetch::{Attempt, FetchRequest as Fetch, Fetched, Reader};
use highwater_broker::partition::{FetchFrom, FetchWaiter, PartitionError};
use highwater_types::{IsolationLevel, LeaderEpoch, Offset, TopicPartition};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, FetchRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Broken, Call, Pieces, decode, topics};
use crate::layout::{Layout, array, int8, int32, int32s, int64, structure, text, uuid};
use session::{Context, Entry, Sent};

pub(crate) const LAYOUT: Layout = Layout {
    flexible: 12,
    fields: &[
        int32().until(14),
        int32(),
        int32(),
        int32(),
        int8(),
        int32().since(7),
        int32().since(7),
        array(&[
            text().until(12),
            uuid().since(13),
            array(&[
                int32(),
                int32().since(9),
                int64(),
                int32().since(12),
                int64().since(5),
                int32(),
                uuid().since(17).tagged(0),
                int64().since(18).tagged(1),
            ]),
        ]),
        array(&[text().until(12), uuid().since(13), int32s()]).since(7),
        text().since(11),
        text().since(12).tagged(0),
        structure(&[int32(), int64()]).since(15).tagged(1),
    ],
};
/// From which version on topics are named by id.
pub(crate) const BY_ID: i16 = 13;

/// What is answered for one partition.
enum Answer {
    Fetched(Fetched),
    Failed(PartitionError),
    Refused(ResponseError),
}

/// An answer, of which partition, and whether the client is told.
struct Answered {
    entry: Entry,
    answer: Answer,
}

pub(super) fn run(call: Call, body: Bytes) -> BoxFuture<'static, Result<Pieces, Broken>> {
    Box::pin(async move {
        let began = Instant::now();
        let request: FetchRequest = decode(ApiKey::Fetch, &LAYOUT, call.version, body)?;
        let core = Arc::clone(&call.door.api.core);
        let is_committed = request.isolation_level == 1;
        let bounds = Bounds::of(&call, &request);
        let context = match call.door.sessions.open(&call, request, core.config.limits.partitions_per_request_max) {
            Ok(context) => context,
            Err(error) => return encode::refused(&call, error),
        };
        let answered = fetch(&call, &context, is_committed, bounds).await;
        core.partitions.metrics().fetch_took.record(began.elapsed());
        let answered = keep_news(&call, &context, answered);
        encode::answer(&call, context.session_id, is_committed, answered)
    })
}

/// How long to wait for how much.
#[derive(Clone, Copy)]
struct Bounds {
    max_wait: Duration,
    min_bytes: usize,
    max_bytes: usize,
}

impl Bounds {
    fn of(call: &Call, request: &FetchRequest) -> Self {
        let limits = &call.door.api.core.config.limits;
        let bytes = |asked: i32| usize::try_from(asked).unwrap_or(0);
        let max_bytes = bytes(request.max_bytes).min(limits.fetch_bytes_max);
        let wait_ms = u32::try_from(request.max_wait_ms).unwrap_or(0).min(limits.wait_ms_max);
        // Nothing is enough: it does not wait.
        let max_wait = if request.min_bytes <= 0 { 0 } else { wait_ms };
        let max_wait = Duration::from_millis(max_wait.into());
        Self { max_wait, min_bytes: bytes(request.min_bytes).min(max_bytes), max_bytes }
    }
}

/// All partitions of the request or the session.
async fn fetch(call: &Call, context: &Context, is_committed: bool, bounds: Bounds) -> Vec<Answered> {
    let core = &call.door.api.core;
    let image = call.door.api.image();
    let isolation = if is_committed { IsolationLevel::ReadCommitted } else { IsolationLevel::ReadUncommitted };
    let mut partitions = Vec::with_capacity(context.entries.len());
    let mut found: Vec<Result<TopicPartition, ResponseError>> = Vec::with_capacity(context.entries.len());
    for entry in &context.entries {
        let tp = entry.key.topic.resolve(&image).and_then(|topic| topics::partition(topic, entry.key.index));
        if let Ok(partition) = tp {
            partitions.push(FetchFrom {
                partition,
                offset: Offset::new(entry.asked.offset),
                leader_epoch: LeaderEpoch::new(entry.asked.leader_epoch),
                last_fetched_epoch: LeaderEpoch::new(entry.asked.last_fetched_epoch),
                isolation,
                max_bytes: usize::try_from(entry.asked.max_bytes).unwrap_or(0),
                not_elsewhere: false,
            });
        }
        found.push(tp);
    }
    let is_refused = found.iter().any(Result::is_err);
    let request = Fetch {
        token: context.turn,
        max_wait: if is_refused { Duration::ZERO } else { bounds.max_wait },
        min_bytes: bounds.min_bytes,
        max_bytes: bounds.max_bytes,
        partitions,
        near: context.rack.clone().map(|rack| Reader { rack, spread: call.client.number }),
        with_empty: true,
    };
    let attempt = long_poll(call, &request).await;
    let read = if attempt.needs_read {
        let bytes = attempt.found.iter().map(|(from, _)| from.max_bytes.min(bounds.max_bytes)).sum();
        let _permit = core.read_budget.acquire(bytes).await;
        core.partitions.read(attempt).await
    } else {
        attempt.into_answer()
    };
    let mut results: BTreeMap<TopicPartition, _> = read.into_iter().map(|one| (one.partition, one.result)).collect();
    let answered = context.entries.iter().zip(found).filter_map(|(entry, tp)| {
        let answer = match tp {
            Err(error) => Answer::Refused(error),
            Ok(tp) => match results.remove(&tp)? {
                Ok(fetched) => Answer::Fetched(fetched),
                Err(error) => Answer::Failed(error),
            },
        };
        Some(Answered { entry: entry.clone(), answer })
    });
    answered.collect()
}

async fn long_poll(call: &Call, request: &Fetch) -> Attempt {
    let core = &call.door.api.core;
    let attempt = core.partitions.fetch(request, None);
    if attempt.is_enough || request.max_wait.is_zero() {
        return attempt;
    }
    drop(attempt);
    let (ready_to, mut ready) = mpsc::unbounded_channel();
    let mut time_is_up = std::pin::pin!(tokio::time::sleep(request.max_wait));
    loop {
        // Of this look; gone with it, it fires no more.
        let waiter = FetchWaiter::new(request.token, ready_to.clone());
        let attempt = core.partitions.fetch(request, Some(&waiter));
        if attempt.is_enough {
            return attempt;
        }
        drop(attempt);
        tokio::select! {
            biased;
            _ = ready.recv() => {}
            () = core.stopping.cancelled() => return core.partitions.fetch(request, None),
            () = &mut time_is_up => return core.partitions.fetch(request, None),
        }
    }
}

/// Counts what goes out, and leaves away what a session's client knows.
fn keep_news(call: &Call, context: &Context, answered: Vec<Answered>) -> Vec<Answered> {
    let partitions = &call.door.api.core.partitions;
    let image = call.door.api.image();
    let mut sent = Vec::new();
    let mut news = Vec::with_capacity(answered.len());
    for one in answered {
        let now = match &one.answer {
            Answer::Fetched(fetched) => {
                if !fetched.records.is_empty()
                    && let Ok(topic) = one.entry.key.topic.resolve(&image)
                    && let Ok(tp) = topics::partition(topic, one.entry.key.index)
                {
                    partitions.count_sent(tp, &fetched.records);
                }
                Some(Sent { high_watermark: fetched.high_watermark, log_start: fetched.log_start })
            }
            Answer::Failed(error) => {
                partitions.metrics().refused(Measured::Fetch, error.code());
                None
            }
            Answer::Refused(_) => None,
        };
        let brings = matches!(&one.answer, Answer::Fetched(it) if !it.records.is_empty() || it.preferred.is_some());
        let is_news = !context.is_incremental || brings || now.is_none() || now != one.entry.sent;
        if is_news {
            sent.push((one.entry.key.clone(), now));
            news.push(one);
        }
    }
    call.door.sessions.sent(context, sent);
    news
}
