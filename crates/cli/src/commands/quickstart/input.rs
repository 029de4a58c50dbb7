//! What the quick start streams: lines, each with its key.

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// See `data/README.md` for where it is from.
const FLIGHTS: &[u8] = include_bytes!("../../../data/flights-2013-01.jsonl.gz");

/// Records to stream.
pub struct Input {
    pub name: String,
    pub topic: String,
    /// The field taken for keys.
    pub key_field: Option<String>,
    pub records: Vec<InputRecord>,
}

pub struct InputRecord {
    pub key: Option<Bytes>,
    pub value: Bytes,
}

impl Input {
    /// The flights that come with the program.
    pub fn flights(key_field: Option<&str>) -> Outcome<Self> {
        let mut text = Vec::new();
        let read = GzDecoder::new(FLIGHTS).read_to_end(&mut text);
        read.map_err(|error| Failure::failed(format!("the data in this program is damaged: {error}")))?;
        let key = Some(key_field.unwrap_or("tailnum"));
        Self::new("flights from New York, January 2013".to_owned(), "flights", Bytes::from(text), key)
    }

    pub fn from_file(path: &Path, key_field: Option<&str>) -> Outcome<Self> {
        let name = path.display().to_string();
        let text = std::fs::read(path).map_err(|error| Failure::usage(format!("can't read {name}: {error}")))?;
        Self::new(name, "quickstart", Bytes::from(text), key_field)
    }

    fn new(name: String, topic: &str, text: Bytes, key_field: Option<&str>) -> Outcome<Self> {
        let mut records = Vec::new();
        let mut start = 0;
        for (index, end) in line_ends(&text).enumerate() {
            let value = text.slice(start..end);
            start = end + 1;
            let key = match key_field {
                None => None,
                Some(field) => {
                    key_of(&value, field).map_err(|why| Failure::usage(format!("{name}, line {}: {why}", index + 1)))?
                }
            };
            records.push(InputRecord { key, value });
        }
        if records.is_empty() {
            return Err(Failure::usage(format!("{name} is empty; give a file with at least one line")));
        }
        Ok(Self { name, topic: topic.to_owned(), key_field: key_field.map(str::to_owned), records })
    }

    pub fn bytes(&self) -> u64 {
        let size = |it: &InputRecord| it.value.len() + it.key.as_ref().map_or(0, Bytes::len);
        self.records.iter().map(|it| size(it) as u64).sum()
    }
}

/// Where each line ends, the last one also without a line end.
fn line_ends(text: &Bytes) -> impl Iterator<Item = usize> {
    let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    ends.chain(Some(text.len()).filter(|_| text.last().is_some_and(|last| *last != b'\n')))
}

/// The text or number in `field` of a JSON line; none where it is null or absent.
fn key_of(line: &[u8], field: &str) -> Result<Option<Bytes>, String> {
    let object: Value = serde_json::from_slice(line).map_err(|error| {
        format!("--key needs a JSON object on each line, and this is none ({error}); leave --key out for plain text")
    })?;
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Bytes::from(text.clone()))),
        Some(other) => Ok(Some(Bytes::from(other.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flights_are_all_there_with_their_keys() {
        let flights = Input::flights(None).unwrap();
        assert_eq!(flights.records.len(), 27_004);
        assert_eq!(flights.records[0].key.as_deref(), Some(&b"N14228"[..]));
        assert!(flights.records.iter().any(|it| it.key.is_none()));
        assert!(flights.records.iter().all(|it| it.value.starts_with(b"{") && it.value.ends_with(b"}")));
    }

    fn input(text: &'static str, key: Option<&str>) -> Outcome<Input> {
        Input::new("x".into(), "t", Bytes::from_static(text.as_bytes()), key)
    }

    #[test]
    fn lines_are_records_with_or_without_a_last_line_end() {
        for text in ["a\n\nc", "a\n\nc\n"] {
            let values: Vec<Bytes> = input(text, None).unwrap().records.into_iter().map(|it| it.value).collect();
            assert_eq!(values, ["a", "", "c"]);
        }
        assert!(input("", None).is_err());
    }

    #[test]
    fn keys_are_taken_from_json_and_other_text_is_refused_with_its_line() {
        let records = input("{\"k\":1}\n{\"k\":\"b\"}\n{\"k\":null}\n{}", Some("k")).unwrap().records;
        let keys: Vec<_> = records.iter().map(|it| it.key.as_deref()).collect();
        assert_eq!(keys, [Some(&b"1"[..]), Some(b"b"), None, None]);
        assert!(input("{}\nplain", Some("k")).is_err());
    }
}
