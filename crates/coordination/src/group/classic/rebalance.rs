//! From one generation to the next.

use std::sync::Arc;

use bytes::Bytes;
use highwater_types::MemberId;

use super::super::Response;
use super::state::{Initial, Phase, Wait};
use super::{Timer, Turn};

impl Turn<'_> {
    /// Members have come, gone or changed.
    pub(super) fn rebalance(&mut self) {
        match self.group.phase {
            Phase::Preparing { .. } => self.complete_if_all_joined(),
            _ => self.prepare(),
        }
    }

    /// Everybody is to join (again).
    fn prepare(&mut self) {
        let was_empty = self.group.phase == Phase::Empty;
        if self.group.phase == Phase::Completing {
            self.break_off_syncs();
        }
        self.group.unsynced.clear();
        self.timers.set(self.id, Timer::Sync, None);
        let (now, delay, timeout) =
            (self.now.elapsed, self.config.classic_initial_delay, self.group.rebalance_timeout());
        let initial = (was_empty && !delay.is_zero()).then(|| Initial { until: now + delay.max(timeout), grew: false });
        self.group.phase = Phase::Preparing { initial };
        let wait = if initial.is_some() { delay } else { timeout };
        self.timers.set(self.id, Timer::Join, Some(now + wait));
        self.complete_if_all_joined();
    }

    /// The assignment that is waited for would be of members that are not what they were.
    fn break_off_syncs(&mut self) {
        let syncs = self.group.waits.iter().filter(|(_, wait)| matches!(wait, Wait::Sync(_)));
        let syncs: Vec<_> = syncs.map(|(member, wait)| (member.clone(), wait.token())).collect();
        for (member, token) in syncs {
            self.group.waits.remove(&member);
            self.touch(&member);
            let error = self.rebalancing();
            self.reply(token, Err(error));
        }
    }

    pub(super) fn complete_if_all_joined(&mut self) {
        let Phase::Preparing { initial } = self.group.phase else { return };
        let all = self.group.pending.is_empty() && self.group.members.keys().all(|member| self.group.joins(member));
        if self.group.members.is_empty() || (all && initial.is_none()) {
            self.complete();
        }
    }

    pub(super) fn join_time_is_over(&mut self) {
        let Phase::Preparing { initial } = self.group.phase else { return };
        let now = self.now.elapsed;
        match initial.filter(|initial| initial.grew && now < initial.until) {
            Some(Initial { until, .. }) => {
                self.group.phase = Phase::Preparing { initial: Some(Initial { until, grew: false }) };
                let at = until.min(now + self.config.classic_initial_delay);
                self.timers.set(self.id, Timer::Join, Some(at));
            }
            None => self.complete(),
        }
    }

    /// Who has joined is the next generation; static members that are away keep their place until their session is over.
    fn complete(&mut self) {
        let late = self.group.members.iter().filter(|(id, it)| it.instance.is_none() && !self.group.joins(id));
        let late: Vec<MemberId> = late.map(|(id, _)| id.clone()).collect();
        late.iter().for_each(|member| self.remove(member));
        if !self.group.members.is_empty() {
            let joined = |member: &&MemberId| self.group.joins(member);
            let leader = self.group.leader.as_ref().filter(joined);
            let leader = leader.or_else(|| self.group.members.keys().find(joined)).cloned();
            if leader.is_none() {
                // Only such as are away: nobody could lead.
                self.group.phase = Phase::Preparing { initial: None };
                let at = self.now.elapsed + self.group.rebalance_timeout();
                return self.timers.set(self.id, Timer::Join, Some(at));
            }
            self.group.leader = leader;
        }
        self.timers.set(self.id, Timer::Join, None);
        self.group.generation += 1;
        self.group.is_over = false;
        self.group.new.clear();
        self.group.protocol = self.group.elect_protocol();
        if self.group.members.is_empty() {
            self.group.leader = None;
            self.group.phase = Phase::Empty;
            return self.persist();
        }
        self.group.phase = Phase::Completing;
        self.group.members.values_mut().filter(|it| !it.assignment.is_empty()).for_each(|member| {
            Arc::make_mut(member).assignment = Bytes::new();
        });
        self.persist();
        let joins: Vec<_> = std::mem::take(&mut self.group.waits).into_iter().collect();
        for (member, wait) in joins {
            self.touch(&member);
            let answer = self.group.join_answer(&member, false);
            self.reply(wait.token(), Ok(Response::Joined(answer)));
            self.group.unsynced.insert(member);
        }
        self.expect_syncs();
    }

    pub(super) fn expect_syncs(&mut self) {
        let at = self.now.elapsed + self.group.rebalance_timeout();
        self.timers.set(self.id, Timer::Sync, (!self.group.unsynced.is_empty()).then_some(at));
    }

    /// Members that did not ask for what is their own are gone.
    pub(super) fn sync_time_is_over(&mut self) {
        let silent: Vec<MemberId> = std::mem::take(&mut self.group.unsynced).into_iter().collect();
        silent.iter().for_each(|member| self.remove(member));
        if !silent.is_empty() {
            self.rebalance();
        }
    }

    /// A member is gone; what it waited for is refused. The rest is the caller's.
    pub(super) fn remove(&mut self, member: &MemberId) {
        self.timers.clear(self.id, member);
        self.group.pending.remove(member);
        self.group.members.remove(member);
        self.group.new.remove(member);
        self.group.unsynced.remove(member);
        if let Some(wait) = self.group.waits.remove(member) {
            let error = self.unknown(member);
            self.reply(wait.token(), Err(error));
        }
        if self.group.leader.as_ref() == Some(member) {
            self.group.leader = None;
        }
    }
}
