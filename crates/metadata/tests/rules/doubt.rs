//! Replicas whose log recovery had to cut where synced records may have been (TRAPS T43).

use crate::cluster::{Cluster, b, ids};
use highwater_types::*;

/// All three are in the ISR when the power of all is lost.
fn powerless(configs: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::with_topic(3, configs);
    for id in [3, 2, 1] {
        cluster.fence(id);
    }
    cluster
}

#[test]
fn t43_a_replica_in_doubt_does_not_lead_while_one_without_may_come_back() {
    let mut cluster = powerless(&[]);
    assert_eq!(cluster.p().elr, ids(&[1, 2]));
    cluster.restart_in_doubt(1);
    let p = cluster.p();
    assert_eq!((p.leader, &p.elr, &p.last_known_elr, &p.doubtful), (None, &ids(&[2]), &ids(&[1]), &ids(&[1])));
    assert!(cluster.image.awaited_log_ends(b(1)).is_empty(), "2 is still eligible");
    cluster.restart_unclean(2);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr, &p.doubtful), (Some(b(2)), &ids(&[2]), &ids(&[1])));
    assert!(!p.recovering, "a clean election");
    // It is a full copy again once it has caught up.
    cluster.set_isr(&[1, 2]);
    assert_eq!((&cluster.p().isr, &cluster.p().doubtful), (&ids(&[1, 2]), &ids(&[])));
    cluster.fence(2);
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn t43_where_all_are_in_doubt_the_one_whose_log_goes_furthest_leads_whatever_the_policy() {
    let mut cluster = powerless(&[]);
    cluster.restart_in_doubt(1);
    cluster.restart_unclean(3);
    cluster.register(2, None, true).unwrap();
    cluster.report_copy(2, false, false, true);
    assert_eq!(cluster.p().last_known_elr, ids(&[1, 2]));
    cluster.report_end(1, 0, 80);
    cluster.report_end(3, 0, 200);
    assert_eq!(cluster.leader(), None, "2 may have more, and is not there yet");
    cluster.unfence(2);
    assert_eq!(cluster.leader(), None, "2 has not said where it ends");
    cluster.report_end(2, 0, 100);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr, &p.elr, &p.doubtful), (Some(b(2)), &ids(&[2]), &ids(&[]), &ids(&[1])));
    let report = p.unclean.as_ref().unwrap();
    assert_eq!(report.others.len(), 2, "3 was behind, and what it has is not what was committed");
    assert!(p.recovering && report.chosen.log_end_offset == Offset::new(100), "and it says so");
}

#[test]
fn t43_an_epoch_that_has_never_been_is_not_the_newest() {
    let mut cluster = powerless(&[]);
    cluster.restart_in_doubt(1);
    cluster.restart_in_doubt(2);
    let newest = cluster.p().leader_epoch.get();
    cluster.report_end(1, newest + (1 << 24), 50);
    cluster.report_end(2, newest, 40);
    assert_eq!(cluster.leader(), Some(2));
}

#[test]
fn t43_a_replica_without_a_log_is_not_waited_for_by_those_in_doubt() {
    let mut cluster = powerless(&[]);
    cluster.restart_in_doubt(1);
    cluster.register(2, None, false).unwrap();
    cluster.report_end(1, 0, 5);
    assert_eq!((cluster.leader(), &cluster.p().storage_lost), (Some(1), &ids(&[2])));
}

#[test]
fn t43_records_that_were_never_synced_are_not_given_up_for_doubt_unasked() {
    let mut cluster = powerless(&[("durability", "replicated")]);
    (1..=3).for_each(|id| cluster.restart_in_doubt(id));
    let p = cluster.p();
    assert_eq!((p.leader, &p.last_known_elr, &p.doubtful), (None, &ids(&[1, 2]), &ids(&[])));
    assert!(cluster.image.awaited_log_ends(b(1)).is_empty(), "the policy is none");
}

#[test]
fn t43_doubt_that_was_heard_does_not_cost_the_isr_again() {
    let mut cluster = powerless(&[]);
    cluster.restart_in_doubt(1);
    cluster.restart_unclean(2);
    cluster.set_isr(&[1, 2]);
    // Said again, by a broker that has not seen yet that it was heard.
    cluster.report_copy(1, false, false, true);
    assert_eq!((&cluster.p().isr, &cluster.p().doubtful), (&ids(&[1, 2]), &ids(&[])));
}

#[test]
fn t43_a_single_replica_in_doubt_leads_and_a_damaged_one_too() {
    for damaged in [false, true] {
        let mut cluster = Cluster::with_topic(1, &[]);
        cluster.fence(1);
        cluster.register(1, None, true).unwrap();
        cluster.report_copy(1, damaged, false, true);
        cluster.unfence(1);
        assert_eq!(cluster.leader(), None, "it has yet to say where its log ends");
        assert_eq!(cluster.image.awaited_log_ends(b(1)), [cluster.tp()]);
        cluster.report_end(1, 0, 7);
        assert_eq!(cluster.leader(), Some(1));
    }
}

#[test]
fn t43_a_damaged_log_without_doubt_goes_before_one_in_doubt() {
    let mut cluster = powerless(&[]);
    cluster.restart_in_doubt(1);
    cluster.register(2, None, true).unwrap();
    cluster.report_copy(2, true, false, false);
    cluster.unfence(2);
    assert_eq!((cluster.leader(), &cluster.p().isr), (Some(2), &ids(&[2])));
    // What it lacks is known; once the other has caught up, it leads, and 2 heals.
    let proposal = cluster.proposal(&[1, 2]);
    assert_eq!(cluster.propose(proposal).unwrap_err().code(), ErrorCode::FencedLeaderEpoch);
    assert_eq!((cluster.leader(), &cluster.p().isr), (Some(1), &ids(&[1])));
}
