//! Runs that once broke a promise.

use highwater_types::Durability;

use crate::holds;
use crate::steps::{Setup, Step};

const fn append(count: usize) -> Step {
    Step::Append { leader: 0, count, acks_all: false }
}
const fn news(node: usize) -> Step {
    Step::Metadata { node, all: true }
}

/// Three fast failovers, after which one truncation is not enough: broker 2's log still diverges at offset 2 when it is
/// cut to 3. It must not take the high watermark of that answer for its own (T4).
#[test]
fn t4_a_log_that_may_diverge_still_does_not_adopt_the_high_watermark() {
    let setup = Setup { nodes: 4, min_insync: 1, durability: Durability::Replicated, silent: None };
    let mut steps = vec![append(2), Step::Exchange(1), Step::Exchange(2), Step::Exchange(3)];
    // Broker 2 alone has the last record of the first leader.
    steps.extend([append(1), Step::Exchange(1)]);
    // Broker 1 hears that it leads no more, and each of the next two leaders only that it leads.
    steps.extend([Step::Elect(2), news(0), news(2), append(2)]);
    steps.extend([Step::Elect(1), news(2), news(1), append(2)]);
    steps.extend([Step::Elect(2), news(1), news(2), append(1)]);
    steps.extend([Step::Fence { node: 1, choice: 0 }, news(2), news(0), news(3)]);
    for _ in 0..3 {
        steps.extend([Step::Exchange(0), Step::Exchange(3)]);
    }
    steps.extend([Step::Unfence { node: 1, choice: 0 }, news(1), Step::Exchange(1), Step::Exchange(1)]);
    holds(&setup, &steps).unwrap();
}

/// Broker 3 has deleted all that is committed, and all that it has left diverges. It is cut, but stays where it is: it may
/// have to lead (it is in the ELR), and must not write the deleted offsets again.
#[test]
fn t5_an_eligible_replica_does_not_go_back_below_what_it_deleted() {
    let setup = Setup { nodes: 3, min_insync: 2, durability: Durability::Replicated, silent: None };
    // Broker 1 writes three records; broker 3 gets to lead, commits them with broker 1, and deletes them.
    let mut steps = vec![Step::Fence { node: 1, choice: 0 }, append(3), Step::Exchange(2)];
    steps.extend([Step::Elect(2), news(2), news(0), Step::Exchange(0), Step::Exchange(0)]);
    steps.push(Step::DeleteRecords { leader: 0, sixteenths: 16 });
    // It is cut off, and does not know; broker 1 leads.
    steps.extend([Step::Failover { node: 0, count: 0 }, Step::Fence { node: 2, choice: 0 }]);
    // What it writes then, it writes in vain.
    steps.extend([Step::Append { leader: 1, count: 2, acks_all: false }, news(0), news(2), Step::Exchange(2)]);
    holds(&setup, &steps).unwrap();
}
