//! Fetch answers, written by hand: the protocol's encoder would copy the records.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use highwater_broker::fetch::Fetched;
use highwater_broker::partition::PartitionError;
use highwater_types::BrokerId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;

use super::session::TopicKey;
use super::{Answer, Answered, BY_ID};
use crate::apis::topics::{self, LeaderHint};
use crate::apis::{Broken, Call, Pieces};
use crate::error;
use crate::reply::Gathered;

const FLEXIBLE: i16 = 12;
const SESSIONS: i16 = 7;
const LEADER_HINTS: i16 = 16;

/// An answer to the request as a whole.
pub(super) fn refused(call: &Call, error: ResponseError) -> Result<Pieces, Broken> {
    call.door.metrics.error(ApiKey::Fetch, error.code());
    let mut writer = Writer::new(call, error.code(), 0);
    writer.count(0);
    writer.end(&BTreeMap::new())
}

pub(super) fn answer(
    call: &Call,
    session_id: i32,
    is_committed: bool,
    answered: Vec<Answered>,
) -> Result<Pieces, Broken> {
    let image = call.door.api.image();
    let mut writer = Writer::new(call, error::NONE, session_id);
    let mut topics: Vec<(TopicKey, Vec<Answered>)> = Vec::new();
    for one in answered {
        match topics.last_mut() {
            Some((topic, list)) if *topic == one.entry.key.topic => list.push(one),
            _ => topics.push((one.entry.key.topic.clone(), vec![one])),
        }
    }
    let mut hints = BTreeMap::new();
    writer.count(topics.len());
    for (topic, partitions) in topics {
        writer.topic(&topic);
        writer.count(partitions.len());
        for Answered { entry, answer } in partitions {
            let index = entry.key.index;
            let count = |error: ResponseError| call.door.metrics.error(ApiKey::Fetch, error.code());
            match answer {
                Answer::Fetched(fetched) => writer.fetched(index, fetched, is_committed),
                Answer::Refused(error) => {
                    count(error);
                    writer.failed(index, error, None, None, is_committed);
                }
                Answer::Failed(error) => {
                    let hint = topics::leader_hint(&call.door, &image, &error);
                    let code = topics::partition_error(&image, &error, call.version >= BY_ID);
                    count(code);
                    writer.failed(index, code, Some(&error), hint.as_ref(), is_committed);
                    hints.extend(hint.map(|hint| (hint.leader, hint)));
                }
            }
        }
        writer.no_tags();
    }
    writer.end(&hints)
}

struct Writer {
    gathered: Gathered,
    version: i16,
}

impl Writer {
    fn new(call: &Call, error: i16, session_id: i32) -> Self {
        let (mut gathered, version) = (Gathered::new(call.reply_header()), call.version);
        let out = gathered.out();
        out.put_i32(0);
        if version >= SESSIONS {
            out.put_i16(error);
            out.put_i32(session_id);
        }
        Self { gathered, version }
    }

    fn out(&mut self) -> &mut BytesMut {
        self.gathered.out()
    }

    fn is_flexible(&self) -> bool {
        self.version >= FLEXIBLE
    }

    fn count(&mut self, count: usize) {
        self.length(Some(count));
    }

    /// Of an array or of bytes. Frames are bounded: it fits.
    fn length(&mut self, length: Option<usize>) {
        let is_flexible = self.is_flexible();
        let out = self.gathered.out();
        if is_flexible {
            put_varint(out, length.map_or(0, |length| length as u32 + 1));
        } else {
            out.put_i32(length.map_or(-1, |length| length as i32));
        }
    }

    fn no_tags(&mut self) {
        if self.is_flexible() {
            self.out().put_u8(0);
        }
    }

    fn topic(&mut self, topic: &TopicKey) {
        let is_flexible = self.is_flexible();
        let out = self.gathered.out();
        match topic {
            TopicKey::Id(id) => out.put_slice(id.as_bytes()),
            TopicKey::Name(name) if is_flexible => put_text(out, Some(name)),
            TopicKey::Name(name) => {
                // It came in a field of this width.
                out.put_i16(name.len() as i16);
                out.put_slice(name.as_bytes());
            }
        }
    }

    /// Up to the aborted transactions.
    fn head(&mut self, index: i32, error: i16, high_watermark: i64, last_stable: i64, log_start: i64) {
        let version = self.version;
        let out = self.out();
        out.put_i32(index);
        out.put_i16(error);
        out.put_i64(high_watermark);
        out.put_i64(last_stable);
        if version >= 5 {
            out.put_i64(log_start);
        }
    }

    /// Whom the client should ask instead.
    fn preferred_replica(&mut self, preferred: Option<BrokerId>) {
        if self.version >= 11 {
            let id = preferred.and_then(|broker| i32::try_from(broker.get()).ok());
            self.out().put_i32(id.unwrap_or(-1));
        }
    }

    fn fetched(&mut self, index: i32, fetched: Fetched, is_committed: bool) {
        let Fetched { high_watermark, last_stable, aborted, log_start, records, preferred, .. } = fetched;
        self.head(index, error::NONE, high_watermark.get(), last_stable.get(), log_start.get());
        self.length(is_committed.then_some(aborted.len()));
        if is_committed {
            for one in aborted {
                self.out().put_i64(one.producer_id.get());
                self.out().put_i64(one.first_offset.get());
                self.no_tags();
            }
        }
        self.preferred_replica(preferred);
        self.length(Some(records.iter().map(Bytes::len).sum()));
        for piece in records {
            self.gathered.payload(piece);
        }
        self.no_tags();
    }

    fn failed(
        &mut self,
        index: i32,
        code: ResponseError,
        error: Option<&PartitionError>,
        hint: Option<&LeaderHint>,
        is_committed: bool,
    ) {
        let (start, end) = error.and_then(PartitionError::valid_offsets).map_or((-1, -1), |(a, b)| (a.get(), b.get()));
        let diverging = match error {
            Some(PartitionError::LogTruncated { diverging, .. }) if self.is_flexible() => Some(*diverging),
            _ => None,
        };
        // Where the logs part is no failure to clients that ask for it (KIP-595).
        let code = if diverging.is_some() { error::NONE } else { code.code() };
        self.head(index, code, end, -1, start);
        self.length(is_committed.then_some(0));
        self.preferred_replica(None);
        self.length(Some(0));
        if !self.is_flexible() {
            return;
        }
        let out = self.gathered.out();
        out.put_u8(diverging.is_some() as u8 + hint.is_some() as u8);
        if let Some(diverging) = diverging {
            out.put_slice(&[0, 13]);
            out.put_i32(diverging.epoch.get());
            out.put_i64(diverging.end.get());
            out.put_u8(0);
        }
        if let Some(hint) = hint {
            out.put_slice(&[1, 9]);
            out.put_u32(hint.leader.get());
            out.put_i32(hint.leader_epoch.get());
            out.put_u8(0);
        }
    }

    fn end(mut self, hints: &BTreeMap<BrokerId, LeaderHint>) -> Result<Pieces, Broken> {
        if self.version >= LEADER_HINTS && !hints.is_empty() {
            let mut nodes = BytesMut::new();
            put_varint(&mut nodes, hints.len() as u32 + 1);
            for hint in hints.values() {
                nodes.put_u32(hint.leader.get());
                put_text(&mut nodes, Some(&hint.host));
                nodes.put_i32(hint.port.into());
                put_text(&mut nodes, hint.rack.as_deref());
                nodes.put_u8(0);
            }
            let out = self.out();
            out.put_slice(&[1, 0]);
            put_varint(out, nodes.len() as u32);
            out.put_slice(&nodes);
        } else {
            self.no_tags();
        }
        Ok(self.gathered.finish()?)
    }
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn put_text(out: &mut BytesMut, text: Option<&str>) {
    match text {
        None => put_varint(out, 0),
        Some(text) => {
            put_varint(out, text.len() as u32 + 1);
            out.put_slice(text.as_bytes());
        }
    }
}
