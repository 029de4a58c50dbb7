//! High watermark, acknowledgements and divergence. Broker 1 leads 1, 2 and 3 in leader epoch 5, from offset 100 on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_record::EpochHistory;
use highwater_types::{BrokerEpoch, BrokerId, Durability, LeaderEpoch, Offset, PartitionEpoch};

use crate::*;

pub(super) const LAG: Duration = Duration::from_secs(10);

pub(super) fn b(id: u32) -> BrokerId {
    BrokerId::new(id)
}
pub(super) fn o(offset: i64) -> Offset {
    Offset::new(offset)
}
pub(super) fn e(epoch: i32) -> LeaderEpoch {
    LeaderEpoch::new(epoch)
}
pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
pub(super) fn history(entries: &[(i32, i64)]) -> EpochHistory {
    EpochHistory::from_entries(entries.iter().map(|&(epoch, start)| (e(epoch), o(start)))).unwrap()
}
/// Every broker at broker epoch 10 + id.
pub(super) fn alive(ids: &[u32]) -> AliveBrokers {
    let epochs: BTreeMap<_, _> = ids.iter().map(|id| (b(*id), BrokerEpoch::new(10 + i64::from(*id)))).collect();
    Arc::new(epochs)
}
pub(super) fn view(isr: &[u32], partition_epoch: i32) -> PartitionView {
    PartitionView {
        replicas: vec![b(1), b(2), b(3)],
        isr: isr.iter().map(|id| b(*id)).collect(),
        elr: Vec::new(),
        leader: Some(b(1)),
        leader_epoch: e(5),
        partition_epoch: PartitionEpoch::new(partition_epoch),
        unusable: Vec::new(),
        recovering: false,
    }
}
#[test]
fn what_all_others_lack_has_one_copy_and_each_must_say_so_again() {
    let mut test = Test::replicated(&[1], 2);
    assert!(!test.leader.is_only_copy_from(o(90), ms(0)), "nobody has said anything in this epoch");
    let _ = test.at(ms(10)).fetch(2, 90);
    assert!(!test.leader.is_only_copy_from(o(90), ms(0)), "3 has not");
    let _ = test.at(ms(20)).fetch(3, 85);
    assert!(test.leader.is_only_copy_from(o(90), ms(0)));
    assert!(!test.leader.is_only_copy_from(o(89), ms(0)), "2 has that");
    assert!(!test.leader.is_only_copy_from(o(90), ms(10)), "2 may have been sent more since");
    let _ = test.at(ms(30)).fetch(2, 90);
    assert!(test.leader.is_only_copy_from(o(90), ms(10)));
    let alone = PartitionView { replicas: vec![b(1)], ..view(&[1], 8) };
    let _ = test.on_view(&alone, &[1]);
    assert!(!test.leader.is_only_copy_from(o(90), ms(0)), "nobody waits for it");
}

pub(super) fn config(min_insync: usize, durability: Durability) -> LeaderConfig {
    LeaderConfig::new(min_insync, durability, LAG)
}
pub(super) fn high_watermark(offset: i64) -> Effects {
    Effects { high_watermark: Some(o(offset)), propose_isr: None }
}
pub(super) fn nothing() -> Effects {
    Effects::default()
}

/// A leader with the shorthand of these tests.
pub(super) struct Test {
    pub(super) leader: Leader,
    pub(super) epochs: EpochHistory,
    pub(super) now: Duration,
}

impl Test {
    pub(super) fn new(isr: &[u32], min_insync: usize, durability: Durability) -> Self {
        let log = LogEnds::new(o(0), o(100), o(100));
        let config = config(min_insync, durability);
        let (leader, effects) =
            Leader::new(b(1), &view(isr, 7), config, log, o(80), &alive(&[1, 2, 3]), Duration::ZERO);
        assert!(effects.propose_isr.is_none());
        Self { leader, epochs: history(&[(1, 0), (3, 60), (5, 100)]), now: Duration::ZERO }
    }
    pub(super) fn replicated(isr: &[u32], min_insync: usize) -> Self {
        Self::new(isr, min_insync, Durability::Replicated)
    }
    pub(super) fn entry(follower: u32, end: i64, durable: i64) -> FollowerFetch {
        FollowerFetch {
            disk_full: false,
            follower: b(follower),
            broker_epoch: BrokerEpoch::new(10 + i64::from(follower)),
            leader_epoch: e(5),
            fetch_offset: o(end),
            durable_offset: o(durable),
            last_fetched_epoch: if end <= 100 { e(3) } else { e(5) },
            log_start_offset: o(0),
        }
    }
    pub(super) fn try_fetch(&mut self, entry: &FollowerFetch) -> Result<FetchOutcome, FetchError> {
        self.leader.on_fetch(entry, self.now, &self.epochs)
    }
    /// An entry that must be taken, with log end and durable offset alike.
    pub(super) fn fetch(&mut self, follower: u32, end: i64) -> Effects {
        let outcome = self.try_fetch(&Self::entry(follower, end, end)).unwrap();
        assert_eq!(outcome.diverging, None);
        outcome.effects
    }
    pub(super) fn append(&mut self, end: i64) -> Effects {
        self.leader.on_append(o(end), self.now)
    }
    /// The answer to the proposal made at partition epoch 7.
    pub(super) fn answer(&mut self, outcome: ProposalOutcome) -> Effects {
        self.leader.on_proposal_result(PartitionEpoch::new(7), outcome, self.now)
    }
    pub(super) fn at(&mut self, now: Duration) -> &mut Self {
        self.now = now;
        self
    }
    pub(super) fn on_view(&mut self, view: &PartitionView, alive_ids: &[u32]) -> Effects {
        let config = *self.leader.config();
        self.leader.on_view(view, config, &alive(alive_ids), self.now)
    }
}

#[test]
fn the_high_watermark_is_the_least_acknowledged_offset_of_the_isr() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    assert_eq!(test.append(110), nothing());
    assert_eq!(test.fetch(2, 110), nothing(), "broker 3 has said nothing in this epoch");
    assert_eq!(test.fetch(3, 104), high_watermark(104));
    assert_eq!(test.fetch(3, 110), high_watermark(110));
    assert_eq!(test.append(120), nothing());
}

#[test]
fn a_replica_outside_the_isr_that_is_far_behind_holds_nothing_up() {
    let mut test = Test::replicated(&[1, 2], 2);
    assert_eq!(test.fetch(3, 40), nothing());
    assert_eq!(test.fetch(2, 100), high_watermark(100));
}

#[test]
fn the_high_watermark_never_goes_back() {
    let mut test = Test::replicated(&[1, 2], 2);
    assert_eq!(test.fetch(2, 100), high_watermark(100));
    let _ = test.fetch(2, 90);
    assert_eq!(test.leader.high_watermark(), o(100));
}

#[test]
fn t6_the_high_watermark_of_a_new_leader_is_uncertain_until_it_passes_the_start_of_its_epoch() {
    let mut test = Test::replicated(&[1, 2], 2);
    assert_eq!(test.leader.high_watermark(), o(80));
    assert!(!test.leader.high_watermark_is_certain());
    let _ = test.fetch(2, 99);
    assert!(!test.leader.high_watermark_is_certain());
    let _ = test.fetch(2, 100);
    assert!(test.leader.high_watermark_is_certain());
}

#[test]
fn t7_under_durability_sync_only_what_is_on_disk_is_acknowledged_everywhere() {
    let mut test = Test::new(&[1, 2], 2, Durability::Sync);
    assert_eq!(test.append(110), nothing());
    let entry = Test::entry(2, 110, 105);
    assert_eq!(test.try_fetch(&entry).unwrap().effects, high_watermark(100), "the leader's own disk has 100");
    assert_eq!(test.leader.on_local_durable(o(110), test.now), high_watermark(105));
    let entry = Test::entry(2, 110, 110);
    assert_eq!(test.try_fetch(&entry).unwrap().effects, high_watermark(110));
}

#[test]
fn t7_a_durable_offset_beyond_the_log_end_counts_only_up_to_it() {
    let mut test = Test::new(&[1, 2], 2, Durability::Sync);
    assert_eq!(test.try_fetch(&Test::entry(2, 90, 1000)).unwrap().effects, high_watermark(90));
}

#[test]
fn t7_an_entry_of_another_leader_epoch_acknowledges_nothing() {
    let mut test = Test::replicated(&[1, 2], 2);
    let older = FollowerFetch { leader_epoch: e(4), ..Test::entry(2, 100, 100) };
    let current = e(5);
    let error = test.try_fetch(&older).unwrap_err();
    assert_eq!(error, FetchError::FencedLeaderEpoch { follower: b(2), asked: e(4), current });
    let newer = FollowerFetch { leader_epoch: e(6), ..Test::entry(2, 100, 100) };
    let error = test.try_fetch(&newer).unwrap_err();
    assert_eq!(error, FetchError::UnknownLeaderEpoch { follower: b(2), asked: e(6), current });
    assert_eq!(test.leader.high_watermark(), o(80));
}

#[test]
fn t8_an_entry_of_an_older_incarnation_acknowledges_nothing() {
    let mut test = Test::replicated(&[1, 2], 2);
    let old = FollowerFetch { broker_epoch: BrokerEpoch::new(11), ..Test::entry(2, 100, 100) };
    let (asked, current) = (BrokerEpoch::new(11), BrokerEpoch::new(12));
    assert_eq!(test.try_fetch(&old), Err(FetchError::StaleBrokerEpoch { follower: b(2), asked, current }));

    // Also when the metadata has yet to show the newer one.
    let newer = FollowerFetch { broker_epoch: BrokerEpoch::new(40), ..Test::entry(2, 90, 90) };
    assert_eq!(test.try_fetch(&newer).unwrap().effects, high_watermark(90));
    let error = test.try_fetch(&Test::entry(2, 100, 100)).unwrap_err();
    assert!(matches!(error, FetchError::StaleBrokerEpoch { .. }));
}

#[test]
fn t8_a_new_incarnation_does_not_inherit_what_the_old_one_acknowledged() {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.append(110);
    let _ = test.fetch(2, 105);
    let restarted = FollowerFetch { broker_epoch: BrokerEpoch::new(40), ..Test::entry(2, 60, 60) };
    assert!(test.try_fetch(&restarted).unwrap().effects.high_watermark.is_none());
    let ends: Vec<_> = test.leader.progress().iter().filter(|p| p.broker == b(2)).map(|p| p.log_end).collect();
    assert_eq!(ends, [Some(o(60))]);
}

#[test]
fn t2_a_diverging_follower_gets_the_largest_epoch_not_above_its_own_and_acknowledges_nothing() {
    let mut test = Test::replicated(&[1, 2], 2);
    let diverging = |test: &mut Test, epoch: i32, end: i64| {
        let entry = FollowerFetch { last_fetched_epoch: e(epoch), ..Test::entry(2, end, end) };
        test.try_fetch(&entry).unwrap().diverging
    };
    let ends_at = |epoch, end| Some(EpochEnd { epoch: e(epoch), end: o(end) });
    assert_eq!(diverging(&mut test, 4, 90), ends_at(3, 100), "epoch 4 never was in this log");
    assert_eq!(diverging(&mut test, 2, 50), ends_at(1, 60), "epoch 2 was somebody else's");
    assert_eq!(diverging(&mut test, 1, 70), ends_at(1, 60), "epoch 1 ended before");
    assert_eq!(diverging(&mut test, 5, 103), ends_at(5, 100), "this leader has written nothing yet");
    assert_eq!(diverging(&mut test, 3, 100), None);
    // T1: the high watermark, 80, played no part; and only the last one, at 100, acknowledged.
    assert_eq!(test.leader.high_watermark(), o(100));
}

#[test]
fn a_follower_with_nothing_in_common_is_out_of_range() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    let _ = test.leader.on_log_start(o(50));
    test.epochs = history(&[(3, 50), (5, 100)]);
    let out = |asked| Err(FetchError::OffsetOutOfRange { follower: b(2), asked: o(asked), start: o(50), end: o(100) });
    assert_eq!(test.try_fetch(&Test::entry(2, 49, 49)), out(49));
    let empty = |end| FollowerFetch { last_fetched_epoch: LeaderEpoch::NONE, ..Test::entry(2, end, end) };
    assert_eq!(test.try_fetch(&empty(101)), out(101));
    let older = FollowerFetch { last_fetched_epoch: e(1), ..Test::entry(2, 70, 70) };
    assert_eq!(test.try_fetch(&older), out(70));
    assert!(test.try_fetch(&empty(50)).is_ok());
}

#[test]
fn t14_the_high_watermark_stands_still_below_min_insync_replicas() {
    let mut test = Test::replicated(&[1], 2);
    assert!(!test.leader.has_min_isr());
    assert_eq!(test.append(120), nothing());
    assert_eq!(test.leader.high_watermark(), o(80));
    // Broker 2 comes back: only the committed ISR ends it, not the proposal.
    let effects = test.fetch(2, 120);
    assert_eq!(effects.high_watermark, None);
    assert!(effects.propose_isr.is_some());
    assert_eq!(test.on_view(&view(&[1, 2], 8), &[1, 2, 3]), high_watermark(120));
}

#[test]
fn t16_a_raised_min_insync_takes_effect_with_the_view_of_the_same_image() {
    let mut test = Test::replicated(&[1, 2], 1);
    let _ = test.fetch(2, 100);
    let _ = test.append(110);
    // One image: min.insync.replicas 2, and an ISR that shrank after it was raised.
    let raised = config(2, Durability::Replicated);
    let effects = test.leader.on_view(&view(&[1], 8), raised, &alive(&[1, 3]), test.now);
    assert_eq!(effects, nothing());
    assert_eq!(test.leader.high_watermark(), o(100));
    let lowered = config(1, Durability::Replicated);
    assert_eq!(test.leader.on_view(&view(&[1], 8), lowered, &alive(&[1, 3]), test.now), high_watermark(110));
}

#[test]
fn t16_an_accepted_shrink_counts_only_once_the_metadata_shows_it() {
    // min.insync.replicas was 1 when broker 2 was proposed to go; if the controller meanwhile raised it to 2, it keeps
    // broker 2 eligible (ELR) and relies on nothing being committed without it.
    let mut test = Test::replicated(&[1, 2], 1);
    let _ = test.fetch(2, 100);
    let _ = test.append(110);
    let effects = test.leader.tick(LAG + ms(1));
    assert!(effects.propose_isr.is_some());
    let accepted = ProposalOutcome::Accepted { partition_epoch: PartitionEpoch::new(8) };
    assert_eq!(test.at(LAG + ms(2)).answer(accepted), nothing());
    assert_eq!(test.leader.high_watermark(), o(100));
    test.at(LAG + ms(3));
    assert_eq!(test.on_view(&view(&[1], 8), &[1, 2, 3]), high_watermark(110));
}

#[test]
fn t12_the_high_watermark_waits_for_a_replica_that_keeps_up_until_it_can_join() {
    let mut test = Test::replicated(&[1], 1);
    // A proposal that does not end, so that broker 2 can't join.
    let _ = test.fetch(3, 100);
    assert!(test.leader.maximal_isr().contains(&b(3)));
    let _ = test.fetch(2, 100);
    let _ = test.append(110);
    let _ = test.fetch(3, 110);
    assert_eq!(test.leader.high_watermark(), o(100), "else broker 2 could never reach it");
    assert_eq!(test.fetch(2, 106), high_watermark(106));
    // Its stream breaks: nobody waits for it any more.
    assert_eq!(test.leader.on_session_closed(b(2), test.now), high_watermark(110));
}

#[test]
fn t12_nobody_waits_for_a_replica_that_was_taken_out_of_the_isr_until_it_has_caught_up_anew() {
    // Its disk is offline, so the controller took it out; its stream is open, and it had all until a moment ago.
    let mut test = Test::replicated(&[1, 2], 1);
    let _ = test.fetch(2, 100);
    let _ = test.append(110);
    assert_eq!(test.leader.high_watermark(), o(100));
    let effects = test.on_view(&view(&[1], 8), &[1, 2, 3]);
    assert_eq!(effects, high_watermark(110));
}

#[test]
fn t12_nobody_waits_for_a_replica_that_has_fallen_behind() {
    let mut test = Test::replicated(&[1], 1);
    let _ = test.fetch(3, 100);
    let _ = test.fetch(2, 100);
    let _ = test.append(110);
    let _ = test.fetch(3, 110);
    let _ = test.at(LAG + ms(1)).fetch(3, 110);
    assert_eq!(test.leader.high_watermark(), o(110));
}

#[test]
fn t13_an_older_view_changes_nothing() {
    let mut test = Test::replicated(&[1, 2, 3], 2);
    let _ = test.on_view(&view(&[1, 2], 9), &[1, 2, 3]);
    let _ = test.on_view(&view(&[1, 2, 3], 8), &[1, 2, 3]);
    assert_eq!(test.leader.isr(), [b(1), b(2)]);
    let other_epoch = PartitionView { leader_epoch: e(4), ..view(&[1], 20) };
    let _ = test.on_view(&other_epoch, &[1, 2, 3]);
    assert_eq!(test.leader.isr(), [b(1), b(2)]);
}

#[test]
fn a_stranger_is_told_that_it_is_no_replica() {
    let mut test = Test::replicated(&[1, 2], 2);
    assert_eq!(test.try_fetch(&Test::entry(9, 100, 100)), Err(FetchError::NotReplica { follower: b(9) }));
}

#[test]
fn one_replica_alone_commits_what_it_has_as_durably_as_promised() {
    let alone = PartitionView { replicas: vec![b(1)], ..view(&[1], 7) };
    let log = LogEnds::new(o(0), o(100), o(90));
    let alive = alive(&[1]);
    let make = |durability| Leader::new(b(1), &alone, config(1, durability), log, o(50), &alive, Duration::ZERO);
    let (_, effects) = make(Durability::Replicated);
    assert_eq!(effects, high_watermark(100));
    let (mut leader, effects) = make(Durability::Sync);
    assert_eq!(effects, high_watermark(90));
    assert_eq!(leader.on_local_durable(o(100), Duration::ZERO), high_watermark(100));
}

#[test]
fn the_low_watermark_is_the_least_log_start_of_the_isr() {
    let mut test = Test::replicated(&[1, 2], 2);
    let _ = test.leader.on_log_start(o(60));
    let entry = FollowerFetch { log_start_offset: o(40), ..Test::entry(2, 100, 100) };
    let _ = test.try_fetch(&entry);
    assert_eq!(test.leader.low_watermark(), Some(o(40)));
    let entry = FollowerFetch { log_start_offset: o(60), ..entry };
    let _ = test.try_fetch(&entry);
    assert_eq!(test.leader.low_watermark(), Some(o(60)));
}

/// Those outside of so small an ISR may lead as well (ELR), and still have what was deleted here.
#[test]
fn p6_there_is_no_low_watermark_below_min_insync_replicas() {
    let mut test = Test::replicated(&[1], 2);
    let _ = test.leader.on_log_start(o(60));
    assert_eq!(test.leader.low_watermark(), None);
    let mut test = Test::replicated(&[1], 1);
    let _ = test.leader.on_log_start(o(60));
    assert_eq!(test.leader.low_watermark(), Some(o(60)));
}

fn near(ids: &[u32]) -> std::collections::BTreeSet<BrokerId> {
    ids.iter().map(|id| b(*id)).collect()
}

#[test]
fn t26_a_reader_is_sent_to_a_near_replica_that_is_in_sync_alive_and_has_the_offset() {
    let mut test = Test::replicated(&[1, 2], 2);
    let to = |test: &Test, offset, ids: &[u32]| test.leader.preferred_replica(o(offset), &near(ids), 0);
    assert_eq!(to(&test, 50, &[2]), None, "it has said nothing in this epoch");
    let _ = test.fetch(2, 100);
    let _ = test.fetch(3, 40);
    assert_eq!((to(&test, 50, &[2]), to(&test, 100, &[2, 3])), (Some(b(2)), Some(b(2))));
    assert_eq!(to(&test, 101, &[2]), None, "it does not have that offset");
    assert_eq!(to(&test, 20, &[3]), None, "not in sync");
    assert_eq!((to(&test, 50, &[]), to(&test, 50, &[7])), (None, None));
    assert_eq!(to(&test, 50, &[1, 2]), None, "the leader is as near, and knows more");
    let mut entry = Test::entry(2, 100, 100);
    entry.log_start_offset = o(30);
    test.try_fetch(&entry).unwrap();
    assert_eq!((to(&test, 29, &[2]), to(&test, 30, &[2])), (None, Some(b(2))), "it has deleted what is before");
    let _ = test.on_view(&view(&[1, 2], 8), &[1, 3]);
    assert_eq!(to(&test, 50, &[2]), None, "fenced");
}

#[test]
fn t26_readers_are_spread_over_the_replicas_near_them() {
    let mut test = Test::new(&[1, 2, 3], 2, Durability::Sync);
    let _ = test.fetch(2, 100);
    let _ = test.fetch(3, 100);
    let to = |spread| test.leader.preferred_replica(o(10), &near(&[2, 3]), spread);
    assert_eq!([to(0), to(1), to(2), to(u64::MAX)], [Some(b(2)), Some(b(3)), Some(b(2)), Some(b(3))]);
}
