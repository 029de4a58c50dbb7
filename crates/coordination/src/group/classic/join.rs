//! Members come, come again, and take their own place after a restart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_types::{InstanceId, MemberId};

use super::super::{Error, Response};
use super::state::{Member, Phase, Wait};
use super::{JoinRequest, Timer, Turn, consumer_protocol};
use crate::Token;

/// A new member whose client has gone meanwhile must not take part for ever in what it waits for.
const NEW_MEMBER_JOIN_TIMEOUT: Duration = Duration::from_secs(300);

impl Turn<'_> {
    pub(in super::super) fn join(&mut self, token: Token, asked: JoinRequest) {
        if let Err(error) = self.try_join(token, asked) {
            self.reply(token, Err(error));
        }
    }

    fn try_join(&mut self, token: Token, mut asked: JoinRequest) -> Result<(), Error> {
        let (min, max) = (self.config.classic_session_timeout_min, self.config.classic_session_timeout_max);
        if !(min..=max).contains(&asked.session_timeout) {
            return Err(Error::InvalidSessionTimeout { min, max, found: asked.session_timeout });
        }
        if asked.rebalance_timeout.is_zero() {
            asked.rebalance_timeout = asked.session_timeout;
        }
        let returns = asked.instance.as_ref().filter(|_| asked.member.is_none());
        let returns = returns.and_then(|instance| self.group.member_with(instance)).cloned();
        let known = asked.member.as_ref().or(returns.as_ref());
        self.check_size(known)?;
        if !self.group.agrees(&asked, known) {
            return Err(Error::InconsistentProtocol(self.id.clone()));
        }
        let own: usize = asked.protocols.iter().map(|it| it.name.len() + it.metadata.len()).sum();
        self.check_bytes(self.group.bytes(known, true) + own + asked.client_id.len() + asked.client_host.len())?;
        match (asked.member.clone(), returns) {
            (Some(member), _) => self.join_as(token, member, asked),
            (None, Some(old)) => {
                self.replace(token, &old, asked);
                Ok(())
            }
            (None, None) if asked.require_known_member && asked.instance.is_none() => self.promise(token, &asked),
            (None, None) => {
                self.add(token, asked.fresh.clone(), asked);
                Ok(())
            }
        }
    }

    fn check_size(&self, member: Option<&MemberId>) -> Result<(), Error> {
        let max = self.config.members_max;
        let is_in = match self.group.phase {
            // Whoever has not joined again may be gone.
            Phase::Preparing { .. } => member.is_some_and(|it| self.group.joins(it)),
            _ => member.is_some_and(|it| self.group.members.contains_key(it)),
        };
        let count = match self.group.phase {
            Phase::Preparing { .. } => self.group.members.keys().filter(|it| self.group.joins(it)).count(),
            _ => self.group.members.len(),
        };
        if is_in || count < max { Ok(()) } else { Err(Error::Full { group: self.id.clone(), max }) }
    }

    /// Gives an id, to join with.
    fn promise(&mut self, token: Token, asked: &JoinRequest) -> Result<(), Error> {
        let max = self.config.members_max;
        if self.group.pending.len() >= max {
            return Err(Error::Full { group: self.id.clone(), max });
        }
        self.group.pending.insert(asked.fresh.clone());
        let at = self.now.elapsed + asked.session_timeout;
        self.timers.set(self.id, Timer::Pending(asked.fresh.clone()), Some(at));
        self.reply(token, Ok(Response::MemberIdRequired(asked.fresh.clone())));
        Ok(())
    }

    fn join_as(&mut self, token: Token, member: MemberId, asked: JoinRequest) -> Result<(), Error> {
        if asked.instance.is_none() && self.group.pending.remove(&member) {
            self.timers.set(self.id, Timer::Pending(member.clone()), None);
            self.add(token, member, asked);
            return Ok(());
        }
        self.group.check_member(self.id, &member, asked.instance.as_ref())?;
        let is_same = self.group.members.get(&member).is_some_and(|known| known.protocols == asked.protocols);
        let leads = self.group.leader.as_ref() == Some(&member);
        let is_answered = match self.group.phase {
            // Its answer was lost.
            Phase::Completing => is_same,
            // One that leads asks for a new assignment by this.
            Phase::Stable => is_same && !leads,
            Phase::Empty | Phase::Preparing { .. } => false,
        };
        if is_answered {
            self.touch(&member);
            let answer = self.group.join_answer(&member, false);
            self.reply(token, Ok(Response::Joined(answer)));
            return Ok(());
        }
        let assignment = self.group.members.get(&member).map(|known| known.assignment.clone()).unwrap_or_default();
        if self.group.members.len() == 1 {
            self.group.protocol_type.clone_from(&asked.protocol_type);
        }
        self.group.members.insert(member.clone(), Arc::new(member_of(asked, assignment)));
        self.wait(&member, Wait::Join(token));
        self.rebalance();
        Ok(())
    }

    fn add(&mut self, token: Token, member: MemberId, asked: JoinRequest) {
        if self.group.members.is_empty() {
            self.group.protocol_type.clone_from(&asked.protocol_type);
        }
        self.group.leader.get_or_insert_with(|| member.clone());
        if let Phase::Preparing { initial: Some(initial) } = &mut self.group.phase {
            initial.grew = true;
        }
        self.group.members.insert(member.clone(), Arc::new(member_of(asked, Bytes::new())));
        self.group.new.insert(member.clone());
        self.wait(&member, Wait::Join(token));
        let at = self.now.elapsed + NEW_MEMBER_JOIN_TIMEOUT;
        self.timers.set(self.id, Timer::ClassicSession(member), Some(at));
        self.rebalance();
    }

    /// A static member is back under a new id; whoever had its place is fenced.
    fn replace(&mut self, token: Token, old: &MemberId, asked: JoinRequest) {
        let Some(before) = self.group.members.remove(old) else { return };
        let (member, instance) = (asked.fresh.clone(), before.instance.clone());
        if let Some(wait) = self.group.waits.remove(old) {
            let fenced = instance.as_ref().map(|it: &InstanceId| self.fenced(it)).unwrap_or_else(|| self.unknown(old));
            self.reply(wait.token(), Err(fenced));
        }
        self.timers.clear(self.id, old);
        if self.group.leader.as_ref() == Some(old) {
            self.group.leader = Some(member.clone());
        }
        if self.group.unsynced.remove(old) {
            self.group.unsynced.insert(member.clone());
        }
        if self.group.members.is_empty() {
            self.group.protocol_type.clone_from(&asked.protocol_type);
        }
        let is_new = self.group.new.remove(old);
        let after = member_of(asked, before.assignment.clone());
        let is_same = consumer_protocol::asks_for_the_same(&self.group.protocol_type, &before, &after);
        self.group.members.insert(member.clone(), Arc::new(after));
        if self.group.phase == Phase::Stable && is_same && self.group.elect_protocol() == self.group.protocol {
            self.touch(&member);
            self.persist();
            let answer = self.group.join_answer(&member, true);
            return self.reply(token, Ok(Response::Joined(answer)));
        }
        if is_new {
            self.group.new.insert(member.clone());
            let at = self.now.elapsed + NEW_MEMBER_JOIN_TIMEOUT;
            self.timers.set(self.id, Timer::ClassicSession(member.clone()), Some(at));
        }
        self.wait(&member, Wait::Join(token));
        self.rebalance();
    }
}

fn member_of(asked: JoinRequest, assignment: Bytes) -> Member {
    Member {
        instance: asked.instance,
        client_id: asked.client_id,
        client_host: asked.client_host,
        session_timeout: asked.session_timeout,
        rebalance_timeout: asked.rebalance_timeout,
        protocols: asked.protocols,
        assignment,
    }
}
