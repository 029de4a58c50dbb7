//! Names of groups, their members, and transactional producers: any text, within bounds.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why such a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextIdError {
    #[error("a {what} can't be empty")]
    Empty { what: &'static str },
    #[error("the {what} is {length} bytes long; at most {max} are allowed", max = TEXT_ID_BYTES_MAX)]
    TooLong { what: &'static str, length: usize },
}

/// Longest group id, member id, instance id or transactional id, in bytes of UTF-8.
pub const TEXT_ID_BYTES_MAX: usize = 1024;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: impl AsRef<str>) -> Result<Self, TextIdError> {
                match text.as_ref() {
                    "" => Err(TextIdError::Empty { what: $what }),
                    text if text.len() > TEXT_ID_BYTES_MAX => {
                        Err(TextIdError::TooLong { what: $what, length: text.len() })
                    }
                    text => Ok(Self(text.into())),
                }
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = TextIdError;
            fn try_from(text: String) -> Result<Self, TextIdError> {
                Self::new(text)
            }
        }
        impl std::str::FromStr for $name {
            type Err = TextIdError;
            fn from_str(text: &str) -> Result<Self, TextIdError> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_id! {
    /// A consumer group.
    GroupId, "group id"
}
text_id! {
    /// One member of a group, in one of its lives.
    MemberId, "member id"
}
text_id! {
    /// What a static member keeps over restarts (`group.instance.id`, KIP-345).
    InstanceId, "group.instance.id"
}
text_id! {
    /// What a transactional producer keeps over restarts (`transactional.id`).
    TransactionalId, "transactional id"
}

/// What a reader wants to see of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IsolationLevel {
    /// Everything below the high watermark.
    #[default]
    ReadUncommitted,
    /// Below the last stable offset only, and nothing of aborted transactions.
    ReadCommitted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold() {
        assert_eq!(GroupId::new(""), Err(TextIdError::Empty { what: "group id" }));
        assert_eq!(MemberId::new("x".repeat(1025)), Err(TextIdError::TooLong { what: "member id", length: 1025 }));
        assert_eq!(TransactionalId::new("orders/1").unwrap().as_str(), "orders/1");
    }
}
