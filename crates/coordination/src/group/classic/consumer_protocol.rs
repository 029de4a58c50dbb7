//! What consumers (`protocol_type` "consumer") put into their metadata and assignments: Kafka's ConsumerProtocol. Read where it
//! can be, to be shown and compared; the classic protocol itself does not look at it.

use std::collections::{BTreeMap, BTreeSet};

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
}

/// The topics in a subscription, by name.
pub(in super::super) fn topics(metadata: &[u8]) -> Option<BTreeSet<String>> {
    let mut reader = Reader(metadata);
    let _version = reader.int16().filter(|version| *version >= 0)?;
    let count = reader.int32().filter(|count| *count >= 0)?;
    (0..count).map(|_| reader.string()).collect()
}

/// The partitions in an assignment, by topic. Nothing assigned is no bytes.
pub(in super::super) fn assigned(assignment: &[u8]) -> Option<BTreeMap<String, BTreeSet<u32>>> {
    let mut reader = Reader(assignment);
    if assignment.is_empty() {
        return Some(BTreeMap::new());
    }
    let _version = reader.int16().filter(|version| *version >= 0)?;
    let count = reader.int32().filter(|count| *count >= 0)?;
    let mut topics = BTreeMap::new();
    for _ in 0..count {
        let topic = reader.string()?;
        let partitions = reader.int32().filter(|count| *count >= 0)?;
        let partitions = (0..partitions).map(|_| u32::try_from(reader.int32()?).ok());
        topics.insert(topic, partitions.collect::<Option<BTreeSet<u32>>>()?);
    }
    Some(topics)
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
    }

    proptest! {
        #[test]
        fn t47_no_bytes_make_it_panic_or_allocate(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (topics(&bytes), assigned(&bytes));
        }

        #[test]
        fn t47_nor_do_lengths_that_lie(count in any::<i32>(), rest in proptest::collection::vec(any::<u8>(), 0..16)) {
            let mut bytes = vec![0, 1];
            bytes.extend(count.to_be_bytes());
            bytes.extend(rest);
            let _ = (topics(&bytes), assigned(&bytes));
        }
    }
}
