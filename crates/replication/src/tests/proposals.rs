//! Who leaves and joins the ISR, and what a proposal counts for until it is decided.

use std::time::Duration;

use highwater_types::{BrokerEpoch, Durability, ErrorCode, PartitionEpoch};

use super::leader::{LAG, Test, alive, b, config, e, high_watermark, ms, nothing, o, view};
use crate::*;

/// The members of a proposal, as (broker, broker epoch).
fn members(effects: &Effects) -> Vec<(u32, i64)> {
    let proposal = effects.propose_isr.as_ref().expect("a proposal");
    proposal.new_isr.iter().map(|m| (m.broker.get(), m.broker_epoch.get())).collect()
}
fn accepted(partition_epoch: i32) -> ProposalOutcome {
    ProposalOutcome::Accepted { partition_epoch: PartitionEpoch::new(partition_epoch) }
}

#[test]
fn a_proposal_states_epochs_and_incarnations() {
    let mut test = Test::replicated(&[1, 2], 2);
    let effects = test.fetch(3, 100);
    let proposal = effects.propose_isr.clone().unwrap();
    assert_eq!((proposal.leader_epoch, proposal.partition_epoch), (e(5), PartitionEpoch::new(7)));
    assert!(!proposal.recovered);
    // T8: broker 3 in the incarnation that fetched; broker 2 has not fetched yet; the leader needs none.
    assert_eq!(members(&effects), [(1, -1), (2, -1), (3, 13)]);
}

#[test]
fn t9_joining_needs_the_high_watermark_and_the_start_of_this_epoch() {
    let mut test = Test::replicated(&[1, 2], 2);
    assert_eq!(test.fetch(3, 85).propose_isr, None, "beyond the high watermark, 80, yet before the epoch, 100");
    assert_eq!(members(&test.fetch(3, 100)), [(1, -1), (2, -1), (3, 13)]);

    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.append(120);
    assert_eq!(test.fetch(2, 120), high_watermark(120));
    assert_eq!(test.fetch(3, 110).propose_isr, None, "beyond the epoch's start, yet before the high watermark");
}

#[test]
fn t9_having_kept_up_until_a_moment_ago_does_not_stand_for_the_high_watermark_or_the_epoch() {
    // Broker 3 was in the ISR when this leader began, and was fenced.
    let fenced = || {
        let mut test = Test::replicated(&[1, 2, 3], 2);
        let _ = test.on_view(&view(&[1, 2], 8), &[1, 2]);
        test
    };
    let mut test = fenced();
    let _ = test.fetch(3, 85);
    assert_eq!(test.on_view(&view(&[1, 2], 9), &[1, 2, 3]).propose_isr, None, "before the epoch's start");

    // And here it never was in the ISR, and is unfenced only after the high watermark has gone on.
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.on_view(&view(&[1, 2], 8), &[1, 2]);
    let _ = test.fetch(3, 100);
    let _ = test.append(120);
    assert_eq!(test.fetch(2, 120), high_watermark(120), "nobody waits for a fenced replica");
    assert_eq!(test.on_view(&view(&[1, 2], 9), &[1, 2, 3]).propose_isr, None, "before the high watermark");
}

#[test]
fn t8_a_new_incarnation_has_not_kept_up_because_the_old_one_did() {
    let mut test = Test::replicated(&[1], 2);
    let _ = test.fetch(2, 100);
    let _ = test.answer(ProposalOutcome::Refused);
    let _ = test.at(ms(500)).append(5_000);
    let mut restarted = alive(&[1, 2, 3]).as_ref().clone();
    restarted.insert(b(2), BrokerEpoch::new(40));
    let config = *test.leader.config();
    let _ = test.leader.on_view(&view(&[1], 8), config, &restarted.into(), test.now);
    // Frozen high watermark: 80. The incarnation before had all but what was appended a moment ago.
    let entry = FollowerFetch { broker_epoch: BrokerEpoch::new(40), ..Test::entry(2, 100, 100) };
    assert_eq!(test.try_fetch(&entry).unwrap().effects, nothing());
}

#[test]
fn t9_under_durability_sync_joining_needs_it_on_disk() {
    let mut test = Test::new(&[1, 2], 2, Durability::Sync);
    assert_eq!(test.try_fetch(&Test::entry(3, 100, 99)).unwrap().effects, nothing());
    assert_eq!(members(&test.try_fetch(&Test::entry(3, 100, 100)).unwrap().effects), [(1, -1), (2, -1), (3, 13)]);
}

#[test]
fn t10_a_fenced_or_leaving_replica_does_not_join() {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.on_view(&view(&[1, 2], 8), &[1, 2]);
    assert_eq!(test.fetch(3, 100), nothing());
    // It is unfenced: no further entry is needed.
    assert_eq!(members(&test.on_view(&view(&[1, 2], 8), &[1, 2, 3])), [(1, -1), (2, -1), (3, 13)]);
}

#[test]
fn t8_a_replica_whose_incarnation_is_not_the_known_one_does_not_join() {
    let mut test = Test::replicated(&[1, 2], 2);
    let restarted = FollowerFetch { broker_epoch: BrokerEpoch::new(40), ..Test::entry(3, 100, 100) };
    assert_eq!(test.try_fetch(&restarted).unwrap().effects, nothing());
}

#[test]
fn t11_a_proposed_member_holds_the_high_watermark_until_refused() {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.fetch(3, 100);
    assert_eq!(test.leader.maximal_isr().into_iter().collect::<Vec<_>>(), [b(1), b(2), b(3)]);
    let _ = test.append(110);
    assert_eq!(test.fetch(2, 110), high_watermark(100));
    // Refused for sure, and it does not keep up: it holds nothing any more.
    let _ = test.leader.on_session_closed(b(3), test.now);
    assert_eq!(test.leader.high_watermark(), o(100), "it may be in the ISR by now");
    assert_eq!(test.answer(ProposalOutcome::Refused), high_watermark(110));
}

#[test]
fn t11_a_member_proposed_to_leave_holds_the_high_watermark_until_it_has_left() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    let _ = (test.fetch(2, 100), test.fetch(3, 100));
    let _ = test.append(110);
    let _ = test.fetch(2, 110);
    test.at(LAG + ms(1));
    assert_eq!(members(&test.leader.tick(test.now)), [(1, -1), (2, 12)]);
    assert_eq!(test.leader.high_watermark(), o(100));
    assert_eq!(test.on_view(&view(&[1, 2], 8), &[1, 2, 3]), high_watermark(110));
}

/// Broker 3 was proposed, the answer was lost, its stream broke, and broker 2 has all.
fn with_an_unanswered_proposal() -> Test {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.fetch(3, 100);
    let _ = test.append(110);
    let _ = test.fetch(2, 110);
    let _ = test.leader.on_session_closed(b(3), test.now);
    assert_eq!(test.answer(ProposalOutcome::Unknown), nothing());
    test
}

#[test]
fn t11_a_proposal_without_an_answer_counts_until_the_controller_says_that_nothing_came_of_it() {
    for no_change in [ProposalOutcome::Refused, accepted(7)] {
        let mut test = with_an_unanswered_proposal();
        let lifetime = test.leader.config().proposal_lifetime;
        assert_eq!(test.leader.tick(lifetime - ms(1)), nothing(), "it may yet be on its way");
        // Nothing to change; but there is something to learn.
        test.at(lifetime);
        let effects = test.leader.tick(lifetime);
        assert_eq!((members(&effects), effects.high_watermark), (vec![(1, -1), (2, 12)], None));
        assert_eq!(test.answer(no_change), high_watermark(110));
    }
}

#[test]
fn t11_no_time_ends_the_uncertainty_about_a_proposal_while_nobody_answers() {
    // It was carried out, and this leader is cut off: another one, broker 3, may lead by now.
    let mut test = with_an_unanswered_proposal();
    for seconds in 1..1000 {
        let effects = test.at(Duration::from_secs(seconds)).leader.tick(Duration::from_secs(seconds));
        assert_eq!(effects.high_watermark, None);
        if effects.propose_isr.is_some() {
            assert_eq!(test.answer(ProposalOutcome::Unknown), nothing());
        }
    }
}

#[test]
fn t11_an_answer_to_what_was_asked_too_early_settles_nothing() {
    let mut test = with_an_unanswered_proposal();
    // Asked, for another reason, while the first attempt may still arrive after it.
    let _ = test.at(ms(500)).fetch(3, 110);
    assert!(test.leader.maximal_isr().contains(&b(3)));
    let _ = test.append(120);
    // It had all before this append: else that would be reason enough to wait for it.
    let _ = test.leader.on_session_closed(b(3), test.now);
    let _ = test.fetch(2, 120);
    let effects = test.answer(ProposalOutcome::Refused);
    assert_eq!(effects.high_watermark, None);
}

#[test]
fn t11_a_stale_proposal_counts_until_the_newer_metadata_is_here() {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.fetch(3, 100);
    let _ = test.append(110);
    let _ = test.fetch(2, 110);
    let _ = test.leader.on_session_closed(b(3), test.now);
    assert_eq!(test.answer(ProposalOutcome::Stale), nothing());
    assert_eq!(test.leader.tick(ms(9_000)), nothing(), "neither forgotten nor proposed again");
    test.at(ms(9_001));
    assert_eq!(test.on_view(&view(&[1, 2], 8), &[1, 2, 3]), high_watermark(110));
}

#[test]
fn t13_one_proposal_at_a_time_and_late_answers_are_dropped() {
    let mut test = Test::replicated(&[1], 1);
    assert_eq!(members(&test.fetch(2, 100)), [(1, -1), (2, 12)]);
    assert_eq!(test.fetch(3, 100).propose_isr, None, "one is in flight");
    let effects = test.on_view(&view(&[1, 2], 8), &[1, 2, 3]);
    assert_eq!(members(&effects), [(1, -1), (2, 12), (3, 13)]);
    // The first one's answer comes after the metadata.
    let _ = test.answer(accepted(8));
    assert_eq!(test.leader.isr(), [b(1), b(2)]);
}

#[test]
fn t13_a_late_answer_to_an_older_proposal_does_not_end_the_newer_one() {
    let mut test = Test::replicated(&[1], 1);
    let _ = test.fetch(2, 100);
    let _ = test.fetch(3, 100);
    let _ = test.on_view(&view(&[1, 2], 8), &[1, 2, 3]);
    let _ = test.append(110);
    let _ = test.fetch(2, 110);
    let _ = test.leader.on_session_closed(b(3), test.now);
    let _ = test.answer(ProposalOutcome::Refused);
    assert_eq!(test.leader.high_watermark(), o(100), "broker 3 may be in the ISR by the proposal of epoch 8");
}

#[test]
fn t14_a_frozen_high_watermark_does_not_let_a_laggard_in() {
    let mut test = Test::replicated(&[1], 2);
    let _ = test.append(5_000);
    // Beyond the frozen high watermark, 80, and the start of the epoch; but it never had all.
    assert_eq!(test.fetch(2, 150), nothing());
    assert_eq!(test.at(ms(50)).fetch(2, 1_000), nothing());
    // It reaches where the log ended at its first entry: it is behind by less than the bound.
    assert_eq!(members(&test.at(ms(100)).fetch(2, 5_000)), [(1, -1), (2, 12)]);
}

#[test]
fn t22_lag_is_time_behind_and_not_records_behind() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    let _ = (test.fetch(2, 100), test.fetch(3, 100));
    let mut end = 100;
    // Always 500 records behind, and never by more than a second; broker 3 does not move.
    for second in 1..=15 {
        let _ = test.at(Duration::from_secs(second)).append(end + 500);
        let _ = test.fetch(2, end);
        end += 500;
        let effects = test.leader.tick(test.now);
        if second <= 11 {
            assert_eq!(effects.propose_isr, None, "{second}");
        } else if second == 12 {
            assert_eq!(members(&effects), [(1, -1), (2, 12)]);
        }
    }
}

#[test]
fn t22_a_follower_whose_acknowledgements_come_faster_than_its_disk_syncs_is_not_behind() {
    let mut test = Test::new(&[1, 2], 2, Durability::Sync);
    let _ = test.fetch(2, 100);
    // Every millisecond an entry, each 4 ms behind on disk: never at the end, never where the entry before was.
    for tick in 1..=20_000_i64 {
        let _ = test.at(ms(tick.unsigned_abs())).append(100 + tick);
        let durable = (100 + tick - 4).max(100);
        let effects = test.try_fetch(&Test::entry(2, 100 + tick, durable)).unwrap().effects;
        assert_eq!(effects.propose_isr, None);
        if tick % 1000 == 0 {
            assert_eq!(test.leader.tick(test.now).propose_isr, None, "at {tick} ms");
        }
    }
}

#[test]
fn t22_a_follower_of_an_idle_partition_is_not_behind_when_a_record_comes() {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.fetch(2, 100);
    test.at(Duration::from_secs(3600));
    assert_eq!(test.leader.tick(test.now), nothing());
    let _ = test.append(101);
    assert_eq!(test.leader.tick(test.now + ms(100)).propose_isr, None);
}

#[test]
fn t22_a_new_leader_gives_the_isr_the_whole_time_to_turn_up() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    assert_eq!(test.leader.tick(LAG).propose_isr, None);
    assert_eq!(members(&test.leader.tick(LAG + ms(1))), [(1, -1)]);
}

#[test]
fn an_in_sync_replica_that_turns_up_without_committed_records_is_proposed_to_leave_at_once() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    let _ = (test.fetch(2, 100), test.fetch(3, 100));
    assert_eq!(test.leader.high_watermark(), o(100));
    assert_eq!(members(&test.fetch(3, 90)), [(1, -1), (2, 12)]);
}

#[test]
fn a_refused_proposal_is_tried_again_after_a_pause() {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.fetch(3, 100);
    assert_eq!(test.at(ms(10)).answer(ProposalOutcome::Refused).propose_isr, None);
    assert_eq!(test.at(ms(11)).fetch(3, 100).propose_isr, None);
    assert_eq!(members(&test.leader.tick(ms(10) + test.leader.config().proposal_backoff)).len(), 3);
}

#[test]
fn a_replica_whose_disk_is_damaged_keeps_nobody_else_out_and_joins_once_it_is_healed() {
    let mut test = Test::replicated(&[1], 2);
    let damaged = PartitionView { unusable: vec![b(2)], ..view(&[1], 8) };
    let _ = test.on_view(&damaged, &[1, 2, 3]);
    assert_eq!(test.fetch(2, 100), nothing(), "the controller would refuse it, and whoever else is proposed");
    assert_eq!(members(&test.fetch(3, 100)), [(1, -1), (3, 13)]);
    let joined = PartitionView { unusable: vec![b(2)], ..view(&[1, 3], 9) };
    assert_eq!(test.on_view(&joined, &[1, 2, 3]), high_watermark(100));
    let _ = test.append(120);
    assert_eq!(test.fetch(3, 120), high_watermark(120), "nobody waits for one that can't join");
    assert_eq!(test.fetch(2, 120), nothing());
    assert_eq!(members(&test.on_view(&view(&[1, 3], 10), &[1, 2, 3])), [(1, -1), (3, 13), (2, 12)]);
}

#[test]
fn t19_a_leader_of_an_unclean_election_says_that_it_has_recovered() {
    let recovering = PartitionView { recovering: true, ..view(&[1], 7) };
    let log = LogEnds::new(o(0), o(100), o(100));
    let config = config(2, Durability::Sync);
    let (mut leader, effects) = Leader::new(b(1), &recovering, config, log, o(80), &alive(&[1, 2]), Duration::ZERO);
    let proposal = effects.propose_isr.clone().unwrap();
    assert!(proposal.recovered);
    assert_eq!(members(&effects), [(1, -1)]);
    assert_eq!(leader.on_proposal_result(PartitionEpoch::new(7), accepted(8), ms(1)), nothing());
    assert_eq!(leader.on_view(&view(&[1], 8), config, &alive(&[1, 2]), ms(2)), nothing());
}

#[test]
fn errors_of_the_controller_that_leave_the_outcome_open_are_not_taken_for_refusals() {
    for &code in ErrorCode::ALL {
        if code.outcome() == highwater_types::Outcome::Unknown {
            assert_eq!(isr_error_outcome(code), ProposalOutcome::Unknown, "{code:?}");
        }
    }
    assert_eq!(isr_error_outcome(ErrorCode::InvalidUpdateVersion), ProposalOutcome::Stale);
    assert_eq!(isr_error_outcome(ErrorCode::IneligibleReplica), ProposalOutcome::Refused);
    // They say nothing of the partition's state.
    for code in [ErrorCode::NotController, ErrorCode::Throttled, ErrorCode::StaleBrokerEpoch] {
        assert_eq!(isr_error_outcome(code), ProposalOutcome::Unknown, "{code:?}");
    }
}
