//! What the door counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use highwater_metrics::{Counter, Page, families as f};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;

use crate::apis::{APIS, ErrorCodes};
use crate::error;

/// Why a connection was closed from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// A request that is malformed, cut off, or larger than allowed.
    Malformed,
    /// An API or a version that there is not.
    Unknown,
    /// Records without acknowledgement that were refused.
    Refused,
    /// Nothing came, or no answer was taken, for too long.
    Silent,
    /// This broker could not answer.
    NotAnswered,
}

impl Closed {
    const ALL: [Self; 5] = [Self::Malformed, Self::Unknown, Self::Refused, Self::Silent, Self::NotAnswered];

    const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::NotAnswered => "not answered",
        }
    }
}

/// Of all listeners of one broker.
pub(crate) struct Metrics {
    /// As [`APIS`].
    requests: Vec<Counter>,
    /// By API and error code: those that there were.
    errors: Mutex<BTreeMap<(i16, i16), u64>>,
    /// As [`Closed::ALL`].
    closed: Vec<Counter>,
    /// Open connections.
    connections: BTreeMap<String, AtomicUsize>,
}

impl Metrics {
    pub(crate) fn of<'a>(listeners: impl Iterator<Item = &'a str>) -> Self {
        let counters = |n| (0..n).map(|_| Counter::new()).collect();
        let connections = listeners.map(|name| (name.to_owned(), AtomicUsize::new(0))).collect();
        let errors = Mutex::default();
        Self { requests: counters(APIS.len()), errors, closed: counters(Closed::ALL.len()), connections }
    }

    /// A request of an API that there is.
    pub(crate) fn request(&self, api: ApiKey) {
        let at = APIS.iter().position(|row| row.key == api);
        if let Some(counter) = at.and_then(|at| self.requests.get(at)) {
            counter.inc();
        }
    }

    /// Each of the answer's parts that is an error.
    pub(crate) fn answered(&self, api: ApiKey, answer: &impl ErrorCodes) {
        answer.error_codes().for_each(|code| self.error(api, code));
    }

    /// One part of an answer, if it is an error.
    pub(crate) fn error(&self, api: ApiKey, code: i16) {
        if code != error::NONE {
            let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
            *errors.entry((api as i16, code)).or_default() += 1;
        }
    }

    pub(crate) fn closed(&self, why: Closed) {
        if let Some(counter) = self.closed.get(why as usize) {
            counter.inc();
        }
    }

    pub(crate) fn connections(&self, listener: &str, open: usize) {
        if let Some(connections) = self.connections.get(listener) {
            connections.store(open, Ordering::Relaxed);
        }
    }

    pub(crate) fn write(&self, page: &mut Page) {
        for (api, requests) in APIS.iter().zip(&self.requests) {
            page.add(&f::KAFKA_REQUESTS, &[&format!("{:?}", api.key)], requests.get());
        }
        for (&(api, code), count) in &*self.errors.lock().unwrap_or_else(PoisonError::into_inner) {
            let api = APIS.iter().find(|row| row.key as i16 == api).map(|row| format!("{:?}", row.key));
            let error =
                ResponseError::try_from_code(code).map_or_else(|| code.to_string(), |error| format!("{error:?}"));
            page.add(&f::KAFKA_ERRORS, &[&api.unwrap_or_default(), &error], count);
        }
        for (why, closed) in Closed::ALL.iter().zip(&self.closed) {
            page.add(&f::KAFKA_CLOSED, &[why.name()], closed.get());
        }
        for (listener, open) in &self.connections {
            page.add(&f::KAFKA_CONNECTIONS, &[listener], open.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_and_reason_has_its_own_count() {
        let metrics = Metrics::of(["INTERNAL", "EXTERNAL"].into_iter());
        metrics.request(ApiKey::Fetch);
        metrics.request(ApiKey::Fetch);
        metrics.error(ApiKey::Fetch, error::NONE);
        metrics.error(ApiKey::Produce, ResponseError::NotLeaderOrFollower.code());
        metrics.error(ApiKey::Produce, ResponseError::NotLeaderOrFollower.code());
        metrics.closed(Closed::NotAnswered);
        metrics.connections("EXTERNAL", 3);
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.to_string();
        for line in [
            "highwater_kafka_requests_total{api=\"Fetch\"} 2",
            "highwater_kafka_requests_total{api=\"Produce\"} 0",
            "highwater_kafka_errors_total{api=\"Produce\",error=\"NotLeaderOrFollower\"} 2",
            "highwater_kafka_connections_closed_total{reason=\"not answered\"} 1",
            "highwater_kafka_connections_closed_total{reason=\"silent\"} 0",
            "highwater_kafka_connections{listener=\"EXTERNAL\"} 3",
            "highwater_kafka_connections{listener=\"INTERNAL\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("highwater_kafka_errors_total{").count(), 1, "no error is none");
        assert!(Closed::ALL.iter().enumerate().all(|(at, why)| *why as usize == at));
    }
}
