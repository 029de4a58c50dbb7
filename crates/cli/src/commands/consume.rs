//! `highwater consume`: prints the records of a topic.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use highwater_client::{Client, ConsumerConfig, IsolationLevel, Offset, OffsetAt, PartitionId, StartAt, TimestampMs};

use crate::args::{ConnectArgs, block_on, tell_when_lost, until_ended};
use crate::failure::{Failure, Outcome};

pub mod format;
mod group;
pub mod time;

use format::Format;

/// Print the records of a topic, as they come.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater consume orders                      # all, then what comes, until Ctrl-C
  highwater consume orders --from end --format key-value
  highwater consume orders --partition 3 --from offset:1000 --max 10 --format json
  highwater consume orders --from timestamp:2026-01-31T12:00:00Z --until-end
  highwater consume orders --format %p@%o:%k=%v
  highwater consume orders --group billing      # share the partitions with the group's other members
  highwater consume orders --committed          # nothing of open or aborted transactions

In a template, %t is the topic, %p the partition, %o the offset, %T the time, %k the key, %v the value.")]
pub struct Consume {
    /// The topic.
    topic: String,
    /// Where to begin: beginning, end, offset:N, or timestamp:T (milliseconds since 1970, or 2026-01-31T12:00:00Z).
    #[arg(long, default_value = "beginning", value_name = "PLACE")]
    from: Place,
    /// Only this partition; can be given several times. All if not given.
    #[arg(long, short = 'p')]
    partition: Vec<u32>,
    /// As a member of this group: the partitions are shared out among its members, and each begins where the group has
    /// committed. On Ctrl-C, or after --max records, what was printed is committed. --from says where to begin if nothing is.
    #[arg(long, short = 'g', conflicts_with_all = ["partition", "until_end"])]
    group: Option<String>,
    /// With --group: a static member, which keeps its partitions when it comes back under this name within the session
    /// timeout.
    #[arg(long, requires = "group", value_name = "NAME")]
    instance_id: Option<String>,
    /// Of transactions, only those that are committed (read_committed).
    #[arg(long)]
    committed: bool,
    /// Where this reader stands: partitions are read from an in-sync replica of that rack, where there is one.
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// Stop after so many records.
    #[arg(long, short = 'n', value_name = "COUNT")]
    max: Option<u64>,
    /// Stop where the log ends now, instead of waiting for more.
    #[arg(long)]
    until_end: bool,
    /// value, key-value (a tab between), json (an object a line), or a template with %t %p %o %T %k %v.
    #[arg(long, default_value = "value")]
    format: Format,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(StartAt);

impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "must be beginning, end, offset:N, or timestamp:T";
        Ok(Self(match text.split_once(':') {
            None if text == "beginning" => StartAt::Beginning,
            None if text == "end" => StartAt::End,
            Some(("offset", number)) => match number.parse::<i64>() {
                Ok(number) if number >= 0 => StartAt::Offset(Offset::new(number)),
                _ => return Err(format!("{number:?} is no offset; offsets are whole numbers from 0")),
            },
            Some(("timestamp", text)) => StartAt::Timestamp(TimestampMs::new(time::parse(text)?)),
            _ => return Err(wrong.to_owned()),
        }))
    }
}

impl Consume {
    pub fn run(self) -> Outcome {
        match &self.group {
            Some(group) => block_on(self.consume_as_member(group)),
            None => block_on(until_ended(self.consume())),
        }
    }

    /// Watches for signals itself, to commit what was printed.
    async fn consume_as_member(&self, group: &str) -> Outcome {
        let client = self.connect.connect().await?;
        tell_when_lost(&client);
        group::consume(self, &client, group).await
    }

    async fn consume(&self) -> Outcome {
        let client = self.connect.connect().await?;
        tell_when_lost(&client);
        let mut left = self.max.unwrap_or(u64::MAX);
        let mut ends = if self.until_end { self.ends(&client).await? } else { BTreeMap::new() };
        // Without --until-end the broker says so; here nothing would be asked of it.
        if let StartAt::Offset(from) = self.from.0
            && let Some((id, end)) = ends.iter().find(|(_, end)| from > **end)
        {
            let topic = &self.topic;
            return Err(Failure::failed(format!(
                "read topic {topic:?}: partition {id} ends at {end}, and offset {from} is beyond that; ask for {end} or less"
            )));
        }
        let mut consumer = client.consumer(self.config());
        if self.partition.is_empty() {
            consumer.assign_topic(&self.topic, self.from.0).await?;
        } else {
            let partitions = self.partition.iter().map(|id| (&self.topic, PartitionId::new(*id), self.from.0));
            consumer.assign(partitions).await?;
        }
        let mut out = std::io::BufWriter::with_capacity(256 << 10, std::io::stdout());
        while left > 0 {
            if self.until_end {
                let reached = |id: &PartitionId, end: &Offset| {
                    consumer.position(&self.topic, *id).is_some_and(|position| position.offset >= *end)
                };
                ends.retain(|id, end| !reached(id, end));
                if ends.is_empty() {
                    break;
                }
            }
            for record in consumer.poll(Duration::from_millis(200)).await? {
                let past_end = self.until_end && ends.get(&record.partition).is_none_or(|end| record.offset >= *end);
                if past_end || left == 0 {
                    continue;
                }
                left -= 1;
                self.format.write(&mut out, &record)?;
            }
            out.flush()?;
        }
        Ok(())
    }

    fn config(&self) -> ConsumerConfig {
        let isolation = if self.committed { IsolationLevel::ReadCommitted } else { IsolationLevel::ReadUncommitted };
        ConsumerConfig { isolation, rack: self.rack.clone(), ..ConsumerConfig::default() }
    }

    /// Where the partitions to be read end now.
    async fn ends(&self, client: &Client) -> Outcome<BTreeMap<PartitionId, Offset>> {
        let ends = client.admin().list_offsets(&self.topic, OffsetAt::Latest).await?;
        let wanted = |id: PartitionId| self.partition.is_empty() || self.partition.contains(&id.get());
        Ok(ends.into_iter().filter_map(|(id, end)| Some((id, end.offset?))).filter(|(id, _)| wanted(*id)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_documented() {
        let place = |text: &str| text.parse::<Place>().map(|from| from.0);
        assert_eq!(place("beginning"), Ok(StartAt::Beginning));
        assert_eq!(place("end"), Ok(StartAt::End));
        assert_eq!(place("offset:17"), Ok(StartAt::Offset(Offset::new(17))));
        assert_eq!(place("timestamp:5"), Ok(StartAt::Timestamp(TimestampMs::new(5))));
        let day = StartAt::Timestamp(TimestampMs::new(86_400_000));
        assert_eq!(place("timestamp:1970-01-02T00:00:00Z"), Ok(day));
        for bad in ["", "start", "offset:", "offset:-1", "offset:x", "timestamp:", "timestamp:yesterday", "17"] {
            assert!(place(bad).is_err(), "{bad:?}");
        }
    }
}
