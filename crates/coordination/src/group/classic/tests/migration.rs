//! Groups that change their kind while they live: what follows from each request.

use super::super::consumer_protocol::{Named, assigned, encode, said};
use super::*;

/// What a consumer says that reads `topic` (version 1).
pub(super) fn consumer_metadata(owned: &BTreeSet<u32>) -> Bytes {
    let mut bytes = b"\0\x01\0\0\0\x01\0\x05topic\xff\xff\xff\xff".to_vec();
    bytes.extend(1_i32.to_be_bytes());
    bytes.extend(b"\0\x05topic");
    bytes.extend((owned.len() as i32).to_be_bytes());
    owned.iter().for_each(|it| bytes.extend(it.to_be_bytes()));
    bytes.into()
}

pub(super) fn assignment(them: &BTreeSet<u32>) -> Bytes {
    encode(&Named::from([("topic".to_owned(), them.clone())]))
}

/// In metadata, or in an assignment.
pub(super) fn partitions_of(bytes: &[u8], is_metadata: bool) -> BTreeSet<u32> {
    let named = if is_metadata { said(bytes).unwrap().owned } else { assigned(bytes).unwrap() };
    named.into_values().flatten().collect()
}

pub(super) fn topic_of(partitions: u32) -> Topics {
    let racks = vec![Vec::new(); partitions as usize];
    Topics::new([(TopicId::from_u128(1), TopicInfo { name: TopicName::new("topic").unwrap(), racks })])
}

/// Whether the coordinator counts it as a member, of either kind of group.
pub(super) fn has(world: &World, id: &MemberId) -> bool {
    let entry = world.shard.groups().get(&group());
    let live = world.shard.classic.get(&group());
    entry.is_some_and(|it| it.group.members.contains_key(id)) || live.is_some_and(|it| it.members.contains_key(id))
}

/// Of a consumer that has no id yet.
fn consumer(fresh: &str, owned: &[u32]) -> JoinRequest {
    let metadata = consumer_metadata(&owned.iter().copied().collect());
    let protocols = vec![Protocol { name: "range".to_owned(), metadata }];
    JoinRequest { protocol_type: "consumer".to_owned(), protocols, ..joining(fresh) }
}

fn again(id: &str, owned: &[u32]) -> JoinRequest {
    JoinRequest { member: Some(member(id)), ..consumer("unused", owned) }
}

fn codes(reply: Reply) -> ErrorCode {
    reply.unwrap_err().code()
}

impl World {
    /// A classic group of consumers in generation 1.
    fn consumers(&mut self, them: &[(&str, &[u32])]) {
        let joins: Vec<_> = them.iter().map(|(id, _)| self.join(consumer(id, &[]))).collect();
        self.settle_initial();
        joins.iter().for_each(|join| _ = self.joined(*join));
        let mut leading = syncing(&member(them[0].0), 1, &[]);
        let assign = |(id, them): &(&str, &[u32])| (member(id), assignment(&them.iter().copied().collect()));
        leading.assignments = them.iter().map(assign).collect();
        self.sync(leading);
        for (id, expected) in them {
            let sync = self.sync(syncing(&member(id), 1, &[]));
            assert_eq!(self.told(sync), *expected);
        }
    }

    fn told(&mut self, sync: Token) -> Vec<u32> {
        match self.reply(sync) {
            Some(Ok(Response::Synced(answer))) => partitions_of(&answer.assignment, false).into_iter().collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Joins and syncs, at once. Returns the generation, and what it has.
    fn rejoin(&mut self, id: &str, owned: &[u32]) -> (i32, Vec<u32>) {
        let join = self.join(again(id, owned));
        let joined = self.joined(join);
        assert!(joined.leader.as_str() != id && joined.members.is_empty(), "the coordinator assigns");
        assert_eq!((joined.protocol_type.as_str(), joined.protocol.as_str()), ("consumer", "range"));
        let protocol = Some("range".to_owned());
        let sync = self.sync(SyncRequest { protocol, ..syncing(&member(id), joined.generation.get(), &[]) });
        (joined.generation.get(), self.told(sync))
    }

    /// Of the member of the other protocol. Returns its epoch, and what it has.
    fn other(&mut self, epoch: i32, owned: &[u32]) -> Result<(i32, Vec<u32>), ErrorCode> {
        let owned = Some(owned.iter().map(|it| tp(*it)).collect());
        match self.ask(Request::Heartbeat(Heartbeat { owned, ..other_beat(epoch) })) {
            Ok(Response::Heartbeat(answer)) => {
                let told = answer.assignment.unwrap_or_default().into_iter().map(|it| it.partition.get());
                Ok((answer.epoch.get(), told.collect()))
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code()),
        }
    }

    fn described(&mut self) -> DescribedGroup {
        match self.ask(Request::DescribeGroup(group())) {
            Ok(Response::Group(found)) => found,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_classic_group_goes_on_when_a_member_of_kip_848_joins_it() {
    let mut world = World::new();
    world.consumers(&[("a", &[0, 1]), ("b", &[2, 3])]);
    world.commit(Some((&member("a"), 1)), 7).unwrap();
    assert_eq!(world.other(0, &[]), Ok((2, vec![])), "all is the others' still");
    let found = world.described();
    assert_eq!((found.listed.kind, found.listed.state, found.epoch), (GroupKind::Consumer, "Reconciling", 2));
    let classic: Vec<_> = found.members.iter().map(|it| (it.member.as_str(), it.opaque.is_some())).collect();
    assert_eq!(classic, [("a", true), ("b", true), ("other", false)]);
    assert_eq!(found.members[0].assignment, [tp(0), tp(1)].into());
    assert_eq!(world.commit(Some((&member("a"), 1)), 8), Ok(()), "it has it still");
    for id in ["a", "b"] {
        assert_eq!(world.beat(&member(id), 1), Err(ErrorCode::RebalanceInProgress));
        let sync = world.sync(syncing(&member(id), 1, &[]));
        assert_eq!(world.refused(sync), ErrorCode::RebalanceInProgress);
    }
    world.load();
    // One that gives up everything before it joins has its own again.
    assert_eq!(world.rejoin("a", &[]), (2, vec![0, 1]));
    assert_eq!(world.rejoin("b", &[]), (2, vec![2]));
    assert_eq!(world.other(2, &[]), Ok((2, vec![3])));
    assert_eq!((world.beat(&member("a"), 2), world.beat(&member("b"), 2)), (Ok(()), Ok(())));
    assert_eq!(world.described().listed.state, "Stable");
    assert_eq!(world.commit(Some((&member("a"), 1)), 9), Err(ErrorCode::IllegalGeneration));
    assert_eq!(world.commit(Some((&member("b"), 2)), 9), Err(ErrorCode::RebalanceInProgress), "it is another's");
    assert_eq!(world.commit(Some((&member("a"), 2)), 10), Ok(()));
    assert_eq!(world.commit(None, 11), Err(ErrorCode::NonEmptyGroup));
    let asked = |member: &str, generation: i32| Request::FetchOffsets {
        group: group(),
        partitions: vec![tp(0)],
        require_stable: true,
        member: Some((super::member(member), MemberEpoch::new(generation))),
    };
    let Ok(Response::Offsets(found)) = world.ask(asked("a", 2)) else { panic!() };
    assert_eq!(found[0].1.as_ref().unwrap().as_ref().unwrap().offset.get(), 10, "the offsets stay");
    assert_eq!(codes(world.ask(asked("a", 1))), ErrorCode::IllegalGeneration);
}

#[test]
fn p5_a_cooperative_member_keeps_what_it_is_to_give_up_until_it_joins_without_it() {
    let mut world = World::new();
    world.consumers(&[("a", &[0, 1, 2, 3])]);
    assert_eq!(world.other(0, &[]), Ok((2, vec![])));
    assert_eq!(world.rejoin("a", &[0, 1, 2, 3]), (1, vec![0, 1]), "it is told first what to give up");
    assert_eq!(world.other(2, &[]), Ok((2, vec![])));
    assert_eq!(world.beat(&member("a"), 1), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(world.commit(Some((&member("a"), 1)), 1), Ok(()));
    assert_eq!(world.rejoin("a", &[0, 1]), (2, vec![0, 1]));
    assert_eq!(world.other(2, &[]), Ok((2, vec![2, 3])));
    assert_eq!(world.beat(&member("a"), 2), Ok(()));
}

#[test]
fn p5_what_a_member_was_giving_up_when_the_group_changed_its_kind_is_nobody_elses_yet() {
    let mut world = World::new();
    world.consumers(&[("a", &[0, 1, 2, 3])]);
    // It joins again with all, and is assigned two; it will join once more, without the others.
    let join = world.join(again("a", &[0, 1, 2, 3]));
    assert_eq!(world.joined(join).generation.get(), 2);
    let mut leading = syncing(&member("a"), 2, &[]);
    leading.assignments = [(member("a"), assignment(&[0, 1].into()))].into();
    let sync = world.sync(leading);
    assert_eq!(world.told(sync), [0, 1]);
    assert_eq!(world.other(0, &[]), Ok((3, vec![])), "it has them until it says otherwise");
    assert_eq!(world.other(3, &[]), Ok((3, vec![])));
    let (generation, mut all) = world.rejoin("a", &[0, 1]);
    all.extend(world.other(3, &[]).unwrap().1);
    all.sort_unstable();
    assert_eq!((generation, all), (3, vec![0, 1, 2, 3]));
}

#[test]
fn a_group_of_which_only_classic_members_are_left_is_a_classic_one_again() {
    for dies in [false, true] {
        let mut world = World::new();
        world.consumers(&[("a", &[0, 1, 2, 3])]);
        world.other(0, &[]).unwrap();
        assert_eq!(world.rejoin("a", &[]), (2, vec![0, 1]));
        let late = world.join(JoinRequest { session_timeout: Duration::from_secs(20), ..consumer("b", &[]) });
        assert_eq!(world.joined(late).generation.get(), 3, "a classic member can join meanwhile");
        assert_eq!(world.rejoin("a", &[]).0, 3);
        let a = member("a");
        world.commit(Some((&a, 3)), 4).unwrap();
        if dies {
            for _ in 0..11 {
                world.seconds(1);
                let _ = world.beat(&a, 3);
            }
        } else {
            world.other(-1, &[]).unwrap();
        }
        let found = world.described();
        assert_eq!((found.listed.kind, found.listed.state, found.epoch), (GroupKind::Classic, "PreparingRebalance", 3));
        for _ in 0..2 {
            assert_eq!(world.beat(&a, 3), Err(ErrorCode::RebalanceInProgress));
            assert_eq!(world.commit(Some((&a, 3)), 5), Ok(()), "it has what it had until it joins");
            assert_eq!(world.commit(Some((&a, 2)), 6), Err(ErrorCode::IllegalGeneration));
            world.load();
        }
        assert_eq!(world.other(0, &[]), Err(ErrorCode::RebalanceInProgress), "what everybody has is not known now");
        let joins = [world.join(again("a", &[])), world.join(again("b", &[]))];
        let answers = joins.map(|join| world.joined(join));
        assert!(answers.iter().all(|it| it.generation.get() == 4 && it.leader == answers[0].leader));
        assert_eq!(answers.iter().map(|it| it.members.len()).max(), Some(2));
    }
}

#[test]
fn classic_members_have_their_own_sessions_and_their_rebalance_timeout_for_joining_again() {
    let mut world = World::new();
    world.consumers(&[("a", &[0, 1]), ("b", &[2, 3])]);
    world.other(0, &[]).unwrap();
    world.rejoin("b", &[]);
    // The first lives, and does not join; the second is not heard of.
    for second in 1..=30 {
        world.seconds(1);
        world.other(2, &[]).or_else(|_| world.other(3, &[])).unwrap();
        let has_b = world.described().members.iter().any(|it| it.member.as_str() == "b");
        assert_eq!(has_b, second < 10, "{second}");
        let told = world.beat(&member("a"), 1);
        assert!(second == 30 || told == Err(ErrorCode::RebalanceInProgress), "{second}: {told:?}");
    }
    world.seconds(1);
    let (epoch, all) = world.other(3, &[]).unwrap();
    assert_eq!((epoch, all.len()), (4, 4));
    assert_eq!(world.beat(&member("a"), 1), Err(ErrorCode::UnknownMemberId));
    assert_eq!(world.leave(Some(&member("a")), None), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn a_classic_member_that_joins_and_does_not_sync_is_out_after_its_rebalance_timeout() {
    for syncs in [false, true] {
        let mut world = World::new();
        world.other(0, &[]).unwrap();
        let join = world.join(consumer("a", &[]));
        assert_eq!(world.joined(join).generation.get(), 2);
        if syncs {
            let sync = world.sync(syncing(&member("a"), 2, &[]));
            assert!(world.told(sync).is_empty());
        }
        for second in 0..30 {
            // The other lives, and gives up nothing.
            assert_eq!(world.other(1, &[0, 1, 2, 3]).unwrap().0, 1);
            assert_eq!(world.beat(&member("a"), 2), Ok(()), "{second}");
            world.seconds(1);
        }
        let expected = if syncs { Ok(()) } else { Err(ErrorCode::UnknownMemberId) };
        assert_eq!(world.beat(&member("a"), 2), expected);
    }
}

#[test]
fn classic_members_of_a_group_of_kip_848_are_given_ids_leave_and_are_not_taken_for_others() {
    let mut world = World::new();
    assert_eq!(world.other(0, &[]).unwrap().1.len(), 4);
    let first = world.join(JoinRequest { require_known_member: true, ..consumer("a", &[]) });
    assert_eq!(world.reply(first), Some(Ok(Response::MemberIdRequired(member("a")))));
    let stranger = world.join(again("z", &[]));
    assert_eq!(world.refused(stranger), ErrorCode::UnknownMemberId);
    assert_eq!(world.rejoin("a", &[]), (2, vec![]));
    assert_eq!(world.other(1, &[0, 1, 2, 3]).unwrap().1.len(), 2);
    assert_eq!(world.other(1, &[0, 1]).unwrap().0, 2);
    assert_eq!(world.beat(&member("a"), 2), Err(ErrorCode::RebalanceInProgress), "there is something for it now");
    assert_eq!(world.rejoin("a", &[]), (2, vec![2, 3]));
    // By the ways of the other protocol, neither is there.
    assert_eq!(world.beat(&member("other"), 2), Err(ErrorCode::UnknownMemberId));
    assert_eq!(world.leave(Some(&member("other")), None), Err(ErrorCode::UnknownMemberId));
    let beat = Request::Heartbeat(Heartbeat { member: member("a"), ..other_beat(2) });
    assert_eq!(codes(world.ask(beat)), ErrorCode::InconsistentGroupProtocol);
    // Given, and never used.
    world.join(JoinRequest { require_known_member: true, ..consumer("b", &[]) });
    assert_eq!(world.shard.timers.pending(&group()), 1);
    for _ in 0..11 {
        world.seconds(1);
        world.other(2, &[0, 1]).unwrap();
        world.beat(&member("a"), 2).unwrap();
    }
    let late = world.join(again("b", &[]));
    assert_eq!(world.refused(late), ErrorCode::UnknownMemberId);
    assert_eq!(world.leave(Some(&member("a")), None), Ok(()));
    assert_eq!(world.other(2, &[0, 1]).unwrap().1.len(), 4);
    assert_eq!(world.described().members.len(), 1);
}

#[test]
fn static_members_take_their_places_from_one_protocol_to_the_other_and_back() {
    let mut world = World::new();
    let named = |fresh: &str, name: &str| JoinRequest { instance: Some(instance(name)), ..consumer(fresh, &[]) };
    let joins = [world.join(named("a", "x")), world.join(named("b", "y"))];
    world.settle_initial();
    let _ = joins.map(|join| world.joined(join));
    let mut leading = SyncRequest { instance: Some(instance("x")), ..syncing(&member("a"), 1, &[]) };
    leading.assignments = [(member("a"), assignment(&[0, 1].into())), (member("b"), assignment(&[2, 3].into()))].into();
    world.sync(leading);
    // The first is restarted with the other protocol.
    let beat = |id: &str, name: &str, epoch: i32| {
        Request::Heartbeat(Heartbeat { member: member(id), instance: Some(instance(name)), ..other_beat(epoch) })
    };
    let told = |reply: Reply| match reply {
        Ok(Response::Heartbeat(answer)) => answer.assignment.unwrap_or_default().len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(world.ask(beat("c", "x", 0))), 2, "its own");
    assert_eq!(world.beat_as(&member("a"), 1, Some("x")), Err(ErrorCode::FencedInstanceId));
    let taken = world.join(named("d", "x"));
    assert_eq!(world.refused(taken), ErrorCode::UnreleasedInstanceId, "it lives");
    // And back.
    world.ask(beat("c", "x", -2)).unwrap();
    let taken = world.join(named("d", "x"));
    assert_eq!(world.described().listed.kind, GroupKind::Classic);
    assert_eq!(world.beat_as(&member("b"), 1, Some("y")), Err(ErrorCode::RebalanceInProgress));
    let other = world.join(JoinRequest { member: Some(member("b")), ..named("unused", "y") });
    let (taken, other) = (world.joined(taken), world.joined(other));
    assert_eq!((taken.generation, taken.members.len() + other.members.len()), (other.generation, 2));
    // The only one, too.
    let mut world = World::with(GroupConfig { classic_initial_delay: Duration::ZERO, ..GroupConfig::default() });
    world.ask(beat("c", "x", 0)).unwrap();
    world.ask(beat("c", "x", -2)).unwrap();
    let taken = world.join(named("d", "x"));
    assert_eq!(world.joined(taken).generation.get(), 3);
    world.load();
    assert_eq!(world.state(), "CompletingRebalance");
}

#[test]
fn what_can_t_be_one_group_is_refused_and_stays_as_it_was() {
    let unreadable = vec![protocol("range", "?")];
    let mut world = World::new();
    let join = world.join(JoinRequest { protocols: unreadable.clone(), ..consumer("a", &[]) });
    world.settle_initial();
    world.joined(join);
    assert_eq!(world.other(0, &[]), Err(ErrorCode::InconsistentGroupProtocol));
    assert_eq!(world.state(), "CompletingRebalance");
    let mut world = World::new();
    world.join(consumer("a", &[]));
    assert_eq!(world.other(0, &[]), Err(ErrorCode::RebalanceInProgress), "what it has is not known now");
    let mut world = World::new();
    world.consumers(&[("a", &[0, 1, 2, 3])]);
    let topics = std::mem::take(&mut world.topics);
    world.load();
    assert_eq!(
        world.other(0, &[]),
        Err(ErrorCode::RebalanceInProgress),
        "of what it has, the coordinator knows nothing"
    );
    world.topics = topics;
    world.load();
    let refused =
        world.ask(Request::Heartbeat(Heartbeat { subscription: SubscriptionChange::default(), ..other_beat(0) }));
    assert_eq!(codes(refused), ErrorCode::InvalidRequest);
    assert_eq!((world.state(), world.beat(&member("a"), 1)), ("Stable", Ok(())));
    world.other(0, &[]).unwrap();
    let of_protocol = |name: &str| vec![Protocol { name: name.to_owned(), metadata: consumer_metadata(&[].into()) }];
    for (asked, code) in [
        (JoinRequest { protocols: unreadable, ..consumer("b", &[]) }, ErrorCode::InconsistentGroupProtocol),
        (JoinRequest { protocols: of_protocol("q"), ..consumer("b", &[]) }, ErrorCode::InconsistentGroupProtocol),
        (JoinRequest { protocol_type: "t".to_owned(), ..consumer("b", &[]) }, ErrorCode::InconsistentGroupProtocol),
        (JoinRequest { session_timeout: Duration::ZERO, ..consumer("b", &[]) }, ErrorCode::InvalidSessionTimeout),
    ] {
        let join = world.join(asked);
        assert_eq!(world.refused(join), code);
    }
}
