//! Which workloads run together.

use std::collections::BTreeSet;

use clap::ValueEnum;
use highwater_seams::{Entropy as _, SeededEntropy};

/// What may run besides writers, a reader and a group on one topic, which always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Work {
    /// Producers of transactions over several partitions.
    Transactions,
    /// Producers that share a transactional id, and fence one another.
    Zombies,
    /// Consume, transform, produce, exactly once.
    Pipeline,
    /// A compacted topic.
    Table,
    /// Records that are deleted on request.
    Trims,
    /// A topic that is deleted and made again.
    Lives,
    /// A topic that grows.
    Growth,
    /// Publishers that know no leaders.
    Thin,
    /// A reader that goes back by offset and by time.
    Seeks,
    /// Writers with other acks, on a topic whose replicas do not sync.
    Acks,
    /// A topic whose oldest records go by their age or by their size.
    Retention,
    /// Members of a group that know no brokers but one.
    Subscribers,
    /// Producers of transactions that stay open for a while with their records there. Only when it is asked for by name.
    Held,
    /// Writers that give up soon. Only when it is asked for by name.
    Hasty,
    /// Members of a group of their own that leave it and commit all the same. Only when it is asked for by name.
    Leavers,
}

/// Those that run.
pub type Mix = BTreeSet<Work>;

/// Drawn from the seed: everything in a fifth of the seeds, and each in two fifths of the others.
pub fn draw(seed: u64) -> Mix {
    let random = SeededEntropy::new(seed.rotate_left(29) ^ 0x6d69_7865);
    let all = random.below(5) == 0;
    let drawn = |_: &Work| random.below(5) < 2;
    let mix = Work::value_variants().iter().copied().take_while(|work| *work < Work::Held);
    mix.filter(|work| drawn(work) || all).collect()
}
