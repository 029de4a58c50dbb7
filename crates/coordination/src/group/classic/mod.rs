//! The classic protocol: members join, one of them assigns, all fetch what it assigned (KIP-394, KIP-345, KIP-814).
//!
//! A round begins when members come, go or change: everybody is to join again (`PreparingRebalance`), until all have or the
//! longest of their rebalance timeouts is over. That makes a generation; the leader, one of the members, is told all of them, and
//! assigns; the others wait for it (`CompletingRebalance`), and then all have their assignments (`Stable`). What members and
//! leader tell each other is opaque here.
//!
//! **Invariants**
//! - A generation has one protocol, one leader and one assignment; its number is never given again (T38): the members of a
//!   generation are written down before anybody hears of it, the assignment before anybody has it.
//! - So a coordinator that takes over goes on where the one before was: generations, member ids and instances stay valid. What is
//!   lost are waiting requests, which are sent again, and those who were not members yet.
//! - A request is answered once: at once, or later, or when another takes its place.
//! - A commit counts only in the present generation (T40).

pub(super) mod consumer_protocol;
mod describe;
mod join;
mod leave;
mod rebalance;
mod record;
mod request;
mod state;
mod sync;
#[cfg(test)]
mod tests;

use highwater_types::{GroupId, InstanceId, MemberId};

pub(super) use self::record::{ProtocolValue, parse, value};
pub use self::request::{
    JoinAnswer, JoinRequest, JoinedMember, LeavingMember, LeftMember, Protocol, SyncAnswer, SyncRequest,
};
use self::state::Wait;
pub(super) use self::state::{ClassicGroup, Durable, Member};
use super::record as group_record;
use super::timers::{Timer, Timers};
use super::{Error, GroupConfig, Response};
use crate::{CoordinatorRecord, Now, Token};

/// What follows from a call, so far.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub records: Vec<CoordinatorRecord>,
    pub replies: Vec<(Token, Result<Response, Error>)>,
}

/// A group while something happens to it.
pub(super) struct Turn<'a> {
    pub id: &'a GroupId,
    pub now: Now,
    pub config: &'a GroupConfig,
    pub timers: &'a mut Timers,
    pub group: &'a mut ClassicGroup,
    pub out: &'a mut Out,
}

impl Turn<'_> {
    pub(super) fn reply(&mut self, token: Token, reply: Result<Response, Error>) {
        self.out.replies.push((token, reply));
    }

    fn unknown(&self, member: &MemberId) -> Error {
        Error::UnknownMember { group: self.id.clone(), member: member.clone() }
    }

    fn fenced(&self, instance: &InstanceId) -> Error {
        Error::FencedInstance { group: self.id.clone(), instance: instance.clone() }
    }

    fn rebalancing(&self) -> Error {
        Error::RebalanceInProgress(self.id.clone())
    }

    /// A group is one record: one that could not be written would be the end of this coordinator.
    fn check_bytes(&self, found: usize) -> Result<(), Error> {
        let max = self.config.classic_bytes_max;
        if found <= max { Ok(()) } else { Err(Error::TooLarge { group: self.id.clone(), found, max }) }
    }

    /// It waits. Had it a request that waits, that one is answered: its place is taken.
    fn wait(&mut self, member: &MemberId, wait: Wait) {
        if let Some(before) = self.group.waits.insert(member.clone(), wait) {
            let error = self.rebalancing();
            self.reply(before.token(), Err(error));
        }
        // It is heard of again when it is answered. One that is new may have gone before: that has a limit of its own.
        if !self.group.new.contains(member) {
            self.timers.set(self.id, Timer::ClassicSession(member.clone()), None);
        }
    }

    /// It was heard of.
    fn touch(&mut self, member: &MemberId) {
        if let Some(known) = self.group.members.get(member).filter(|_| !self.group.waits.contains_key(member)) {
            let at = self.now.elapsed + known.session_timeout;
            self.timers.set(self.id, Timer::ClassicSession(member.clone()), Some(at));
        }
    }

    /// Writes down the group as it is now.
    fn persist(&mut self) {
        let empty_since = self.group.members.is_empty().then_some(self.now.wall);
        self.out.records.push(group_record::group(self.id, self.group.generation, empty_since));
        self.out.records.push(group_record::classic(self.id, Some(&self.group.durable())));
    }

    /// This coordinator has taken over, or the group has become a classic one: everybody has the whole time, once more.
    pub(super) fn loaded(&mut self) {
        let members: Vec<MemberId> = self.group.members.keys().cloned().collect();
        members.iter().for_each(|member| self.touch(member));
        match self.group.is_over {
            true => self.rebalance(),
            false => self.expect_syncs(),
        }
    }

    pub(super) fn on_timer(&mut self, timer: &Timer) {
        match timer {
            Timer::ClassicSession(member) | Timer::Pending(member) => self.expire(member),
            Timer::Join => self.join_time_is_over(),
            Timer::Sync => self.sync_time_is_over(),
            Timer::Session(_) | Timer::Rebalance(_) => {}
        }
    }
}
