//! Members fetch what the leader has assigned, and say that they live.

use std::sync::Arc;

use highwater_types::{Generation, InstanceId, MemberId};

use super::super::{Error, Response};
use super::state::{Phase, Wait};
use super::{SyncRequest, Timer, Turn};
use crate::Token;

impl Turn<'_> {
    pub(in super::super) fn sync(&mut self, token: Token, asked: SyncRequest) {
        if let Err(error) = self.try_sync(token, asked) {
            self.reply(token, Err(error));
        }
    }

    fn try_sync(&mut self, token: Token, asked: SyncRequest) -> Result<(), Error> {
        self.group.check_generation(self.id, &asked.member, asked.instance.as_ref(), asked.generation)?;
        let is_other = |stated: &Option<String>, known: &str| stated.as_ref().is_some_and(|it| it != known);
        if is_other(&asked.protocol_type, &self.group.protocol_type) || is_other(&asked.protocol, &self.group.protocol)
        {
            return Err(Error::InconsistentProtocol(self.id.clone()));
        }
        match self.group.phase {
            Phase::Empty => Err(self.unknown(&asked.member)),
            Phase::Preparing { .. } => Err(self.rebalancing()),
            Phase::Completing => {
                if self.group.leader.as_ref() == Some(&asked.member) {
                    let assigned: usize = asked.assignments.values().map(bytes::Bytes::len).sum();
                    self.check_bytes(self.group.bytes(None, false) + assigned)?;
                }
                self.synced(&asked.member);
                self.wait(&asked.member, Wait::Sync(token));
                if self.group.leader.as_ref() == Some(&asked.member) {
                    self.assign(asked);
                }
                Ok(())
            }
            Phase::Stable => {
                self.synced(&asked.member);
                self.touch(&asked.member);
                let answer = self.group.sync_answer(&asked.member);
                self.reply(token, Ok(Response::Synced(answer)));
                Ok(())
            }
        }
    }

    fn synced(&mut self, member: &MemberId) {
        if self.group.unsynced.remove(member) && self.group.unsynced.is_empty() {
            self.timers.set(self.id, Timer::Sync, None);
        }
    }

    /// The leader has spoken. Whom it has forgotten has nothing.
    fn assign(&mut self, mut asked: SyncRequest) {
        for (id, member) in &mut self.group.members {
            Arc::make_mut(member).assignment = asked.assignments.remove(id).unwrap_or_default();
        }
        self.group.phase = Phase::Stable;
        self.persist();
        for (member, wait) in std::mem::take(&mut self.group.waits) {
            self.touch(&member);
            let answer = self.group.sync_answer(&member);
            self.reply(wait.token(), Ok(Response::Synced(answer)));
        }
    }

    pub(in super::super) fn heartbeat(
        &mut self,
        member: &MemberId,
        instance: Option<&InstanceId>,
        generation: Generation,
    ) -> Result<(), Error> {
        self.group.check_generation(self.id, member, instance, generation)?;
        self.touch(member);
        match self.group.phase {
            Phase::Empty => Err(self.unknown(member)),
            Phase::Preparing { .. } => Err(self.rebalancing()),
            Phase::Completing | Phase::Stable => Ok(()),
        }
    }

    /// A commit says that its member lives.
    pub(in super::super) fn committed(&mut self, member: &MemberId) {
        self.touch(member);
    }
}
