//! Reads everything back, and holds it against the promises.

use std::time::Duration;

use highwater_client::Client;
use serde::Serialize;

use super::load::Topics;
use super::report::Counts;
use crate::History;
use crate::history::{Rules, Violation, check, check_atomicity, check_ownership};
use crate::pipeline::read_committed;
use crate::transactors::Done;
use crate::workload::read_whole;

/// The reader that reads all back.
const LAST_READER: u32 = 2;
/// What is told of more of the same is that there is more.
const FINDINGS_MAX: usize = 50;

/// Something that must not be.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Of DESIGN §1, or `liveness`.
    pub promise: String,
    /// Since the round began, in seconds.
    pub at: f64,
    pub what: String,
}

impl Finding {
    pub fn of(promise: &str, at: Duration, what: String) -> Self {
        Self { promise: promise.to_owned(), at: at.as_secs_f64(), what }
    }
    pub fn liveness(at: Duration, what: String) -> Self {
        Self::of("liveness", at, what)
    }
}

pub struct Verdict {
    pub counts: Counts,
    pub findings: Vec<Finding>,
}

pub async fn of(client: &Client, history: &History, topics: &Topics, done: &Done, deadline: Duration) -> Verdict {
    let mut findings = Vec::new();
    if let Err(error) = read_whole(client, history, LAST_READER, &topics.events, deadline).await {
        findings.push(Finding::liveness(history.now(), format!("reading all back: {error}")));
    }
    let now = history.now();
    let events = history.events();
    let report = check(&events, &Rules::idempotent());
    findings.extend(report.violations.iter().map(|it| Finding::of(promise(it), now, it.to_string())));
    findings.extend(check_ownership(&events).iter().map(|it| Finding::of("P5", now, it.to_string())));
    match read_committed(client, &topics.ledger, deadline).await {
        Ok(found) => {
            let done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            findings.extend(check_atomicity(&done, &found).iter().map(|it| Finding::of("P4", now, it.to_string())));
        }
        Err(error) => findings.push(Finding::liveness(now, format!("reading the transactions back: {error}"))),
    }
    let more = findings.len().saturating_sub(FINDINGS_MAX);
    findings.truncate(FINDINGS_MAX);
    if more > 0 {
        findings.push(Finding::liveness(now, format!("and {more} more findings")));
    }
    let counts = Counts {
        sent: report.sent,
        acknowledged: report.acknowledged,
        refused: report.refused,
        unknown: report.unknown,
        read: report.read,
        transactions: [0; 3],
    };
    Verdict { counts, findings }
}

fn promise(violation: &Violation) -> &'static str {
    match violation {
        Violation::Lost { .. } => "P1",
        Violation::Changed { .. }
        | Violation::NeverSent { .. }
        | Violation::ReaderWentBack { .. }
        | Violation::Skipped { .. } => "P2",
        Violation::Duplicated { .. } | Violation::Reordered { .. } => "P3",
        Violation::RefusedButStored { .. } | Violation::Unanswered { .. } => "P6",
    }
}
