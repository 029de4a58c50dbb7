//! Every step of the two-phase protocol, with a coordinator that dies before, in, or after it, once and twice in a run.

use std::collections::BTreeMap;

use highwater_record::TransactionResult;
use highwater_types::{ErrorCode, TopicPartition, TransactionalId};

use super::super::{Action, Request, Response, TransactionState};
use super::driver::{Coordinator, add_request, id, partition};
use crate::ProducerIdentity;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Init,
    AddFirst,
    AddSecond,
    End,
    ReportFirst,
    ReportSecond,
    NextAdd,
}

const STEPS: [Step; 7] =
    [Step::Init, Step::AddFirst, Step::AddSecond, Step::End, Step::ReportFirst, Step::ReportSecond, Step::NextAdd];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Before,
    /// Its record is not in the next coordinator's log.
    AppendedAndLost,
    /// Its record is, though nobody was told.
    AppendedAndKept,
    After,
}

const DEATHS: [Death; 4] = [Death::Before, Death::AppendedAndLost, Death::AppendedAndKept, Death::After];

/// A producer and the partitions, which ask on until they are answered.
struct Run {
    coordinator: Coordinator,
    id: TransactionalId,
    producer: Option<ProducerIdentity>,
    next: Option<ProducerIdentity>,
    /// The marker that each partition has.
    markers: BTreeMap<TopicPartition, (ProducerIdentity, TransactionResult)>,
}

impl Run {
    fn request(&mut self, step: Step, result: TransactionResult) -> Request {
        let (id, producer) = (self.id.clone(), self.producer);
        let report = |run: &mut Self, n| {
            let at = partition(n);
            let [Action::WriteMarkers { producer, result, partitions, coordinator_epoch, .. }] =
                &run.coordinator.actions[..]
            else {
                panic!("{:?}", run.coordinator.actions)
            };
            assert_eq!(*coordinator_epoch, run.coordinator.epoch);
            assert_eq!(partitions[..], [partition(0), partition(1)]);
            let marker = *run.markers.entry(at).or_insert((*producer, *result));
            assert_eq!(marker, (*producer, *result), "another marker than before");
            Request::MarkersWritten { transactional_id: run.id.clone(), producer: *producer, partitions: vec![at] }
        };
        match step {
            Step::Init => self.coordinator.init_request(&id, None),
            Step::AddFirst => add_request(&id, producer.unwrap(), &[partition(0)]),
            Step::AddSecond => add_request(&id, producer.unwrap(), &[partition(1)]),
            Step::End => self.coordinator.end_request(&id, producer.unwrap(), result),
            Step::ReportFirst => report(self, 0),
            Step::ReportSecond => report(self, 1),
            Step::NextAdd => add_request(&id, self.next.unwrap(), &[partition(1)]),
        }
    }

    /// Whether the step was answered.
    fn attempt(&mut self, step: Step, result: TransactionResult, death: Option<Death>) -> bool {
        if matches!(step, Step::ReportFirst | Step::ReportSecond) && self.coordinator.actions.is_empty() {
            assert_eq!(self.coordinator.transaction(&self.id).state, TransactionState::Complete(result));
            return true;
        }
        if death == Some(Death::Before) {
            self.coordinator.crash(0);
        }
        let request = self.request(step, result);
        let token = self.coordinator.request(request);
        match death {
            Some(Death::AppendedAndLost) => self.coordinator.crash(0),
            Some(Death::AppendedAndKept) => self.coordinator.crash(usize::MAX),
            None | Some(Death::Before | Death::After) => self.coordinator.commit(),
        }
        let Some(reply) = self.coordinator.replies.get(&token).cloned() else { return false };
        if death == Some(Death::After) {
            self.coordinator.crash(0);
        }
        match reply.unwrap() {
            Response::Producer(producer) => self.producer = Some(producer),
            Response::Ended { next } => {
                assert!(self.next.is_none_or(|before| before == next));
                self.next = Some(next);
            }
            _ => {}
        }
        true
    }

    fn finish_markers(&mut self, result: TransactionResult) {
        if !self.coordinator.actions.is_empty() {
            for step in [Step::ReportFirst, Step::ReportSecond] {
                assert!(self.attempt(step, result, None));
            }
        }
    }
}

fn run(result: TransactionResult, deaths: &[(Step, Death)]) {
    let mut run =
        Run { coordinator: Coordinator::new(), id: id("orders"), producer: None, next: None, markers: BTreeMap::new() };
    for step in STEPS {
        if step == Step::NextAdd {
            run.finish_markers(result);
            assert_eq!(run.coordinator.transaction(&run.id).state, TransactionState::Complete(result));
        }
        // A death without an answer is followed by the same request again.
        let mut deaths = deaths.iter().filter(|(at, _)| *at == step).map(|(_, death)| *death);
        while !run.attempt(step, result, deaths.next()) {}
        if step == Step::End {
            // Whoever dies from now on, it stays decided.
            let other = match result {
                TransactionResult::Commit => TransactionResult::Abort,
                TransactionResult::Abort => TransactionResult::Commit,
            };
            let (id, producer) = (run.id.clone(), run.producer.unwrap());
            let refused = run.coordinator.end(&id, producer, other).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::InvalidTransactionState);
        }
    }
    let producer = run.producer.unwrap();
    let next = ProducerIdentity { epoch: producer.epoch.next(), ..producer };
    assert_eq!(run.next, Some(next));
    assert_eq!(run.markers, [(partition(0), (next, result)), (partition(1), (next, result))].into());
    assert_eq!(run.coordinator.transaction(&run.id).state, TransactionState::Ongoing);
    assert_eq!(run.coordinator.transaction(&run.id).producer, next);
}

#[test]
fn trap_36_every_step_survives_the_death_of_its_coordinator() {
    let points: Vec<_> = STEPS.iter().flat_map(|step| DEATHS.map(|death| (*step, death))).collect();
    for result in [TransactionResult::Commit, TransactionResult::Abort] {
        run(result, &[]);
        for (n, first) in points.iter().enumerate() {
            run(result, &[*first]);
            points[n..].iter().for_each(|second| run(result, &[*first, *second]));
        }
    }
}
