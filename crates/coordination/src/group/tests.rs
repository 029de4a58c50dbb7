use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_types::*;
use proptest::prelude::*;

use super::*;
use crate::{CoordinatorRecord, EndMarker, Now, ProducerIdentity, Shard, Token, TopicInfo, Topics};

/// A shard with its log, driven as the runtime drives it.
struct World {
    shard: GroupShard,
    log: Vec<(Option<ProducerIdentity>, LogEntry)>,
    now: Now,
    topics: Topics,
    tokens: u64,
}

#[derive(Clone)]
enum LogEntry {
    Record(CoordinatorRecord),
    Marker(EndMarker),
}

fn topics(counts: &[u32]) -> Topics {
    Topics::new(counts.iter().enumerate().map(|(n, count)| {
        let name = TopicName::new(format!("topic-{n}")).unwrap();
        (TopicId::from_u128(n as u128 + 1), TopicInfo { name, racks: vec![Vec::new(); *count as usize] })
    }))
}

fn tp(topic: u128, partition: u32) -> TopicPartition {
    TopicPartition::new(TopicId::from_u128(topic), PartitionId::new(partition))
}

fn group() -> GroupId {
    GroupId::new("g").unwrap()
}

fn id(number: usize) -> MemberId {
    MemberId::new(format!("m{number}")).unwrap()
}

fn beat(number: usize, epoch: i32) -> Heartbeat {
    Heartbeat {
        group: group(),
        member: id(number),
        epoch: MemberEpoch::new(epoch),
        number: 0,
        instance: None,
        rack: None,
        rebalance_timeout: None,
        subscription: SubscriptionChange::default(),
        assignor: None,
        owned: None,
        client_id: "c".to_owned(),
        client_host: "h".to_owned(),
    }
}

fn joining(number: usize) -> Heartbeat {
    let topics = ["topic-0", "topic-1"].map(str::to_owned).into();
    let subscription = SubscriptionChange::from(Subscription { topics, pattern: String::new() });
    Heartbeat { subscription, owned: Some(BTreeSet::new()), ..beat(number, 0) }
}

fn commit_of(partition: TopicPartition, offset: i64, metadata: &str) -> OffsetCommit {
    let (offset, leader_epoch) = (Offset::new(offset), LeaderEpoch::new(3));
    OffsetCommit { partition, offset, leader_epoch, metadata: metadata.to_owned() }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            shard: GroupShard::new(GroupConfig::default()),
            log: Vec::new(),
            now: Now { elapsed: Duration::ZERO, wall: TimestampMs::new(1_000_000) },
            topics: topics(&[6, 0]),
            tokens: 0,
        };
        world.load();
        world
    }

    fn append(&mut self, write: Option<crate::Write>) {
        for record in write.iter().flat_map(|write| &write.records) {
            let transaction_of = write.as_ref().and_then(|write| write.transaction_of);
            self.shard.replay(Offset::ZERO, transaction_of, record).unwrap();
            self.log.push((transaction_of, LogEntry::Record(record.clone())));
        }
        assert_eq!(self.replayed().groups(), self.shard.groups(), "live state is replayed state");
    }

    fn replayed(&self) -> GroupShard {
        let mut shard = GroupShard::new(GroupConfig::default());
        for (transaction_of, entry) in &self.log {
            match entry {
                LogEntry::Record(record) => shard.replay(Offset::ZERO, *transaction_of, record).unwrap(),
                LogEntry::Marker(marker) => shard.replay_marker(Offset::ZERO, *marker),
            }
        }
        shard
    }

    /// The coordinator moves.
    fn load(&mut self) {
        self.shard = self.replayed();
        let effects = self.shard.loaded(self.now, LeaderEpoch::FIRST, &self.topics);
        self.append(effects.write);
    }

    fn ask(&mut self, request: Request) -> Result<Response, Error> {
        self.tokens += 1;
        let effects = self.shard.handle(self.now, Token(self.tokens), request);
        self.append(effects.write);
        let [(token, reply)] = <[_; 1]>::try_from(effects.replies).unwrap();
        assert_eq!(token, Token(self.tokens));
        reply
    }

    fn beat(&mut self, beat: Heartbeat) -> Result<HeartbeatAnswer, Error> {
        match self.ask(Request::Heartbeat(beat))? {
            Response::Heartbeat(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.elapsed += time;
        self.now.wall = TimestampMs::new(self.now.wall.get() + time.as_millis() as i64);
        if self.shard.next_timer().is_some_and(|at| at <= self.now.elapsed) {
            let effects = self.shard.on_time(self.now);
            self.append(effects.write);
        }
    }

    fn mark(&mut self, producer: ProducerIdentity, commit: bool) {
        let marker = EndMarker { producer, commit };
        self.shard.replay_marker(Offset::ZERO, marker);
        self.log.push((None, LogEntry::Marker(marker)));
    }

    fn commit(&mut self, member: Option<(MemberId, i32)>, tps: &[TopicPartition], offset: i64) -> Result<(), Error> {
        self.commit_as(member, tps, offset, None)
    }

    fn commit_as(
        &mut self,
        member: Option<(MemberId, i32)>,
        tps: &[TopicPartition],
        offset: i64,
        transaction: Option<ProducerIdentity>,
    ) -> Result<(), Error> {
        let one = |partition: &TopicPartition| commit_of(*partition, offset, "why");
        let request = Request::CommitOffsets {
            group: group(),
            member: member.map(|(id, epoch)| (id, MemberEpoch::new(epoch))),
            instance: None,
            offsets: tps.iter().map(one).collect(),
            transaction: transaction.map(|producer| OffsetsInTransaction { producer }),
        };
        match self.ask(request)? {
            Response::Committed(results) => results.into_iter().try_for_each(|(_, result)| result),
            other => panic!("{other:?}"),
        }
    }

    fn committed(&mut self, partition: TopicPartition, require_stable: bool) -> Option<Option<i64>> {
        let request =
            Request::FetchOffsets { group: group(), partitions: vec![partition], require_stable, member: None };
        match self.ask(request).unwrap() {
            Response::Offsets(found) => found[0].1.clone().ok().map(|it| it.map(|it| it.offset.get())),
            other => panic!("{other:?}"),
        }
    }
}

/// A member as the client is: it gives up what it should with the next heartbeat.
struct Client {
    number: usize,
    epoch: i32,
    owned: BTreeSet<TopicPartition>,
    heartbeats: u64,
    /// The last one that was sent: another may arrive before it.
    last: Option<Heartbeat>,
}

impl Client {
    fn join(world: &mut World, number: usize) -> Self {
        let answer = world.beat(Heartbeat { number: 1, ..joining(number) }).unwrap();
        let (epoch, owned) = (answer.epoch.get(), answer.assignment.unwrap());
        Self { number, epoch, owned, heartbeats: 1, last: None }
    }

    fn next_beat(&mut self) -> Heartbeat {
        self.heartbeats += 1;
        let next =
            Heartbeat { number: self.heartbeats, owned: Some(self.owned.clone()), ..beat(self.number, self.epoch) };
        self.last = Some(next.clone());
        next
    }

    fn beat(&mut self, world: &mut World) -> Result<(), Error> {
        let answer = world.beat(self.next_beat())?;
        self.epoch = answer.epoch.get();
        self.owned = answer.assignment.unwrap();
        Ok(())
    }
}

fn settle(world: &mut World, clients: &mut [&mut Client]) {
    for _ in 0..4 {
        clients.iter_mut().for_each(|client| client.beat(world).unwrap());
    }
}

#[test]
fn p5_a_partition_is_given_on_only_when_its_owner_has_let_go() {
    let mut world = World::new();
    let mut one = Client::join(&mut world, 1);
    assert_eq!(one.owned.len(), 6);
    let mut two = Client::join(&mut world, 2);
    assert_eq!(two.owned.len(), 0, "all is the first one's still");
    two.beat(&mut world).unwrap();
    assert_eq!(two.owned.len(), 0);
    one.beat(&mut world).unwrap();
    assert_eq!(one.owned.len(), 3, "told to give up half");
    two.beat(&mut world).unwrap();
    assert_eq!(two.owned.len(), 0, "and has not said that it did");
    one.beat(&mut world).unwrap();
    two.beat(&mut world).unwrap();
    assert_eq!((one.owned.len(), two.owned.len()), (3, 3));
    assert!(one.owned.is_disjoint(&two.owned));
    assert_eq!(one.epoch, two.epoch);
}

#[test]
fn a_member_that_dies_hands_over_after_its_session_and_one_that_leaves_at_once() {
    let mut world = World::new();
    let mut one = Client::join(&mut world, 1);
    let mut two = Client::join(&mut world, 2);
    settle(&mut world, &mut [&mut one, &mut two]);
    for _ in 0..9 {
        world.pass(Duration::from_secs(1));
        one.beat(&mut world).unwrap();
        assert_eq!(one.owned.len(), 3);
    }
    world.pass(Duration::from_secs(1));
    one.beat(&mut world).unwrap();
    assert_eq!(one.owned.len(), 6);
    let fenced = two.beat(&mut world);
    assert_eq!(fenced.unwrap_err().code(), ErrorCode::UnknownMemberId);
    let mut three = Client::join(&mut world, 3);
    settle(&mut world, &mut [&mut one, &mut three]);
    world.beat(beat(1, -1)).unwrap();
    three.beat(&mut world).unwrap();
    assert_eq!(three.owned.len(), 6);
}

#[test]
fn one_that_does_not_let_go_is_put_out_after_its_rebalance_timeout() {
    let mut world = World::new();
    let slow = Heartbeat { rebalance_timeout: Some(Duration::from_secs(30)), ..joining(1) };
    let mut one = world.beat(slow).unwrap();
    let held = one.assignment.clone().unwrap();
    let mut two = Client::join(&mut world, 2);
    for second in 0..31 {
        two.beat(&mut world).unwrap();
        match world.beat(Heartbeat { owned: Some(held.clone()), ..beat(1, one.epoch.get()) }) {
            Ok(answer) => one = answer,
            Err(error) => {
                assert!(second >= 29, "{second}: {error}");
                break;
            }
        }
        world.pass(Duration::from_secs(1));
    }
    two.beat(&mut world).unwrap();
    assert_eq!(two.owned.len(), 6);
}

#[test]
fn a_static_member_that_returns_in_time_gets_its_own_and_nobody_else_moves() {
    let mut world = World::new();
    let instance = |name: &str| Some(InstanceId::new(name).unwrap());
    let first = world.beat(Heartbeat { instance: instance("a"), ..joining(1) }).unwrap();
    let mut two = Client::join(&mut world, 2);
    let (epoch, owned) = (first.epoch.get(), first.assignment.unwrap());
    let mut one = Client { number: 1, epoch, owned, heartbeats: 0, last: None };
    settle(&mut world, &mut [&mut one, &mut two]);
    let other = world.beat(Heartbeat { instance: instance("a"), ..joining(9) });
    assert_eq!(other.unwrap_err().code(), ErrorCode::UnreleasedInstanceId);
    let (had, others, epoch) = (one.owned.clone(), two.owned.clone(), two.epoch);
    world.beat(Heartbeat { instance: instance("a"), ..beat(1, -2) }).unwrap();
    world.pass(Duration::from_secs(8));
    two.beat(&mut world).unwrap();
    let back = world.beat(Heartbeat { instance: instance("a"), ..joining(3) }).unwrap();
    assert_eq!((back.assignment.unwrap(), back.epoch.get()), (had, epoch), "its own, and no new epoch");
    two.beat(&mut world).unwrap();
    assert_eq!((two.owned.clone(), two.epoch), (others, epoch));
    // And one that does not return loses them.
    world.beat(Heartbeat { instance: instance("a"), ..beat(3, -2) }).unwrap();
    for _ in 0..2 {
        world.pass(Duration::from_secs(6));
        two.beat(&mut world).unwrap();
    }
    assert_eq!(two.owned.len(), 6);
}

#[test]
fn a_static_member_that_was_replaced_hears_that_it_is_fenced() {
    let mut world = World::new();
    let instance = |name: &str| Some(InstanceId::new(name).unwrap());
    let first = world.beat(Heartbeat { instance: instance("a"), ..joining(1) }).unwrap();
    world.beat(Heartbeat { instance: instance("a"), ..beat(1, -2) }).unwrap();
    world.beat(Heartbeat { instance: instance("a"), ..joining(2) }).unwrap();
    for epoch in [first.epoch.get(), -1, -2] {
        let fenced = world.beat(Heartbeat { instance: instance("a"), ..beat(1, epoch) });
        assert_eq!(fenced.unwrap_err().code(), ErrorCode::FencedInstanceId, "epoch {epoch}");
    }
    let committed = world.ask(Request::CommitOffsets {
        group: group(),
        member: Some((id(1), first.epoch)),
        instance: instance("a"),
        offsets: vec![commit_of(tp(1, 0), 4, "")],
        transaction: None,
    });
    assert_eq!(committed.unwrap_err().code(), ErrorCode::FencedInstanceId);
    let stranger = world.beat(Heartbeat { instance: instance("b"), ..beat(1, first.epoch.get()) });
    assert_eq!(stranger.unwrap_err().code(), ErrorCode::UnknownMemberId, "nobody has taken its place");
}

#[test]
fn t40_a_member_that_fetches_offsets_is_fenced_as_one_that_commits() {
    let mut world = World::new();
    let mut one = Client::join(&mut world, 1);
    let old = one.epoch;
    let mut two = Client::join(&mut world, 2);
    settle(&mut world, &mut [&mut one, &mut two]);
    let (kept, new) = (*one.owned.first().unwrap(), *two.owned.first().unwrap());
    let mut fetch = |number: usize, epoch: i32, at: TopicPartition| {
        let member = Some((id(number), MemberEpoch::new(epoch)));
        let asked = Request::FetchOffsets { group: group(), partitions: vec![at], require_stable: false, member };
        world.ask(asked).map(drop).map_err(|error| error.code())
    };
    assert_eq!(fetch(1, one.epoch, kept), Ok(()));
    assert_eq!(fetch(1, old, kept), Ok(()), "it has had it all the time");
    assert_eq!(fetch(1, old, new), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(fetch(1, one.epoch + 1, kept), Err(ErrorCode::FencedMemberEpoch));
    assert_eq!(fetch(7, one.epoch, kept), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn a_partition_that_can_t_be_committed_does_not_keep_the_others_from_it() {
    let mut world = World::new();
    let long = "x".repeat(4097);
    let offsets = [(tp(9, 0), ""), (tp(1, 0), "why"), (tp(1, 6), ""), (tp(1, 1), long.as_str())];
    let asked = Request::CommitOffsets {
        group: group(),
        member: None,
        instance: None,
        offsets: offsets.iter().map(|(tp, metadata)| commit_of(*tp, 4, metadata)).collect(),
        transaction: None,
    };
    let Ok(Response::Committed(results)) = world.ask(asked) else { panic!() };
    let codes: Vec<_> = results.iter().map(|(_, result)| result.as_ref().err().map(Error::code)).collect();
    let (unknown, none) = (ErrorCode::UnknownTopicId, ErrorCode::UnknownPartition);
    assert_eq!(codes, [Some(unknown), None, Some(none), Some(ErrorCode::OffsetMetadataTooLarge)]);
    assert!(results.iter().map(|(tp, _)| *tp).eq(offsets.map(|(tp, _)| tp)), "as asked, one by one");
    assert_eq!(world.committed(tp(1, 0), false), Some(Some(4)));
    assert_eq!(world.committed(tp(1, 1), false), Some(None));
}

#[test]
fn t38_members_have_a_whole_session_after_the_coordinator_has_moved() {
    let mut world = World::new();
    let mut one = Client::join(&mut world, 1);
    world.pass(Duration::from_secs(9));
    world.load();
    world.pass(Duration::from_secs(9));
    one.beat(&mut world).unwrap();
    assert_eq!(one.owned.len(), 6);
}

#[test]
fn a_heartbeat_whose_answer_was_lost_can_be_repeated_and_older_ones_are_fenced() {
    let mut world = World::new();
    let mut one = Client::join(&mut world, 1);
    let before = one.epoch;
    let mut two = Client::join(&mut world, 2);
    settle(&mut world, &mut [&mut one, &mut two]);
    let repeated = world.beat(Heartbeat { owned: Some(one.owned.clone()), ..beat(1, before) });
    assert_eq!(repeated.unwrap().epoch.get(), one.epoch);
    let more = world.beat(Heartbeat { owned: Some(two.owned.clone()), ..beat(1, before) });
    assert_eq!(more.unwrap_err().code(), ErrorCode::FencedMemberEpoch);
    let future = world.beat(beat(1, one.epoch + 5));
    assert_eq!(future.unwrap_err().code(), ErrorCode::FencedMemberEpoch);
}

#[test]
fn p5_an_overtaken_heartbeat_does_not_give_up_what_its_member_has_taken_since() {
    let mut world = World::new();
    let numbered = |number: u64, beat: Heartbeat| Heartbeat { number, ..beat };
    let joined = world.beat(numbered(1, joining(1))).unwrap();
    let (all, epoch) = (joined.assignment.unwrap(), joined.epoch.get());
    // This one, which says that it has nothing yet, is late; the next one, that it has all, is not.
    let late = numbered(2, Heartbeat { owned: Some(BTreeSet::new()), ..beat(1, epoch) });
    world.beat(numbered(3, Heartbeat { owned: Some(all.clone()), ..beat(1, epoch) })).unwrap();
    let mut two = Client::join(&mut world, 2);
    let told = world.beat(numbered(4, beat(1, epoch))).unwrap();
    assert_eq!(told.assignment.unwrap().len(), 3, "half is to be given up");
    for overtaken in [late, numbered(4, Heartbeat { owned: Some(BTreeSet::new()), ..beat(1, epoch) })] {
        let refused = world.beat(overtaken).unwrap_err();
        assert!(refused.code().is_retriable(), "{refused}");
    }
    let leaving = world.beat(numbered(3, beat(1, -1)));
    assert!(matches!(leaving, Err(Error::Overtaken { .. })), "it has joined again since");
    two.beat(&mut world).unwrap();
    assert_eq!(two.owned.len(), 0, "the other has it all the same");
    world
        .beat(numbered(0, Heartbeat { owned: Some(all), ..beat(1, epoch) }))
        .expect("without a number, it is not checked");
    // What was heard of a member goes with it, and with the coordinator.
    world.beat(numbered(5, beat(1, -1))).unwrap();
    assert!(!world.shard.heard[&group()].contains_key(&id(1)));
    world.beat(numbered(1, joining(1))).unwrap();
    world.load();
    assert!(world.shard.heard.is_empty());
}

#[test]
fn topics_that_grow_appear_or_match_a_pattern_are_assigned() {
    let mut world = World::new();
    let subscription =
        SubscriptionChange::from(Subscription { topics: BTreeSet::new(), pattern: "topic-[02]".to_owned() });
    let mut one = world.beat(Heartbeat { subscription, ..joining(1) }).unwrap();
    assert_eq!(one.assignment.as_ref().unwrap().len(), 6);
    world.topics = topics(&[8, 5, 2]);
    let effects = world.shard.on_topics(world.now, &world.topics.clone());
    world.append(effects.write);
    one = world.beat(beat(1, one.epoch.get())).unwrap();
    assert_eq!(one.assignment.unwrap().len(), 10, "8 of the one, 2 of the other, none of what does not match");
    let bad = SubscriptionChange::from(Subscription { topics: BTreeSet::new(), pattern: "[".to_owned() });
    let refused = world.beat(Heartbeat { subscription: bad, ..joining(2) });
    assert_eq!(refused.unwrap_err().code(), ErrorCode::InvalidRegularExpression);
}

/// One topic, each partition in one rack.
fn topics_in(racks: &[&str]) -> Topics {
    let racks = racks.iter().map(|rack| vec![(*rack).into()]).collect();
    Topics::new([(TopicId::from_u128(1), TopicInfo { name: TopicName::new("topic-0").unwrap(), racks })])
}

#[test]
fn partitions_go_to_members_in_their_racks_and_racks_that_change_nothing_make_no_new_target() {
    let mut world = World::new();
    let change = |world: &mut World, racks: &[&str]| {
        world.topics = topics_in(racks);
        let effects = world.shard.on_topics(world.now, &world.topics.clone());
        let is_written = effects.write.is_some();
        world.append(effects.write);
        is_written
    };
    change(&mut world, &["x", "y", "x", "y"]);
    for (number, rack) in [(1, "x"), (2, "y")] {
        world.beat(Heartbeat { rack: Some(rack.to_owned()), ..joining(number) }).unwrap();
    }
    let target = |world: &World, number: usize| -> Vec<u32> {
        let target = world.shard.groups()[&group()].group.target_of(&id(number));
        target.iter().map(|tp| tp.partition.get()).collect()
    };
    assert_eq!((target(&world, 1), target(&world, 2)), (vec![0, 2], vec![1, 3]));
    assert!(!change(&mut world, &["x", "y", "z", "y"]), "nobody is nearer to it");
    world.load();
    assert!(change(&mut world, &["y", "x", "x", "y"]));
    assert_eq!((target(&world, 1), target(&world, 2)), (vec![1, 2], vec![0, 3]));
    // A member that is in another rack now: nobody else is nearer, or it is a place where nothing is.
    let epoch = |world: &World| world.shard.groups()[&group()].group.epoch;
    let before = epoch(&world);
    world.beat(Heartbeat { rack: Some("z".to_owned()), ..joining(1) }).unwrap();
    assert_eq!(epoch(&world), before);
    world.beat(Heartbeat { rack: Some("y".to_owned()), ..joining(1) }).unwrap();
    world.beat(Heartbeat { rack: Some("x".to_owned()), ..joining(2) }).unwrap();
    assert_eq!((target(&world, 1), target(&world, 2)), (vec![0, 3], vec![1, 2]));
    assert!(epoch(&world) > before);
}

#[test]
fn t40_commits_are_fenced_by_epoch_but_what_was_kept_counts() {
    let mut world = World::new();
    let mut one = Client::join(&mut world, 1);
    let old = one.epoch;
    let mut two = Client::join(&mut world, 2);
    settle(&mut world, &mut [&mut one, &mut two]);
    let (kept, gone) = (*one.owned.first().unwrap(), *two.owned.first().unwrap());
    assert_eq!(world.commit(Some((id(1), one.epoch)), &[kept], 5), Ok(()));
    assert_eq!(world.commit(Some((id(1), old)), &[kept], 6), Ok(()), "it has had it all the time");
    for epoch in [old, one.epoch] {
        let refused = world.commit(Some((id(1), epoch)), &[gone], 7);
        assert_eq!(refused.unwrap_err().code(), ErrorCode::FencedMemberEpoch, "it is the other's");
    }
    assert_eq!(world.committed(gone, false), Some(None));
    let stranger = world.commit(Some((id(7), 1)), &[kept], 8);
    assert_eq!(stranger.unwrap_err().code(), ErrorCode::UnknownMemberId);
    assert!(world.commit(None, &[kept], 9).is_err(), "nobody's, while there are members");
    assert_eq!(world.committed(kept, false), Some(Some(6)));
}

#[test]
fn t37_offsets_of_a_transaction_are_in_force_once_it_commits() {
    let mut world = World::new();
    let one = Client::join(&mut world, 1);
    let at = *one.owned.first().unwrap();
    let producer = ProducerIdentity { id: ProducerId::new(4), epoch: ProducerEpoch::new(0) };
    let bumped = ProducerIdentity { epoch: ProducerEpoch::new(1), ..producer };
    world.commit(Some((id(1), one.epoch)), &[at], 1).unwrap();
    for (commit, offset, expected) in [(false, 10, 1), (true, 20, 20)] {
        world.commit_as(Some((id(1), one.epoch)), &[at], offset, Some(producer)).unwrap();
        assert_eq!(world.committed(at, false), Some(Some(1)), "as before, for now");
        assert_eq!(world.committed(at, true), None, "unstable");
        world.load();
        assert_eq!(world.committed(at, true), None, "also after the coordinator has moved (T36)");
        world.mark(bumped, commit);
        assert_eq!(world.committed(at, true), Some(Some(expected)));
    }
}

#[test]
fn t39_a_commit_after_that_of_an_open_transaction_stays_when_that_commits() {
    let mut world = World::new();
    let one = Client::join(&mut world, 1);
    let at = *one.owned.first().unwrap();
    let producer = ProducerIdentity { id: ProducerId::new(4), epoch: ProducerEpoch::new(0) };
    world.commit_as(Some((id(1), one.epoch)), &[at], 10, Some(producer)).unwrap();
    world.commit(Some((id(1), one.epoch)), &[at], 12).unwrap();
    world.mark(producer, true);
    assert_eq!(world.committed(at, true), Some(Some(12)));
}

#[test]
fn what_an_answer_said_that_was_lost_is_said_again() {
    let mut world = World::new();
    let mut one = Client::join(&mut world, 1);
    let mut two = Client::join(&mut world, 2);
    one.beat(&mut world).unwrap();
    two.beat(&mut world).unwrap();
    // It lets go, gets the next epoch, and does not hear of it.
    let before = one.epoch;
    let lost = world.beat(Heartbeat { owned: Some(one.owned.clone()), ..beat(1, before) }).unwrap();
    assert!(lost.epoch.get() > before);
    let again = world.beat(beat(1, before)).unwrap();
    assert_eq!((again.epoch, again.assignment), (lost.epoch, lost.assignment));
}

#[test]
fn t39_offsets_of_an_empty_group_expire_but_not_those_of_an_open_transaction() {
    let mut world = World::new();
    let one = Client::join(&mut world, 1);
    let at: Vec<_> = one.owned.iter().copied().collect();
    world.commit(Some((id(1), one.epoch)), &at, 1).unwrap();
    let producer = ProducerIdentity { id: ProducerId::new(4), epoch: ProducerEpoch::new(0) };
    world.commit_as(Some((id(1), one.epoch)), &at[..1], 2, Some(producer)).unwrap();
    world.beat(beat(1, -1)).unwrap();
    let day = Duration::from_secs(24 * 3600);
    world.pass(day * 6);
    assert_eq!(world.committed(at[1], false), Some(Some(1)));
    world.pass(day * 2);
    assert_eq!(world.committed(at[1], false), Some(None));
    assert_eq!(world.committed(at[0], false), Some(Some(1)));
    world.mark(producer, false);
    world.pass(day);
    assert!(world.shard.groups().is_empty(), "nothing is left of it");
}

#[test]
fn groups_are_listed_described_and_deleted() {
    let mut world = World::new();
    assert_eq!(world.ask(Request::DescribeGroup(group())).unwrap_err().code(), ErrorCode::GroupIdNotFound);
    let one = Client::join(&mut world, 1);
    let Ok(Response::Group(found)) = world.ask(Request::DescribeGroup(group())) else { panic!() };
    assert_eq!((found.listed.state, found.members.len(), found.assignor.as_str()), ("Stable", 1, "uniform"));
    let Ok(Response::Counted(counts)) = world.ask(Request::CountGroups) else { panic!() };
    assert_eq!((counts.by_state, counts.members), (BTreeMap::from([("Stable", 1)]), 1));
    assert_eq!(counts.epochs, u64::try_from(found.epoch).unwrap());
    world.commit(Some((id(1), one.epoch)), &[tp(1, 0)], 4).unwrap();
    assert_eq!(world.ask(Request::DeleteGroup(group())).unwrap_err().code(), ErrorCode::NonEmptyGroup);
    let subscribed = world.ask(Request::DeleteOffsets { group: group(), partitions: vec![tp(1, 0)] });
    assert_eq!(subscribed.unwrap_err().code(), ErrorCode::GroupSubscribedToTopic);
    world.beat(beat(1, -1)).unwrap();
    let Ok(Response::Groups(listed)) = world.ask(Request::ListGroups) else { panic!() };
    let (kind, protocol_type) = (GroupKind::Consumer, "consumer".to_owned());
    assert_eq!(listed, [ListedGroup { group: group(), kind, state: "Empty", protocol_type }]);
    world.ask(Request::DeleteGroup(group())).unwrap();
    assert!(world.shard.groups().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Join(usize),
    /// With what it has, or (late) with what it had before.
    Beat(usize),
    /// Its answer is lost.
    Lost(usize),
    /// It arrives only after the next one, which says the same or more.
    Overtaken(usize),
    Leave(usize),
    /// It is not heard of any more.
    Die(usize),
    Time(u64),
    Move,
    Commit(usize),
    Grow,
}

fn step() -> impl Strategy<Value = Step> {
    let member = 0..4_usize;
    prop_oneof![
        3 => member.clone().prop_map(Step::Join),
        10 => member.clone().prop_map(Step::Beat),
        2 => member.clone().prop_map(Step::Lost),
        2 => member.clone().prop_map(Step::Overtaken),
        1 => member.clone().prop_map(Step::Leave),
        1 => member.clone().prop_map(Step::Die),
        2 => (1..6_000_u64).prop_map(Step::Time),
        1 => Just(Step::Move),
        3 => member.prop_map(Step::Commit),
        1 => Just(Step::Grow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// P5, over everything that can happen to members and coordinators. Live state is compared with replayed state at
    /// each append.
    #[test]
    fn p5_no_partition_has_two_owners_and_only_owners_commit(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        let mut clients: BTreeMap<usize, Client> = BTreeMap::new();
        // Each life of a member has its own id.
        let mut lives = 0;
        let mut size = 6;
        for step in steps {
            match step {
                Step::Join(slot) if !clients.contains_key(&slot) => {
                    lives += 1;
                    let client = Client::join(&mut world, lives);
                    clients.insert(slot, client);
                }
                Step::Beat(slot) => {
                    if let Some(client) = clients.get_mut(&slot)
                        && client.beat(&mut world).is_err()
                    {
                        clients.remove(&slot);
                    }
                }
                Step::Lost(slot) => {
                    if let Some(client) = clients.get_mut(&slot)
                        && world.beat(client.next_beat()).is_err()
                    {
                        clients.remove(&slot);
                    }
                }
                Step::Overtaken(slot) => {
                    let Some(client) = clients.get_mut(&slot) else { continue };
                    let Some(late) = client.last.clone() else { continue };
                    if client.beat(&mut world).is_err() {
                        clients.remove(&slot);
                        continue;
                    }
                    let is_refused = matches!(world.beat(late), Err(Error::Overtaken { .. }));
                    prop_assert!(is_refused);
                }
                Step::Leave(slot) => {
                    if let Some(client) = clients.remove(&slot) {
                        // It may have been put out already.
                        let _ = world.beat(beat(client.number, -1));
                    }
                }
                Step::Die(slot) => _ = clients.remove(&slot),
                Step::Time(ms) => {
                    world.pass(Duration::from_millis(ms));
                    // One that was put out must not act as if it were not: it hears of it with its next heartbeat or commit.
                }
                Step::Move => world.load(),
                Step::Commit(slot) => {
                    if let Some(client) = clients.get(&slot) {
                        let owned: Vec<_> = client.owned.iter().copied().collect();
                        let taken = world.commit(Some((id(client.number), client.epoch)), &owned, 1).is_ok();
                        let known = world.shard.groups().get(&group()).is_some_and(|it| it.group.members.contains_key(&id(client.number)));
                        prop_assert_eq!(taken, known, "a member commits what it has");
                    }
                }
                Step::Grow => {
                    size += 1;
                    world.topics = topics(&[size, 3]);
                    let effects = world.shard.on_topics(world.now, &world.topics.clone());
                    world.append(effects.write);
                }
                Step::Join(_) => {}
            }
            // What members believe to have, of those that the coordinator has not put out.
            let members: BTreeSet<MemberId> =
                world.shard.groups().get(&group()).map(|it| it.group.members.keys().cloned().collect()).unwrap_or_default();
            let mut owners: BTreeMap<TopicPartition, usize> = BTreeMap::new();
            for client in clients.values().filter(|client| members.contains(&id(client.number))) {
                for tp in &client.owned {
                    let other = owners.insert(*tp, client.number);
                    prop_assert_eq!(other, None, "{} is also member {}'s", tp, client.number);
                }
            }
        }
        // Whoever is left shares everything.
        let mut left: Vec<&mut Client> = clients.values_mut().collect();
        for _ in 0..6 {
            world.pass(Duration::from_millis(4_000));
            left.retain_mut(|client| client.beat(&mut world).is_ok());
        }
        if !left.is_empty() {
            let owned: usize = left.iter().map(|client| client.owned.len()).sum();
            let all: usize = world.topics.iter().map(|(_, topic)| topic.partitions() as usize).sum();
            prop_assert_eq!(owned, all);
        }
    }
}

#[test]
fn a_part_of_a_subscription_that_is_not_stated_stays() {
    let mut world = World::new();
    let part = |topics: Option<&str>, pattern: Option<&str>| SubscriptionChange {
        topics: topics.map(|name| [name.to_owned()].into()),
        pattern: pattern.map(str::to_owned),
    };
    let mut subscribed = |number, epoch, subscription| {
        let beat = Heartbeat { subscription, owned: (epoch == 0).then(BTreeSet::new), ..beat(number, epoch) };
        let answer = world.beat(beat).unwrap();
        let group = world.shard.group(&group());
        (answer.epoch.get(), group.members[&id(number)].subscription.clone())
    };
    let (epoch, joined) = subscribed(1, 0, part(Some("topic-0"), None));
    assert_eq!((joined.topics.len(), joined.pattern.as_str()), (1, ""));
    let (epoch, both) = subscribed(1, epoch, part(None, Some("topic-1")));
    assert_eq!((both.topics.len(), both.pattern.as_str()), (1, "topic-1"));
    let (epoch, other) = subscribed(1, epoch, part(Some("topic-2"), None));
    assert_eq!((other.topics.first().unwrap().as_str(), other.pattern.as_str()), ("topic-2", "topic-1"));
    let (_, without) = subscribed(1, epoch, part(None, Some("")));
    assert_eq!((without.topics.len(), without.pattern.as_str()), (1, ""));
}

#[test]
fn t47_what_would_be_too_large_a_record_or_batch_is_refused() {
    let mut world = World::new();
    let max = GroupConfig::default().classic_bytes_max;
    let whole = |topics: BTreeSet<String>| SubscriptionChange { topics: Some(topics), pattern: None };
    let names: BTreeSet<String> = (0..200).map(|n| format!("{n:0>width$}", width = max / 150)).collect();
    let refused = world.beat(Heartbeat { subscription: whole(names.clone()), ..joining(1) }).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::RecordTooLarge);
    let epoch = world.beat(joining(1)).unwrap().epoch.get();
    let refused = world.beat(Heartbeat { subscription: whole(names), ..beat(1, epoch) }).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::RecordTooLarge);
    let offset = OffsetCommit {
        partition: tp(0, 0),
        offset: Offset::new(1),
        leader_epoch: LeaderEpoch::NONE,
        metadata: "x".repeat(4000),
    };
    let request = Request::CommitOffsets {
        group: group(),
        member: Some((id(1), MemberEpoch::new(epoch))),
        instance: None,
        offsets: vec![offset; max / 4000],
        transaction: None,
    };
    assert_eq!(world.ask(request).unwrap_err().code(), ErrorCode::RecordTooLarge);
}
