//! The kinds of values that settings have: how each is read from a file, an environment variable or a flag, and how it
//! is written into a configuration file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use highwater_types::{BrokerId, ControllerId};

/// A value as written: before it is known what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    Text(String),
    Number(i64),
    Flag(bool),
    List(Vec<String>),
}

impl Raw {
    /// What it is, in words, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
        }
    }
}

/// As it stands in a TOML file.
impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::List(items) => {
                write!(f, "[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// A type that a setting can have. Errors say what is allowed, not what was found: the caller adds that.
pub trait SettingValue: Sized {
    fn from_raw(raw: &Raw) -> Result<Self, String>;
    fn to_raw(&self) -> Raw;
    /// As from a flag or an environment variable, where everything is text and lists are separated by commas.
    #[cfg(test)]
    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_raw(&Raw::Text(text.to_owned()))
    }
}

fn expected<T>(what: &str, raw: &Raw) -> Result<T, String> {
    match raw {
        Raw::Text(text) => Err(format!("must be {what}, not {text:?}")),
        Raw::Number(number) => Err(format!("must be {what}, not {number}")),
        other => Err(format!("must be {what}, not {}", other.kind())),
    }
}

macro_rules! whole_number {
    ($($int:ty),*) => {$(
        impl SettingValue for $int {
            fn from_raw(raw: &Raw) -> Result<Self, String> {
                let number = match raw {
                    Raw::Number(number) => Self::try_from(*number).ok(),
                    Raw::Text(text) => text.parse().ok(),
                    _ => None,
                };
                number.map_or_else(|| expected(&format!("a whole number up to {}", Self::MAX), raw), Ok)
            }
            fn to_raw(&self) -> Raw {
                Raw::Number(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}
whole_number!(u32, u64, usize);

macro_rules! id {
    ($($id:ty),*) => {$(
        impl SettingValue for $id {
            fn from_raw(raw: &Raw) -> Result<Self, String> {
                SettingValue::from_raw(raw).map(Self::new)
            }
            fn to_raw(&self) -> Raw {
                self.get().to_raw()
            }
        }
    )*};
}
id!(BrokerId, ControllerId);

impl SettingValue for bool {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Flag(flag) => Ok(*flag),
            Raw::Text(text) if text == "true" => Ok(true),
            Raw::Text(text) if text == "false" => Ok(false),
            _ => expected("true or false", raw),
        }
    }
    fn to_raw(&self) -> Raw {
        Raw::Flag(*self)
    }
}

impl SettingValue for String {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) => Ok(text.clone()),
            _ => expected("text", raw),
        }
    }
    fn to_raw(&self) -> Raw {
        Raw::Text(self.clone())
    }
}

impl SettingValue for PathBuf {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if !text.is_empty() => Ok(Self::from(text)),
            _ => expected("a path", raw),
        }
    }
    fn to_raw(&self) -> Raw {
        Raw::Text(self.display().to_string())
    }
}

/// Empty text stands for "not set".
impl<T: SettingValue> SettingValue for Option<T> {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        if *raw == Raw::Text(String::new()) { Ok(None) } else { T::from_raw(raw).map(Some) }
    }
    fn to_raw(&self) -> Raw {
        self.as_ref().map_or_else(|| Raw::Text(String::new()), T::to_raw)
    }
}

fn list_items(raw: &Raw, what: &str) -> Result<Vec<String>, String> {
    match raw {
        Raw::List(items) => Ok(items.clone()),
        Raw::Text(text) => {
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
        }
        _ => expected(what, raw),
    }
}

/// A list in a file is a TOML array of text; in a flag or variable, items separated by commas.
impl<T: SettingValue> SettingValue for Vec<T> {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        list_items(raw, "a list")?.into_iter().map(|item| T::from_raw(&Raw::Text(item))).collect()
    }
    fn to_raw(&self) -> Raw {
        let text = |item: &T| match item.to_raw() {
            Raw::Text(text) => text,
            other => other.to_string(),
        };
        Raw::List(self.iter().map(text).collect())
    }
}

/// A size in bytes: a number, or text with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit: u64 = match text[split..].trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(format!("must be a number of bytes, with or without KiB, MiB or GiB, not {text:?}")),
        };
        let number = text[..split].parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        number.map(Self).ok_or_else(|| format!("must be a number of bytes, as in 1024 or \"64MiB\", not {text:?}"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl SettingValue for ByteSize {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Number(number) => u64::try_from(*number).map(Self).or_else(|_| expected("a number of bytes", raw)),
            Raw::Text(text) => text.parse(),
            _ => expected("a number of bytes", raw),
        }
    }
    fn to_raw(&self) -> Raw {
        Raw::Text(self.to_string())
    }
}

/// Where a node listens or is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
    /// Whether it means every address of the machine, which nobody can connect to.
    pub fn is_unspecified(&self) -> bool {
        matches!(self.host.as_str(), "0.0.0.0" | "::")
    }
    pub fn pair(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }
}

impl FromStr for HostPort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be HOST:PORT, as in 127.0.0.1:9092, not {text:?}");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // An IPv6 address stands in brackets, else its last group would be taken for the port.
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Listeners or what they are reached at, as Kafka writes them: `NAME://HOST:PORT`, one for each name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners(pub Vec<(String, HostPort)>);

impl Listeners {
    pub fn get(&self, name: &str) -> Option<&HostPort> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, at)| at)
    }
}

impl SettingValue for Listeners {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        let mut listeners = Self::default();
        for item in list_items(raw, "a list of NAME://HOST:PORT")? {
            let wrong =
                || format!("must be a list of NAME://HOST:PORT, as in \"PLAINTEXT://0.0.0.0:9094\", not {item:?}");
            let (name, at) = item.split_once("://").ok_or_else(wrong)?;
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
                return Err(wrong());
            }
            // As Kafka, which does not tell capitals from small letters here.
            let name = name.to_ascii_uppercase();
            if listeners.get(&name).is_some() {
                return Err(format!("names listener {name} twice"));
            }
            listeners.0.push((name, at.parse().map_err(|_| wrong())?));
        }
        Ok(listeners)
    }
    fn to_raw(&self) -> Raw {
        Raw::List(self.0.iter().map(|(name, at)| format!("{name}://{at}")).collect())
    }
}

/// The controllers that a new cluster starts with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voters(pub BTreeMap<ControllerId, HostPort>);

impl SettingValue for Voters {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        let mut voters = BTreeMap::new();
        for item in list_items(raw, "a list of ID@HOST:PORT")? {
            let wrong = || format!("must be a list of ID@HOST:PORT, as in \"1@10.0.0.1:9093\", not {item:?}");
            let (id, at) = item.split_once('@').ok_or_else(wrong)?;
            let id = ControllerId::new(id.parse().map_err(|_| wrong())?);
            if voters.insert(id, at.parse().map_err(|_| wrong())?).is_some() {
                return Err(format!("names controller {id} twice"));
            }
        }
        Ok(Self(voters))
    }
    fn to_raw(&self) -> Raw {
        Raw::List(self.0.iter().map(|(id, at)| format!("{id}@{at}")).collect())
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("must be one of {}, not {text:?}", [$($word),*].join(", "))),
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

words! {
    /// What a process is in the cluster.
    Role { Controller = "controller", Broker = "broker" }
}
words! {
    LogFormat { Text = "text", Json = "json" }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl SettingValue for $type {
            fn from_raw(raw: &Raw) -> Result<Self, String> {
                match raw {
                    Raw::Text(text) => text.parse(),
                    _ => expected("text", raw),
                }
            }
            fn to_raw(&self) -> Raw {
                Raw::Text(self.to_string())
            }
        }
    )*};
}
as_text!(HostPort, LogFormat);

/// Controller, broker, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(pub BTreeSet<Role>);

impl Roles {
    pub fn controller(&self) -> bool {
        self.0.contains(&Role::Controller)
    }
    pub fn broker(&self) -> bool {
        self.0.contains(&Role::Broker)
    }
}

impl SettingValue for Roles {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        let items = list_items(raw, "a list of roles")?;
        let roles = items.iter().map(|item| item.parse()).collect::<Result<BTreeSet<_>, _>>()?;
        if roles.is_empty() { Err("must hold controller, broker or both".to_owned()) } else { Ok(Self(roles)) }
    }
    fn to_raw(&self) -> Raw {
        Raw::List(self.0.iter().map(Role::to_string).collect())
    }
}

/// What is logged: a level, or directives `target=level` separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(pub String);

impl SettingValue for LogFilter {
    fn from_raw(raw: &Raw) -> Result<Self, String> {
        let text = String::from_raw(raw)?;
        // A bare word that is no level would be taken for a target, and log nothing else.
        let words_are_levels = text.split(',').all(|part| part.contains('=') || part.parse::<tracing::Level>().is_ok());
        match tracing_subscriber::EnvFilter::try_new(&text) {
            Ok(_) if words_are_levels => Ok(Self(text)),
            _ => {
                expected("error, warn, info, debug or trace, or directives as in \"info,highwater_broker=debug\"", raw)
            }
        }
    }
    fn to_raw(&self) -> Raw {
        Raw::Text(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_split_at_the_last_colon_and_ipv6_needs_brackets() {
        assert_eq!("a.b:1".parse(), Ok(HostPort::new("a.b", 1)));
        assert_eq!("[::1]:9".parse(), Ok(HostPort::new("::1", 9)));
        assert_eq!(HostPort::new("::1", 9).to_string(), "[::1]:9");
        for bad in ["", ":", "a", ":1", "a:", "a:b", "a:65536", "::1:9", "[::1:9", "http://a:1", "a b:1"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_take_units_and_show_the_largest_that_fits() {
        for (text, bytes) in [("0", 0), ("17", 17), ("64KiB", 65_536), ("3 MiB", 3 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "KiB", "-1", "1kb", "99999999999GiB", "1.5MiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
        assert_eq!(ByteSize(65_536).to_string(), "64KiB");
        assert_eq!(ByteSize(65_537).to_string(), "65537");
    }

    #[test]
    fn voters_round_trip_and_refuse_a_controller_named_twice() {
        let voters = Voters::from_text("1@a:9093, 2@b:9093").unwrap();
        assert_eq!(Voters::from_raw(&voters.to_raw()), Ok(voters));
        assert!(Voters::from_text("1@a:9093,1@b:9093").unwrap_err().contains("twice"));
        assert!(Voters::from_text("a:9093").is_err());
    }

    #[test]
    fn listeners_are_written_as_kafka_writes_them() {
        let listeners = Listeners::from_text("internal://0.0.0.0:9094, EXTERNAL://[::1]:19094").unwrap();
        assert_eq!(listeners.get("INTERNAL"), Some(&HostPort::new("0.0.0.0", 9094)));
        assert_eq!(Listeners::from_raw(&listeners.to_raw()), Ok(listeners));
        assert!(Listeners::from_text("A://h:1,a://h:2").unwrap_err().contains("twice"));
        for bad in ["h:1", "://h:1", "A://h", "A B://h:1"] {
            assert!(Listeners::from_text(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_log_filter_is_a_level_or_directives() {
        for good in ["info", "warn,highwater_broker=debug", "h2=off"] {
            assert!(LogFilter::from_text(good).is_ok(), "{good:?}");
        }
        for bad in ["", "loud", "info,loud", "h2=loud"] {
            assert!(LogFilter::from_text(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert!(u32::from_raw(&Raw::Number(-1)).is_err());
        assert!(u32::from_text("4294967296").is_err());
        assert!(u32::from_raw(&Raw::Flag(true)).is_err());
    }
}
