//! What a follower asks, and what it makes of answers. Broker 2 follows broker 1 in leader epoch 5.

use highwater_record::EpochHistory;
use highwater_types::{BrokerEpoch, ErrorCode, LeaderEpoch, Offset};

use super::leader::{b, e, history, o, view};
use crate::FollowerEffect::{AdoptHighWatermark, AdvanceStart, Append, RestartAt, TruncateTo};
use crate::*;

fn log(start: i64, end: i64) -> LogEnds {
    LogEnds::new(o(start), o(end), o(end))
}
fn follower(log: LogEnds, high_watermark: i64) -> Follower {
    Follower::new(b(2), &view(&[1, 2], 7), log, o(high_watermark))
}
fn asked(end: i64, last_epoch: i32) -> Asked {
    Asked { leader_epoch: e(5), fetch_offset: o(end), last_fetched_epoch: e(last_epoch) }
}
fn answer(high_watermark: i64) -> LeaderResponse {
    LeaderResponse {
        asked: asked(50, 3),
        high_watermark: o(high_watermark),
        log_start_offset: Offset::ZERO,
        diverging: None,
        records: None,
    }
}
/// To an entry of a log that ends at 120, in epoch 4.
fn diverging(epoch: i32, end: i64) -> LeaderResponse {
    LeaderResponse { asked: asked(120, 4), diverging: Some(EpochEnd { epoch: e(epoch), end: o(end) }), ..answer(100) }
}
fn error(code: ErrorCode, valid_offsets: Option<(Offset, Offset)>) -> LeaderError {
    LeaderError { asked: asked(50, 3), code, valid_offsets }
}

#[test]
fn t7_the_entry_states_where_the_log_ends_and_what_of_it_is_on_disk() {
    let ends = LogEnds::new(o(10), o(100), o(90));
    let entry = follower(ends, 50).fetch(BrokerEpoch::new(12), ends, &history(&[(3, 0), (4, 60)]));
    assert_eq!(
        entry,
        FollowerFetch {
            disk_full: false,
            follower: b(2),
            broker_epoch: BrokerEpoch::new(12),
            leader_epoch: e(5),
            fetch_offset: o(100),
            durable_offset: o(90),
            last_fetched_epoch: e(4),
            log_start_offset: o(10),
        }
    );
}

#[test]
fn the_last_epoch_is_of_the_last_record_and_not_of_a_reign_without_records() {
    // This broker led in epoch 4, from offset 100 on, and wrote nothing.
    let epochs = history(&[(3, 0), (4, 100)]);
    let ends = log(0, 100);
    assert_eq!(follower(ends, 0).fetch(BrokerEpoch::new(12), ends, &epochs).last_fetched_epoch, e(3));
    let empty = log(100, 100);
    assert_eq!(last_epoch(&epochs, empty), LeaderEpoch::NONE);
    assert_eq!(last_epoch(&EpochHistory::new(), log(0, 0)), LeaderEpoch::NONE);
}

#[test]
fn t4_records_are_appended_before_the_high_watermark_is_adopted() {
    let mut follower = follower(log(0, 50), 40);
    let response = LeaderResponse { records: Some((o(50), o(70))), log_start_offset: o(5), ..answer(90) };
    let effects = follower.on_response(&response, log(0, 50), &history(&[(3, 0)]));
    assert_eq!(effects, [Append, AdvanceStart(o(5)), AdoptHighWatermark(o(70))], "and never beyond the own log end");
    assert_eq!(follower.high_watermark(), o(70));
}

#[test]
fn t1_truncation_goes_by_epoch_and_t4_leaves_the_high_watermark_of_the_same_answer_alone() {
    // The high watermark here, 40, is far below; what follows it may be the leader's, too, up to 80. The leader's, 100, says
    // nothing of this log until the next entry has shown that it does not diverge any more.
    let mut follower = follower(log(0, 120), 40);
    let response = LeaderResponse { log_start_offset: o(5), ..diverging(3, 80) };
    let effects = follower.on_response(&response, log(0, 120), &history(&[(3, 0), (4, 100)]));
    assert_eq!(effects, [TruncateTo(o(80))]);
    assert_eq!(follower.high_watermark(), o(40));
}

#[test]
fn t2_the_minimum_of_both_ends_of_the_epoch_counts() {
    let own = history(&[(1, 0), (3, 60), (4, 100)]);
    let cut = |response: LeaderResponse| follower(log(0, 120), 0).on_response(&response, log(0, 120), &own)[0];
    assert_eq!(cut(diverging(3, 110)), TruncateTo(o(100)), "the own end is first");
    assert_eq!(cut(diverging(3, 90)), TruncateTo(o(90)), "the leader's end is first");
    assert_eq!(cut(diverging(2, 90)), TruncateTo(o(60)), "epoch 2 is not known here: what is older, and ask again");
}

#[test]
fn t2_two_fast_failovers_end_with_one_log_in_as_many_rounds() {
    // Leader: epochs 0, 3, 5. Follower: led in epochs 1 and 4 meanwhile.
    let leader_epochs = history(&[(0, 0), (3, 10), (5, 30)]);
    let leader_ends = log(0, 40);
    let mut own = history(&[(0, 0), (1, 10), (4, 20)]);
    let mut ends = log(0, 50);
    let mut follower = follower(ends, 5);
    for _ in 0..5 {
        let entry = follower.fetch(BrokerEpoch::new(12), ends, &own);
        let Some(found) = crate::fetch::divergence(&entry, &leader_epochs, leader_ends).unwrap() else { break };
        let response = LeaderResponse { asked: Asked::from(&entry), diverging: Some(found), ..answer(0) };
        let effects = follower.on_response(&response, ends, &own);
        let [TruncateTo(offset)] = effects[..] else { panic!("{effects:?}") };
        own.truncate_from(offset); // T3
        ends.end = offset;
    }
    assert_eq!(ends.end, o(10));
    assert_eq!(own, history(&[(0, 0)]));
}

#[test]
fn t3_the_epochs_that_were_cut_off_are_not_asked_for_again() {
    let mut epochs = history(&[(1, 0), (3, 60), (4, 100)]);
    epochs.truncate_from(o(100));
    assert_eq!(last_epoch(&epochs, log(0, 100)), e(3));
}

#[test]
fn t5_a_full_truncation_moves_log_start_and_high_watermark_together() {
    let mut follower = follower(log(0, 50), 40);
    let reaction =
        follower.on_error(&error(ErrorCode::OffsetOutOfRange, Some((o(500), o(900)))), log(0, 50), &history(&[(3, 0)]));
    assert_eq!(reaction, FollowerReaction::RestartAt(o(500)));
    assert_eq!(follower.high_watermark(), o(500));
}

#[test]
fn t5_a_log_with_nothing_in_common_starts_anew_where_the_leader_s_does() {
    let mut follower = follower(log(70, 120), 100);
    let response = LeaderResponse { log_start_offset: o(30), ..diverging(1, 60) };
    let effects = follower.on_response(&response, log(70, 120), &history(&[(4, 70)]));
    assert_eq!(effects[0], RestartAt(o(30)));
    assert_eq!(follower.high_watermark(), o(30));
}

#[test]
fn t5_a_log_that_starts_where_it_diverges_is_emptied_but_does_not_go_back_to_an_older_start() {
    // It deleted all that was committed, below 70; the leader did not, and has nothing of epoch 4.
    let mut follower = follower(log(70, 120), 70);
    let response = LeaderResponse { log_start_offset: o(30), ..diverging(1, 70) };
    assert_eq!(follower.on_response(&response, log(70, 120), &history(&[(4, 70)])), [TruncateTo(o(70))]);
    assert_eq!(follower.high_watermark(), o(70));
}

#[test]
fn t5_truncation_below_the_high_watermark_takes_it_along() {
    // Only an unclean election can ask for this.
    let mut follower = follower(log(0, 120), 110);
    let response = LeaderResponse { high_watermark: o(70), ..diverging(3, 80) };
    let effects = follower.on_response(&response, log(0, 120), &history(&[(3, 0), (4, 100)]));
    assert_eq!(effects, [TruncateTo(o(80))]);
    assert_eq!(follower.high_watermark(), o(80));
}

#[test]
fn an_answer_of_another_leader_epoch_changes_nothing() {
    let mut follower = follower(log(0, 50), 40);
    let response = LeaderResponse {
        asked: Asked { leader_epoch: e(4), ..asked(50, 3) },
        records: Some((o(50), o(70))),
        ..answer(90)
    };
    assert_eq!(follower.on_response(&response, log(0, 50), &history(&[(3, 0)])), []);
}

#[test]
fn records_that_do_not_follow_the_log_s_end_are_left_out() {
    let mut follower = follower(log(0, 50), 40);
    let response = LeaderResponse { records: Some((o(60), o(70))), ..answer(45) };
    let effects = follower.on_response(&response, log(0, 50), &history(&[(3, 0)]));
    assert_eq!(effects, [AdoptHighWatermark(o(45))]);
}

#[test]
fn t27_news_of_the_high_watermark_alone_is_adopted() {
    let mut follower = follower(log(0, 50), 40);
    assert_eq!(follower.on_response(&answer(44), log(0, 50), &history(&[(3, 0)])), [AdoptHighWatermark(o(44))]);
    assert_eq!(follower.on_response(&answer(44), log(0, 50), &history(&[(3, 0)])), []);
}

#[test]
fn t26_only_a_member_of_the_isr_serves_reads_and_only_below_the_high_watermark_it_knows() {
    let mut follower = follower(log(0, 50), 40);
    assert_eq!(follower.readable_below(), Some(o(40)));
    follower.on_view(&view(&[1], 8));
    assert_eq!(follower.readable_below(), None);
    // T13: an older view does not bring it back.
    follower.on_view(&view(&[1, 2], 7));
    assert_eq!(follower.readable_below(), None);
}

#[test]
fn every_error_code_has_a_reaction() {
    use FollowerReaction::{NewSession, RetryLater, WaitForMetadata};
    for &code in ErrorCode::ALL {
        let expected = match code {
            ErrorCode::NotLeader
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownTopicId
            | ErrorCode::UnknownPartition => WaitForMetadata,
            ErrorCode::StaleBrokerEpoch | ErrorCode::FetchSessionStale => NewSession,
            // Without a range nothing is thrown away.
            _ => RetryLater,
        };
        assert_eq!(
            follower(log(0, 50), 40).on_error(&error(code, None), log(0, 50), &history(&[(3, 0)])),
            expected,
            "{code:?}"
        );
    }
}

#[test]
fn a_late_answer_does_not_cut_what_was_acknowledged_since() {
    // An answer to the entry at 120 in epoch 4 comes twice; after the first, the log went on from 80 with the leader's
    // records, up to 130, or as far as just 120.
    for end in [120, 130] {
        let now = log(0, end);
        let mut follower = follower(now, 80);
        assert_eq!(follower.on_response(&diverging(3, 80), now, &history(&[(3, 0), (5, 80)])), []);
        let late = LeaderError { asked: asked(120, 4), ..error(ErrorCode::OffsetOutOfRange, Some((o(0), o(0)))) };
        let reaction = follower.on_error(&late, now, &history(&[(3, 0), (5, 80)]));
        assert_eq!(reaction, FollowerReaction::RetryLater);
        assert_eq!(follower.high_watermark(), o(80));
    }
}

#[test]
fn a_refusal_of_another_leader_epoch_throws_nothing_away() {
    let mut follower = follower(log(0, 50), 40);
    let asked = Asked { leader_epoch: e(4), ..asked(50, 3) };
    let late = LeaderError { asked, ..error(ErrorCode::OffsetOutOfRange, Some((o(0), o(0)))) };
    assert_eq!(follower.on_error(&late, log(0, 50), &history(&[(3, 0)])), FollowerReaction::RetryLater);
}

/// A leader that compaction has left one empty batch for 30..60 answers a fetch from 50 with it.
#[test]
fn records_that_begin_before_the_log_s_end_are_taken_only_as_the_answer_to_the_present_question() {
    let (ends, epochs) = (log(0, 50), history(&[(3, 0)]));
    let merged = LeaderResponse { records: Some((o(30), o(60))), ..answer(60) };
    assert_eq!(follower(ends, 50).on_response(&merged, ends, &epochs), [Append, AdoptHighWatermark(o(60))]);
    let older = LeaderResponse { asked: asked(30, 3), ..merged };
    assert_eq!(follower(ends, 50).on_response(&older, ends, &epochs), []);
    let known = LeaderResponse { records: Some((o(30), o(50))), ..answer(50) };
    assert_eq!(follower(ends, 50).on_response(&known, ends, &epochs), []);
}

#[test]
fn t26_what_the_leader_has_committed_and_this_log_lacks_is_yet_to_come() {
    let mut follower = follower(log(0, 50), 40);
    assert!(!follower.is_yet_to_come(o(51)));
    let effects = follower.on_response(&answer(60), log(0, 50), &history(&[(3, 0)]));
    assert_eq!((effects, follower.readable_below()), (vec![AdoptHighWatermark(o(50))], Some(o(50))));
    assert_eq!((follower.is_yet_to_come(o(60)), follower.is_yet_to_come(o(61))), (true, false));
}
