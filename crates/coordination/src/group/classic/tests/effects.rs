//! What follows from each request in each state.

use super::*;

#[test]
fn the_first_members_wait_for_each_other_and_share_one_generation() {
    let mut world = World::new();
    let one = world.join(joining("a"));
    world.seconds(2);
    assert!(world.reply(one).is_none(), "the initial delay is 3 s");
    let two = world.join(joining("b"));
    world.seconds(2);
    assert!(world.reply(one).is_none() && world.reply(two).is_none(), "prolonged, as one has come");
    world.seconds(2);
    let (one, two) = (world.joined(one), world.joined(two));
    assert_eq!((one.generation.get(), one.leader.as_str(), one.protocol.as_str()), (1, "a", "p"));
    assert_eq!((two.generation, &two.leader, &two.protocol), (one.generation, &one.leader, &one.protocol));
    assert_eq!((one.members.len(), two.members.len()), (2, 0), "the leader alone hears of all");
    assert_eq!(world.state(), "CompletingRebalance");
    let follower = world.sync(syncing(&two.member, 1, &[]));
    assert!(world.reply(follower).is_none());
    let leader = world.sync(syncing(&one.member, 1, &[(&one.member, "x"), (&two.member, "y")]));
    assert_eq!((world.synced(leader), world.synced(follower)), ("x".to_owned(), "y".to_owned()));
    assert_eq!(world.state(), "Stable");
    assert_eq!(world.beat(&one.member, 1), Ok(()));
    assert_eq!(world.beat(&one.member, 0), Err(ErrorCode::IllegalGeneration));
    assert_eq!(world.beat(&member("z"), 1), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn the_initial_delay_is_prolonged_up_to_the_rebalance_timeout_only() {
    let mut world = World::new();
    let first = world.join(JoinRequest { rebalance_timeout: Duration::from_secs(7), ..joining("m") });
    for n in 0..4 {
        world.seconds(2);
        world.join(joining(&format!("m{n}")));
    }
    assert!(world.reply(first).is_some());
}

#[test]
fn without_an_initial_delay_the_first_member_goes_on_at_once() {
    let mut world = World::with(GroupConfig { classic_initial_delay: Duration::ZERO, ..GroupConfig::default() });
    let join = world.join(joining("a"));
    world.complete(&[join]);
}

#[test]
fn a_member_without_an_id_is_given_one_and_joins_with_it() {
    let mut world = World::new();
    let first = world.join(JoinRequest { require_known_member: true, ..joining("a") });
    assert_eq!(world.reply(first), Some(Ok(Response::MemberIdRequired(member("a")))));
    let join = world.join(JoinRequest { require_known_member: true, ..rejoining("a") });
    world.settle_initial();
    assert_eq!(world.joined(join).member, member("a"));
    // Given, and never used: it holds a rebalance up no longer than its session.
    let sync = world.sync(syncing(&member("a"), 1, &[]));
    world.synced(sync);
    world.join(JoinRequest { require_known_member: true, ..joining("b") });
    let again = world.join(rejoining("a"));
    world.seconds(9);
    assert!(world.reply(again).is_none(), "waits for the one that has an id");
    world.seconds(2);
    assert_eq!(world.joined(again).generation.get(), 2);
    let late = world.join(rejoining("b"));
    assert_eq!(world.refused(late), ErrorCode::UnknownMemberId);
}

#[test]
fn pending_ids_alone_are_no_members_and_leave_nothing_behind() {
    let mut world = World::new();
    world.join(JoinRequest { require_known_member: true, ..joining("a") });
    assert_eq!(world.state(), "Empty");
    assert_eq!(world.leave(Some(&member("a")), None), Ok(()));
    world.join(JoinRequest { require_known_member: true, ..joining("b") });
    world.seconds(11);
    assert_eq!(world.state(), "Dead");
    assert!(world.shard.groups().is_empty() && world.shard.classic.is_empty());
}

#[test]
fn what_can_t_be_joined_is_refused() {
    let mut world = World::with(GroupConfig { members_max: 2, ..GroupConfig::default() });
    let none = Vec::new();
    for (asked, code) in [
        (JoinRequest { session_timeout: Duration::from_secs(5), ..joining("a") }, ErrorCode::InvalidSessionTimeout),
        (JoinRequest { session_timeout: Duration::from_secs(1801), ..joining("a") }, ErrorCode::InvalidSessionTimeout),
        (JoinRequest { protocols: none, ..joining("a") }, ErrorCode::InconsistentGroupProtocol),
        (JoinRequest { protocol_type: String::new(), ..joining("a") }, ErrorCode::InconsistentGroupProtocol),
        (rejoining("a"), ErrorCode::UnknownMemberId),
    ] {
        let join = world.join(asked);
        assert_eq!(world.refused(join), code);
    }
    world.stable(&["a", "b"]);
    for (asked, code) in [
        (joining("c"), ErrorCode::GroupMaxSizeReached),
        (JoinRequest { protocols: vec![protocol("q", "")], ..rejoining("b") }, ErrorCode::InconsistentGroupProtocol),
        (JoinRequest { protocol_type: "u".to_owned(), ..rejoining("b") }, ErrorCode::InconsistentGroupProtocol),
    ] {
        let join = world.join(asked);
        assert_eq!(world.refused(join), code);
    }
}

#[test]
fn a_group_that_is_more_than_one_record_can_hold_is_refused() {
    let mut world = World::with(GroupConfig { classic_bytes_max: 20, ..GroupConfig::default() });
    let ids = world.stable(&["a"]);
    let large = JoinRequest { protocols: vec![protocol("p", "0123456789")], ..joining("b") };
    let refused = world.join(large);
    assert_eq!(world.refused(refused), ErrorCode::RecordTooLarge);
    let join = world.join(rejoining("a"));
    world.joined(join);
    let sync = world.sync(syncing(&ids[0], 2, &[(&ids[0], "01234567890123")]));
    assert_eq!(world.refused(sync), ErrorCode::RecordTooLarge);
    let sync = world.sync(syncing(&ids[0], 2, &[(&ids[0], "0123456789")]));
    assert_eq!(world.synced(sync), "0123456789");
}

#[test]
fn the_protocol_is_the_best_of_most_among_those_that_all_have() {
    let mut world = World::new();
    let all = |names: &[&str]| names.iter().map(|name| protocol(name, "")).collect::<Vec<_>>();
    let mut joins = Vec::new();
    for (id, names) in [("a", ["x", "y", "z"].as_slice()), ("b", &["w", "y", "x"]), ("c", &["y", "x"])] {
        joins.push(world.join(JoinRequest { protocols: all(names), ..joining(id) }));
    }
    world.settle_initial();
    assert_eq!(world.joined(joins[0]).protocol, "y");
}

#[test]
fn a_new_member_makes_all_join_again_and_who_does_not_is_out() {
    let mut world = World::new();
    let ids = world.stable(&["a", "b"]);
    let new = world.join(joining("c"));
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(world.beat(&ids[0], 1), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(world.beat(&ids[1], 1), Err(ErrorCode::RebalanceInProgress));
    let sync = world.sync(syncing(&ids[0], 1, &[]));
    assert_eq!(world.refused(sync), ErrorCode::RebalanceInProgress);
    let again = world.join(rejoining("a"));
    for _ in 0..31 {
        assert!(world.reply(again).is_none());
        // It lives, and does not join.
        let _ = world.beat(&ids[1], 1);
        world.seconds(1);
        if world.state() != "PreparingRebalance" {
            break;
        }
    }
    let (again, new) = (world.joined(again), world.joined(new));
    assert_eq!((again.generation.get(), new.generation.get(), again.members.len()), (2, 2, 2));
    assert_eq!(world.beat(&ids[1], 1), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn all_that_join_again_go_on_at_once() {
    let mut world = World::new();
    world.stable(&["a", "b"]);
    let joins = ["a", "b"].map(|id| world.join(rejoining(id)));
    world.complete(&joins);
    assert_eq!(world.state(), "Stable");
}

#[test]
fn a_follower_that_joins_again_unchanged_is_told_what_it_was_and_a_leader_begins_anew() {
    let mut world = World::new();
    let ids = world.stable(&["a", "b"]);
    let follower = world.join(rejoining("b"));
    assert_eq!(world.joined(follower).generation.get(), 1);
    assert_eq!(world.state(), "Stable");
    let changed = world.join(JoinRequest { protocols: vec![protocol("p", "other")], ..rejoining("b") });
    assert_eq!(world.state(), "PreparingRebalance");
    let leader = world.join(rejoining("a"));
    let answer = world.joined(leader);
    assert_eq!(answer.members[1].metadata, "other");
    // In CompletingRebalance: an answer was lost.
    let (leader, follower) = (world.join(rejoining("a")), changed);
    assert_eq!(world.joined(leader), answer);
    world.joined(follower);
    world.sync(syncing(&ids[1], 2, &[]));
    let changed = world.join(JoinRequest { protocols: vec![protocol("p", "third")], ..rejoining("b") });
    assert_eq!(world.state(), "PreparingRebalance");
    assert!(world.reply(changed).is_none());
}

#[test]
fn a_sync_that_waits_is_broken_off_when_members_change() {
    let mut world = World::new();
    world.stable(&["a", "b"]);
    let joins = ["a", "b"].map(|id| world.join(rejoining(id)));
    joins.iter().for_each(|join| _ = world.joined(*join));
    let sync = world.sync(syncing(&member("b"), 2, &[]));
    world.join(joining("c"));
    assert_eq!(world.refused(sync), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_request_that_takes_the_place_of_another_leaves_none_without_an_answer() {
    let mut world = World::new();
    world.stable(&["a", "b"]);
    let first = world.join(rejoining("a"));
    let second = world.join(rejoining("a"));
    assert_eq!(world.refused(first), ErrorCode::RebalanceInProgress);
    let other = world.join(rejoining("b"));
    world.joined(second);
    world.joined(other);
    let first = world.sync(syncing(&member("b"), 2, &[]));
    let second = world.sync(syncing(&member("b"), 2, &[]));
    assert_eq!(world.refused(first), ErrorCode::RebalanceInProgress);
    world.sync(syncing(&member("a"), 2, &[(&member("b"), "it")]));
    assert_eq!(world.synced(second), "it");
}

#[test]
fn a_leader_that_never_assigns_is_out_after_its_session_and_the_others_begin_anew() {
    let mut world = World::new();
    let joins = ["a", "b"].map(|id| world.join(joining(id)));
    world.settle_initial();
    joins.iter().for_each(|join| _ = world.joined(*join));
    let sync = world.sync(syncing(&member("b"), 1, &[]));
    world.seconds(11);
    assert_eq!(world.refused(sync), ErrorCode::RebalanceInProgress);
    let again = world.join(rejoining("b"));
    assert_eq!(world.joined(again).leader, member("b"));
}

#[test]
fn who_lives_but_does_not_sync_is_out_after_the_rebalance_timeout() {
    let mut world = World::new();
    let joins = ["a", "b"].map(|id| world.join(joining(id)));
    world.settle_initial();
    joins.iter().for_each(|join| _ = world.joined(*join));
    world.sync(syncing(&member("a"), 1, &[]));
    for _ in 0..30 {
        assert_eq!(world.state(), "Stable");
        world.beat(&member("a"), 1).unwrap();
        world.beat(&member("b"), 1).unwrap();
        world.seconds(1);
    }
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(world.beat(&member("b"), 1), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn a_member_whose_session_is_over_is_out_and_the_last_one_leaves_an_empty_group() {
    let mut world = World::new();
    let ids = world.stable(&["a", "b"]);
    world.seconds(9);
    world.beat(&ids[0], 1).unwrap();
    world.seconds(2);
    assert_eq!(world.beat(&ids[0], 1), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(world.leave(Some(&ids[0]), None), Ok(()));
    assert_eq!(world.state(), "Empty");
    assert!(world.shard.classic.is_empty());
    // Its number of generations is not forgotten.
    world.load();
    let join = world.join(joining("c"));
    world.settle_initial();
    assert_eq!(world.joined(join).generation.get(), 3);
}

#[test]
fn several_leave_at_once_by_id_or_instance() {
    let mut world = World::new();
    let joins =
        [joining("a"), joining("b"), static_joining("s1", "s"), static_joining("r1", "r")].map(|it| world.join(it));
    world.settle_initial();
    world.complete(&joins);
    let one =
        |id: Option<&str>, name: Option<&str>| LeavingMember { member: id.map(member), instance: name.map(instance) };
    let members = vec![
        one(Some("a"), None),
        one(Some("a"), None),
        one(None, Some("s")),
        one(Some("b"), Some("r")),
        one(None, None),
        one(None, Some("nobody")),
    ];
    let Ok(Response::Left(left)) = world.ask(Request::Leave { group: group(), members }) else { panic!() };
    let codes: Vec<_> = left.into_iter().map(|it| it.result.map_err(|error| error.code())).collect();
    let unknown = Err(ErrorCode::UnknownMemberId);
    assert_eq!(codes, [Ok(()), unknown, Ok(()), Err(ErrorCode::FencedInstanceId), unknown, unknown]);
    assert_eq!(world.state(), "PreparingRebalance");
    let joins = [rejoining("b"), JoinRequest { member: Some(member("r1")), ..static_joining("unused", "r") }];
    let joins = joins.map(|it| world.join(it));
    world.complete(&joins);
}

#[test]
fn a_static_member_that_returns_takes_its_place_and_nobody_joins_again() {
    let mut world = World::new();
    let joins = [static_joining("s1", "s"), static_joining("r1", "r")].map(|it| world.join(it));
    world.settle_initial();
    world.complete(&joins);
    let back = world.join(static_joining("s2", "s"));
    let back = world.joined(back);
    assert_eq!((back.generation.get(), back.member.as_str(), back.leader.as_str()), (1, "s2", "s2"));
    assert!(back.skip_assignment && back.members.len() == 2, "it leads still, and need not assign");
    assert_eq!(world.state(), "Stable");
    let sync = world.sync(syncing(&back.member, 1, &[]));
    assert_eq!(world.synced(sync), "s1", "what was its own");
    assert_eq!(world.beat(&member("r1"), 1), Ok(()));
    // The one before is another now.
    assert_eq!(world.beat_as(&member("s1"), 1, Some("s")), Err(ErrorCode::FencedInstanceId));
    assert_eq!(world.leave(Some(&member("s1")), Some("s")), Err(ErrorCode::FencedInstanceId));
    let fenced = world.sync(SyncRequest { instance: Some(instance("s")), ..syncing(&member("s1"), 1, &[]) });
    assert_eq!(world.refused(fenced), ErrorCode::FencedInstanceId);
    let fenced = world.join(JoinRequest { member: Some(member("s1")), ..static_joining("x", "s") });
    assert_eq!(world.refused(fenced), ErrorCode::FencedInstanceId);
    // Also after the coordinator has moved.
    world.load();
    assert_eq!(world.beat_as(&member("s1"), 1, Some("s")), Err(ErrorCode::FencedInstanceId));
    assert_eq!(world.beat_as(&member("s2"), 1, Some("s")), Ok(()));
    // With other protocols all join again.
    let changed = JoinRequest { protocols: vec![protocol("p", "other")], ..static_joining("r2", "r") };
    world.join(changed);
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn what_a_replaced_static_member_waits_for_is_refused() {
    let mut world = World::new();
    let joins = [static_joining("s1", "s"), static_joining("r1", "r")].map(|it| world.join(it));
    let twin = world.join(static_joining("s2", "s"));
    assert_eq!(world.refused(joins[0]), ErrorCode::FencedInstanceId);
    world.settle_initial();
    let (twin, other) = (world.joined(twin), world.joined(joins[1]));
    assert_eq!((&twin.leader, &other.leader), (&twin.member, &twin.member));
    let sync = world.sync(syncing(&twin.member, 1, &[]));
    world.synced(sync);
    // In CompletingRebalance the assignment would be of an id that is not there any more.
    let joins = [JoinRequest { member: Some(twin.member), ..static_joining("x", "s") }];
    let [leader] = joins.map(|it| world.join(it));
    let again = world.join(JoinRequest { member: Some(other.member.clone()), ..static_joining("x", "r") });
    world.joined(leader);
    world.joined(again);
    let sync = world.sync(syncing(&other.member, 2, &[]));
    world.join(static_joining("r2", "r"));
    assert_eq!(world.refused(sync), ErrorCode::FencedInstanceId);
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_until_its_session_is_over() {
    let mut world = World::new();
    let long = JoinRequest { session_timeout: Duration::from_secs(60), ..static_joining("s1", "s") };
    let joins = [joining("a"), long].map(|it| world.join(it));
    world.settle_initial();
    world.complete(&joins);
    let again = world.join(rejoining("a"));
    world.seconds(31);
    let again = world.joined(again);
    assert_eq!((again.generation.get(), again.members.len()), (2, 2), "the one that is away is among them");
    let sync = world.sync(syncing(&member("a"), 2, &[(&member("s1"), "its")]));
    world.synced(sync);
    for _ in 0..20 {
        world.beat(&member("a"), 2).unwrap();
        world.seconds(1);
    }
    world.beat(&member("a"), 2).unwrap();
    world.seconds(9);
    assert_eq!(world.beat(&member("a"), 2), Err(ErrorCode::RebalanceInProgress), "its 60 s are over");
}

#[test]
fn only_static_members_that_are_away_make_no_generation() {
    let mut world = World::new();
    let long = |it: JoinRequest| JoinRequest { session_timeout: Duration::from_secs(100), ..it };
    let joins = [joining("a"), long(static_joining("s1", "s"))].map(|it| world.join(it));
    world.settle_initial();
    world.complete(&joins);
    world.leave(Some(&member("a")), None).unwrap();
    world.seconds(80);
    assert_eq!(world.state(), "PreparingRebalance");
    world.seconds(30);
    assert_eq!(world.state(), "Empty");
}

#[test]
fn t40_commits_count_in_the_present_generation_only() {
    let mut world = World::new();
    assert_eq!(world.commit(None, 1), Ok(()), "a group of which there are offsets only");
    let Ok(Response::Groups(listed)) = world.ask(Request::ListGroups) else { panic!() };
    let expected =
        ListedGroup { group: group(), kind: GroupKind::Classic, state: "Empty", protocol_type: String::new() };
    assert_eq!(listed, [expected]);
    let ids = world.stable(&["a"]);
    let Ok(Response::Counted(counts)) = world.ask(Request::CountGroups) else { panic!() };
    assert_eq!((counts.by_state.get("Stable"), counts.members, counts.epochs), (Some(&1), 1, 1));
    assert_eq!(world.commit(Some((&ids[0], 1)), 2), Ok(()));
    assert_eq!(world.commit(Some((&ids[0], 0)), 3), Err(ErrorCode::IllegalGeneration));
    assert_eq!(world.commit(Some((&member("z"), 1)), 3), Err(ErrorCode::UnknownMemberId));
    assert_eq!(world.commit(None, 3), Err(ErrorCode::NonEmptyGroup));
    let join = world.join(rejoining("a"));
    assert_eq!(world.state(), "CompletingRebalance");
    assert_eq!(world.commit(Some((&ids[0], 1)), 3), Err(ErrorCode::IllegalGeneration));
    assert_eq!(world.commit(Some((&ids[0], 2)), 3), Err(ErrorCode::RebalanceInProgress));
    world.complete(&[join]);
    world.join(joining("b"));
    assert_eq!(world.commit(Some((&ids[0], 2)), 4), Ok(()), "before it joins again, what it has read so far");
    world.seconds(50);
    assert_eq!(world.commit(Some((&ids[0], 2)), 5), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn commits_say_that_a_member_lives() {
    let mut world = World::new();
    let ids = world.stable(&["a"]);
    for _ in 0..15 {
        world.seconds(1);
        world.commit(Some((&ids[0], 1)), 2).unwrap();
    }
    assert_eq!(world.beat(&ids[0], 1), Ok(()));
}

#[test]
fn t38_a_coordinator_that_takes_over_goes_on_in_the_same_generation() {
    let mut world = World::new();
    let joins = ["a", "b"].map(|id| world.join(joining(id)));
    world.settle_initial();
    let answers = joins.map(|join| world.joined(join));
    // All have heard of generation 1, and none has its assignment.
    world.sync(syncing(&answers[1].member, 1, &[]));
    world.load();
    assert_eq!(world.state(), "CompletingRebalance");
    let follower = world.sync(syncing(&answers[1].member, 1, &[]));
    let leader = world.sync(syncing(&answers[0].member, 1, &[(&answers[1].member, "y")]));
    assert_eq!((world.synced(leader), world.synced(follower)), (String::new(), "y".to_owned()));
    world.seconds(9);
    world.load();
    assert_eq!(world.state(), "Stable");
    world.seconds(9);
    assert_eq!(world.beat(&answers[1].member, 1), Ok(()), "a whole session anew");
    let sync = world.sync(syncing(&answers[1].member, 1, &[]));
    assert_eq!(world.synced(sync), "y", "its answer was lost");
    world.beat(&answers[0].member, 1).unwrap();
    // Those that wait join again, there.
    world.join(joining("c"));
    world.load();
    assert_eq!(world.beat(&answers[0].member, 1), Ok(()), "who was no member yet is not remembered");
    let new = world.join(joining("d"));
    let again = ["a", "b"].map(|id| world.join(rejoining(id)));
    assert_eq!(world.joined(new).generation.get(), 2);
    again.iter().for_each(|join| assert_eq!(world.joined(*join).generation.get(), 2));
}

#[test]
fn a_group_without_members_becomes_of_the_other_kind_and_one_with_members_does_not() {
    let mut world = World::new();
    let beat = |epoch: i32| Request::Heartbeat(other_beat(epoch));
    let ids = world.stable(&["a"]);
    world.commit(Some((&ids[0], 1)), 7).unwrap();
    assert_eq!(world.ask(beat(0)).unwrap_err().code(), ErrorCode::InconsistentGroupProtocol);
    world.leave(Some(&ids[0]), None).unwrap();
    world.join(JoinRequest { require_known_member: true, ..joining("b") });
    let Ok(Response::Heartbeat(answer)) = world.ask(beat(0)) else { panic!() };
    assert_eq!(answer.epoch.get(), 3, "on from the generations");
    let late = world.join(rejoining("b"));
    assert_eq!(world.refused(late), ErrorCode::InconsistentGroupProtocol);
    assert_eq!(world.beat(&ids[0], 2), Err(ErrorCode::UnknownMemberId));
    let Ok(Response::Group(found)) = world.ask(Request::DescribeGroup(group())) else { panic!() };
    assert_eq!(found.listed.kind, GroupKind::Consumer);
    world.load();
    world.seconds(9);
    world.ask(beat(-1)).unwrap();
    let ids = world.stable(&["d"]);
    let fetch = Request::FetchOffsets {
        group: group(),
        partitions: vec![tp(0)],
        require_stable: true,
        member: Some((ids[0].clone(), MemberEpoch::new(5))),
    };
    let Ok(Response::Offsets(found)) = world.ask(fetch.clone()) else { panic!() };
    assert_eq!(found[0].1.as_ref().unwrap().as_ref().unwrap().offset.get(), 7, "the offsets stay");
    let Request::FetchOffsets { partitions, .. } = fetch else { panic!() };
    let member = Some((ids[0].clone(), MemberEpoch::new(4)));
    let stale = Request::FetchOffsets { group: group(), partitions, require_stable: true, member };
    assert_eq!(world.ask(stale).unwrap_err().code(), ErrorCode::IllegalGeneration);
}

#[test]
fn t39_offsets_of_a_group_in_use_stay_and_of_an_empty_one_expire_with_the_group() {
    let day = Duration::from_secs(24 * 3600);
    let mut world = World::new();
    let ids = world.stable(&["a"]);
    world.commit(Some((&ids[0], 1)), 7).unwrap();
    assert_eq!(world.ask(Request::DeleteGroup(group())).unwrap_err().code(), ErrorCode::NonEmptyGroup);
    // Its session ends in the same moment as everything else is looked at: its time begins then.
    world.pass(day * 10);
    assert_eq!(world.state(), "Empty");
    world.pass(day * 6);
    assert_eq!(world.state(), "Empty");
    world.pass(day * 2);
    assert_eq!(world.state(), "Dead");
    assert!(world.shard.groups().is_empty());
    let ids = world.stable(&["a"]);
    world.leave(Some(&ids[0]), None).unwrap();
    world.ask(Request::DeleteGroup(group())).unwrap();
    assert!(world.shard.groups().is_empty() && world.shard.classic.is_empty());
}

#[test]
fn consumers_are_shown_with_what_they_read() {
    const SUBSCRIPTION: &str = "\0\x01\0\0\0\x01\0\x05topic\0\0\0\0\0\0\0\0";
    let mut world = World::new();
    let consumer = |fresh: &str| JoinRequest {
        protocol_type: "consumer".to_owned(),
        protocols: vec![protocol("range", SUBSCRIPTION)],
        ..joining(fresh)
    };
    let join = world.join(consumer("a"));
    world.settle_initial();
    let answer = world.joined(join);
    let assigned = "\0\x01\0\0\0\x01\0\x05topic\0\0\0\x01\0\0\0\x02\0\0\0\0";
    let sync = world.sync(syncing(&answer.member, 1, &[(&answer.member, assigned)]));
    world.synced(sync);
    world.commit(Some((&answer.member, 1)), 3).unwrap();
    let Ok(Response::Group(found)) = world.ask(Request::DescribeGroup(group())) else { panic!() };
    assert_eq!((found.listed.kind, found.listed.protocol_type.as_str()), (GroupKind::Classic, "consumer"));
    assert_eq!((found.epoch, found.assignor.as_str()), (1, "range"));
    assert_eq!(found.members[0].assignment, [tp(2)].into());
    assert_eq!(found.members[0].subscription.topics, ["topic".to_owned()].into());
    assert_eq!(found.members[0].opaque.as_ref().unwrap().assignment, assigned);
    let delete = world.ask(Request::DeleteOffsets { group: group(), partitions: vec![tp(0)] });
    assert_eq!(delete.unwrap_err().code(), ErrorCode::GroupSubscribedToTopic);
}
