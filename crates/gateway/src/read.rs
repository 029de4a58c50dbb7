//! Records out, from a position, without a group.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_client::{
    Client, ConsumeError, Consumer, ConsumerConfig, ConsumerRecord, Offset, OffsetAt, PartitionId, StartAt, TopicName,
};
use highwater_protocol::v1;

use crate::GatewayLimits;
use crate::error::{IntoError as _, invalid};
use crate::wire;

/// How long to wait for records before looking whether the end has come.
const POLL_WAIT: Duration = Duration::from_millis(250);
const POLL_RECORDS_MAX: usize = 1024;

/// One call of Read.
pub(crate) struct Reading {
    consumer: Consumer,
    topic: String,
    /// Not to follow: the partitions that are not read to their ends yet.
    ends: Option<BTreeMap<PartitionId, Offset>>,
    /// Records that may still be handed out.
    left: u64,
    response_bytes: usize,
}

impl Reading {
    /// Finds all positions, so that what is wrong with them is said at once.
    pub async fn open(client: &Client, request: v1::ReadRequest, limits: &GatewayLimits) -> Result<Self, v1::Error> {
        let isolation = wire::isolation(request.isolation_level)?;
        if let Err(error) = TopicName::new(&request.topic) {
            return Err(v1::Error::new(highwater_client::ErrorCode::InvalidTopicName, error.to_string()));
        }
        let starts = starts(&request)?;
        let mut ends = BTreeMap::new();
        if !request.follow {
            let all = client.admin().list_offsets_as(&request.topic, OffsetAt::Latest, isolation).await;
            let all = all.map_err(|error| error.into_error())?;
            ends.extend(all.into_iter().filter_map(|(id, end)| Some((id, end.offset?))));
            if let Starts::Some(starts) = &starts {
                ends.retain(|id, _| starts.contains_key(id));
            }
        }
        let mut consumer = client.consumer(ConsumerConfig { isolation, ..config(limits) });
        let assigned = match &starts {
            Starts::All(at) => consumer.assign_topic(&request.topic, *at).await,
            Starts::Some(starts) => {
                let starts: Vec<_> = starts.iter().map(|(id, at)| (request.topic.clone(), *id, *at)).collect();
                consumer.assign(starts).await
            }
        };
        assigned.map_err(|error| error.into_error())?;
        let reading = Self {
            consumer,
            topic: request.topic,
            ends: (!request.follow).then_some(ends),
            left: if request.records_max == 0 { u64::MAX } else { request.records_max },
            response_bytes: limits.response_bytes,
        };
        reading.refuse_starts_beyond_the_ends(&starts)?;
        Ok(reading)
    }

    /// With `follow` the leader says so; here nothing would be asked of it.
    fn refuse_starts_beyond_the_ends(&self, starts: &Starts) -> Result<(), v1::Error> {
        for (id, end) in self.ends.iter().flatten() {
            if let StartAt::Offset(from) = starts.of(*id)
                && from > *end
            {
                let topic = &self.topic;
                let message = format!("{topic}-{id} ends at {end}, and offset {from} is beyond that");
                let error = v1::Error::new(highwater_client::ErrorCode::OffsetOutOfRange, message);
                return Err(error.with_valid_offsets(0, end.get()));
            }
        }
        Ok(())
    }

    /// The next answers, in order; `None` at the end. Dropping this future before it is ready loses nothing.
    pub async fn next(&mut self) -> Result<Option<Vec<v1::ReadResponse>>, v1::Error> {
        loop {
            if self.is_at_end() {
                return Ok(None);
            }
            let polled = match self.consumer.poll(POLL_WAIT).await {
                Ok(polled) => polled,
                // A leader that is being elected; the consumer goes on by itself.
                Err(ConsumeError::Unavailable { .. }) if self.ends.is_none() => continue,
                Err(error) => return Err(error.into_error()),
            };
            let records = self.take(polled);
            if !records.is_empty() {
                return Ok(Some(in_answers(records, self.response_bytes)));
            }
        }
    }

    fn is_at_end(&mut self) -> bool {
        if let Some(ends) = &mut self.ends {
            ends.retain(|id, end| self.consumer.position(&self.topic, *id).is_none_or(|at| at.offset < *end));
        }
        self.left == 0 || self.ends.as_ref().is_some_and(BTreeMap::is_empty)
    }

    fn take(&mut self, polled: Vec<ConsumerRecord>) -> Vec<v1::ReadRecord> {
        let before_end = |record: &ConsumerRecord| {
            self.ends.as_ref().is_none_or(|ends| ends.get(&record.partition).is_some_and(|end| record.offset < *end))
        };
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let records: Vec<_> = polled.into_iter().filter(before_end).take(most).map(wire::consumed).collect();
        self.left -= records.len() as u64;
        records
    }
}

/// Where the partitions to be read begin.
enum Starts {
    All(StartAt),
    Some(BTreeMap<PartitionId, StartAt>),
}

impl Starts {
    fn of(&self, id: PartitionId) -> StartAt {
        match self {
            Self::All(at) => *at,
            Self::Some(starts) => starts.get(&id).copied().unwrap_or(StartAt::Beginning),
        }
    }
}

fn starts(request: &v1::ReadRequest) -> Result<Starts, v1::Error> {
    let default = wire::start(request.start.as_ref())?;
    if request.partitions.is_empty() {
        return Ok(Starts::All(default));
    }
    let mut starts = BTreeMap::new();
    for partition in &request.partitions {
        let at = if partition.start.is_some() { wire::start(partition.start.as_ref())? } else { default };
        if starts.insert(PartitionId::new(partition.partition), at).is_some() {
            return Err(invalid(format!("partition {} is named twice", partition.partition)));
        }
    }
    Ok(Starts::Some(starts))
}

pub(crate) fn config(limits: &GatewayLimits) -> ConsumerConfig {
    ConsumerConfig {
        poll_records_max: POLL_RECORDS_MAX,
        partition_bytes_max: 1 << 20,
        fetch_bytes_max: 2 << 20,
        prefetch_bytes: limits.prefetch_bytes,
        decompressed_bytes_max: 64 << 20,
        ..ConsumerConfig::default()
    }
}

/// Cuts records into messages of about `bytes_max`.
pub(crate) fn in_answers(records: Vec<v1::ReadRecord>, bytes_max: usize) -> Vec<v1::ReadResponse> {
    let mut out: Vec<v1::ReadResponse> = Vec::new();
    let mut bytes = usize::MAX;
    for record in records {
        let more = wire::bytes_of(&record);
        match out.last_mut() {
            Some(last) if bytes + more <= bytes_max => {
                bytes += more;
                last.records.push(record);
            }
            _ => {
                bytes = more;
                out.push(v1::ReadResponse { records: vec![record] });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(offset: i64, length: usize) -> v1::ReadRecord {
        v1::ReadRecord { offset, value: Some(Bytes::from(vec![0; length])), ..v1::ReadRecord::default() }
    }

    #[test]
    fn answers_are_cut_by_bytes_and_a_large_record_goes_alone() {
        let records = vec![record(0, 100), record(1, 100), record(2, 5000), record(3, 100), record(4, 900)];
        let offsets = |answer: &v1::ReadResponse| answer.records.iter().map(|it| it.offset).collect::<Vec<_>>();
        let answers: Vec<_> = in_answers(records, 1000).iter().map(offsets).collect();
        assert_eq!(answers, [vec![0, 1], vec![2], vec![3], vec![4]]);
        assert!(in_answers(Vec::new(), 1000).is_empty());
    }

    #[test]
    fn a_partition_begins_where_it_says_and_else_where_the_request_does() {
        let at = |offset| Some(v1::ReadStart { at: Some(v1::read_start::At::Offset(offset)) });
        let partition = |partition, start| v1::PartitionStart { partition, start };
        let mut request = v1::ReadRequest { start: at(5), ..v1::ReadRequest::default() };
        assert_eq!(starts(&request).unwrap().of(PartitionId::new(3)), StartAt::Offset(Offset::new(5)));
        request.partitions = vec![partition(0, at(9)), partition(1, None)];
        let found = starts(&request).unwrap();
        assert_eq!(found.of(PartitionId::new(0)), StartAt::Offset(Offset::new(9)));
        assert_eq!(found.of(PartitionId::new(1)), StartAt::Offset(Offset::new(5)));
        request.partitions.push(partition(1, at(1)));
        assert!(starts(&request).is_err_and(|error| error.message.contains("twice")));
    }
}
