//! How a record is printed.

use std::io::{self, Write};
use std::str::FromStr;

use bytes::Bytes;
use highwater_client::ConsumerRecord;
use serde_json::{Value, json};

use super::time;

/// How a record is printed; each ends with a line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    Json,
    /// The pieces in turn.
    Template(Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "value" => Ok(Self::Template(vec![Piece::Value])),
            "key-value" => Ok(Self::Template(vec![Piece::Key, Piece::Text("\t".to_owned()), Piece::Value])),
            "json" => Ok(Self::Json),
            _ if text.contains('%') => template(text).map(Self::Template),
            _ => Err("must be value, key-value, json, or a template with %t %p %o %T %k %v".to_owned()),
        }
    }
}

fn template(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let piece = match (c, if matches!(c, '%' | '\\') { chars.next() } else { None }) {
            ('%', Some('t')) => Piece::Topic,
            ('%', Some('p')) => Piece::Partition,
            ('%', Some('o')) => Piece::Offset,
            ('%', Some('T')) => Piece::Timestamp,
            ('%', Some('k')) => Piece::Key,
            ('%', Some('v')) => Piece::Value,
            ('%', Some('%')) => Piece::Text("%".to_owned()),
            ('\\', Some('t')) => Piece::Text("\t".to_owned()),
            ('\\', Some('n')) => Piece::Text("\n".to_owned()),
            ('\\', Some('\\')) => Piece::Text("\\".to_owned()),
            ('%' | '\\', other) => {
                let what = other.map(String::from).unwrap_or_default();
                return Err(format!("there is no {c}{what}; a template may hold %t %p %o %T %k %v %% \\t \\n \\\\"));
            }
            (other, _) => Piece::Text(other.to_string()),
        };
        match piece {
            Piece::Text(text) => plain.push_str(&text),
            piece => {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(piece);
            }
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

impl Format {
    pub fn write(&self, out: &mut impl Write, record: &ConsumerRecord) -> io::Result<()> {
        match self {
            Self::Json => serde_json::to_writer(&mut *out, &json(record))?,
            Self::Template(pieces) => pieces.iter().try_for_each(|piece| piece.write(out, record))?,
        }
        out.write_all(b"\n")
    }
}

impl Piece {
    fn write(&self, out: &mut impl Write, record: &ConsumerRecord) -> io::Result<()> {
        match self {
            Self::Text(text) => out.write_all(text.as_bytes()),
            Self::Topic => out.write_all(record.topic.as_str().as_bytes()),
            Self::Partition => write!(out, "{}", record.partition),
            Self::Offset => write!(out, "{}", record.offset),
            Self::Timestamp => out.write_all(time::show(record.timestamp.get()).as_bytes()),
            Self::Key => out.write_all(record.key.as_deref().unwrap_or_default()),
            Self::Value => out.write_all(record.value.as_deref().unwrap_or_default()),
        }
    }
}

/// Text as text; bytes that are no text as `{"hex": ...}`; nothing as null.
pub fn json_bytes(bytes: Option<&Bytes>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => Value::from(text),
        Some((bytes, Err(_))) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

fn json(record: &ConsumerRecord) -> Value {
    let header =
        |it: &highwater_record::Header| json!({ "name": it.name_str(), "value": json_bytes(it.value.as_ref()) });
    json!({
        "topic": record.topic.as_str(),
        "partition": record.partition.get(),
        "offset": record.offset.get(),
        "timestamp_ms": record.timestamp.get(),
        "key": json_bytes(record.key.as_ref()),
        "value": json_bytes(record.value.as_ref()),
        "headers": record.headers.iter().map(header).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_client::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicName};

    fn shown(format: &str, key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> String {
        let record = ConsumerRecord {
            topic: TopicName::new("t").unwrap(),
            partition: PartitionId::new(2),
            offset: Offset::new(7),
            leader_epoch: LeaderEpoch::FIRST,
            timestamp: TimestampMs::new(0),
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: Vec::new(),
        };
        let mut out = Vec::new();
        format.parse::<Format>().unwrap().write(&mut out, &record).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn records_are_shown_as_asked() {
        assert_eq!(shown("value", Some(b"k"), Some(b"v")), "v\n");
        assert_eq!(shown("key-value", None, Some(b"v")), "\tv\n");
        assert_eq!(shown("%t/%p@%o %T%%\\t%k=%v", Some(b"k"), None), "t/2@7 1970-01-01T00:00:00.000Z%\tk=\n");
        for bad in ["values", "%x", "100%", "%v\\"] {
            assert!(bad.parse::<Format>().is_err(), "{bad}");
        }
    }

    #[test]
    fn json_tells_null_from_empty_and_text_from_bytes() {
        let value: Value = serde_json::from_str(&shown("json", None, Some(b"\xff\x00"))).unwrap();
        assert_eq!(value["key"], Value::Null);
        assert_eq!(value["value"]["hex"], "ff00");
        assert_eq!(value["offset"], 7);
        assert_eq!(serde_json::from_str::<Value>(&shown("json", Some(b""), None)).unwrap()["key"], "");
    }
}
