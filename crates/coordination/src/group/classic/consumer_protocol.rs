//! What consumers (`protocol_type` "consumer") put into their metadata and assignments: Kafka's ConsumerProtocol. Read where it
//! can be, to be shown and compared, and where the coordinator assigns; the classic protocol itself does not look at it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::state::Member;

/// The protocol type of consumers.
pub(in super::super) const CONSUMER: &str = "consumer";

/// Reads big-endian fields. Lengths are not trusted (T47): each is checked by what is there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn int16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn int32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.int16()?).ok()?;
        Some(std::str::from_utf8(self.take(length)?).ok()?.to_owned())
    }

    fn named(&mut self) -> Option<Named> {
        let count = self.int32().filter(|count| *count >= 0)?;
        let mut topics = Named::new();
        for _ in 0..count {
            let topic = self.string()?;
            let partitions = self.int32().filter(|count| *count >= 0)?;
            let partitions = (0..partitions).map(|_| u32::try_from(self.int32()?).ok());
            topics.insert(topic, partitions.collect::<Option<BTreeSet<u32>>>()?);
        }
        Some(topics)
    }
}

/// Partitions by the names of their topics.
pub(in super::super) type Named = BTreeMap<String, BTreeSet<u32>>;

/// What a consumer says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Said {
    pub topics: BTreeSet<String>,
    /// What it has while it joins: nothing, of one that gives up everything before (version 1).
    pub owned: Named,
    /// Version 3.
    pub rack: Option<String>,
}

/// All of a subscription that is of use to a coordinator that assigns.
pub(in super::super) fn said(metadata: &[u8]) -> Option<Said> {
    let mut reader = Reader(metadata);
    let version = reader.int16().filter(|version| *version >= 0)?;
    let count = reader.int32().filter(|count| *count >= 0)?;
    let mut said = Said { topics: (0..count).map(|_| reader.string()).collect::<Option<_>>()?, ..Said::default() };
    // Data of the assignor; -1: none.
    let data = reader.int32().filter(|length| *length >= -1)?;
    reader.take(usize::try_from(data).unwrap_or_default())?;
    if version >= 1 {
        said.owned = reader.named()?;
    }
    if version >= 2 {
        let _generation = reader.int32()?;
    }
    if version >= 3 {
        said.rack = match Reader(reader.0).int16()? {
            -1 => None,
            _ => Some(reader.string()?),
        };
    }
    Some(said)
}

/// As any consumer reads it (version 0).
pub(in super::super) fn encode(assigned: &Named) -> Bytes {
    let mut bytes = Vec::from(0_i16.to_be_bytes());
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX).to_be_bytes();
    bytes.extend(count(assigned.len()));
    for (topic, partitions) in assigned {
        bytes.extend(u16::try_from(topic.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend(topic.as_bytes());
        bytes.extend(count(partitions.len()));
        partitions.iter().for_each(|partition| bytes.extend(partition.to_be_bytes()));
    }
    bytes.extend((-1_i32).to_be_bytes());
    bytes.into()
}

/// The topics in a subscription, by name.
pub(in super::super) fn topics(metadata: &[u8]) -> Option<BTreeSet<String>> {
    let mut reader = Reader(metadata);
    let _version = reader.int16().filter(|version| *version >= 0)?;
    let count = reader.int32().filter(|count| *count >= 0)?;
    (0..count).map(|_| reader.string()).collect()
}

/// The partitions in an assignment, by topic. Nothing assigned is no bytes.
pub(in super::super) fn assigned(assignment: &[u8]) -> Option<Named> {
    let mut reader = Reader(assignment);
    if assignment.is_empty() {
        return Some(BTreeMap::new());
    }
    let _version = reader.int16().filter(|version| *version >= 0)?;
    reader.named()
}

/// Whether a member that is back asks for what it asked before. What a consumer says to own is not part of that.
pub(super) fn asks_for_the_same(protocol_type: &str, before: &Member, after: &Member) -> bool {
    let same = |(one, other): (&super::Protocol, &super::Protocol)| {
        let of_consumer = || match (topics(&one.metadata), topics(&other.metadata)) {
            (Some(one), Some(other)) => one == other,
            _ => false,
        };
        one.name == other.name && (one.metadata == other.metadata || (protocol_type == CONSUMER && of_consumer()))
    };
    before.protocols.len() == after.protocols.len() && before.protocols.iter().zip(&after.protocols).all(same)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_subscription_and_an_assignment_of_kafka_are_read() {
        // Version 1, topics ["ab"], no user data, nothing owned.
        let subscription = b"\0\x01\0\0\0\x01\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(topics(subscription), Some(["ab".to_owned()].into()));
        let assignment = b"\0\x01\0\0\0\x01\0\x02ab\0\0\0\x02\0\0\0\0\0\0\0\x03\xff\xff\xff\xff";
        assert_eq!(assigned(assignment), Some([("ab".to_owned(), [0, 3].into())].into()));
        assert_eq!(assigned(b""), Some(BTreeMap::new()));
        assert_eq!(said(subscription), Some(Said { topics: ["ab".to_owned()].into(), ..Said::default() }));
        let last = b"\0\x03\0\0\0\0\0\0\0\x01x\0\0\0\x01\0\x02ab\0\0\0\x01\0\0\0\x03\0\0\0\x09\0\x01r";
        let owned = [("ab".to_owned(), [3].into())].into();
        assert_eq!(said(last), Some(Said { owned, rack: Some("r".to_owned()), ..Said::default() }));
    }

    proptest! {
        #[test]
        fn an_assignment_is_read_as_it_was_written(
            them in proptest::collection::btree_map("[a-z]{1,9}", proptest::collection::btree_set(0..99_u32, 0..5), 0..5),
        ) {
            prop_assert_eq!(assigned(&encode(&them)), Some(them));
        }

        #[test]
        fn t47_no_bytes_make_it_panic_or_allocate(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (topics(&bytes), assigned(&bytes), said(&bytes));
        }

        #[test]
        fn t47_nor_do_lengths_that_lie(count in any::<i32>(), rest in proptest::collection::vec(any::<u8>(), 0..16)) {
            let mut bytes = vec![0, 1];
            bytes.extend(count.to_be_bytes());
            bytes.extend(rest);
            let _ = (topics(&bytes), assigned(&bytes), said(&bytes));
        }
    }
}
