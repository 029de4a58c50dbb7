//! What a run has shown, for people and for scripts.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::availability::{Impact, OfKind, Stalls};
use super::verdict::Finding;

/// What clients did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub sent: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub read: u64,
    /// Committed, aborted, of unknown outcome.
    pub transactions: [u64; 3],
}

/// One round.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub seed: u64,
    /// From the first fault until all worked again.
    pub seconds: f64,
    pub impacts: Vec<Impact>,
    /// Each stall of each partition, in seconds.
    #[serde(skip)]
    pub stalls: Vec<f64>,
    /// The longest time without any acknowledgement.
    pub stall_overall: f64,
    /// After the last fault, until all replicas were in sync and everything worked; `None`: not within the bound.
    pub whole_after: Option<f64>,
    pub counts: Counts,
    pub findings: Vec<Finding>,
    /// Where its history is, if there are findings.
    pub history: Option<PathBuf>,
}

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seed: u64,
    /// Kinds of faults that were wanted and can't be had here, and why.
    pub left_out: Vec<String>,
    /// Under load and faults, in seconds.
    pub seconds: f64,
    pub counts: Counts,
    /// Of single partitions.
    pub stalls: Stalls,
    /// The longest time in which no partition acknowledged anything.
    pub stall_overall: f64,
    /// The longest time that the cluster took to be whole again.
    pub whole_after: f64,
    pub kinds: Vec<OfKind>,
    pub anomalies: usize,
    pub rounds: Vec<Round>,
}

impl Report {
    pub fn of(seed: u64, left_out: Vec<String>, rounds: Vec<Round>) -> Self {
        let all = || rounds.iter().map(|round| &round.counts);
        let sum = |of: fn(&Counts) -> u64| all().map(of).sum();
        let counts = Counts {
            sent: sum(|it| it.sent),
            acknowledged: sum(|it| it.acknowledged),
            refused: sum(|it| it.refused),
            unknown: sum(|it| it.unknown),
            read: sum(|it| it.read),
            transactions: [0, 1, 2].map(|index| all().map(|it| it.transactions[index]).sum()),
        };
        let impacts: Vec<Impact> = rounds.iter().flat_map(|round| round.impacts.iter().cloned()).collect();
        let most = |of: fn(&Round) -> f64| rounds.iter().map(of).fold(0.0, f64::max);
        Self {
            seed,
            left_out,
            seconds: rounds.iter().map(|round| round.seconds).sum(),
            counts,
            stalls: Stalls::of(rounds.iter().flat_map(|round| round.stalls.iter().copied()).collect()),
            stall_overall: most(|round| round.stall_overall),
            whole_after: most(|round| round.whole_after.unwrap_or(0.0)),
            kinds: OfKind::summaries(&impacts),
            anomalies: rounds.iter().map(|round| round.findings.len()).sum(),
            rounds,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for left_out in &self.left_out {
            writeln!(f, "{left_out}")?;
        }
        writeln!(
            f,
            "{:16}  {:>6} {:>8} {:>10} {:>10} {:>13} {:>13} {:>13}",
            "FAULT", "COUNT", "STALLED", "STALL P50", "STALL MAX", "RECOVERY P50", "RECOVERY P99", "RECOVERY MAX"
        )?;
        for it in &self.kinds {
            writeln!(
                f,
                "{:16}  {:>6} {:>8} {:>8.2} s {:>8.2} s {:>11.2} s {:>11.2} s {:>11.2} s",
                it.kind,
                it.faults,
                it.with_stall,
                it.stall_p50,
                it.stall_max,
                it.recovery_p50,
                it.recovery_p99,
                it.recovery_max
            )?;
        }
        let skipped = self.rounds.iter().flat_map(|round| &round.impacts).filter(|it| it.skipped.is_some()).count();
        writeln!(
            f,
            "STALLED: faults after which a partition acknowledged nothing for {:?} or more. RECOVERY: from the fault to the\n\
             slowest partition's next acknowledged write. Faults overlap; what several did together is counted for each.",
            super::availability::STALL_MIN
        )?;
        if skipped > 0 {
            writeln!(f, "{skipped} fault(s) found nobody to hit.")?;
        }
        let Counts { sent, acknowledged, refused, unknown, read, transactions: [committed, aborted, unclear] } =
            self.counts;
        writeln!(
            f,
            "\n{:.0} s in {} round(s): {sent} records sent, {acknowledged} acknowledged, {refused} refused, {unknown} unknown, {read} read; \
             transactions: {committed} committed, {aborted} aborted, {unclear} unknown",
            self.seconds,
            self.rounds.len()
        )?;
        writeln!(
            f,
            "stalls of a partition: {}, p50 {:.2} s, p99 {:.2} s, max {:.2} s; of all at once: {:.2} s at most",
            self.stalls.count, self.stalls.p50, self.stalls.p99, self.stalls.max, self.stall_overall
        )?;
        write!(f, "whole again within {:.1} s of the last fault; {} anomalies", self.whole_after, self.anomalies)?;
        for round in self.rounds.iter().filter(|round| !round.findings.is_empty()) {
            write!(f, "\n\nround of seed {}", round.seed)?;
            if let Some(path) = &round.history {
                write!(f, ", history in {}", path.display())?;
            }
            for finding in &round.findings {
                write!(f, "\n  {} at {:.2} s: {}", finding.promise, finding.at, finding.what)?;
            }
        }
        Ok(())
    }
}
