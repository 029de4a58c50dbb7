//! Each condition of joining the ISR by itself, with all others met. Broker 1 leads 1, 2 and 3 in leader epoch 5, from
//! offset 100 on.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_types::BrokerEpoch;

use super::leader::{Test, b, high_watermark, nothing, o, view};
use crate::*;

fn joins(effects: &Effects, broker: u32) -> bool {
    effects.propose_isr.iter().flat_map(|p| &p.new_isr).any(|member| member.broker == b(broker))
}

/// The controller refused broker 3, which keeps up; what it says from now on is a late entry's, of before it had all.
fn refused(test: &mut Test) {
    assert_eq!(test.answer(ProposalOutcome::Refused), nothing());
    test.at(test.now + test.leader.config().proposal_backoff);
}

#[test]
fn t9_a_replica_that_keeps_up_joins_only_with_all_that_is_older_than_the_epoch() {
    let mut test = Test::replicated(&[1, 2], 2);
    assert!(joins(&test.fetch(3, 100), 3));
    refused(&mut test);
    // The high watermark is 80 yet.
    assert!(!joins(&test.fetch(3, 90), 3));
    assert!(joins(&test.fetch(3, 100), 3));
}

#[test]
fn t9_a_replica_that_keeps_up_joins_only_with_all_that_is_committed() {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.append(120);
    assert!(joins(&test.fetch(3, 120), 3));
    refused(&mut test);
    // Nobody waits for it while it is fenced.
    let _ = test.on_view(&view(&[1, 2], 7), &[1, 2]);
    assert_eq!(test.fetch(2, 120), high_watermark(120));
    assert_eq!(test.fetch(3, 110), nothing());
    assert_eq!(test.on_view(&view(&[1, 2], 7), &[1, 2, 3]), nothing());
    assert!(joins(&test.fetch(3, 120), 3));
}

#[test]
fn t8_a_new_incarnation_does_not_keep_up_because_the_old_one_did() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    assert_eq!(test.on_view(&view(&[1, 2], 8), &[1, 2]), nothing());
    let restarted = BrokerEpoch::new(40);
    let alive = BTreeMap::from([(b(1), BrokerEpoch::new(11)), (b(2), BrokerEpoch::new(12)), (b(3), restarted)]);
    // Of the old incarnation, still on its way.
    let _ = test.try_fetch(&Test::entry(3, 100, 100)).unwrap();
    let config = *test.leader.config();
    let _ = test.leader.on_view(&view(&[1, 2], 8), config, &Arc::new(alive), test.now);
    let _ = test.append(110);
    let entry = FollowerFetch { broker_epoch: restarted, ..Test::entry(3, 100, 100) };
    assert!(!joins(&test.try_fetch(&entry).unwrap().effects, 3));
    assert_eq!(test.fetch(2, 110), high_watermark(110), "nobody waits for it");
}

#[test]
fn t14_a_replica_that_was_fenced_for_a_moment_joins_again_although_nothing_is_written() {
    // Both followers have all there is. The controller hears nothing of them, takes them out, and then hears of them again; the
    // streams never broke. Below min.insync.replicas nothing is written that they could acknowledge.
    let mut test = Test::replicated(&[1, 2, 3], 2);
    let _ = (test.fetch(2, 100), test.fetch(3, 100));
    assert_eq!(test.on_view(&view(&[1], 8), &[1]), nothing());
    assert!(!test.leader.has_min_isr());
    let effects = test.on_view(&view(&[1], 8), &[1, 2, 3]);
    assert!(joins(&effects, 2) && joins(&effects, 3), "{effects:?}");
    // And it stays: not to be heard of is no reason to take it out again.
    assert_eq!(test.on_view(&view(&[1, 2, 3], 9), &[1, 2, 3]), nothing());
    let later = test.now + std::time::Duration::from_secs(60);
    assert_eq!(test.at(later).leader.tick(later), nothing());
}

#[test]
fn a_replica_whose_stream_broke_does_not_join_for_what_it_had() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    let _ = (test.fetch(2, 100), test.fetch(3, 100));
    let _ = test.leader.on_session_closed(b(3), test.now);
    assert_eq!(test.on_view(&view(&[1, 2], 8), &[1, 2, 3]), nothing());
    assert!(joins(&test.fetch(3, 100), 3));
}

#[test]
fn t11_an_accepted_member_counts_before_the_metadata_shows_it() {
    let mut test = Test::replicated(&[1, 2], 2);
    assert!(joins(&test.fetch(3, 100), 3));
    let accepted = ProposalOutcome::Accepted { partition_epoch: view(&[1, 2, 3], 8).partition_epoch };
    assert_eq!(test.answer(accepted), nothing());
    let _ = test.append(110);
    let _ = test.leader.on_session_closed(b(3), test.now);
    assert_eq!(test.fetch(2, 110).high_watermark, Some(o(100)), "broker 3 may lead from here on");
    assert!(test.leader.maximal_isr().contains(&b(3)));
    assert_eq!(test.on_view(&view(&[1, 2, 3], 8), &[1, 2, 3]).high_watermark, None);
    assert_eq!(test.fetch(3, 110), high_watermark(110));
}

/// Nobody waits out the lag of a replica that says that it can't go on.
#[test]
fn t46_a_replica_without_space_leaves_at_once_and_joins_again_once_it_has_all() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    let full = |end| FollowerFetch { disk_full: true, ..Test::entry(3, end, end) };
    let idle = test.try_fetch(&full(100)).unwrap();
    assert_eq!(idle.effects.propose_isr, None, "it has all there is: nothing waits for it");
    let _ = test.append(110);
    assert_eq!(test.fetch(2, 110), high_watermark(100));
    let left = test.try_fetch(&full(100)).unwrap().effects.propose_isr.expect("it is to leave");
    assert_eq!(left.new_isr.iter().map(|member| member.broker).collect::<Vec<_>>(), [b(1), b(2)]);
    assert_eq!(test.fetch(2, 110), nothing(), "until that is decided it counts");
    assert_eq!(test.on_view(&view(&[1, 2], 8), &[1, 2, 3]), high_watermark(110));
    assert_eq!(test.try_fetch(&full(105)).unwrap().effects, nothing());
    assert!(joins(&test.fetch(3, 110), 3), "there is space again");
}
