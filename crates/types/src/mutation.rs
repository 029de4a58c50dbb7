//! Deliberate bugs, to test the tests: each makes the product do what a naive implementation does. If nothing notices, a
//! fault, a workload or a checker is missing.
//!
//! **Invariant**: without the feature `mutations`, which only the tests of mutations turn on, [`is_on`] is a constant and
//! nothing of this is in the program. With it, a process turns on one bug at most, for all of its life.

/// Declares the bugs: variant, name on the command line, the number of its trap in the design's list, the promises of which at
/// least one breaks by it (L: liveness), and what it does.
macro_rules! mutations {
    ($($variant:ident = $name:literal, $trap:literal, $promises:literal, $what:literal;)*) => {
        /// A deliberate bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Mutation {
            $(#[doc = $what] $variant,)*
        }

        #[cfg(feature = "mutations")]
        impl Mutation {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// On the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            /// The number of the trap that it steps into.
            pub const fn trap(self) -> &'static str {
                match self { $(Self::$variant => $trap,)* }
            }
            /// The promises of which at least one breaks by it; L is liveness.
            pub const fn promises(self) -> &'static str {
                match self { $(Self::$variant => $promises,)* }
            }
            /// What it does.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

mutations! {
    TruncateByHighWatermark = "truncate-by-high-watermark", "T1", "P1 P2",
        "a new follower cuts its log at its own high watermark, and the leader does not compare leader epochs";
    SkipDivergenceCheck = "skip-divergence-check", "T2", "P1 P2",
        "a leader does not look whether a follower's log is a prefix of its own";
    ForgetProducersOnTruncation = "forget-producers-on-truncation", "T3", "P1 P3 P6",
        "what is known of producers is not cut with the log";
    EpochsNotTruncated = "epochs-not-truncated", "T3", "P1 P2 L",
        "the leader epochs are not cut with the log, and not asked to be in order";
    TrustIsr = "trust-isr", "T7", "P1 P2",
        "a new leader takes it that the ISR has all that it has itself, before anybody has acknowledged it";
    BrokerEpochNotChecked = "broker-epoch-not-checked", "T8", "P1 P2",
        "what an earlier incarnation of a follower has acknowledged counts for the one after it";
    JoinWithoutCatchingUp = "join-without-catching-up", "T9", "P1 P2",
        "a replica joins the ISR as soon as it fetches, whatever it has";
    ForgetMaximalIsr = "forget-maximal-isr", "T11", "P1 P2",
        "the high watermark does not wait for members that are only proposed yet, nor for those about to be";
    IsrNotCompared = "isr-not-compared", "T13", "P1 P2 L",
        "an ISR that was decided on an older state of the partition, or in an older leader epoch, is proposed and taken all the same";
    CommitBelowMinIsr = "commit-below-min-isr", "T14", "P1 P2",
        "the high watermark goes on while the ISR is smaller than min.insync.replicas";
    MinIsrNotChecked = "min-isr-not-checked", "T15", "P1 P2",
        "acks=all is appended and acknowledged however few replicas are in sync";
    ElectOutsideIsr = "elect-outside-isr", "T17", "P1 P2",
        "any replica that is up may lead, in the ISR and ELR or not";
    UncleanUnasked = "unclean-unasked", "T19", "P1 P2",
        "with the policy `none`, too, an unclean election takes place when nobody else is up";
    IdFromName = "id-from-name", "T21", "P1 P2 P3 L",
        "a topic's id follows from its name, so that one created again is the one that was deleted";
    FolderNotSynced = "folder-not-synced", "T24", "P1 P2",
        "the folder is not synced after a file was made or renamed in it";
    SuccessWhenDeposed = "success-when-deposed", "T25", "P1 P6",
        "producers who wait when a leader is deposed are told at once that their records are committed";
    RefusalWhenDeposed = "refusal-when-deposed", "T15", "P6",
        "producers who wait when a leader is deposed are told at once that their records were not written";
    ReadAboveHighWatermark = "read-above-high-watermark", "T26", "P2",
        "consumers are given what is not committed";
    DedupWindowOfOne = "dedup-window-of-one", "T29", "P1 P3 P6 L",
        "only the last batch of each producer is remembered, and what comes again from before is taken for it";
    DuplicateStoredAgain = "duplicate-stored-again", "T29", "P3",
        "a batch that comes again is appended again";
    DuplicateGetsNewOffset = "duplicate-gets-new-offset", "T31", "P1 P2 P6",
        "a batch that comes again is answered with the log's end, not with where it is";
    FollowersLearnNoProducers = "followers-learn-no-producers", "T30", "P3 P4",
        "only the leader learns of producers as it appends";
    ForgetProducersOnRestart = "forget-producers-on-restart", "T30", "P3 P4",
        "what the log says of producers is not learned again when it is opened";
    ForgetProducersOnRetention = "forget-producers-on-retention", "T30", "P3 P4",
        "what is known of producers goes with the oldest segment";
    StableOffByOne = "stable-off-by-one", "T32", "P2 P4",
        "the first record of an open transaction counts as stable";
    AbortedNotListed = "aborted-not-listed", "T32", "P4",
        "readers of committed records are not told which transactions were aborted";
    MarkerForgotten = "marker-forgotten", "T33", "P4 L",
        "the last partition of a transaction gets no marker";
    OldProducerTaken = "old-producer-taken", "T34", "P4",
        "a partition takes records of a producer epoch that is over, and the coordinator a transaction of one";
    OpenTransactionInherited = "open-transaction-inherited", "T35", "P4",
        "a producer that takes over goes on in the transaction that the one before left open";
    OffsetsCommittedAtOnce = "offsets-committed-at-once", "T37", "P4 P5 L",
        "offsets in a transaction count before it is committed";
    ServeBeforeLoaded = "serve-before-loaded", "T38", "P4 P5",
        "a coordinator serves before it has read its log";
    AnswerUncommitted = "answer-uncommitted", "T39", "P4 P5 L",
        "a coordinator answers before what the answer rests on is committed";
    CoordinatorNotFenced = "coordinator-not-fenced", "T38", "P4 P5 L",
        "a coordinator goes on with what it knew in an earlier leader epoch";
    CommitNotFenced = "commit-not-fenced", "T40", "P5",
        "offsets of whoever commits are taken, a member of the group or not";
    PartitionGivenTwice = "partition-given-twice", "T40", "P5",
        "a partition is given to its next owner before the one before has let go of it";
    AckBeforeSync = "ack-before-sync", "T43", "P1 P2",
        "what is in the page cache counts as on the disk";
    FailedSyncForgotten = "failed-sync-forgotten", "T44", "P1 P2",
        "after a failed fsync it goes on as if that had succeeded";
    VoteNotSynced = "vote-not-synced", "T45", "P1 P2 L",
        "a controller answers before its vote is on its disk";
    EntriesNotSynced = "entries-not-synced", "T45", "P1 P2 L",
        "a controller answers before its Raft entries are on its disk";
    DamageCutSilently = "damage-cut-silently", "T43", "P1 P2",
        "recovery cuts what is damaged below the synced point, as it does with a torn tail";
    CrcNotChecked = "crc-not-checked", "T43", "P1 P2 P6 L",
        "neither recovery nor cold reads look at CRCs";
    CompactionDropsNewest = "compaction-drops-newest", "T30", "P1 P2",
        "compaction leaves the oldest value of a key";
    TombstonesGoAtOnce = "tombstones-go-at-once", "T30", "P1 P2",
        "compaction drops a tombstone that a replica may not have heard of";
}

#[cfg(not(feature = "mutations"))]
mod switch {
    use super::Mutation;

    /// Never.
    #[inline(always)]
    pub const fn is_on(_: Mutation) -> bool {
        false
    }
}

#[cfg(feature = "mutations")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutation;

    const NONE: u8 = u8::MAX;

    static ON: AtomicU8 = AtomicU8::new(NONE);

    /// Whether the product is to have this bug.
    pub fn is_on(mutation: Mutation) -> bool {
        ON.load(Ordering::Relaxed) == mutation as u8
    }

    /// Gives the process this bug, until it ends. The first call counts.
    pub fn turn_on(mutation: Mutation) {
        let _ = ON.compare_exchange(NONE, mutation as u8, Ordering::Relaxed, Ordering::Relaxed);
    }
}

pub use switch::*;
