//! Scenarios: faults in an order that random ones hardly come in, each against a rule of replication, of the disk or of the
//! quorum. What happens in them is fixed; to whom, and when, is drawn. Each broker leads some partition, so that whoever is drawn
//! as the leader is one.

use std::time::Duration;

use highwater_seams::{Entropy, SeededEntropy};

use super::{Episode, Fault, Kind, Plan, Way};
use crate::cluster::{CONTROLLERS, brokers, controller_host, controllers};

/// From the load's beginning to the first, and between them.
const PAUSE_MS: (u64, u64) = (800, 700);
/// Few take longer; the load then goes on until they are over.
const LASTS_MAX: Duration = Duration::from_secs(11);

/// One after the other, of the kinds that are asked for, for as long as there is time; one at least.
pub fn draw(plan: &Plan, kinds: &[Kind]) -> Vec<Episode> {
    let random = SeededEntropy::new(plan.seed.rotate_left(23) ^ 0x6469_7265_6374);
    let (mut episodes, mut at) = (Vec::new(), Duration::ZERO);
    while !kinds.is_empty() && (episodes.is_empty() || at + LASTS_MAX < plan.lasts) {
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        let mut scene = Scene { random: &random, clients: &plan.clients, at, episode: Episode::new() };
        scene.wait(PAUSE_MS);
        scene.play(kind);
        at = scene.at;
        episodes.push(scene.episode);
    }
    episodes
}

/// What happens, and when it is.
struct Scene<'a> {
    random: &'a SeededEntropy,
    clients: &'a [String],
    at: Duration,
    episode: Episode,
}

impl Scene<'_> {
    fn play(&mut self, kind: Kind) {
        match kind {
            Kind::LeftBehind => self.left_behind(),
            Kind::Rejoin => self.rejoin(),
            Kind::Stale => self.stale(),
            Kind::Shrink => self.shrink(),
            Kind::Cascade => self.cascade(),
            Kind::Offshoot => self.offshoot(),
            Kind::Deposed => self.deposed(),
            Kind::Dark => self.dark(),
            Kind::Amnesia => self.amnesia(),
            Kind::Ballot => self.ballot(),
            Kind::Absent => self.absent(),
            Kind::Rot => self.rot(48, |host| Fault::FlipOldBit { host }),
            Kind::Spoiled => self.rot(3, |host| Fault::Spoil { host }),
            // Drawn otherwise.
            _ => {}
        }
    }

    /// One replica lives, without what the others went on to commit while it was cut off from them; they die at once.
    fn left_behind(&mut self) {
        let [leader, follower, behind] = self.cast();
        let others = [leader, follower];
        self.left_out(&behind, &others);
        self.wait((500, 1_500));
        self.kill(&others);
        self.release(&behind, &others);
        self.wait((1_500, 1_500));
        self.start(&others);
        self.wait((1_000, 1_000));
    }

    /// A replica comes back, and the others die just then: when it asks for what it lacks and has no space for it; or when it is in the
    /// ISR, the leader has not heard of that yet, and has gone on without it.
    fn rejoin(&mut self) {
        let [leader, follower, behind] = self.cast();
        let others = [leader.clone(), follower];
        self.left_out(&behind, &others);
        self.wait((500, 1_000));
        if self.chance(50) {
            self.now(Fault::FullDisk { host: behind.clone() });
            self.release(&behind, &others);
            self.wait((300, 700));
            self.kill(&others);
            self.now(Fault::Space { host: behind });
        } else {
            let (leader, one) = ([leader], [behind.clone()]);
            self.cut(&controllers(), &leader, Way::One);
            self.wait((30, 50));
            self.release(&behind, &others);
            self.wait((200, 300));
            self.cut(&one, &others, Way::Both);
            self.wait((400, 600));
            self.kill(&others);
            self.heal(&one, &others, Way::Both);
            self.heal(&controllers(), &leader, Way::One);
        }
        self.wait((1_500, 1_500));
        self.start(&others);
        self.wait((1_000, 1_000));
    }

    /// A leader proposes that a replica joins, and the controllers hear of it late: when the replica has got a new disk, or when the
    /// leader is one no more and has missed what its successor wrote. Then those die that have everything.
    fn stale(&mut self) {
        let [leader, follower, behind] = self.cast();
        let (others, one) = ([leader.clone(), follower.clone()], [behind.clone()]);
        self.left_out(&behind, &others);
        self.wait((500, 500));
        self.hold(&leader, &controllers());
        self.wait((30, 50));
        self.release(&behind, &others);
        self.wait((200, 300));
        let gone = if self.chance(50) {
            self.kill(&one);
            self.now(Fault::NewDisk { host: behind.clone() });
            self.hold(&behind, &others);
            self.wait((100, 100));
            self.start(&one);
            self.wait((500, 200));
            self.release(&leader, &controllers());
            self.wait((100, 400));
            self.kill(&others);
            self.release(&behind, &others);
            others
        } else {
            let (leader, successors) = ([leader], [follower, behind]);
            self.cut(&leader, &successors, Way::Both);
            self.wait((4_000, 700));
            self.release(&leader[0], &controllers());
            self.wait((100, 400));
            self.kill(&successors);
            self.heal(&leader, &successors, Way::Both);
            successors
        };
        self.wait((1_500, 1_500));
        self.start(&gone);
        self.wait((1_000, 1_000));
    }

    /// The followers go one after the other, the second when the leader has more than it, until the leader is alone; then it goes,
    /// and the second is back first.
    fn shrink(&mut self) {
        let [leader, second, first] = self.cast().map(|host| [host]);
        self.kill(&first);
        self.wait((300, 500));
        self.cut(&leader, &second, Way::Both);
        self.wait((300, 500));
        self.kill(&second);
        self.heal(&leader, &second, Way::Both);
        self.wait((800, 700));
        self.kill(&leader);
        self.wait((300, 500));
        self.start(&second);
        self.wait((1_000, 1_000));
        self.start(&leader);
        self.start(&first);
        self.wait((1_000, 1_000));
    }

    /// Leaders fall one after the other. The second has more of the first than the third, and neither hears of the other; then the
    /// third goes, and one of those who came back to it leads, and then the other. Perhaps no client reaches the third.
    fn cascade(&mut self) {
        let [first, second, third] = self.cast().map(|host| [host]);
        let unreached = self.chance(50);
        self.cut(&second, &third, Way::Both);
        self.wait((50, 150));
        self.cut(&first, &third, Way::One);
        self.wait((100, 300));
        self.kill(&first);
        self.heal(&first, &third, Way::One);
        self.wait((800, 700));
        self.kill(&second);
        if unreached {
            self.cut(self.clients, &third, Way::Both);
        }
        self.heal(&second, &third, Way::Both);
        self.wait((400, 400));
        self.start(&second);
        self.wait((700, 800));
        if !unreached {
            self.start(&first);
            self.wait((700, 800));
        }
        self.kill(&third);
        if unreached {
            self.heal(self.clients, &third, Way::Both);
            self.start(&first);
        }
        self.wait((1_000, 1_000));
        self.start(&third);
        self.wait((1_000, 500));
        self.kill(&second);
        self.wait((1_000, 500));
        self.start(&second);
        self.wait((500, 500));
    }

    /// What the first and the second wrote in an epoch each, and the third lacks, is cut off the second's log when it is back and the third
    /// leads; others take its place. Then the second leads, and the first is back, which has all of its own still: what it has of that
    /// is for the second to say.
    fn offshoot(&mut self) {
        let [first, second, third] = self.cast().map(|host| [host]);
        let both = [first[0].clone(), second[0].clone()];
        self.cut(&both, &third, Way::Both);
        self.wait((150, 250));
        self.kill(&first);
        self.wait((800, 500));
        self.kill(&second);
        self.heal(&both, &third, Way::Both);
        self.wait((500, 500));
        self.start(&second);
        self.wait((2_000, 1_000));
        self.kill(&third);
        self.wait((500, 300));
        self.start(&first);
        self.wait((1_500, 1_000));
        self.kill(&second);
        self.start(&third);
        self.wait((1_500, 500));
        self.start(&second);
        self.wait((500, 500));
    }

    /// A leader has records that were not acknowledged, and leads no more: it dies, or is told to stop, or is cut off from the
    /// controllers for long enough. Its followers lack them; or only one does, and no client reaches the other for a while. It comes
    /// back, and leads again when they die.
    fn deposed(&mut self) {
        let [leader, successor, other] = self.cast();
        let (leader, followers) = ([leader], [successor, other]);
        let way = self.random.below(4);
        let (has, lacks) = followers.split_at(usize::from(way == 0));
        self.cut(&leader, lacks, Way::Both);
        if way == 0 {
            self.cut(self.clients, has, Way::Both);
            // Nor is anything sent to it.
            for client in self.clients {
                self.now(Fault::Reset { host: has[0].clone(), peer: Some(client.clone()) });
            }
        }
        self.wait((200, 300));
        match way {
            0 => {
                self.now(Fault::Stop { host: leader[0].clone() });
                self.wait((2_500, 500));
                self.heal(self.clients, has, Way::Both);
            }
            1 => {
                self.now(Fault::Stop { host: leader[0].clone() });
                self.wait((600, 600));
            }
            2 => {
                self.kill(&leader);
                self.wait((500, 500));
                self.start(&leader);
            }
            _ => {
                self.cut(&leader, &controllers(), Way::Both);
                self.wait((3_300, 700));
                self.heal(&leader, &controllers(), Way::Both);
                self.wait((200, 300));
            }
        }
        self.heal(&leader, lacks, Way::Both);
        self.wait((1_500, 1_000));
        self.kill(&followers);
        self.wait((1_000, 1_000));
        self.start(&followers);
        self.wait((1_000, 1_000));
    }

    /// A replica is away, for as long as it takes a topic to be made again, or a log to be compacted; then the others go one after
    /// the other, and it leads.
    fn absent(&mut self) {
        let [absent, one, other] = self.cast().map(|host| [host]);
        self.kill(&absent);
        self.wait(if self.chance(50) { (3_300, 1_000) } else { (11_000, 1_000) });
        self.start(&absent);
        self.wait((1_000, 500));
        self.kill(&one);
        self.wait((400, 400));
        self.kill(&other);
        self.wait((300, 300));
        self.start(&one);
        self.start(&other);
    }

    /// Old enough to lie below every recovery point, and then read from the disk, not from memory.
    fn rot(&mut self, times: u32, fault: impl Fn(String) -> Fault) {
        let [damaged, one, other] = self.cast().map(|host| [host]);
        self.wait((20_000, 2_000));
        for _ in 0..times {
            self.now(fault(damaged[0].clone()));
        }
        // The last to die is the last in the ISR.
        for dies in [&one, &other, &damaged] {
            self.kill(dies);
            self.wait((200, 300));
        }
        self.start(&damaged);
        self.wait((1_500, 1_000));
        self.start(&one);
        self.start(&other);
        self.wait((800, 800));
    }

    /// Disks are slow, or fail to sync, on all brokers; then the lights go out.
    fn dark(&mut self) {
        let fails = self.chance(50);
        let all = if self.chance(50) { brokers() } else { [brokers(), controllers()].concat() };
        for host in brokers() {
            self.now(if fails { Fault::FailSyncs { host } } else { Fault::SlowDisk { host } });
        }
        self.wait((300, 700));
        for host in all.clone() {
            self.now(Fault::Crash { host, power_loss: true });
        }
        for host in brokers() {
            self.now(if fails { Fault::DiskWorks { host } } else { Fault::FastDisk { host } });
        }
        for host in all {
            self.wait((100, 200));
            self.now(Fault::Restart { host });
        }
        self.wait((1_500, 1_000));
    }

    /// A leader dies; and when another has taken over, all controllers at once.
    fn amnesia(&mut self) {
        let [leader, ..] = self.cast().map(|host| [host]);
        self.kill(&leader);
        self.wait((200, 400));
        self.kill(&controllers());
        self.wait((100, 300));
        self.start(&controllers());
        self.wait((200, 1_000));
        self.start(&leader);
        self.wait((1_500, 1_000));
    }

    /// A controller is elected by another that dies at once, when it comes to a write after the one of its vote. What it was elected
    /// for reaches nobody, and those two that have not heard of it elect one of them; a broker dies, so that this one has
    /// something to decide. Then the first is back.
    fn ballot(&mut self) {
        let mut others: Vec<String> = (1..CONTROLLERS).map(controller_host).collect();
        let voter = [others.remove(self.random.below(others.len() as u64) as usize)];
        // Of two that are elected in one term, the greater counts.
        let first = [controller_host(CONTROLLERS)];
        self.kill(&controllers());
        self.cut(&first, &others, Way::Both);
        self.wait((100, 100));
        self.start(&first);
        self.wait((200, 200));
        self.start(&voter);
        self.wait((2, 1));
        self.now(Fault::CrashAtCall { host: voter[0].clone(), calls: 1, power_loss: false });
        self.wait((600, 200));
        self.cut(&first, &voter, Way::Both);
        self.start(&voter);
        self.start(&others);
        self.wait((800, 400));
        let [leader, ..] = self.cast().map(|host| [host]);
        self.kill(&leader);
        self.wait((1_000, 500));
        self.heal(&first, &others, Way::Both);
        self.heal(&first, &voter, Way::Both);
        self.wait((500, 500));
        self.start(&leader);
        self.start(&[controller_host(CONTROLLERS + 1)]);
        self.wait((1_000, 500));
    }

    /// Out of the ISR, up, and unable to catch up for as long as what it asks is held.
    fn left_out(&mut self, behind: &str, others: &[String]) {
        let one = [behind.to_owned()];
        self.kill(&one);
        self.hold(behind, others);
        self.wait((300, 300));
        self.start(&one);
        self.wait((500, 500));
    }

    /// The brokers, in some order.
    fn cast(&self) -> [String; 3] {
        let mut left = brokers();
        std::array::from_fn(|_| left.remove(self.random.below(left.len() as u64) as usize))
    }

    fn chance(&self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn wait(&mut self, (low, range): (u64, u64)) {
        self.at += Duration::from_millis(low + self.random.below(range));
    }

    fn now(&mut self, fault: Fault) {
        self.episode.push((self.at, fault));
    }

    fn kill(&mut self, hosts: &[String]) {
        hosts.iter().for_each(|host| self.now(Fault::Crash { host: host.clone(), power_loss: false }));
    }

    fn start(&mut self, hosts: &[String]) {
        hosts.iter().for_each(|host| self.now(Fault::Restart { host: host.clone() }));
    }

    /// Nothing is lost between them, and nothing arrives.
    fn hold(&mut self, a: &str, others: &[String]) {
        others.iter().for_each(|b| self.now(Fault::Hold { a: a.to_owned(), b: b.clone() }));
    }

    fn release(&mut self, a: &str, others: &[String]) {
        others.iter().for_each(|b| self.now(Fault::Release { a: a.to_owned(), b: b.clone() }));
    }

    fn cut(&mut self, from: &[String], to: &[String], way: Way) {
        self.now(Fault::Cut { from: from.to_vec(), to: to.to_vec(), way });
    }

    fn heal(&mut self, from: &[String], to: &[String], way: Way) {
        self.now(Fault::Heal { from: from.to_vec(), to: to.to_vec(), way });
    }
}
