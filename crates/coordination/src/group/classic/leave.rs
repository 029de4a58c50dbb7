//! Members go, by themselves or because they were not heard of.

use highwater_types::MemberId;

use super::super::Error;
use super::state::Phase;
use super::{LeavingMember, LeftMember, Turn};

impl Turn<'_> {
    pub(in super::super) fn leave(&mut self, members: Vec<LeavingMember>) -> Vec<LeftMember> {
        let before = self.group.members.len();
        let one = |asked: LeavingMember| {
            let result = self.find(&asked).map(|member| self.remove(&member));
            LeftMember { asked, result }
        };
        let left = members.into_iter().map(one).collect();
        self.after_removal(before);
        left
    }

    fn find(&self, asked: &LeavingMember) -> Result<MemberId, Error> {
        match (&asked.member, &asked.instance) {
            (Some(member), None) if self.group.pending.contains(member) => Ok(member.clone()),
            (Some(member), instance) => {
                self.group.check_member(self.id, member, instance.as_ref())?;
                Ok(member.clone())
            }
            (None, Some(instance)) => {
                let known = self.group.member_with(instance).cloned();
                known.ok_or_else(|| Error::UnknownInstance { group: self.id.clone(), instance: instance.clone() })
            }
            (None, None) => Err(Error::NoMember),
        }
    }

    /// Its session, or the time for joining with the id that it was given, is over.
    pub(super) fn expire(&mut self, member: &MemberId) {
        let before = self.group.members.len();
        self.remove(member);
        self.after_removal(before);
    }

    fn after_removal(&mut self, before: usize) {
        match self.group.phase {
            // It may be that one waited for an id only that nobody joined with.
            Phase::Preparing { .. } => self.complete_if_all_joined(),
            Phase::Completing | Phase::Stable if self.group.members.len() < before => self.rebalance(),
            Phase::Empty | Phase::Completing | Phase::Stable => {}
        }
    }
}
