//! Records and positions, from and to their messages.

use highwater_client::{
    Acks, ConsumerRecord, Header, Offset, PartitionNumber, ProducerRecord, StartAt, TimestampMs, TopicRef,
};
use highwater_protocol::v1;
use highwater_types::IsolationLevel;
use v1::read_start::At;

use crate::error::invalid;

pub(crate) fn acks(number: i32) -> Result<Acks, v1::Error> {
    match v1::Acks::try_from(number) {
        Ok(v1::Acks::Unspecified | v1::Acks::All) => Ok(Acks::All),
        Ok(v1::Acks::Leader) => Ok(Acks::Leader),
        Ok(v1::Acks::None) => Ok(Acks::None),
        Err(_) => Err(invalid(format!("acks can't be {number}; they are ACKS_NONE, ACKS_LEADER or ACKS_ALL"))),
    }
}

pub(crate) fn isolation(number: i32) -> Result<IsolationLevel, v1::Error> {
    match v1::IsolationLevel::try_from(number) {
        Ok(v1::IsolationLevel::ReadUncommitted) => Ok(IsolationLevel::ReadUncommitted),
        Ok(v1::IsolationLevel::ReadCommitted) => Ok(IsolationLevel::ReadCommitted),
        Err(_) => Err(invalid(format!("isolation_level can't be {number}"))),
    }
}

pub(crate) fn produced(topic: &TopicRef, record: v1::PublishRecord) -> ProducerRecord {
    let mut out = ProducerRecord::new(topic);
    if let Some(key) = record.key {
        out = out.key(key);
    }
    if let Some(value) = record.value {
        out = out.value(value);
    }
    if let Some(timestamp) = record.timestamp_ms {
        out = out.timestamp(TimestampMs::new(timestamp));
    }
    if let Some(partition) = record.partition {
        out = out.partition(PartitionNumber::from(partition));
    }
    for header in record.headers {
        out = match header.value {
            Some(value) => out.header(header.name, value),
            None => out.null_header(header.name),
        };
    }
    out
}

pub(crate) fn consumed(record: ConsumerRecord) -> v1::ReadRecord {
    v1::ReadRecord {
        partition: record.partition.get(),
        offset: record.offset.get(),
        timestamp_ms: record.timestamp.get(),
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(header).collect(),
        topic: record.topic.as_str().to_owned(),
    }
}

/// A header's name is text here; where it is not, in records of other producers, what is not UTF-8 is replaced.
fn header(header: Header) -> v1::RecordHeader {
    v1::RecordHeader { name: header.name_str().into_owned(), value: header.value }
}

/// About what a record takes in an answer.
pub(crate) fn bytes_of(record: &v1::ReadRecord) -> usize {
    let length = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, |part| part.len());
    let headers: usize = record.headers.iter().map(|header| header.name.len() + length(&header.value) + 8).sum();
    length(&record.key) + length(&record.value) + headers + record.topic.len() + 40
}

pub(crate) fn start(start: Option<&v1::ReadStart>) -> Result<StartAt, v1::Error> {
    match start.and_then(|start| start.at) {
        None | Some(At::Earliest(true)) => Ok(StartAt::Beginning),
        Some(At::Latest(true)) => Ok(StartAt::End),
        Some(At::Offset(offset)) if offset >= 0 => Ok(StartAt::Offset(Offset::new(offset))),
        Some(At::TimestampMs(timestamp)) => Ok(StartAt::Timestamp(TimestampMs::new(timestamp))),
        Some(At::Offset(offset)) => Err(invalid(format!("{offset} is no offset; they are numbered from 0"))),
        Some(At::Earliest(false) | At::Latest(false)) => {
            Err(invalid("a start is one of earliest: true, latest: true, an offset, or a timestamp"))
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use highwater_client::{LeaderEpoch, PartitionId, TopicName};

    use super::*;

    fn read(key: Option<Bytes>, value: Option<Bytes>) -> v1::ReadRecord {
        consumed(ConsumerRecord {
            topic: TopicName::new("t").unwrap(),
            partition: PartitionId::new(2),
            offset: Offset::new(7),
            leader_epoch: LeaderEpoch::FIRST,
            timestamp: TimestampMs::new(9),
            key,
            value,
            headers: vec![Header { name: Bytes::from_static(b"\xffh"), value: None }],
        })
    }

    #[test]
    fn null_stays_null_and_empty_stays_empty() {
        let record = read(None, Some(Bytes::new()));
        assert_eq!((record.key, record.value), (None, Some(Bytes::new())));
        assert_eq!(record.headers, [v1::RecordHeader { name: "\u{fffd}h".to_owned(), value: None }]);
        assert_eq!((record.partition, record.offset, record.timestamp_ms), (2, 7, 9));
        assert_eq!(read(Some(Bytes::new()), None).key, Some(Bytes::new()));
    }

    #[test]
    fn a_start_that_says_nothing_is_the_earliest_and_a_senseless_one_is_refused() {
        let of = |at| start(Some(&v1::ReadStart { at }));
        assert_eq!(start(None), Ok(StartAt::Beginning));
        assert_eq!(of(None), Ok(StartAt::Beginning));
        assert_eq!(of(Some(At::Latest(true))), Ok(StartAt::End));
        assert_eq!(of(Some(At::Offset(0))), Ok(StartAt::Offset(Offset::ZERO)));
        assert_eq!(of(Some(At::TimestampMs(5))), Ok(StartAt::Timestamp(TimestampMs::new(5))));
        for bad in [At::Offset(-1), At::Latest(false), At::Earliest(false)] {
            assert!(of(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn unspecified_acks_are_the_safe_ones_and_unknown_numbers_are_refused() {
        assert_eq!(acks(0), Ok(Acks::All));
        assert_eq!(acks(v1::Acks::None.into()), Ok(Acks::None));
        assert!(acks(4).is_err() && isolation(2).is_err());
    }
}
