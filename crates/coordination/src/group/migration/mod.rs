//! Groups that change their protocol while they live (KIP-848): both ways, without anybody being stopped.
//!
//! A member of KIP-848 that joins a classic group of consumers makes it a group of its own kind; the classic members stay in it. The
//! coordinator assigns for them too, and answers them in their protocol: a join states what a member has, and a sync tells what it
//! should have; that it should join again, it hears with a heartbeat. When only classic members are left, the group is a classic
//! one again, and they go on.
//!
//! **Invariants**
//! - A partition has one owner among members of both kinds: what a classic member said to have, or was assigned, is its own until
//!   it joins without it, or is gone (P5).
//! - A classic member's generation is its member epoch, and it commits in that one only (T40).
//! - Nobody waits here: all is answered at once, from what is in the log.

mod downgrade;
mod translation;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use highwater_types::{PartitionId, TopicPartition};

use super::Protocol;
use super::classic::consumer_protocol::{self, CONSUMER, Named, Said};
use super::state::{Group, Member};
use crate::Topics;

/// What a consumer says in all its protocols together; `None`: it can't be read, or there are none.
fn said(protocols: &[Protocol]) -> Option<Said> {
    let each = protocols.iter().map(|it| consumer_protocol::said(&it.metadata)).collect::<Option<Vec<_>>>()?;
    each.into_iter().reduce(|mut all, one| {
        all.topics.extend(one.topics);
        for (topic, partitions) in one.owned {
            all.owned.entry(topic).or_default().extend(partitions);
        }
        all.rack = all.rack.or(one.rack);
        all
    })
}

/// Those of topics that there are.
fn known(named: &Named, topics: &Topics) -> BTreeSet<TopicPartition> {
    let of = named.iter().filter_map(|(name, partitions)| Some((topics.id_of(name)?, partitions)));
    of.flat_map(|(id, them)| them.iter().map(move |it| TopicPartition::new(id, PartitionId::new(*it)))).collect()
}

impl Member {
    /// What it has, as its client reads it.
    pub(super) fn encoded_assignment(&self, topics: &Topics) -> Bytes {
        let mut named: Named = BTreeMap::new();
        for tp in self.assigned.keys() {
            if let Some(topic) = topics.get(tp.topic) {
                named.entry(topic.name.to_string()).or_default().insert(tp.partition.get());
            }
        }
        consumer_protocol::encode(&named)
    }
}

impl Group {
    /// Whether its members speak the classic protocol, all of them.
    fn is_all_classic(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(|member| member.classic.is_some())
    }
}
