//! One member's side of the group protocol of KIP-848, without I/O: what to send when, and what to give up and to take.
//!
//! Invariants: a partition is taken only while the coordinator's last assignment has it; what is given up is reported
//! only after it was; whatever was held when the member was fenced is lost before anything new is taken. What the
//! coordinator gives to others because it has heard nothing for the session timeout, the member has lost by then, also if
//! nobody can tell it so: it counts from when it sent what was answered, which is before the coordinator got it.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_protocol::{topic_id_bytes, v1};
use highwater_types::{ErrorCode, MemberEpoch, PartitionId, TopicId, TopicPartition};
use tokio::time::Instant;

pub(crate) type Partitions = BTreeSet<TopicPartition>;

/// Who the member is, and how it may be.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub group: String,
    pub member: String,
    pub instance: Option<String>,
    pub rack: Option<String>,
    pub assignor: String,
    pub client: String,
    pub max_poll_interval: Duration,
}

pub(crate) struct Membership {
    pub identity: Identity,
    state: State,
    epoch: MemberEpoch,
    subscription: v1::GroupSubscription,
    /// What the application holds.
    owned: Partitions,
    /// Held when the member was fenced; the application does not know yet.
    lost: Partitions,
    losses: u64,
    /// What the coordinator last said.
    target: Option<Partitions>,
    /// What the coordinator knows of what is held, if that is certain.
    reported: Option<Partitions>,
    /// The next heartbeat states everything.
    state_all: bool,
    /// What it was told before is void here, and the coordinator may wait to hear that it is given up.
    forgot_target: bool,
    /// Of the last request: each has its own, so that the coordinator knows one that was overtaken on its way.
    number: u64,
    /// When the heartbeat was sent that is on its way.
    in_flight: Option<Instant>,
    /// Until when the coordinator gives to nobody else what is held.
    holds_until: Option<Instant>,
    session_timeout: Duration,
    next_heartbeat: Instant,
    interval: Duration,
    failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Not a member, by itself: nothing subscribed yet, or left.
    Out,
    Joining,
    Member,
    /// The application did not poll: leaves, and joins again with its next poll.
    PollExpired {
        told: bool,
    },
    Leaving,
    Failed(Failure),
}

/// The coordinator refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub code: ErrorCode,
    pub message: String,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Send(Box<v1::GroupHeartbeatRequest>),
    Wait(Instant),
    /// Until something is asked of it.
    Rest,
}

/// What the application has to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub lost: Partitions,
    pub revoke: Partitions,
    pub take: Partitions,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.revoke.is_empty() && self.take.is_empty()
    }
}

const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

impl Membership {
    pub fn new(identity: Identity, now: Instant) -> Self {
        Self {
            identity,
            state: State::Out,
            epoch: MemberEpoch::FIRST,
            subscription: v1::GroupSubscription::default(),
            owned: Partitions::new(),
            lost: Partitions::new(),
            losses: 0,
            target: None,
            reported: None,
            state_all: true,
            forgot_target: false,
            number: 0,
            in_flight: None,
            holds_until: None,
            session_timeout: Duration::ZERO,
            next_heartbeat: now,
            interval: Duration::from_secs(3),
            failures: 0,
        }
    }

    pub fn epoch(&self) -> MemberEpoch {
        self.epoch
    }

    pub fn is_member(&self) -> bool {
        self.state == State::Member
    }

    pub fn failure(&self) -> Option<&Failure> {
        match &self.state {
            State::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    pub fn owned(&self) -> &Partitions {
        &self.owned
    }

    /// Joins, or changes what is subscribed to.
    pub fn subscribe(&mut self, subscription: v1::GroupSubscription, now: Instant) {
        self.subscription = subscription;
        self.state_all = true;
        self.next_heartbeat = now;
        if !matches!(self.state, State::Member | State::Joining) {
            self.rejoin();
        }
    }

    /// The application polls: a member that had left for its silence joins again. Whether it had.
    pub fn polled(&mut self, now: Instant) -> bool {
        let had_left = matches!(self.state, State::PollExpired { .. });
        if had_left {
            self.rejoin();
            self.next_heartbeat = now;
        }
        had_left
    }

    fn rejoin(&mut self) {
        self.forgot_target = self.epoch != MemberEpoch::FIRST;
        self.state = State::Joining;
        self.epoch = MemberEpoch::FIRST;
        self.state_all = true;
        self.target = None;
        self.reported = None;
        self.holds_until = None;
        self.lose();
    }

    fn lose(&mut self) {
        self.losses += u64::from(!self.owned.is_empty());
        self.lost.append(&mut self.owned);
    }

    /// How often what was held was lost.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// When what is held is lost, unless the coordinator answers before.
    pub fn holds_until(&self) -> Option<Instant> {
        self.holds_until.filter(|_| self.is_member())
    }

    /// How long the coordinator waits for a heartbeat, once it has said so.
    pub fn session_timeout(&self) -> Option<Duration> {
        Some(self.session_timeout).filter(|timeout| !timeout.is_zero())
    }

    /// The coordinator may have given what is held to others. It says itself whether this is a member still.
    fn lapse(&mut self) {
        tracing::warn!(
            group = self.identity.group,
            member = self.identity.member,
            timeout = ?self.session_timeout,
            partitions = self.owned.len(),
            "no answer of the group's coordinator within the session timeout: its partitions may go to others"
        );
        self.holds_until = None;
        self.target = None;
        self.forgot_target = true;
        self.reported = None;
        self.state_all = true;
        self.lose();
    }

    /// What is due. `silent_since`: when the application last polled; `None` while it does.
    pub fn next(&mut self, now: Instant, silent_since: Option<Instant>) -> Next {
        let expires = silent_since.map(|since| since + self.identity.max_poll_interval);
        if matches!(self.state, State::Member | State::Joining) && expires.is_some_and(|at| at <= now) {
            let interval = self.identity.max_poll_interval;
            tracing::warn!(
                group = self.identity.group,
                member = self.identity.member,
                ?interval,
                "the application did not poll within max_poll_interval: its partitions go to others; poll more often, \
                 take fewer records at once, or raise it"
            );
            self.state = State::PollExpired { told: false };
            self.target = None;
            self.lose();
        }
        if self.holds_until().is_some_and(|until| until <= now) {
            self.lapse();
        }
        if self.in_flight.is_some() {
            return Next::Rest;
        }
        let holds_until = self.holds_until();
        match &mut self.state {
            State::PollExpired { told } if !*told => {
                *told = true;
                self.in_flight = Some(now);
                Next::Send(Box::new(self.leave_request()))
            }
            State::Member | State::Joining if self.next_heartbeat <= now => {
                self.in_flight = Some(now);
                Next::Send(Box::new(self.request()))
            }
            State::Member | State::Joining => {
                let times = [expires, holds_until].into_iter().flatten();
                Next::Wait(times.fold(self.next_heartbeat, Instant::min))
            }
            _ => Next::Rest,
        }
    }

    /// Of a request that is about to be sent, also if it is one that was sent before.
    pub fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn request(&mut self) -> v1::GroupHeartbeatRequest {
        let number = self.next_number();
        let all = self.state_all;
        let identity = &self.identity;
        let stated = |text: &str| if all { text.to_owned() } else { String::new() };
        let owned = (all || self.reported.as_ref() != Some(&self.owned)).then(|| to_wire(&self.owned));
        let request = v1::GroupHeartbeatRequest {
            group_id: identity.group.clone(),
            member_id: identity.member.clone(),
            member_epoch: self.epoch.get(),
            instance_id: identity.instance.clone().unwrap_or_default(),
            rack_id: stated(identity.rack.as_deref().unwrap_or_default()),
            rebalance_timeout_ms: if all {
                u32::try_from(identity.max_poll_interval.as_millis()).unwrap_or(u32::MAX)
            } else {
                0
            },
            subscription: all.then(|| self.subscription.clone()),
            assignor: stated(&identity.assignor),
            owned,
            client_id: stated(&identity.client),
            client_host: String::new(),
            number,
            ..Default::default()
        };
        // If the answer is lost, they are set again.
        self.state_all = false;
        self.reported = Some(self.owned.clone());
        request
    }

    fn leave_request(&mut self) -> v1::GroupHeartbeatRequest {
        let epoch = if self.identity.instance.is_some() { MemberEpoch::LEAVE_STATIC } else { MemberEpoch::LEAVE };
        v1::GroupHeartbeatRequest {
            group_id: self.identity.group.clone(),
            member_id: self.identity.member.clone(),
            member_epoch: epoch.get(),
            instance_id: self.identity.instance.clone().unwrap_or_default(),
            number: self.next_number(),
            ..Default::default()
        }
    }

    /// Leaves for good; `None` if it is no member, so that nobody need be told. Static members say that they may be back.
    pub fn leave(&mut self) -> Option<v1::GroupHeartbeatRequest> {
        let is_known = self.is_member() || (self.state == State::Joining && self.in_flight.is_some());
        self.state = State::Leaving;
        self.owned.clear();
        self.lost.clear();
        self.target = None;
        is_known.then(|| self.leave_request())
    }

    /// The coordinator has left this epoch behind: asks for the current one at once.
    pub fn heartbeat_now(&mut self, now: Instant) {
        self.next_heartbeat = now;
    }

    /// The coordinator's answer to the last heartbeat.
    pub fn answered(&mut self, answer: &v1::GroupHeartbeatResponse, now: Instant) {
        let sent = self.in_flight.take().unwrap_or(now);
        if !matches!(self.state, State::Member | State::Joining) {
            return;
        }
        // Fenced, or expired, since it was sent: it was about the life before.
        if self.state == State::Joining && self.state_all {
            self.next_heartbeat = now;
            return;
        }
        self.failures = 0;
        self.state = State::Member;
        self.epoch = MemberEpoch::new(answer.member_epoch);
        if !answer.member_id.is_empty() {
            self.identity.member.clone_from(&answer.member_id);
        }
        self.session_timeout = Duration::from_millis(answer.session_timeout_ms.into());
        let until = self.session_timeout().map(|timeout| sent + timeout);
        if until.is_some_and(|until| until <= now) {
            // It took so long that it may not be true any more.
            self.lapse();
            self.next_heartbeat = now;
            return;
        }
        self.holds_until = until;
        if let Some(assignment) = &answer.assignment {
            let target = from_wire(assignment);
            let before = self.target.iter().flatten();
            // It was given these, has not taken them yet, and is to give them up: which it has, and has to say, although what it
            // has is what it said before. Else they are nobody's until the coordinator loses patience.
            let never_took = before.filter(|it| !self.owned.contains(it)).any(|it| !target.contains(it));
            if std::mem::take(&mut self.forgot_target) || never_took {
                self.reported = None;
            }
            self.target = Some(target);
        }
        if answer.heartbeat_interval_ms > 0 {
            self.interval = Duration::from_millis(answer.heartbeat_interval_ms.into());
        }
        let changed = self.state_all || self.reported.as_ref() != Some(&self.owned);
        self.next_heartbeat = if changed { now } else { now + self.interval };
    }

    /// The last heartbeat failed.
    pub fn failed(&mut self, code: ErrorCode, message: &str, now: Instant) {
        self.in_flight = None;
        // Whether it arrived is not known: the next states everything again.
        self.state_all = true;
        self.reported = None;
        if !matches!(self.state, State::Member | State::Joining) {
            return;
        }
        match code {
            ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch => {
                tracing::info!(group = self.identity.group, member = self.identity.member, %code,
                    partitions = self.owned.len(), "not a member any more; joining again");
                self.rejoin();
                self.next_heartbeat = now + self.pause();
            }
            code if code.is_retriable() => self.next_heartbeat = now + self.pause(),
            code => {
                self.lose();
                self.target = None;
                self.state = State::Failed(Failure { code, message: message.to_owned() });
            }
        }
    }

    fn pause(&mut self) -> Duration {
        let pause = RETRY.saturating_mul(1 << self.failures.min(8)).min(RETRY_MAX).min(self.interval);
        self.failures += 1;
        pause
    }

    /// What the application has to give up and may take.
    pub fn plan(&self) -> Plan {
        let mut plan = Plan { lost: self.lost.clone(), ..Plan::default() };
        if let (State::Member, Some(target)) = (&self.state, &self.target) {
            plan.revoke = self.owned.difference(target).copied().collect();
            plan.take = target.difference(&self.owned).copied().collect();
        }
        plan
    }

    /// The application knows that these are lost.
    pub fn forget_lost(&mut self, lost: &Partitions) {
        self.lost.retain(|partition| !lost.contains(partition));
    }

    /// The application gave these up.
    pub fn released(&mut self, released: &Partitions, now: Instant) {
        self.owned.retain(|partition| !released.contains(partition));
        self.lost.retain(|partition| !released.contains(partition));
        self.next_heartbeat = now;
    }

    /// The application is about to take these. Returns those that it may still take.
    pub fn take(&mut self, wanted: &Partitions, now: Instant) -> Partitions {
        let (State::Member, Some(target)) = (&self.state, &self.target) else { return Partitions::new() };
        let taken: Partitions = wanted.intersection(target).copied().collect();
        self.owned.extend(taken.iter().copied());
        self.next_heartbeat = now;
        taken
    }
}

fn to_wire(partitions: &Partitions) -> v1::GroupAssignment {
    let mut topics: Vec<(TopicId, v1::TopicPartitions)> = Vec::new();
    for partition in partitions {
        let number = partition.partition.get();
        match topics.last_mut() {
            Some((topic, last)) if *topic == partition.topic => last.partitions.push(number),
            _ => {
                let topic_id = topic_id_bytes(partition.topic);
                topics.push((partition.topic, v1::TopicPartitions { topic_id, partitions: vec![number] }));
            }
        }
    }
    v1::GroupAssignment { partitions: topics.into_iter().map(|(_, topic)| topic).collect() }
}

pub(crate) fn from_wire(assignment: &v1::GroupAssignment) -> Partitions {
    let one = |topic: &v1::TopicPartitions| {
        let id = TopicId::from_slice(&topic.topic_id);
        let numbers = topic.partitions.clone();
        numbers.into_iter().filter_map(move |number| Some(TopicPartition::new(id?, PartitionId::new(number))))
    };
    assignment.partitions.iter().flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Member {
        membership: Membership,
        now: Instant,
    }

    const POLLS: Duration = Duration::from_secs(300);

    fn partitions(numbers: &[u32]) -> Partitions {
        numbers.iter().map(|n| TopicPartition::new(TopicId::from_u128(1), PartitionId::new(*n))).collect()
    }

    impl Member {
        fn new() -> Self {
            let identity = Identity {
                group: "g".into(),
                member: "m".into(),
                instance: None,
                rack: Some("r".into()),
                assignor: "range".into(),
                client: "c".into(),
                max_poll_interval: POLLS,
            };
            let now = Instant::now();
            let mut membership = Membership::new(identity, now);
            let topics = vec!["t".to_owned()];
            membership.subscribe(v1::GroupSubscription { topics, topic_pattern: String::new() }, now);
            Self { membership, now }
        }

        fn next(&mut self) -> Next {
            self.membership.next(self.now, None)
        }

        fn sends(&mut self) -> v1::GroupHeartbeatRequest {
            match self.next() {
                Next::Send(request) => *request,
                other => panic!("{other:?}"),
            }
        }

        fn answer(&mut self, epoch: i32, assigned: Option<&[u32]>) {
            let assignment = assigned.map(|numbers| to_wire(&partitions(numbers)));
            let answer = v1::GroupHeartbeatResponse {
                member_epoch: epoch,
                heartbeat_interval_ms: 3000,
                assignment,
                session_timeout_ms: 10_000,
                ..Default::default()
            };
            self.membership.answered(&answer, self.now);
        }

        /// A member of epoch 1 that holds these.
        fn holding(numbers: &[u32]) -> Self {
            let mut member = Self::new();
            member.sends();
            member.answer(1, Some(numbers));
            assert_eq!(member.membership.take(&partitions(numbers), member.now), partitions(numbers));
            member.sends();
            member.answer(1, None);
            member
        }
    }

    fn stated(request: &v1::GroupHeartbeatRequest) -> Option<Partitions> {
        request.owned.as_ref().map(from_wire)
    }

    #[test]
    fn joins_with_everything_stated_and_then_states_only_what_changed() {
        let mut member = Member::new();
        let join = member.sends();
        assert_eq!((join.member_epoch, &*join.rack_id, &*join.assignor), (0, "r", "range"));
        assert_eq!((join.rebalance_timeout_ms, stated(&join)), (300_000, Some(partitions(&[]))));
        assert!(join.subscription.is_some());
        assert_eq!(member.next(), Next::Rest);
        member.answer(1, Some(&[0, 1]));
        assert_eq!(member.membership.plan().take, partitions(&[0, 1]));
        assert_eq!(member.next(), Next::Wait(member.now + Duration::from_secs(3)));
        member.membership.take(&partitions(&[0, 1]), member.now);
        let taken = member.sends();
        assert_eq!((taken.member_epoch, stated(&taken)), (1, Some(partitions(&[0, 1]))));
        assert!(taken.subscription.is_none() && taken.rack_id.is_empty() && taken.rebalance_timeout_ms == 0);
        member.answer(1, None);
        member.now += Duration::from_secs(3);
        assert_eq!(stated(&member.sends()), None);
    }

    #[test]
    fn gives_up_and_takes_only_what_moves_and_reports_it_once_done() {
        let mut member = Member::holding(&[0, 1, 2]);
        member.now += Duration::from_secs(3);
        member.sends();
        member.answer(1, Some(&[1, 2, 7]));
        let plan = member.membership.plan();
        assert_eq!((plan.revoke.clone(), plan.take), (partitions(&[0]), partitions(&[7])));
        assert!(matches!(member.next(), Next::Wait(_)), "not before it is given up");
        member.membership.released(&plan.revoke, member.now);
        assert_eq!(stated(&member.sends()), Some(partitions(&[1, 2])));
        // The assignment changed while it looked up where to begin.
        member.answer(2, Some(&[1, 8]));
        assert_eq!(member.membership.take(&partitions(&[7]), member.now), partitions(&[]));
        assert_eq!(member.membership.plan().revoke, partitions(&[2]));
    }

    #[test]
    fn p5_what_it_was_given_and_is_to_give_up_before_it_could_take_it_is_said_to_be_free() {
        let mut member = Member::holding(&[0]);
        member.now += Duration::from_secs(3);
        member.sends();
        member.answer(2, Some(&[0, 1]));
        // Where it begins to read 1 is not known yet: the group's offset is part of an open transaction.
        member.now += Duration::from_secs(3);
        assert_eq!(stated(&member.sends()), None);
        member.answer(2, Some(&[0]));
        assert_eq!(stated(&member.sends()), Some(partitions(&[0])));
        member.answer(3, Some(&[0]));
        assert!(matches!(member.next(), Next::Wait(_)), "once is enough");
    }

    #[test]
    fn p5_what_it_lost_unheard_is_said_to_be_free_once_it_is_asked_for() {
        let mut member = Member::holding(&[0]);
        member.now += Duration::from_secs(11);
        let all = member.sends();
        assert_eq!((all.member_epoch, stated(&all)), (1, Some(partitions(&[]))), "its session may be over");
        // The coordinator was silent itself. It takes 0 for this member's, and by this answer asks for it.
        member.answer(1, Some(&[]));
        assert_eq!(stated(&member.sends()), Some(partitions(&[])), "it has given that up");
        member.answer(2, Some(&[1]));
        assert!(matches!(member.next(), Next::Wait(_)), "once is enough");
    }

    #[test]
    fn an_answer_that_is_lost_makes_the_next_heartbeat_state_everything_again() {
        let mut member = Member::holding(&[0]);
        member.now += Duration::from_secs(3);
        member.sends();
        member.membership.failed(ErrorCode::Unavailable, "lost", member.now);
        assert!(matches!(member.next(), Next::Wait(_)));
        member.now += Duration::from_secs(1);
        let again = member.sends();
        assert_eq!((again.member_epoch, stated(&again)), (1, Some(partitions(&[0]))));
        assert!(again.subscription.is_some());
    }

    #[test]
    fn every_request_has_a_higher_number_than_the_one_before() {
        let mut member = Member::holding(&[0]);
        let mut numbers = vec![member.membership.number];
        member.now += Duration::from_secs(3);
        numbers.push(member.sends().number);
        member.membership.failed(ErrorCode::Unavailable, "lost", member.now);
        member.now += Duration::from_secs(1);
        numbers.push(member.sends().number);
        member.membership.failed(ErrorCode::UnknownMemberId, "fenced", member.now);
        member.now += Duration::from_secs(1);
        numbers.push(member.sends().number);
        numbers.push(member.membership.leave().unwrap().number);
        numbers.push(member.membership.next_number());
        assert!(numbers[0] > 0 && numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }

    #[test]
    fn t40_a_fenced_member_loses_what_it_held_before_it_takes_anything() {
        for code in [ErrorCode::FencedMemberEpoch, ErrorCode::UnknownMemberId] {
            let mut member = Member::holding(&[0, 1]);
            member.now += Duration::from_secs(3);
            member.sends();
            member.membership.failed(code, "fenced", member.now);
            let plan = member.membership.plan();
            assert_eq!((plan.lost.clone(), plan.take), (partitions(&[0, 1]), partitions(&[])));
            member.now += Duration::from_secs(1);
            let join = member.sends();
            assert_eq!((join.member_epoch, stated(&join)), (0, Some(partitions(&[]))));
            member.answer(5, Some(&[1]));
            let plan = member.membership.plan();
            assert_eq!((plan.lost.clone(), plan.take), (partitions(&[0, 1]), partitions(&[1])));
            member.membership.forget_lost(&plan.lost);
            assert_eq!(member.membership.take(&partitions(&[1]), member.now), partitions(&[1]));
        }
    }

    #[test]
    fn who_does_not_poll_leaves_at_once_and_joins_again_with_the_next_poll() {
        let mut member = Member::holding(&[0]);
        let silent = member.now;
        member.membership.answered(&v1::GroupHeartbeatResponse { member_epoch: 1, ..Default::default() }, member.now);
        member.now += POLLS;
        let Next::Send(leaving) = member.membership.next(member.now, Some(silent)) else { panic!("it leaves") };
        assert_eq!(leaving.member_epoch, -1);
        assert_eq!(member.membership.plan().lost, partitions(&[0]));
        // The poll comes while it is leaving: the answer to that is not one to the join.
        assert!(member.membership.polled(member.now));
        assert_eq!(member.next(), Next::Rest);
        member.answer(-1, None);
        assert_eq!(member.sends().member_epoch, 0);
        assert!(!member.membership.is_member());
    }

    #[test]
    fn p5_what_the_coordinator_may_give_to_others_is_lost_though_nobody_can_tell() {
        let mut member = Member::holding(&[0]);
        let heard = member.now;
        member.now += Duration::from_secs(3);
        member.sends();
        assert_eq!(member.next(), Next::Rest, "the heartbeat is on its way");
        assert_eq!(member.membership.holds_until(), Some(heard + Duration::from_secs(10)));
        member.now = heard + Duration::from_secs(10);
        assert_eq!(member.next(), Next::Rest);
        let plan = member.membership.plan();
        assert_eq!((plan.lost.clone(), plan.take), (partitions(&[0]), partitions(&[])));
        member.membership.forget_lost(&plan.lost);
        // What was said when the session began anew, with that heartbeat, holds for what is left of it.
        member.now += Duration::from_secs(1);
        member.answer(1, Some(&[0]));
        assert_eq!(member.membership.take(&partitions(&[0]), member.now), partitions(&[0]));
        let again = member.sends();
        assert_eq!((again.member_epoch, stated(&again)), (1, Some(partitions(&[0]))));
        assert!(again.subscription.is_some());
        // An answer that comes when its own session may be over is no leave to take anything.
        member.now += Duration::from_secs(10);
        member.answer(1, Some(&[0, 1]));
        assert_eq!(member.membership.plan().lost, partitions(&[0]));
        assert_eq!(member.membership.take(&partitions(&[1]), member.now), partitions(&[]));
        assert_eq!(stated(&member.sends()), Some(partitions(&[])));
    }

    #[test]
    fn a_refusal_for_good_ends_it_until_it_subscribes_again() {
        let mut member = Member::holding(&[0]);
        member.now += Duration::from_secs(3);
        member.sends();
        member.membership.failed(ErrorCode::FencedInstanceId, "taken over", member.now);
        assert_eq!(member.membership.failure().unwrap().code, ErrorCode::FencedInstanceId);
        assert_eq!((member.membership.plan().lost, member.next()), (partitions(&[0]), Next::Rest));
        member.membership.subscribe(v1::GroupSubscription::default(), member.now);
        assert_eq!(member.sends().member_epoch, 0);
    }

    #[test]
    fn leaves_only_if_the_coordinator_may_know_it_and_a_static_member_for_a_while() {
        assert!(Member::new().membership.leave().is_none());
        assert_eq!(Member::holding(&[]).membership.leave().unwrap().member_epoch, -1);
        let mut member = Member::holding(&[0]);
        member.membership.identity.instance = Some("i".into());
        let leaving = member.membership.leave().unwrap();
        assert_eq!((leaving.member_epoch, &*leaving.instance_id), (-2, "i"));
        assert!(member.membership.leave().is_none());
    }
}
