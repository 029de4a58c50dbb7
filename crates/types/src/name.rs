//! Topic names.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A valid topic name: 1 to 249 of `a-z A-Z 0-9 . _ -`, and neither `.` nor `..`. The rule is Kafka's, so that every
/// topic can be reached through both front doors.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

/// Where group coordinators keep groups and their offsets.
pub const GROUPS_TOPIC: &str = "__consumer_offsets";
/// Where transaction coordinators keep transactions.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Whether a topic of this name is the cluster's own: users can read it, and nothing else.
pub fn is_internal_topic(name: &str) -> bool {
    name.starts_with("__")
}

/// Why a topic name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a topic name can't be empty")]
    Empty,
    #[error("topic name is {length} characters long; at most {max} are allowed", max = TopicName::LENGTH_MAX)]
    TooLong { length: usize },
    #[error("topic name {name:?} has the character {character:?}; allowed are a-z, A-Z, 0-9, '.', '_' and '-'")]
    Character { name: String, character: char },
    #[error("a topic can't be named {0:?}")]
    Reserved(String),
}

impl TopicName {
    pub const LENGTH_MAX: usize = 249;

    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::LENGTH_MAX {
            return Err(NameError::TooLong { length: name.len() });
        }
        if let Some(character) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
            return Err(NameError::Character { name: name.to_owned(), character });
        }
        if name == "." || name == ".." {
            return Err(NameError::Reserved(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TopicName {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}
impl std::str::FromStr for TopicName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}
impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.0.as_ref().to_owned()
    }
}
impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_kafka_refuses() {
        for bad in ["", ".", "..", "a b", "a/b", "é", &"x".repeat(250)] {
            assert!(TopicName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "orders.v1", "__consumer_offsets", "A-b_c.9", &"x".repeat(249)] {
            assert_eq!(TopicName::new(good).unwrap().as_str(), good);
        }
    }
}
