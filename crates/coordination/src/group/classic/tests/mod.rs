//! The classic protocol, driven as the runtime drives it.

mod both_kinds;
mod effects;
mod migration;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use highwater_types::*;

use super::super::*;
use crate::{CoordinatorRecord, Now, Shard, Token, TopicInfo, Topics};

type Reply = Result<Response, Error>;

/// A shard with its log, and who waits.
struct World {
    shard: GroupShard,
    config: GroupConfig,
    log: Vec<CoordinatorRecord>,
    now: Now,
    topics: Topics,
    tokens: u64,
    waiting: BTreeSet<Token>,
    replies: BTreeMap<Token, Reply>,
}

fn group() -> GroupId {
    GroupId::new("g").unwrap()
}

fn member(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn instance(name: &str) -> InstanceId {
    InstanceId::new(name).unwrap()
}

fn tp(partition: u32) -> TopicPartition {
    TopicPartition::new(TopicId::from_u128(1), PartitionId::new(partition))
}

fn protocol(name: &str, metadata: &'static str) -> Protocol {
    Protocol { name: name.to_owned(), metadata: Bytes::from_static(metadata.as_bytes()) }
}

/// Of a member that has no id yet, and gets `fresh`.
fn joining(fresh: &str) -> JoinRequest {
    JoinRequest {
        group: group(),
        member: None,
        fresh: member(fresh),
        instance: None,
        session_timeout: Duration::from_secs(10),
        rebalance_timeout: Duration::from_secs(30),
        protocol_type: "t".to_owned(),
        protocols: vec![protocol("p", "of p")],
        require_known_member: false,
        client_id: "c".to_owned(),
        client_host: "h".to_owned(),
    }
}

fn rejoining(id: &str) -> JoinRequest {
    JoinRequest { member: Some(member(id)), ..joining("unused") }
}

fn static_joining(fresh: &str, name: &str) -> JoinRequest {
    JoinRequest { instance: Some(instance(name)), ..joining(fresh) }
}

fn syncing(id: &MemberId, generation: i32, assignments: &[(&MemberId, &str)]) -> SyncRequest {
    let one = |(id, bytes): &(&MemberId, &str)| ((*id).clone(), Bytes::copy_from_slice(bytes.as_bytes()));
    SyncRequest {
        group: group(),
        member: id.clone(),
        generation: Generation::new(generation),
        instance: None,
        protocol_type: None,
        protocol: None,
        assignments: assignments.iter().map(one).collect(),
    }
}

/// Of a member of the other protocol (KIP-848).
fn other_beat(epoch: i32) -> Heartbeat {
    Heartbeat {
        group: group(),
        member: member("other"),
        epoch: MemberEpoch::new(epoch),
        number: 0,
        instance: None,
        rack: None,
        rebalance_timeout: None,
        subscription: Subscription { topics: ["topic".to_owned()].into(), pattern: String::new() }.into(),
        assignor: None,
        owned: None,
        client_id: String::new(),
        client_host: String::new(),
    }
}

impl World {
    fn new() -> Self {
        Self::with(GroupConfig::default())
    }

    fn with(config: GroupConfig) -> Self {
        let info = TopicInfo { name: TopicName::new("topic").unwrap(), racks: vec![Vec::new(); 4] };
        let mut world = Self {
            shard: GroupShard::new(config.clone()),
            config,
            log: Vec::new(),
            now: Now { elapsed: Duration::ZERO, wall: TimestampMs::new(1_000_000) },
            topics: Topics::new([(TopicId::from_u128(1), info)]),
            tokens: 0,
            waiting: BTreeSet::new(),
            replies: BTreeMap::new(),
        };
        world.load();
        world
    }

    fn take(&mut self, effects: crate::Effects<Response, Error, Action>) {
        let is_written = effects.write.is_some();
        for record in effects.write.iter().flat_map(|write| &write.records) {
            self.shard.replay(Offset::ZERO, None, record).unwrap();
            self.log.push(record.clone());
        }
        for (token, reply) in effects.replies {
            assert!(self.waiting.remove(&token), "{token:?} is answered once: {reply:?}");
            self.replies.insert(token, reply);
        }
        if is_written {
            assert_eq!(self.replayed().groups(), self.shard.groups(), "live state is replayed state");
        }
        for (id, live) in &self.shard.classic {
            let entry = self.shard.groups().get(id);
            assert!(!live.is_idle());
            if !matches!(live.phase, super::state::Phase::Preparing { .. }) && live.has_members() {
                let entry = entry.unwrap();
                assert_eq!((Some(live.durable()), live.generation), (entry.classic.clone(), entry.group.epoch));
            }
        }
        for (id, entry) in self.shard.groups() {
            let has_members = entry.classic.as_ref().is_some_and(|it| !it.members.is_empty());
            assert!(!has_members || self.shard.classic.contains_key(id), "a group with members is live");
        }
    }

    fn replayed(&self) -> GroupShard {
        let mut shard = GroupShard::new(self.config.clone());
        self.log.iter().for_each(|record| shard.replay(Offset::ZERO, None, record).unwrap());
        shard
    }

    /// The coordinator moves: whoever waits hears so.
    fn load(&mut self) {
        self.shard = self.replayed();
        self.waiting.clear();
        let effects = self.shard.loaded(self.now, LeaderEpoch::FIRST, &self.topics);
        self.take(effects);
    }

    fn send(&mut self, request: Request) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.waiting.insert(token);
        let effects = self.shard.handle(self.now, token, request);
        self.take(effects);
        token
    }

    /// What is answered at once.
    fn ask(&mut self, request: Request) -> Reply {
        let token = self.send(request);
        self.replies.remove(&token).unwrap()
    }

    fn join(&mut self, request: JoinRequest) -> Token {
        self.send(Request::Join(request))
    }

    fn sync(&mut self, request: SyncRequest) -> Token {
        self.send(Request::Sync(request))
    }

    fn reply(&mut self, token: Token) -> Option<Reply> {
        self.replies.remove(&token)
    }

    fn joined(&mut self, token: Token) -> JoinAnswer {
        match self.reply(token) {
            Some(Ok(Response::Joined(answer))) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn synced(&mut self, token: Token) -> String {
        match self.reply(token) {
            Some(Ok(Response::Synced(answer))) => String::from_utf8(answer.assignment.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, token: Token) -> ErrorCode {
        match self.reply(token) {
            Some(Err(error)) => error.code(),
            other => panic!("{other:?}"),
        }
    }

    fn beat(&mut self, id: &MemberId, generation: i32) -> Result<(), ErrorCode> {
        self.beat_as(id, generation, None)
    }

    fn beat_as(&mut self, id: &MemberId, generation: i32, name: Option<&str>) -> Result<(), ErrorCode> {
        let (member, generation) = (id.clone(), Generation::new(generation));
        let request = Request::ClassicHeartbeat { group: group(), member, generation, instance: name.map(instance) };
        match self.ask(request) {
            Ok(Response::Alive) => Ok(()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code()),
        }
    }

    fn commit(&mut self, who: Option<(&MemberId, i32)>, offset: i64) -> Result<(), ErrorCode> {
        let commit = OffsetCommit {
            partition: tp(0),
            offset: Offset::new(offset),
            leader_epoch: LeaderEpoch::NONE,
            metadata: String::new(),
        };
        let member = who.map(|(id, generation)| (id.clone(), MemberEpoch::new(generation)));
        let request =
            Request::CommitOffsets { group: group(), member, instance: None, offsets: vec![commit], transaction: None };
        self.ask(request).map(drop).map_err(|error| error.code())
    }

    fn leave(&mut self, member: Option<&MemberId>, name: Option<&str>) -> Result<(), ErrorCode> {
        let members = vec![LeavingMember { member: member.cloned(), instance: name.map(instance) }];
        match self.ask(Request::Leave { group: group(), members }) {
            Ok(Response::Left(left)) => left[0].result.clone().map_err(|error| error.code()),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.elapsed += time;
        self.now.wall = TimestampMs::new(self.now.wall.get() + time.as_millis() as i64);
        if self.shard.next_timer().is_some_and(|at| at <= self.now.elapsed) {
            let effects = self.shard.on_time(self.now);
            self.take(effects);
        }
    }

    fn seconds(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.pass(Duration::from_secs(1)));
    }

    fn state(&mut self) -> &'static str {
        match self.ask(Request::DescribeGroup(group())) {
            Ok(Response::Group(found)) => found.listed.state,
            Err(error) if error.code() == ErrorCode::GroupIdNotFound => "Dead",
            other => panic!("{other:?}"),
        }
    }

    /// These join an empty group; each is assigned its own id. The first leads. All are dynamic, in generation 1.
    fn stable(&mut self, ids: &[&str]) -> Vec<MemberId> {
        let joins: Vec<_> = ids.iter().map(|id| self.join(joining(id))).collect();
        self.settle_initial();
        self.complete(&joins)
    }

    fn settle_initial(&mut self) {
        while self.state() == "PreparingRebalance" {
            self.seconds(1);
        }
    }

    /// All have joined: they sync.
    fn complete(&mut self, joins: &[Token]) -> Vec<MemberId> {
        let answers: Vec<_> = joins.iter().map(|join| self.joined(*join)).collect();
        let ids: Vec<_> = answers.iter().map(|answer| answer.member.clone()).collect();
        let assignments: Vec<_> = ids.iter().map(|id| (id, id.as_str())).collect();
        let syncs: Vec<_> = answers
            .iter()
            .map(|it| {
                let leads = it.leader == it.member;
                self.sync(syncing(&it.member, it.generation.get(), if leads { &assignments } else { &[] }))
            })
            .collect();
        for (sync, id) in syncs.into_iter().zip(&ids) {
            assert_eq!(self.synced(sync), id.as_str());
        }
        ids
    }
}
