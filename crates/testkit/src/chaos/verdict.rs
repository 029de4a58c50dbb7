//! Reads everything back, and holds it against the promises.

use std::time::Duration;

use highwater_client::Client;
use serde::Serialize;

use super::load::{LAST, Topics};
use super::report::Counts;
use crate::history::History;
use crate::oracle::{Expectations, check};
use crate::workloads::readers::{Reader, read_whole_as};

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

pub async fn of(client: &Client, history: &History, topics: &Topics, deadline: Duration) -> Verdict {
    let mut findings = Vec::new();
    let readers = [(Reader::of_all(LAST[0]), &topics.events), (Reader::of_committed(LAST[1]), &topics.ledger)];
    for (reader, topic) in readers {
        if let Err(error) = read_whole_as(client, history, reader, topic, &topic.as_str().into(), deadline).await {
            findings.push(Finding::liveness(history.now(), format!("reading all of {topic} back: {error}")));
        }
    }
    let now = history.now();
    let report = check(&history.events(), &Expectations::default());
    findings.extend(report.violations.iter().map(|it| Finding {
        promise: it.promise.to_string(),
        at: it.at.as_secs_f64(),
        what: format!("{:?}: {}", it.anomaly, it.what),
    }));
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
        transactions: report.transactions,
    };
    Verdict { counts, findings }
}
