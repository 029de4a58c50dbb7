//! Members of both protocols in one group, which changes its kind as they come and go, over all that can happen to them.

use proptest::prelude::*;

use super::migration::{consumer_metadata, has, partitions_of, topic_of};
use super::*;

/// Classic ones come first.
const SLOTS: usize = 6;
const CLASSIC: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// What a client does next.
    Act(usize),
    /// All do, in their order: it settles.
    Settle(usize),
    Lose(usize),
    /// A commit of what it had in an epoch or generation before.
    CommitOld(usize),
    Commit(usize),
    Leave(usize),
    Die(usize),
    Time(u64),
    Move,
    LoseNext,
    Grow,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    prop_oneof![
        20 => slot.clone().prop_map(Step::Act),
        3 => (1..8_usize).prop_map(Step::Settle),
        2 => slot.clone().prop_map(Step::Lose),
        3 => slot.clone().prop_map(Step::CommitOld),
        2 => slot.clone().prop_map(Step::Commit),
        2 => slot.clone().prop_map(Step::Leave),
        2 => slot.prop_map(Step::Die),
        6 => (1..4_000_u64).prop_map(Step::Time),
        1 => Just(Step::Move),
        1 => Just(Step::LoseNext),
        1 => Just(Step::Grow),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Out,
    Joined,
    Synced,
}

/// One client, as it sees itself.
#[derive(Debug, Clone)]
struct Client {
    id: Option<MemberId>,
    phase: Phase,
    epoch: i32,
    owned: BTreeSet<u32>,
    joined: Option<JoinAnswer>,
    /// What it had, and when.
    former: Vec<(i32, BTreeSet<u32>)>,
}

struct Model {
    world: World,
    /// Classic clients give up only what they should; otherwise everything before they join.
    is_cooperative: bool,
    clients: [Option<Client>; SLOTS],
    waits: BTreeMap<usize, Token>,
    lives: usize,
    lose_next: bool,
    partitions: u32,
    upgrades: usize,
}

impl Client {
    fn lose(&mut self) {
        self.remember();
        self.owned.clear();
        self.phase = Phase::Out;
    }

    fn remember(&mut self) {
        self.former.push((self.epoch, self.owned.clone()));
    }

    fn is_in(&self, world: &World) -> bool {
        self.id.as_ref().is_some_and(|id| has(world, id))
    }
}

impl Model {
    fn new(is_cooperative: bool) -> Self {
        Self {
            world: World::new(),
            is_cooperative,
            clients: Default::default(),
            waits: BTreeMap::new(),
            lives: 0,
            lose_next: false,
            partitions: 4,
            upgrades: 0,
        }
    }

    fn move_coordinator(&mut self) {
        self.world.load();
        self.waits.clear();
        self.world.replies.clear();
    }

    fn send(&mut self, request: Request) -> Option<Token> {
        if std::mem::take(&mut self.lose_next) {
            self.world.shard.handle(self.world.now, Token(u64::MAX), request);
            self.move_coordinator();
            return None;
        }
        Some(self.world.send(request))
    }

    fn fresh(&mut self, slot: usize) -> MemberId {
        self.lives += 1;
        member(&format!("m{slot}-{}", self.lives))
    }

    fn act(&mut self, slot: usize) -> Result<(), TestCaseError> {
        if self.waits.contains_key(&slot) {
            return Ok(());
        }
        let client = self.clients[slot].get_or_insert(Client {
            id: None,
            phase: Phase::Out,
            epoch: 0,
            owned: BTreeSet::new(),
            joined: None,
            former: Vec::new(),
        });
        let phase = client.phase;
        let token = match (slot < CLASSIC, phase) {
            (true, Phase::Out) => self.join(slot),
            (true, Phase::Joined) => self.sync(slot),
            (true, Phase::Synced) => {
                let (member, generation) = (client.id.clone().unwrap(), Generation::new(client.epoch));
                self.send(Request::ClassicHeartbeat { group: group(), member, generation, instance: None })
            }
            (false, _) => self.heartbeat(slot),
        };
        if let Some(token) = token {
            self.waits.insert(slot, token);
        }
        self.hear()
    }

    fn join(&mut self, slot: usize) -> Option<Token> {
        let fresh = self.fresh(slot);
        let is_cooperative = self.is_cooperative;
        let client = self.clients[slot].as_mut().unwrap();
        if !is_cooperative {
            client.remember();
            client.owned.clear();
        }
        let metadata = consumer_metadata(&client.owned);
        let request = JoinRequest {
            member: client.id.clone(),
            session_timeout: Duration::from_secs(6 + 5 * slot as u64),
            protocol_type: "consumer".to_owned(),
            protocols: vec![Protocol { name: "p".to_owned(), metadata }],
            require_known_member: slot == 1,
            ..joining(fresh.as_str())
        };
        self.send(Request::Join(request))
    }

    /// The leader of a classic group assigns by turns; a cooperative one gives to nobody what another has.
    fn sync(&mut self, slot: usize) -> Option<Token> {
        let joined = self.clients[slot].as_ref().unwrap().joined.clone().unwrap();
        let owned: BTreeMap<&MemberId, BTreeSet<u32>> =
            joined.members.iter().map(|it| (&it.member, partitions_of(&it.metadata, true))).collect();
        let mut to: BTreeMap<MemberId, BTreeSet<u32>> = BTreeMap::new();
        for (number, partition) in (0..self.partitions).enumerate() {
            if joined.members.is_empty() {
                break;
            }
            let target = &joined.members[number % joined.members.len()].member;
            let is_others = owned.iter().any(|(other, owned)| *other != target && owned.contains(&partition));
            if !is_others {
                to.entry(target.clone()).or_default().insert(partition);
            }
        }
        let assignments = to.into_iter().map(|(member, them)| (member, super::migration::assignment(&them)));
        let request = SyncRequest {
            protocol_type: Some("consumer".to_owned()),
            protocol: Some(joined.protocol.clone()),
            assignments: assignments.collect(),
            ..syncing(&joined.member, joined.generation.get(), &[])
        };
        self.send(Request::Sync(request))
    }

    fn heartbeat(&mut self, slot: usize) -> Option<Token> {
        let fresh = self.fresh(slot);
        let client = self.clients[slot].as_mut().unwrap();
        let id = client.id.get_or_insert(fresh).clone();
        let epoch = if client.phase == Phase::Out { 0 } else { client.epoch };
        let owned = client.owned.iter().map(|it| tp(*it)).collect();
        self.send(Request::Heartbeat(Heartbeat { member: id, owned: Some(owned), ..other_beat(epoch) }))
    }

    fn hear(&mut self) -> Result<(), TestCaseError> {
        for (slot, token) in self.waits.clone() {
            let Some(reply) = self.world.reply(token) else { continue };
            self.waits.remove(&slot);
            let Some(client) = &mut self.clients[slot] else { continue };
            match reply {
                Ok(Response::MemberIdRequired(id)) => client.id = Some(id),
                Ok(Response::Joined(answer)) => {
                    client.id = Some(answer.member.clone());
                    prop_assert!(answer.generation.get() >= client.epoch, "generations only grow");
                    client.epoch = answer.generation.get();
                    client.phase = Phase::Joined;
                    client.joined = Some(answer);
                }
                Ok(Response::Synced(answer)) => {
                    let told = partitions_of(&answer.assignment, false);
                    let gives_up = client.owned.difference(&told).count() > 0;
                    client.remember();
                    client.owned = told;
                    client.phase = if gives_up { Phase::Out } else { Phase::Synced };
                }
                Ok(Response::Heartbeat(answer)) => {
                    prop_assert!(answer.epoch.get() >= client.epoch, "epochs only grow");
                    self.upgrades += usize::from(client.phase == Phase::Out);
                    client.remember();
                    client.epoch = answer.epoch.get();
                    client.phase = Phase::Synced;
                    if let Some(told) = answer.assignment {
                        client.owned = told.into_iter().map(|tp| tp.partition.get()).collect();
                    }
                }
                Ok(Response::Alive) => {}
                Ok(other) => prop_assert!(false, "{other:?}"),
                Err(error) => match error.code() {
                    ErrorCode::UnknownMemberId => {
                        client.lose();
                        (client.id, client.epoch) = (None, 0);
                    }
                    ErrorCode::IllegalGeneration | ErrorCode::FencedMemberEpoch => client.lose(),
                    ErrorCode::RebalanceInProgress => client.phase = Phase::Out,
                    other => prop_assert!(false, "slot {slot}: {other}: {error}"),
                },
            }
        }
        self.check_owners()
    }

    /// What clients believe to have, of those that the coordinator counts as members.
    fn check_owners(&self) -> Result<(), TestCaseError> {
        let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
        for (slot, client) in self.clients.iter().enumerate() {
            let Some(client) = client.as_ref().filter(|client| client.is_in(&self.world)) else { continue };
            for partition in &client.owned {
                let other = owners.insert(*partition, slot);
                prop_assert_eq!(other, None, "{} of {} has another owner", partition, slot);
            }
        }
        Ok(())
    }

    fn commit(&mut self, slot: usize, id: &MemberId, epoch: i32, them: &BTreeSet<u32>) -> Result<bool, TestCaseError> {
        for partition in them {
            let commit = OffsetCommit {
                partition: tp(*partition),
                offset: Offset::new(1),
                leader_epoch: LeaderEpoch::NONE,
                metadata: String::new(),
            };
            let asked = Request::CommitOffsets {
                group: group(),
                member: Some((id.clone(), MemberEpoch::new(epoch))),
                instance: None,
                offsets: vec![commit],
                transaction: None,
            };
            if self.world.ask(asked).is_err() {
                return Ok(false);
            }
            let is_owner = |(other, client): (usize, &Option<Client>)| {
                let client = client.as_ref().filter(|client| client.is_in(&self.world));
                other != slot && client.is_some_and(|client| client.owned.contains(partition))
            };
            prop_assert!(!self.clients.iter().enumerate().any(is_owner), "{} is another's", partition);
        }
        Ok(true)
    }

    fn commit_old(&mut self, slot: usize) -> Result<(), TestCaseError> {
        let Some(client) = self.clients[slot].clone() else { return Ok(()) };
        let Some(id) = client.id.clone() else { return Ok(()) };
        for (epoch, them) in client.former.iter().rev().take(4) {
            let is_older = *epoch < client.epoch;
            let taken = if is_older { self.commit(slot, &id, *epoch, them)? } else { false };
            prop_assert!(slot >= CLASSIC || them.is_empty() || !taken, "none of an older generation");
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Act(slot) => self.act(slot)?,
            Step::Settle(rounds) => {
                for slot in (0..rounds).flat_map(|_| 0..SLOTS) {
                    if self.clients[slot].is_some() {
                        self.act(slot)?;
                    }
                }
            }
            Step::Lose(slot) => _ = self.waits.remove(&slot),
            Step::CommitOld(slot) => self.commit_old(slot)?,
            Step::Commit(slot) => {
                if let Some(Client { id: Some(id), epoch, owned, phase: Phase::Synced, .. }) =
                    self.clients[slot].clone()
                {
                    self.commit(slot, &id, epoch, &owned)?;
                }
            }
            Step::Leave(slot) => {
                self.waits.remove(&slot);
                match self.clients[slot].take() {
                    Some(Client { id: Some(id), .. }) if slot < CLASSIC => {
                        let members = vec![LeavingMember { member: Some(id), instance: None }];
                        self.send(Request::Leave { group: group(), members });
                    }
                    Some(Client { id: Some(id), .. }) => {
                        self.send(Request::Heartbeat(Heartbeat { member: id, ..other_beat(-1) }));
                    }
                    _ => {}
                }
            }
            Step::Die(slot) => {
                self.waits.remove(&slot);
                self.clients[slot] = None;
            }
            Step::Time(ms) => self.world.pass(Duration::from_millis(ms)),
            Step::Move => self.move_coordinator(),
            Step::LoseNext => self.lose_next = true,
            Step::Grow if self.partitions < 9 => {
                self.partitions += 1;
                self.world.topics = topic_of(self.partitions);
                let effects = self.world.shard.on_topics(self.world.now, &self.world.topics.clone());
                self.world.take(effects);
            }
            Step::Grow => {}
        }
        self.hear()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// P5, T38 and T40 for both at once. Live state is compared with replayed state after each step: see `World::take`.
    #[test]
    fn p5_a_partition_has_one_owner_among_members_of_both_kinds_and_the_group_settles(
        is_cooperative in any::<bool>(), steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut model = Model::new(is_cooperative);
        for step in steps {
            model.step(step)?;
        }
        model.lose_next = false;
        for _ in 0..150 {
            model.world.pass(Duration::from_secs(1));
            model.hear()?;
            for slot in 0..SLOTS {
                if model.clients[slot].is_some() {
                    model.act(slot)?;
                }
            }
        }
        prop_assert!(model.world.waiting.is_empty(), "everybody is answered");
        let is_there = |slots: std::ops::Range<usize>| model.clients[slots].iter().any(Option::is_some);
        let live = model.world.shard.classic.get(&group()).map_or("Empty", |live| live.state());
        let expected = if is_there(0..CLASSIC) && !is_there(CLASSIC..SLOTS) { "Stable" } else { "Empty" };
        prop_assert_eq!(live, expected);
        let living: Vec<&Client> = model.clients.iter().flatten().collect();
        prop_assert!(living.iter().all(|client| client.phase == Phase::Synced && client.is_in(&model.world)));
        let owned: usize = living.iter().map(|client| client.owned.len()).sum();
        let everything = model.partitions as usize;
        // Who leads a classic group does not look at topics by itself.
        prop_assert!(living.is_empty() || owned == everything || expected == "Stable", "{} of {}", owned, everything);
    }
}
