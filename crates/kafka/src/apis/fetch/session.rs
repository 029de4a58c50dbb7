//! Fetch sessions (KIP-227): a client states its partitions once, then only what changes, and is told only what is new.
//!
//! **Invariant**: sessions are bounded in number and in partitions; the one unused for longest makes room, if it was so for
//! a while. A client without a session states all its partitions each time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use highwater_metadata::ClusterImage;
use highwater_types::{Offset, TopicId};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::FetchRequest;
use tokio::time::Instant;

use super::{BY_ID, topics};
use crate::apis::Call;

/// Sessions at a time.
const SESSIONS_MAX: usize = 1_000;
/// Partitions in all of them.
const PARTITIONS_MAX: usize = 200_000;
/// A session used within this time does not make room for another one.
const UNUSED_MIN: Duration = Duration::from_secs(120);
/// The epoch of a request without a session.
const NO_EPOCH: i32 = -1;

/// A topic as the session's requests name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TopicKey {
    Name(String),
    Id(TopicId),
}

impl TopicKey {
    pub(super) fn resolve(&self, image: &ClusterImage) -> Result<TopicId, ResponseError> {
        let (found, by_id) = match self {
            Self::Name(name) => (image.topic_by_name(name), false),
            Self::Id(id) => (image.topic(*id), true),
        };
        found.map(|topic| topic.id).ok_or(topics::unknown_topic(by_id))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub topic: TopicKey,
    pub index: i32,
}

/// Where a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub offset: i64,
    pub leader_epoch: i32,
    pub last_fetched_epoch: i32,
    pub max_bytes: i32,
}

/// What a client was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub high_watermark: Offset,
    pub log_start: Offset,
}

/// One partition of a request or a session.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: Key,
    pub asked: Asked,
    /// `None`: nothing, or an error.
    pub sent: Option<Sent>,
}

/// What one request reads.
pub(crate) struct Context {
    /// 0: none.
    pub session_id: i32,
    /// Only what is new is answered.
    pub is_incremental: bool,
    /// Another one each time, so that no partition is always the last.
    pub turn: u64,
    pub entries: Vec<Entry>,
    /// Where the client is, if it says so: followers near it serve it too.
    pub rack: Option<String>,
}

struct Session {
    /// Of the next request.
    epoch: i32,
    by_id: bool,
    used: Instant,
    turn: u64,
    partitions: BTreeMap<Key, (Asked, Option<Sent>)>,
}

/// The sessions of a broker.
#[derive(Default)]
pub(crate) struct Sessions {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<i32, Session>,
    partitions: usize,
    turn: u64,
}

impl Sessions {
    /// What `request` reads, and the session that it belongs to or begins.
    pub(super) fn open(
        &self,
        call: &Call,
        request: FetchRequest,
        partitions_max: usize,
    ) -> Result<Context, ResponseError> {
        let by_id = call.version >= BY_ID;
        let (id, epoch) = (request.session_id, request.session_epoch);
        let forgotten: Vec<Key> = forgotten(&request, by_id);
        let rack = Some(request.rack_id.to_string()).filter(|rack| !rack.is_empty());
        let entries = entries(request, by_id);
        if entries.len() > partitions_max {
            return Err(ResponseError::InvalidRequest);
        }
        let fresh_id = || call.door.api.seams.entropy.below(i32::MAX as u64 - 1) as i32 + 1;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.turn += 1;
        match epoch {
            0 | NO_EPOCH => {
                state.close(id);
                let turn = state.turn;
                let session_id = if epoch == 0 { state.begin(by_id, &entries, fresh_id) } else { 0 };
                Ok(Context { session_id, is_incremental: false, turn, entries, rack })
            }
            _ => {
                let context = state.go_on(id, epoch, by_id, entries, &forgotten, partitions_max)?;
                Ok(Context { rack, ..context })
            }
        }
    }

    /// Notes what the client of a session is told.
    pub(super) fn sent(&self, context: &Context, sent: Vec<(Key, Option<Sent>)>) {
        if context.session_id == 0 {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = state.sessions.get_mut(&context.session_id) else { return };
        for (key, sent) in sent {
            if let Some((_, present)) = session.partitions.get_mut(&key) {
                *present = sent;
            }
        }
    }
}

impl State {
    fn close(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.partitions.len();
        }
    }

    /// 0 if there is no room.
    fn begin(&mut self, by_id: bool, entries: &[Entry], fresh_id: impl Fn() -> i32) -> i32 {
        if entries.is_empty() || !self.make_room(entries.len()) {
            return 0;
        }
        let mut id = fresh_id();
        while self.sessions.contains_key(&id) {
            id = fresh_id();
        }
        let partitions: BTreeMap<_, _> = entries.iter().map(|entry| (entry.key.clone(), (entry.asked, None))).collect();
        self.partitions += partitions.len();
        self.sessions.insert(id, Session { epoch: 1, by_id, used: Instant::now(), turn: 0, partitions });
        id
    }

    fn make_room(&mut self, partitions: usize) -> bool {
        while self.sessions.len() >= SESSIONS_MAX || self.partitions + partitions > PARTITIONS_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used);
            match oldest {
                Some((id, session)) if session.used.elapsed() >= UNUSED_MIN => self.close(*id),
                _ => return false,
            }
        }
        true
    }

    fn go_on(
        &mut self,
        id: i32,
        epoch: i32,
        by_id: bool,
        changed: Vec<Entry>,
        forgotten: &[Key],
        partitions_max: usize,
    ) -> Result<Context, ResponseError> {
        let session = self.sessions.get_mut(&id).ok_or(ResponseError::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ResponseError::FetchSessionTopicIdError);
        }
        // After the largest comes the first again, which is no new session.
        session.epoch = epoch.checked_add(1).unwrap_or(1);
        session.used = Instant::now();
        session.turn += 1;
        let before = session.partitions.len();
        for key in forgotten {
            session.partitions.remove(key);
        }
        for Entry { key, asked, .. } in changed {
            let sent = session.partitions.get(&key).and_then(|(_, sent)| *sent);
            session.partitions.insert(key, (asked, sent));
        }
        let (after, turn) = (session.partitions.len(), session.turn);
        let entry = |(key, (asked, sent)): (&Key, &(Asked, Option<Sent>))| Entry {
            key: key.clone(),
            asked: *asked,
            sent: *sent,
        };
        let entries = session.partitions.iter().map(entry).collect();
        self.partitions = self.partitions - before + after;
        if after > partitions_max || self.partitions > PARTITIONS_MAX {
            self.close(id);
            return Err(ResponseError::FetchSessionIdNotFound);
        }
        if after == 0 {
            // The client goes on without it, as with one that was closed.
            self.close(id);
            return Ok(Context { session_id: 0, is_incremental: true, turn, entries, rack: None });
        }
        Ok(Context { session_id: id, is_incremental: true, turn, entries, rack: None })
    }
}

fn topic_key(by_id: bool, name: &str, id: uuid::Uuid) -> TopicKey {
    if by_id { TopicKey::Id(topics::topic_id(id)) } else { TopicKey::Name(name.to_owned()) }
}

fn entries(request: FetchRequest, by_id: bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    for topic in request.topics {
        let key = topic_key(by_id, &topic.topic, topic.topic_id);
        entries.extend(topic.partitions.into_iter().map(|partition| Entry {
            key: Key { topic: key.clone(), index: partition.partition },
            asked: Asked {
                offset: partition.fetch_offset,
                leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
                max_bytes: partition.partition_max_bytes,
            },
            sent: None,
        }));
    }
    entries
}

fn forgotten(request: &FetchRequest, by_id: bool) -> Vec<Key> {
    let mut keys = Vec::new();
    for topic in &request.forgotten_topics_data {
        let key = topic_key(by_id, &topic.topic, topic.topic_id);
        keys.extend(topic.partitions.iter().map(|index| Key { topic: key.clone(), index: *index }));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: i32) -> Entry {
        let asked = Asked { offset: 0, leader_epoch: -1, last_fetched_epoch: -1, max_bytes: 1 };
        Entry { key: Key { topic: TopicKey::Name("t".to_owned()), index }, asked, sent: None }
    }

    fn begin(state: &mut State, id: i32) -> i32 {
        state.begin(false, &[entry(0), entry(1)], || id)
    }

    #[tokio::test(start_paused = true)]
    async fn trap_27_a_session_goes_on_by_its_epochs_only() {
        let mut state = State::default();
        assert_eq!(begin(&mut state, 7), 7);
        let mut go_on = |id, epoch, by_id| state.go_on(id, epoch, by_id, vec![entry(2)], &[entry(0).key], 10);
        assert_eq!(go_on(8, 1, false).err(), Some(ResponseError::FetchSessionIdNotFound));
        assert_eq!(go_on(7, 2, false).err(), Some(ResponseError::InvalidFetchSessionEpoch));
        assert_eq!(go_on(7, 1, true).err(), Some(ResponseError::FetchSessionTopicIdError));
        let context = go_on(7, 1, false).unwrap();
        let indexes: Vec<_> = context.entries.iter().map(|entry| entry.key.index).collect();
        assert_eq!((context.session_id, indexes), (7, vec![1, 2]));
        assert_eq!(go_on(7, 1, false).err(), Some(ResponseError::InvalidFetchSessionEpoch), "it was used");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_unused_session_makes_room_and_none_that_is_in_use() {
        let mut state = State::default();
        for id in 1..=SESSIONS_MAX as i32 {
            assert_eq!(begin(&mut state, id), id);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(begin(&mut state, 5_000), 0, "all are in use");
        tokio::time::advance(UNUSED_MIN).await;
        assert_eq!(begin(&mut state, 5_000), 5_000);
        assert_eq!(state.sessions.len(), SESSIONS_MAX);
        assert!(!state.sessions.contains_key(&1));
        assert_eq!(state.partitions, 2 * SESSIONS_MAX);
    }
}
