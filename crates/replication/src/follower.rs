//! What a follower does with its leader's answer.

use highwater_record::EpochHistory;
use highwater_types::{LeaderEpoch, Offset};

use crate::view::LogEnds;

/// A leader's answer for one partition, without the records themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderAnswer {
    pub leader_epoch: LeaderEpoch,
    /// Where the leader says that the logs part.
    pub diverging: Option<(LeaderEpoch, Offset)>,
    pub high_watermark: Offset,
    pub log_start_offset: Offset,
    /// First offset of the records that came, and the offset after the last.
    pub records: Option<(Offset, Offset)>,
}

/// What to do with the log, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowerEffect {
    /// Cut the log here; epoch history and producer state with it (T3).
    TruncateTo(Offset),
    /// Drop everything and start here: log start and high watermark move together (T5).
    RestartAt(Offset),
    /// Append the records that came.
    Append,
    AdvanceStart(Offset),
    /// Only after all of the above (T4).
    AdoptHighWatermark(Offset),
}

/// Decides on an answer. Empty if it is of another leader epoch, or its records do not continue this log: then it is old
/// news, and the next fetch states where this log is.
pub fn on_answer(
    leader_epoch: LeaderEpoch,
    log: LogEnds,
    epochs: &EpochHistory,
    high_watermark: Offset,
    answer: &LeaderAnswer,
) -> Vec<FollowerEffect> {
    if answer.leader_epoch != leader_epoch {
        return Vec::new();
    }
    if let Some((epoch, leader_end)) = answer.diverging {
        return vec![truncation(log, epochs, epoch, leader_end)];
    }
    let mut effects = Vec::new();
    let mut end = log.end;
    if answer.log_start_offset > log.end {
        // All that this log has is gone at the leader.
        return vec![FollowerEffect::RestartAt(answer.log_start_offset)];
    }
    match answer.records {
        Some((base, next)) if base == log.end && next > base => {
            effects.push(FollowerEffect::Append);
            end = next;
        }
        Some(_) => return Vec::new(),
        None => {}
    }
    if answer.log_start_offset > log.start {
        effects.push(FollowerEffect::AdvanceStart(answer.log_start_offset));
    }
    let committed = answer.high_watermark.min(end);
    if committed > high_watermark {
        effects.push(FollowerEffect::AdoptHighWatermark(committed));
    }
    effects
}

/// By leader epoch, never by high watermark (T1): the lesser of where the two logs end the epoch that both know. If this
/// log does not know the leader's epoch, it cuts to the end of the one before and the next fetch asks again (T2).
fn truncation(log: LogEnds, epochs: &EpochHistory, epoch: LeaderEpoch, leader_end: Offset) -> FollowerEffect {
    let to = match epochs.end_of(epoch, log.end) {
        Some((own, end)) if own == epoch => end.min(leader_end),
        Some((_, end)) => end,
        None => leader_end.min(log.start),
    };
    // A leader that has nothing of the epochs asked for says where its log starts.
    let to = if epoch == LeaderEpoch::NONE { leader_end } else { to }.min(log.end);
    if to > log.start { FollowerEffect::TruncateTo(to) } else { FollowerEffect::RestartAt(to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(n: i64) -> Offset {
        Offset::new(n)
    }
    fn epoch(n: i32) -> LeaderEpoch {
        LeaderEpoch::new(n)
    }
    fn history(entries: &[(i32, i64)]) -> EpochHistory {
        EpochHistory::from_entries(entries.iter().map(|&(e, o)| (epoch(e), offset(o)))).unwrap()
    }
    fn log(start: i64, end: i64) -> LogEnds {
        LogEnds { start: offset(start), end: offset(end), durable: offset(end) }
    }
    fn answer() -> LeaderAnswer {
        LeaderAnswer {
            leader_epoch: epoch(3),
            diverging: None,
            high_watermark: offset(0),
            log_start_offset: offset(0),
            records: None,
        }
    }

    #[test]
    fn t1_truncates_where_the_epochs_part_and_not_at_the_high_watermark() {
        let answer = LeaderAnswer { diverging: Some((epoch(1), offset(7))), ..answer() };
        let effects = on_answer(epoch(3), log(0, 10), &history(&[(1, 0)]), offset(4), &answer);
        assert_eq!(effects, [FollowerEffect::TruncateTo(offset(7))]);
    }

    #[test]
    fn t2_takes_the_minimum_of_both_ends_and_falls_back_to_the_epoch_before() {
        let own = history(&[(0, 0), (2, 6)]);
        let diverging = |e, o| LeaderAnswer { diverging: Some((epoch(e), offset(o))), ..answer() };
        let decide = |a: LeaderAnswer| on_answer(epoch(3), log(0, 10), &own, offset(0), &a);
        assert_eq!(decide(diverging(0, 8)), [FollowerEffect::TruncateTo(offset(6))], "own end is less");
        assert_eq!(decide(diverging(0, 4)), [FollowerEffect::TruncateTo(offset(4))], "the leader's end is less");
        assert_eq!(decide(diverging(1, 9)), [FollowerEffect::TruncateTo(offset(6))], "epoch 1 is not known here");
    }

    #[test]
    fn t4_appends_before_it_adopts_the_high_watermark_and_never_beyond_its_own_end() {
        let answer = LeaderAnswer { records: Some((offset(5), offset(8))), high_watermark: offset(20), ..answer() };
        let effects = on_answer(epoch(3), log(0, 5), &history(&[(3, 0)]), offset(2), &answer);
        assert_eq!(effects, [FollowerEffect::Append, FollowerEffect::AdoptHighWatermark(offset(8))]);
    }

    #[test]
    fn t4_a_diverging_answer_does_nothing_but_truncate() {
        let answer = LeaderAnswer { diverging: Some((epoch(1), offset(3))), high_watermark: offset(9), ..answer() };
        let effects = on_answer(epoch(3), log(0, 5), &history(&[(1, 0)]), offset(2), &answer);
        assert_eq!(effects, [FollowerEffect::TruncateTo(offset(3))]);
    }

    #[test]
    fn t5_a_leader_that_starts_later_restarts_the_follower_there() {
        let answer = LeaderAnswer { log_start_offset: offset(50), ..answer() };
        let effects = on_answer(epoch(3), log(0, 5), &history(&[(1, 0)]), offset(2), &answer);
        assert_eq!(effects, [FollowerEffect::RestartAt(offset(50))]);
    }

    #[test]
    fn answers_of_another_epoch_or_place_change_nothing() {
        let stale = LeaderAnswer { leader_epoch: epoch(2), high_watermark: offset(9), ..answer() };
        assert!(on_answer(epoch(3), log(0, 10), &history(&[(1, 0)]), offset(0), &stale).is_empty());
        let elsewhere = LeaderAnswer { records: Some((offset(4), offset(6))), high_watermark: offset(9), ..answer() };
        assert!(on_answer(epoch(3), log(0, 10), &history(&[(1, 0)]), offset(0), &elsewhere).is_empty());
    }

    #[test]
    fn a_leader_without_the_followers_epochs_restarts_it_at_its_own_start() {
        let answer = LeaderAnswer { diverging: Some((LeaderEpoch::NONE, offset(4))), ..answer() };
        let effects = on_answer(epoch(3), log(0, 10), &history(&[(1, 0)]), offset(0), &answer);
        assert_eq!(effects, [FollowerEffect::TruncateTo(offset(4))]);
    }
}
