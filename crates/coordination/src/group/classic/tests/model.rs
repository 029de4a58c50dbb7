//! Members that join, sync, live, lose answers, die and return, and coordinators that move and lose what was not committed.

use proptest::prelude::*;

use super::*;

const SLOTS: usize = 5;

#[derive(Debug, Clone)]
enum Step {
    /// What a client does next.
    Act(usize),
    /// It begins anew, for reasons of its own, perhaps with other metadata.
    Rejoin(usize, bool),
    /// An answer gets lost; it will ask again.
    Lose(usize),
    Commit(usize, i32),
    Leave(usize),
    Die(usize),
    Time(u64),
    Move,
    /// What comes next is not committed: the coordinator moves before.
    LoseNext,
    /// A member of the other protocol joins, or leaves.
    Other(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    prop_oneof![
        20 => slot.clone().prop_map(Step::Act),
        2 => (slot.clone(), any::<bool>()).prop_map(|(slot, changed)| Step::Rejoin(slot, changed)),
        2 => slot.clone().prop_map(Step::Lose),
        4 => (slot.clone(), 0..2).prop_map(|(slot, older)| Step::Commit(slot, older)),
        1 => slot.clone().prop_map(Step::Leave),
        2 => slot.prop_map(Step::Die),
        6 => (1..5_000_u64).prop_map(Step::Time),
        1 => Just(Step::Move),
        1 => Just(Step::LoseNext),
        1 => any::<bool>().prop_map(Step::Other),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Join,
    Sync,
}

/// One client, as it sees itself.
#[derive(Debug, Clone, Default)]
struct Client {
    id: Option<MemberId>,
    joined: Option<JoinAnswer>,
    assignment: Option<Bytes>,
    metadata: u8,
}

struct Model {
    world: World,
    clients: [Option<Client>; SLOTS],
    waits: BTreeMap<usize, (Token, Waits)>,
    lives: usize,
    lose_next: bool,
    /// What was answered of each generation: the leader (its instance, if it has one) and the protocol.
    generations: BTreeMap<i32, (String, String)>,
    /// And the one assignment, which has a number of its own.
    assignments: BTreeMap<i32, String>,
    assigned: usize,
    identities: BTreeMap<MemberId, String>,
    /// A member of the other protocol is in the group.
    has_other: bool,
}

/// Two of the slots are static members.
fn instance_of(slot: usize) -> Option<InstanceId> {
    (slot < 2).then(|| instance(&format!("s{slot}")))
}

impl Model {
    fn new() -> Self {
        Self {
            world: World::new(),
            clients: Default::default(),
            waits: BTreeMap::new(),
            lives: 0,
            lose_next: false,
            generations: BTreeMap::new(),
            assignments: BTreeMap::new(),
            assigned: 0,
            identities: BTreeMap::new(),
            has_other: false,
        }
    }

    fn move_coordinator(&mut self) {
        self.world.load();
        // Whoever waits is told that the coordinator has moved, and asks the next one.
        self.waits.clear();
        self.world.replies.clear();
    }

    fn send(&mut self, request: Request) -> Option<Token> {
        if std::mem::take(&mut self.lose_next) {
            self.world.shard.handle(self.world.now, Token(u64::MAX), request);
            self.move_coordinator();
            return None;
        }
        let token = self.world.send(request);
        Some(token)
    }

    fn join(&mut self, slot: usize) {
        self.lives += 1;
        let client = self.clients[slot].get_or_insert_default();
        client.joined = None;
        client.assignment = None;
        let names = [["p", "q"].as_slice(), &["q", "p"], &["p"]][slot % 3];
        let metadata = Bytes::from(vec![slot as u8, client.metadata]);
        let protocol = |name: &&str| Protocol { name: (*name).to_owned(), metadata: metadata.clone() };
        let fresh = member(&format!("m{}-{}", slot, self.lives));
        self.identities.insert(fresh.clone(), instance_of(slot).map_or(fresh.to_string(), |it| it.to_string()));
        let request = JoinRequest {
            member: client.id.clone(),
            fresh,
            instance: instance_of(slot),
            session_timeout: Duration::from_secs(6 + 5 * slot as u64),
            protocols: names.iter().map(protocol).collect(),
            require_known_member: slot == 2,
            ..joining("unused")
        };
        if let Some(token) = self.send(Request::Join(request)) {
            self.waits.insert(slot, (token, Waits::Join));
        }
    }

    fn sync(&mut self, slot: usize, joined: &JoinAnswer) {
        self.assigned += 1;
        let number = Bytes::from(format!("{}", self.assigned));
        let leads = joined.leader == joined.member && !joined.skip_assignment;
        let to = joined.members.iter().filter(|_| leads).map(|it| (it.member.clone(), number.clone()));
        let request = SyncRequest {
            instance: instance_of(slot),
            protocol: Some(joined.protocol.clone()),
            assignments: to.collect(),
            ..syncing(&joined.member, joined.generation.get(), &[])
        };
        if let Some(token) = self.send(Request::Sync(request)) {
            self.waits.insert(slot, (token, Waits::Sync));
        }
    }

    fn act(&mut self, slot: usize) -> Result<(), TestCaseError> {
        if self.waits.contains_key(&slot) {
            return Ok(());
        }
        match self.clients[slot].clone() {
            Some(Client { joined: Some(joined), assignment: None, .. }) => self.sync(slot, &joined),
            Some(Client { joined: Some(joined), .. }) => {
                let (member, generation, instance) = (joined.member, joined.generation, instance_of(slot));
                let request = Request::ClassicHeartbeat { group: group(), member, generation, instance };
                let token = self.send(request);
                if let Some(Some(Err(error))) = token.map(|token| self.world.reply(token)) {
                    self.refused(slot, &error)?;
                }
            }
            Some(_) | None => self.join(slot),
        }
        Ok(())
    }

    fn refused(&mut self, slot: usize, error: &Error) -> Result<(), TestCaseError> {
        let Some(client) = &mut self.clients[slot] else { return Ok(()) };
        (client.joined, client.assignment) = (None, None);
        match error.code() {
            ErrorCode::UnknownMemberId => client.id = None,
            ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration => {}
            ErrorCode::InconsistentGroupProtocol if self.has_other => {}
            other => prop_assert!(false, "slot {slot}: {other}: {error}"),
        }
        Ok(())
    }

    /// Clients hear what they were answered.
    fn hear(&mut self) -> Result<(), TestCaseError> {
        for (slot, (token, waits)) in self.waits.clone() {
            let Some(reply) = self.world.reply(token) else { continue };
            self.waits.remove(&slot);
            match reply {
                Ok(Response::Joined(answer)) => {
                    prop_assert_eq!(waits, Waits::Join);
                    self.check_joined(&answer)?;
                    let client = self.clients[slot].get_or_insert_default();
                    client.id = Some(answer.member.clone());
                    client.joined = Some(answer);
                }
                Ok(Response::MemberIdRequired(id)) => self.clients[slot].get_or_insert_default().id = Some(id),
                Ok(Response::Synced(answer)) => {
                    prop_assert_eq!(waits, Waits::Sync);
                    let client = self.clients[slot].get_or_insert_default();
                    let joined = client.joined.clone().unwrap();
                    client.assignment = Some(answer.assignment.clone());
                    prop_assert_eq!(&answer.protocol, &joined.protocol);
                    let number = String::from_utf8(answer.assignment.to_vec()).unwrap();
                    let one = self.assignments.entry(joined.generation.get()).or_insert_with(|| number.clone());
                    prop_assert_eq!(&*one, &number, "one assignment of a generation, for all");
                }
                Ok(other) => prop_assert!(false, "{other:?}"),
                Err(error) => self.refused(slot, &error)?,
            }
        }
        Ok(())
    }

    fn check_joined(&mut self, answer: &JoinAnswer) -> Result<(), TestCaseError> {
        let told = (self.identities[&answer.leader].clone(), answer.protocol.clone());
        let known = self.generations.entry(answer.generation.get()).or_insert_with(|| told.clone());
        prop_assert_eq!(&*known, &told, "one leader and one protocol of a generation");
        let newest = self.generations.keys().next_back();
        prop_assert_eq!(newest, Some(&answer.generation.get()), "no older one is answered again");
        prop_assert_eq!(answer.members.is_empty(), answer.leader != answer.member, "the leader is told who there is");
        Ok(())
    }

    fn commit(&mut self, slot: usize, older: i32) -> Result<(), TestCaseError> {
        let Some(joined) = self.clients[slot].as_ref().and_then(|client| client.joined.clone()) else { return Ok(()) };
        let generation = joined.generation.get() - older;
        let taken = self.world.commit(Some((&joined.member, generation)), 1);
        if taken.is_ok() {
            prop_assert_eq!(Some(&generation), self.generations.keys().next_back(), "none of an older generation");
        }
        Ok(())
    }

    fn other(&mut self, joins: bool) -> Result<(), TestCaseError> {
        let asked = other_beat(if joins { 0 } else { -1 });
        let Some(token) = self.send(Request::Heartbeat(asked)) else { return Ok(()) };
        match self.world.reply(token).unwrap() {
            Ok(_) => {
                let live = self.world.shard.classic.get(&group());
                prop_assert!(live.is_none_or(|live| !live.has_members()), "members of one kind only");
                self.has_other = joins;
            }
            Err(error) if joins => prop_assert_eq!(error.code(), ErrorCode::InconsistentGroupProtocol),
            Err(error) => prop_assert_eq!(error.code(), ErrorCode::UnknownMemberId),
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Act(slot) => self.act(slot)?,
            Step::Rejoin(slot, changed) if !self.waits.contains_key(&slot) => {
                if let Some(client) = &mut self.clients[slot] {
                    client.metadata += u8::from(changed);
                    self.join(slot);
                }
            }
            Step::Lose(slot) => _ = self.waits.remove(&slot),
            Step::Commit(slot, older) => self.commit(slot, older)?,
            Step::Leave(slot) => {
                self.waits.remove(&slot);
                if let Some(Client { id: Some(id), .. }) = self.clients[slot].take() {
                    let members = vec![LeavingMember { member: Some(id), instance: instance_of(slot) }];
                    self.send(Request::Leave { group: group(), members });
                }
            }
            Step::Die(slot) => {
                self.waits.remove(&slot);
                self.clients[slot] = None;
            }
            Step::Other(joins) => self.other(joins)?,
            Step::Time(ms) => self.world.pass(Duration::from_millis(ms)),
            Step::Move => self.move_coordinator(),
            Step::LoseNext => self.lose_next = true,
            Step::Rejoin(..) => {}
        }
        self.hear()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Live state is compared with replayed state, and answers are counted, after each step: see `World::take`.
    #[test]
    fn a_generation_is_one_and_the_group_settles(steps in proptest::collection::vec(step(), 1..200)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step)?;
        }
        // Quiet: whoever lives goes on, and nothing else happens.
        model.lose_next = false;
        model.other(false)?;
        for _ in 0..200 {
            model.world.pass(Duration::from_secs(1));
            model.hear()?;
            for slot in 0..SLOTS {
                if model.clients[slot].is_some() {
                    model.act(slot)?;
                    model.hear()?;
                }
            }
        }
        prop_assert!(model.world.waiting.is_empty(), "everybody is answered");
        let living: Vec<&Client> = model.clients.iter().flatten().collect();
        let state = model.world.shard.classic.get(&group()).map_or("Empty", |live| live.state());
        prop_assert_eq!(state, if living.is_empty() { "Empty" } else { "Stable" });
        let newest = model.generations.keys().next_back();
        for client in &living {
            prop_assert!(client.assignment.is_some());
            prop_assert_eq!(client.joined.as_ref().map(|it| it.generation.get()), newest.copied());
        }
        let members = model.world.shard.classic.get(&group()).map_or(0, |live| live.members.len());
        prop_assert_eq!(members, living.len());
    }
}
