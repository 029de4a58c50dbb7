//! Settings of a member of a group.

use std::time::Duration;

use highwater_protocol::v1;

use crate::InvalidSetting;
use crate::consumer::{ConsumerConfig, OffsetReset};

/// How the coordinator divides the partitions among the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Assignor {
    /// As the group does already; a new group: as the broker is set.
    #[default]
    Group,
    /// As many for each, moving few.
    Uniform,
    /// Partitions of the same number of different topics go together.
    Range,
}

impl Assignor {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Group => "",
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }
}

/// What a member reads: topics by name, and those whose name matches a pattern, now or later.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    topics: Vec<String>,
    pattern: String,
}

impl Subscription {
    /// These topics; one that does not exist yet is read once it does.
    pub fn topics<T: Into<String>>(topics: impl IntoIterator<Item = T>) -> Self {
        Self { topics: topics.into_iter().map(Into::into).collect(), pattern: String::new() }
    }

    /// Every topic whose whole name matches this regular expression (RE2 syntax), as the coordinator finds.
    pub fn pattern(pattern: impl Into<String>) -> Self {
        Self { topics: Vec::new(), pattern: pattern.into() }
    }

    /// Topics by pattern besides these by name.
    #[must_use]
    pub fn and_pattern(self, pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), ..self }
    }

    pub(crate) fn into_wire(self) -> v1::GroupSubscription {
        v1::GroupSubscription { topics: self.topics, topic_pattern: self.pattern }
    }
}

impl From<&str> for Subscription {
    fn from(topic: &str) -> Self {
        Self::topics([topic])
    }
}
impl<T: Into<String>, const N: usize> From<[T; N]> for Subscription {
    fn from(topics: [T; N]) -> Self {
        Self::topics(topics)
    }
}
impl<T: Into<String>> From<Vec<T>> for Subscription {
    fn from(topics: Vec<T>) -> Self {
        Self::topics(topics)
    }
}

/// Settings of a member of a consumer group. How long a silent member stays in the group (the session timeout) and how
/// often it sends heartbeats is the coordinator's to say.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The group.
    pub group_id: String,
    /// For a static member (KIP-345): a name that it keeps over restarts. One that comes back under it within the session
    /// timeout has its partitions again, and nobody else's move.
    pub instance_id: Option<String>,
    /// Commits by itself what was handed out and passed by a following poll: every `auto_commit_interval`, before a
    /// partition is given up, and on [`close`](crate::GroupConsumer::close). So a record that was being processed when the
    /// member died is handed out again: at least once.
    pub auto_commit: bool,
    /// See `auto_commit`.
    pub auto_commit_interval: Duration,
    /// Where to begin a partition for which the group has committed no offset, or one that is not in the log any more.
    pub offset_reset: OffsetReset,
    /// How partitions are divided.
    pub assignor: Assignor,
    /// A member whose application does not poll for so long leaves the group, so that others take its partitions. Also
    /// how long the coordinator waits for it to give a partition up.
    pub max_poll_interval: Duration,
    /// Shown by `highwater group describe`.
    pub client_id: String,
    /// How to fetch. Its own `offset_reset` is not used.
    pub consumer: ConsumerConfig,
}

impl GroupConfig {
    /// The defaults: auto commit every 5 s, a new group begins at the beginning, 5 minutes between polls.
    pub fn new(group_id: impl Into<String>) -> Self {
        Self {
            group_id: group_id.into(),
            instance_id: None,
            auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            offset_reset: OffsetReset::Earliest,
            assignor: Assignor::Group,
            max_poll_interval: Duration::from_secs(300),
            client_id: String::new(),
            consumer: ConsumerConfig::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidSetting> {
        if let Err(error) = highwater_types::GroupId::new(&self.group_id) {
            let value = format!("{:?} ({error})", self.group_id);
            return Err(InvalidSetting { setting: "group_id", value, allowed: "1 to 1024 bytes" });
        }
        if let Some(instance) = &self.instance_id
            && let Err(error) = highwater_types::InstanceId::new(instance)
        {
            let value = format!("{instance:?} ({error})");
            return Err(InvalidSetting { setting: "instance_id", value, allowed: "1 to 1024 bytes" });
        }
        if self.max_poll_interval < Duration::from_millis(1) {
            let value = format!("{:?}", self.max_poll_interval);
            return Err(InvalidSetting { setting: "max_poll_interval", value, allowed: "at least 1 ms" });
        }
        Ok(())
    }
}
