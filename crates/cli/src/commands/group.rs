//! `highwater group`: consumer groups, their members, offsets and lag.

use clap::{Args, Subcommand};
use highwater_client::{
    Admin, ErrorCode, GroupDescription, GroupListing, GroupProtocol, MemberDescription, OffsetAt, PartitionId,
    PartitionLag, TimestampMs,
};
use serde::Serialize;

use super::consume::time;
use crate::args::{ConnectArgs, block_on};
use crate::failure::{Failure, Outcome};
use crate::output::{OutputArgs, facts, line, list, table};

/// List, describe and delete consumer groups; set their offsets.
#[derive(Debug, Args)]
pub struct Group {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    List(List),
    Describe(Describe),
    ResetOffsets(ResetOffsets),
    Delete(Delete),
}

/// List all groups.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater group list
  highwater group list --output json")]
struct List {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Show a group: state, members, and for each partition its owner, committed offset and lag.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater group describe billing
  highwater group describe billing --output json")]
struct Describe {
    /// Its id.
    group: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Set what a group has committed in a topic. The group must have no members.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater group reset-offsets billing orders --to beginning
  highwater group reset-offsets billing orders --to timestamp:2026-01-31T12:00:00Z --partition 3
  highwater group reset-offsets billing orders --to end --dry-run")]
struct ResetOffsets {
    /// The group.
    group: String,
    /// The topic.
    topic: String,
    /// Where to: beginning, end, or timestamp:T (milliseconds since 1970, or 2026-01-31T12:00:00Z).
    #[arg(long, value_parser = parse_place, value_name = "PLACE")]
    to: OffsetAt,
    /// Only this partition; can be given several times. All if not given.
    #[arg(long, short = 'p')]
    partition: Vec<u32>,
    /// Only say what the offsets would be.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Delete a group and what it has committed. It must have no members.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  highwater group delete billing")]
struct Delete {
    /// Its id.
    group: String,
    /// Succeed if there is no such group.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn parse_place(text: &str) -> Result<OffsetAt, String> {
    match text.split_once(':') {
        None if text == "beginning" => Ok(OffsetAt::Earliest),
        None if text == "end" => Ok(OffsetAt::Latest),
        Some(("timestamp", text)) => Ok(OffsetAt::Timestamp(TimestampMs::new(time::parse(text)?))),
        _ => Err("must be beginning, end, or timestamp:T".to_owned()),
    }
}

impl Group {
    pub fn run(self) -> Outcome {
        block_on(async {
            match self.command {
                GroupCommand::List(command) => command.list().await,
                GroupCommand::Describe(command) => command.describe().await,
                GroupCommand::ResetOffsets(command) => command.reset().await,
                GroupCommand::Delete(command) => command.delete().await,
            }
        })
    }
}

#[derive(Serialize)]
struct GroupRow {
    group: String,
    protocol: &'static str,
    /// Whose members speak it: `consumer`, `connect`; empty if nobody ever did.
    protocol_type: String,
    state: String,
}

impl From<GroupListing> for GroupRow {
    fn from(group: GroupListing) -> Self {
        let protocol = match group.protocol {
            GroupProtocol::Consumer => "consumer",
            GroupProtocol::Classic => "classic",
        };
        Self { group: group.group_id, protocol, protocol_type: group.protocol_type, state: group.state }
    }
}

impl List {
    async fn list(self) -> Outcome {
        let groups = self.connect.connect().await?.admin().list_groups().await?;
        let rows: Vec<GroupRow> = groups.into_iter().map(GroupRow::from).collect();
        self.output.print(&rows, |rows| {
            table(
                &["group", "protocol", "type", "state"],
                rows.iter().map(|row| {
                    let kind = if row.protocol_type.is_empty() { "-" } else { &row.protocol_type };
                    vec![row.group.clone(), row.protocol.to_owned(), kind.to_owned(), row.state.clone()]
                }),
            )
        })
    }
}

#[derive(Serialize)]
struct GroupReport {
    #[serde(flatten)]
    group: GroupRow,
    /// What the state means.
    meaning: &'static str,
    epoch: i32,
    assignment_epoch: i32,
    assignor: String,
    coordinator: u32,
    members: Vec<MemberRow>,
    partitions: Vec<LagRow>,
    /// Of all partitions whose lag is known.
    lag: u64,
}

#[derive(Serialize)]
struct MemberRow {
    member: String,
    instance_id: Option<String>,
    client_id: String,
    host: String,
    rack: Option<String>,
    epoch: i32,
    protocol: &'static str,
    topics: Vec<String>,
    topic_pattern: String,
    assignment: Vec<String>,
    /// What it should have and has not, or has and should not.
    moving: Vec<String>,
}

#[derive(Serialize)]
struct LagRow {
    topic: String,
    partition: u32,
    committed: Option<i64>,
    end: Option<i64>,
    /// Not known without a commit.
    lag: Option<u64>,
    metadata: String,
    member: Option<String>,
}

/// For who has not read KIP-848.
fn meaning(state: &str) -> &'static str {
    match state {
        "Empty" => "no members; the offsets are kept for their retention time",
        "Assigning" => "members or topics have changed; the new assignment is being made",
        "Reconciling" => "partitions are moving: some members have yet to give up or to take some",
        "Stable" => "every member has what it should have",
        "PreparingRebalance" => "the coordinator waits for all members to join (classic protocol)",
        "CompletingRebalance" => "the coordinator waits for the assignment of the leading member (classic protocol)",
        "Dead" => "it is being removed",
        _ => "",
    }
}

fn member_row(member: MemberDescription) -> MemberRow {
    let name = |(topic, id): &(highwater_client::TopicName, PartitionId)| format!("{topic}/{id}");
    let not_in = |of: &[(highwater_client::TopicName, PartitionId)],
                  other: &[(highwater_client::TopicName, PartitionId)],
                  sign: char|
     -> Vec<String> {
        of.iter().filter(|it| !other.contains(it)).map(|it| format!("{sign}{}", name(it))).collect()
    };
    let mut moving = not_in(&member.target, &member.assignment, '+');
    moving.extend(not_in(&member.assignment, &member.target, '-'));
    MemberRow {
        assignment: member.assignment.iter().map(name).collect(),
        moving,
        member: member.member_id,
        instance_id: member.instance_id,
        client_id: member.client_id,
        host: member.client_host,
        rack: member.rack,
        epoch: member.epoch,
        protocol: if member.is_classic { "classic" } else { "consumer" },
        topics: member.topics,
        topic_pattern: member.topic_pattern,
    }
}

fn lag_row(of: PartitionLag) -> LagRow {
    LagRow {
        topic: of.topic.to_string(),
        partition: of.partition.get(),
        committed: of.committed.as_ref().map(|it| it.position.offset.get()),
        end: of.end.map(|end| end.get()),
        lag: of.lag,
        metadata: of.committed.map(|it| it.metadata).unwrap_or_default(),
        member: of.member,
    }
}

impl Describe {
    async fn describe(self) -> Outcome {
        let admin = self.connect.connect().await?.admin();
        let report = report(&admin, &self.group).await?;
        self.output.print(&report, text)
    }
}

async fn report(admin: &Admin, group: &str) -> Outcome<GroupReport> {
    let GroupDescription { group: listing, epoch, assignment_epoch, assignor, coordinator, members } =
        admin.describe_group(group).await?;
    let partitions: Vec<LagRow> = admin.group_lag(group).await?.into_iter().map(lag_row).collect();
    Ok(GroupReport {
        meaning: meaning(&listing.state),
        group: listing.into(),
        epoch,
        assignment_epoch,
        assignor,
        coordinator,
        members: members.into_iter().map(member_row).collect(),
        lag: partitions.iter().filter_map(|row| row.lag).sum(),
        partitions,
    })
}

fn text(report: &GroupReport) -> String {
    let (assignor, epoch) = match report.group.protocol {
        "classic" => (("chosen by members", report.assignor.clone()), ("generation", report.epoch.to_string())),
        _ => {
            let epoch = format!("{} (assignment: {})", report.epoch, report.assignment_epoch);
            (("assignor", report.assignor.clone()), ("epoch", epoch))
        }
    };
    let protocol = match report.group.protocol_type.as_str() {
        "consumer" | "" => report.group.protocol.to_owned(),
        other => format!("{} (type {other})", report.group.protocol),
    };
    let head = facts(&[
        ("group", report.group.group.clone()),
        ("state", format!("{}: {}", report.group.state, report.meaning)),
        ("protocol", protocol),
        assignor,
        epoch,
        ("coordinator", format!("broker {}", report.coordinator)),
        ("lag", report.lag.to_string()),
    ]);
    let members = table(
        &["member", "instance", "client", "host", "#epoch", "partitions", "moving"],
        report.members.iter().map(|row| {
            vec![
                row.member.clone(),
                row.instance_id.clone().unwrap_or_else(|| "-".to_owned()),
                row.client_id.clone(),
                row.host.clone(),
                row.epoch.to_string(),
                list(&row.assignment),
                list(&row.moving),
            ]
        }),
    );
    let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let partitions = table(
        &["topic", "#partition", "#committed", "#end", "#lag", "member"],
        report.partitions.iter().map(|row| {
            vec![
                row.topic.clone(),
                row.partition.to_string(),
                number(row.committed),
                number(row.end),
                row.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
                row.member.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    );
    format!("{head}\n\n{members}\n\n{partitions}")
}

#[derive(Serialize)]
struct ResetRow {
    partition: u32,
    offset: i64,
}

impl ResetOffsets {
    async fn reset(self) -> Outcome {
        let admin = self.connect.connect().await?.admin();
        let wanted: Vec<PartitionId> = self.partition.iter().map(|id| PartitionId::new(*id)).collect();
        let reset = if self.dry_run {
            let found = admin.list_offsets(&self.topic, self.to).await?;
            if let Some(unknown) = wanted.iter().find(|id| !found.iter().any(|(there, _)| there == *id)) {
                return Err(Failure::failed(format!("topic {:?} has no partition {unknown}", self.topic)));
            }
            let ends = admin.list_offsets(&self.topic, OffsetAt::Latest).await?;
            let end = |id| ends.iter().find(|(there, _)| *there == id).and_then(|(_, end)| end.offset);
            let wanted = found.into_iter().filter(|(id, _)| wanted.is_empty() || wanted.contains(id));
            wanted.filter_map(|(id, at)| Some((id, at.offset.or_else(|| end(id))?))).collect()
        } else {
            admin.reset_group_offsets(&self.group, &self.topic, &wanted, self.to).await?
        };
        let row = |(id, offset): &(PartitionId, highwater_client::Offset)| ResetRow {
            partition: id.get(),
            offset: offset.get(),
        };
        let rows: Vec<ResetRow> = reset.iter().map(row).collect();
        self.output.print(&rows, |rows| {
            table(
                &["#partition", "#offset"],
                rows.iter().map(|row| vec![row.partition.to_string(), row.offset.to_string()]),
            )
        })
    }
}

impl Delete {
    async fn delete(self) -> Outcome {
        let deleted = self.connect.connect().await?.admin().delete_group(&self.group).await;
        match deleted {
            Err(error) if self.if_exists && error.code == ErrorCode::GroupIdNotFound => {
                line(format!("there is no group {}", self.group))
            }
            Err(error) => Err(error.into()),
            Ok(()) => line(format!("group {} deleted", self.group)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_documented() {
        assert_eq!(parse_place("beginning"), Ok(OffsetAt::Earliest));
        assert_eq!(parse_place("end"), Ok(OffsetAt::Latest));
        assert_eq!(parse_place("timestamp:5"), Ok(OffsetAt::Timestamp(TimestampMs::new(5))));
        assert!(parse_place("offset:5").is_err() && parse_place("").is_err());
    }

    fn group(protocol: &'static str, protocol_type: &str) -> GroupRow {
        let (group, state) = ("g".to_owned(), "Empty".to_owned());
        GroupRow { group, protocol, protocol_type: protocol_type.to_owned(), state }
    }

    #[test]
    fn a_classic_group_has_a_generation_and_a_protocol_of_its_members() {
        let report = GroupReport {
            group: group("classic", "connect"),
            meaning: meaning("Empty"),
            epoch: 4,
            assignment_epoch: 4,
            assignor: "sessioned".to_owned(),
            coordinator: 2,
            members: Vec::new(),
            partitions: Vec::new(),
            lag: 0,
        };
        let text = text(&report);
        for expected in ["classic (type connect)", "generation", "sessioned"] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_lag_that_is_not_known_is_no_zero() {
        let row = |lag| LagRow {
            topic: "t".to_owned(),
            partition: 0,
            committed: None,
            end: Some(7),
            lag,
            metadata: String::new(),
            member: None,
        };
        let report = GroupReport {
            group: group("consumer", "consumer"),
            meaning: meaning("Empty"),
            epoch: 1,
            assignment_epoch: 1,
            assignor: "uniform".to_owned(),
            coordinator: 2,
            members: Vec::new(),
            partitions: vec![row(None), row(Some(3))],
            lag: 3,
        };
        let text = text(&report);
        let last: Vec<&str> = text.lines().rev().take(2).collect();
        assert!(last[0].ends_with("3  -") && last[1].ends_with("-  -"), "{text}");
    }
}
