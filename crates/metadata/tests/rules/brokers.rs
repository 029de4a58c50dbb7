//! Registration, fencing, elections and what stays eligible (TRAPS T10, T14, T17, T18, T19).

use crate::cluster::{Cluster, b, ids};
use highwater_metadata::*;
use highwater_types::*;

const REPLICATED: (&str, &str) = ("durability", "replicated");

#[test]
fn the_same_incarnation_keeps_its_broker_epoch() {
    let mut cluster = Cluster::new(1);
    let registration = cluster.registration(2, None, false);
    let command = Command::RegisterBroker(registration);
    let first = cluster.run(&command).unwrap();
    cluster.unfence(2);
    let version = cluster.image.version;
    assert_eq!(cluster.run(&command).unwrap(), first);
    assert_eq!(cluster.image.version, version, "nothing to change");
    assert!(cluster.image.is_active(b(2)));
}

#[test]
fn t18_a_new_broker_epoch_is_given_only_after_the_old_incarnation_is_fenced() {
    let mut cluster = Cluster::new(1);
    let before = cluster.epoch(1);
    let error = cluster.register(1, None, true).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DuplicateBrokerRegistration);
    assert!(error.code().is_retriable());
    cluster.fence(1);
    cluster.register(1, None, true).unwrap();
    assert!(cluster.epoch(1) > before);
    assert!(!cluster.image.is_unfenced(b(1)), "a new incarnation starts fenced");
    let old = Command::UnfenceBroker { broker: b(1), broker_epoch: before };
    assert_eq!(cluster.run(&old).unwrap_err().code(), ErrorCode::StaleBrokerEpoch);
}

#[test]
fn a_broker_of_another_cluster_is_refused() {
    let mut cluster = Cluster::new(1);
    let mut registration = cluster.registration(2, None, true);
    registration.cluster_id = Some("other".into());
    let error = cluster.run(&Command::RegisterBroker(registration)).unwrap_err();
    assert!(error.to_string().contains("other"), "{error}");
    assert!(cluster.image.broker(b(2)).is_none());
}

#[test]
fn fencing_the_leader_elects_from_the_isr_and_bumps_both_epochs() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.fence(1);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr, &p.elr), (Some(b(2)), &ids(&[2, 3]), &ids(&[])));
    assert_eq!((p.leader_epoch.get(), p.partition_epoch.get()), (1, 1));
    let version = cluster.image.version;
    cluster.fence(1);
    assert_eq!(cluster.image.version, version, "fencing twice changes nothing");
}

#[test]
fn fencing_a_follower_leaves_the_leader_epoch() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.fence(3);
    assert_eq!((cluster.leader(), cluster.p().leader_epoch.get()), (Some(1), 0));
    assert_eq!(cluster.p().isr, ids(&[1, 2]));
}

#[test]
fn t14_who_leaves_an_isr_below_the_minimum_stays_eligible() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.set_isr(&[1, 2]);
    assert_eq!(cluster.p().elr, ids(&[]), "the high watermark goes on without 3");
    cluster.set_isr(&[1]);
    assert_eq!(cluster.p().elr, ids(&[2]), "the high watermark stands still");
    cluster.set_isr(&[1, 3]);
    assert_eq!(cluster.p().elr, ids(&[]), "and moves on again");
}

#[test]
fn t17_the_last_replica_standing_is_not_the_only_one_that_may_lead() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.fence(3);
    cluster.fence(2);
    cluster.fence(1);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr, &p.elr), (None, &ids(&[]), &ids(&[1, 2])));
    cluster.restart_clean(3);
    assert_eq!(cluster.leader(), None, "3 lacks what 1 and 2 committed");
    cluster.restart_clean(2);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr, &p.elr), (Some(b(2)), &ids(&[2]), &ids(&[1])));
    assert!(!p.recovering, "a clean election");
}

#[test]
fn t17_an_unclean_restart_leaves_the_elr_if_durability_is_replicated() {
    let mut cluster = Cluster::with_topic(2, &[REPLICATED]);
    cluster.fence(2);
    cluster.fence(1);
    assert_eq!(cluster.p().elr, ids(&[1, 2]));
    cluster.restart_unclean(2);
    let p = cluster.p();
    assert_eq!((p.leader, &p.elr, &p.last_known_elr), (None, &ids(&[1]), &ids(&[2])));
    cluster.restart_clean(1);
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn t17_a_synced_log_keeps_its_broker_eligible_over_an_unclean_restart() {
    let mut cluster = Cluster::with_topic(2, &[]);
    cluster.fence(2);
    cluster.fence(1);
    cluster.restart_unclean(2);
    assert_eq!((cluster.leader(), &cluster.p().isr), (Some(2), &ids(&[2])));
    assert_eq!(cluster.p().elr, ids(&[1]));
}

#[test]
fn t17_the_marker_of_an_older_epoch_is_no_proof() {
    let mut cluster = Cluster::with_topic(2, &[REPLICATED]);
    let old = cluster.epoch(2);
    cluster.fence(2);
    cluster.restart_clean(2);
    cluster.set_isr(&[1, 2]);
    cluster.fence(2);
    cluster.fence(1);
    cluster.register(2, Some(old), true).unwrap();
    cluster.unfence(2);
    assert_eq!((cluster.leader(), &cluster.p().elr), (None, &ids(&[1])));
}

#[test]
fn t17_new_storage_is_no_copy_whatever_the_durability() {
    let mut cluster = Cluster::with_topic(2, &[]);
    cluster.fence(2);
    cluster.fence(1);
    cluster.register(2, None, false).unwrap();
    cluster.unfence(2);
    let p = cluster.p();
    assert_eq!((p.leader, &p.elr, &p.last_known_elr), (None, &ids(&[1]), &ids(&[2])));
}

#[test]
fn t17_a_topic_that_becomes_sync_trusts_only_copies_that_synced_since() {
    let mut cluster = Cluster::with_topic(2, &[REPLICATED]);
    cluster.alter(&[("durability", "sync")], 0).unwrap();
    assert_eq!(cluster.p().unsynced, ids(&[1, 2]));
    // 2 rejoins by what it has on its disk; 1 has stayed in the ISR all along.
    cluster.set_isr(&[1]);
    cluster.set_isr(&[1, 2]);
    assert_eq!(cluster.p().unsynced, ids(&[1]));
    cluster.fence(1);
    cluster.fence(2);
    cluster.restart_unclean(1);
    assert_eq!((cluster.leader(), &cluster.p().elr), (None, &ids(&[2])));
    cluster.restart_unclean(2);
    assert_eq!(cluster.leader(), Some(2));
}

#[test]
fn t10_fenced_and_shutting_down_brokers_cant_join_the_isr() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.set_isr(&[1, 2]);
    cluster.shut_down(3);
    let proposal = cluster.proposal(&[1, 2, 3]);
    let error = cluster.propose(proposal.clone()).unwrap_err();
    assert!(matches!(error, CommandError::IneligibleReplica { why: Ineligible::ShuttingDown, .. }), "{error}");
    cluster.fence(3);
    let error = cluster.propose(proposal).unwrap_err();
    assert!(matches!(error, CommandError::IneligibleReplica { why: Ineligible::Fenced, .. }), "{error}");
    assert_eq!(cluster.p().isr, ids(&[1, 2]));
}

#[test]
fn t8_a_follower_that_restarted_since_it_was_in_sync_cant_join() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.set_isr(&[1, 2]);
    let mut proposal = cluster.proposal(&[1, 2, 3]);
    cluster.fence(3);
    cluster.restart_unclean(3);
    proposal.partition_epoch = cluster.p().partition_epoch;
    let error = cluster.propose(proposal.clone()).unwrap_err();
    assert!(matches!(error, CommandError::IneligibleReplica { why: Ineligible::Restarted, .. }), "{error}");
    proposal.new_isr[2].broker_epoch = BrokerEpoch::NONE;
    let error = cluster.propose(proposal).unwrap_err();
    assert!(matches!(error, CommandError::IneligibleReplica { why: Ineligible::NoBrokerEpoch, .. }), "{error}");
}

#[test]
fn a_controlled_shutdown_moves_leadership_and_leaves_isrs_that_have_others() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.create("u", vec![ids(&[1])], &[]).unwrap();
    let alone = TopicPartition::new(cluster.image.topic_by_name("u").unwrap().id, PartitionId::new(0));
    cluster.shut_down(1);
    assert_eq!((cluster.leader(), &cluster.p().isr), (Some(2), &ids(&[2, 3])));
    assert_eq!(cluster.image.partition(alone).unwrap().leader, Some(b(1)), "nobody else can");
    assert!(cluster.image.controlled_shutdown_is_complete(b(1)));
    cluster.fence(1);
    assert_eq!(cluster.image.partition(alone).unwrap().elr, ids(&[1]));
    let broker_epoch = cluster.epoch(1);
    let unfence = Command::UnfenceBroker { broker: b(1), broker_epoch };
    assert_eq!(cluster.run(&unfence).unwrap_err().code(), ErrorCode::BrokerShuttingDown);
    cluster.restart_clean(1);
    assert_eq!(cluster.image.partition(alone).unwrap().leader, Some(b(1)));
}

#[test]
fn a_leader_that_is_shutting_down_hands_over_to_the_first_that_joins() {
    let mut cluster = Cluster::with_topic(2, &[]);
    cluster.fence(2);
    cluster.restart_clean(2);
    cluster.shut_down(1);
    assert_eq!(cluster.leader(), Some(1), "2 is not in sync yet");
    assert!(!cluster.image.controlled_shutdown_is_complete(b(1)), "2 may catch up");
    let proposal = cluster.proposal(&[1, 2]);
    let error = cluster.propose(proposal).unwrap_err();
    assert_eq!(error.code(), ErrorCode::FencedLeaderEpoch);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr, &p.elr), (Some(b(2)), &ids(&[2]), &ids(&[1])));
    assert!(cluster.image.controlled_shutdown_is_complete(b(1)));
}

#[test]
fn t19_without_a_policy_a_partition_waits_for_an_eligible_replica() {
    let mut cluster = Cluster::with_topic(2, &[REPLICATED]);
    cluster.fence(2);
    cluster.fence(1);
    cluster.restart_unclean(1);
    cluster.restart_unclean(2);
    assert_eq!((cluster.leader(), &cluster.p().last_known_elr), (None, &ids(&[1, 2])));
    assert!(cluster.image.awaited_log_ends(b(1)).is_empty());
}

#[test]
fn t19_a_balanced_election_waits_for_all_last_known_and_chooses_by_epoch_then_offset() {
    let mut cluster = Cluster::with_topic(3, &[REPLICATED, ("unclean.leader.election", "balanced")]);
    for id in [3, 2, 1] {
        cluster.fence(id);
    }
    assert_eq!(cluster.p().elr, ids(&[1, 2]));
    cluster.restart_unclean(1);
    assert!(cluster.image.awaited_log_ends(b(1)).is_empty(), "2 is still eligible");
    cluster.restart_unclean(3);
    cluster.register(2, None, true).unwrap();
    assert_eq!(cluster.image.awaited_log_ends(b(1)), vec![cluster.tp()]);
    cluster.report_end(1, 0, 500);
    cluster.report_end(3, 0, 20);
    assert_eq!(cluster.leader(), None, "2 has had no chance yet");
    cluster.unfence(2);
    assert_eq!(cluster.leader(), None, "2 has not said where it ends");
    cluster.report_end(2, 1, 100);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr, &p.elr), (Some(b(2)), &ids(&[2]), &ids(&[])));
    assert!(p.recovering);
    let report = p.unclean.as_ref().unwrap();
    assert_eq!(report.chosen.broker, b(2));
    assert_eq!(report.given_up(), Some((Offset::new(100), Offset::new(500))));
    assert_eq!(report.leader_epoch, p.leader_epoch);
    assert!(report.not_heard.is_empty() && p.log_ends.is_empty());
}

#[test]
fn t19_a_proactive_election_takes_the_best_of_those_that_are_there_and_names_the_others() {
    let mut cluster = Cluster::with_topic(3, &[("unclean.leader.election", "proactive"), ("min.insync.replicas", "1")]);
    cluster.set_isr(&[1]);
    cluster.fence(1);
    assert_eq!((cluster.leader(), &cluster.p().elr), (None, &ids(&[1])));
    cluster.report_end(2, 0, 10);
    assert_eq!(cluster.leader(), None, "3 is there and has not said");
    cluster.report_end(3, 0, 12);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr), (Some(b(3)), &ids(&[3])));
    assert_eq!(p.unclean.as_ref().unwrap().not_heard, ids(&[1]));
    assert!(p.recovering && !p.elr.contains(&b(1)));
}

#[test]
fn t19_whom_an_unclean_election_passed_over_is_eligible_no_longer() {
    let mut cluster = Cluster::with_topic(3, &[("unclean.leader.election", "proactive")]);
    cluster.set_isr(&[1, 2]);
    cluster.fence(2);
    cluster.fence(1);
    assert_eq!(cluster.p().elr, ids(&[1, 2]));
    cluster.report_end(3, 0, 4);
    let p = cluster.p();
    assert_eq!((p.leader, &p.isr, &p.elr, &p.last_known_elr), (Some(b(3)), &ids(&[3]), &ids(&[]), &ids(&[1, 2])));
    assert_eq!(p.unclean.as_ref().unwrap().not_heard, ids(&[1, 2]));
}

#[test]
fn t19_setting_the_policy_later_starts_the_election() {
    let mut cluster = Cluster::with_topic(2, &[REPLICATED]);
    cluster.fence(2);
    cluster.fence(1);
    cluster.restart_unclean(1);
    cluster.restart_unclean(2);
    cluster.alter(&[("unclean.leader.election", "balanced")], 0).unwrap();
    assert_eq!(cluster.image.awaited_log_ends(b(2)), vec![cluster.tp()]);
    cluster.report_end(2, 0, 10);
    cluster.report_end(1, 0, 10);
    assert_eq!(cluster.leader(), Some(1), "the first of equals");
}

#[test]
fn t19_a_log_end_of_an_older_incarnation_does_not_count() {
    let mut cluster = Cluster::with_topic(2, &[REPLICATED, ("unclean.leader.election", "balanced")]);
    cluster.fence(2);
    cluster.fence(1);
    cluster.restart_unclean(1);
    cluster.restart_unclean(2);
    cluster.report_end(1, 0, 100);
    cluster.fence(1);
    assert!(cluster.p().log_ends.is_empty());
    cluster.restart_unclean(1);
    cluster.report_end(2, 0, 50);
    assert_eq!(cluster.leader(), None);
    cluster.report_end(1, 0, 40);
    assert_eq!(cluster.leader(), Some(2));
}

#[test]
fn t19_a_recovering_leader_is_joined_only_once_it_has_recovered() {
    let mut cluster = Cluster::with_topic(2, &[REPLICATED, ("unclean.leader.election", "balanced")]);
    cluster.fence(2);
    cluster.fence(1);
    cluster.restart_unclean(1);
    cluster.restart_unclean(2);
    cluster.report_end(1, 0, 100);
    cluster.report_end(2, 0, 100);
    let mut proposal = cluster.proposal(&[1, 2]);
    proposal.recovered = false;
    assert_eq!(cluster.propose(proposal.clone()).unwrap_err().code(), ErrorCode::InvalidRequest);
    proposal.recovered = true;
    cluster.propose(proposal).unwrap();
    assert!(!cluster.p().recovering);
    assert_eq!(cluster.p().isr, ids(&[1, 2]));
}

#[test]
fn t19_a_single_replica_leads_again_after_an_unclean_restart_unless_its_storage_is_new() {
    let mut cluster = Cluster::with_topic(1, &[REPLICATED]);
    cluster.fence(1);
    cluster.restart_unclean(1);
    cluster.report_end(1, 0, 9);
    assert_eq!(cluster.leader(), Some(1));
    assert!(cluster.p().recovering, "and says so");
    cluster.fence(1);
    cluster.register(1, None, false).unwrap();
    cluster.unfence(1);
    cluster.report_end(1, -1, 0);
    assert_eq!(cluster.leader(), None, "the old disk may be put back");
    cluster.alter(&[("unclean.leader.election", "balanced")], 0).unwrap();
    cluster.report_end(1, -1, 0);
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn a_damaged_leader_steps_down_if_another_can_lead_and_stays_if_it_is_the_last() {
    let mut cluster = Cluster::with_topic(2, &[]);
    cluster.report_unusable(1, true, false);
    assert_eq!((cluster.leader(), &cluster.p().isr, &cluster.p().elr), (Some(2), &ids(&[2]), &ids(&[1])));
    let proposal = cluster.proposal(&[1, 2]);
    assert_eq!(cluster.propose(proposal).unwrap_err().code(), ErrorCode::IneligibleReplica);
    cluster.report_unusable(2, true, false);
    assert_eq!(cluster.leader(), Some(2), "no better copy is left");
    cluster.report_unusable(1, false, false);
    assert_eq!(cluster.leader(), Some(1), "healed, and eligible");
}

#[test]
fn the_last_copy_leads_even_if_damaged_but_not_while_a_better_one_may_return() {
    let mut cluster = Cluster::with_topic(2, &[]);
    cluster.fence(1);
    cluster.fence(2);
    cluster.register(1, None, true).unwrap();
    cluster.report_unusable(1, true, false);
    cluster.unfence(1);
    assert_eq!(cluster.leader(), None, "2 may return");
    cluster.register(2, None, true).unwrap();
    cluster.report_unusable(2, true, false);
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn lost_storage_is_no_copy() {
    let mut cluster = Cluster::with_topic(2, &[]);
    cluster.fence(1);
    cluster.fence(2);
    cluster.register(1, None, true).unwrap();
    cluster.report_unusable(1, false, true);
    cluster.unfence(1);
    let p = cluster.p();
    assert_eq!((p.leader, &p.elr, &p.last_known_elr), (None, &ids(&[2]), &ids(&[1])));
    let version = cluster.image.version;
    cluster.report_unusable(1, false, true);
    assert_eq!(cluster.image.version, version, "said once is enough");
    cluster.restart_unclean(2);
    cluster.set_isr(&[1, 2]);
    assert!(cluster.p().storage_lost.is_empty());
}

#[test]
fn t19_a_loss_told_again_does_not_cost_the_leader_that_was_elected_in_spite_of_it() {
    let mut cluster = Cluster::with_topic(3, &[("unclean.leader.election", "proactive"), ("min.insync.replicas", "1")]);
    let leader = cluster.leader().unwrap();
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.fence(id);
    }
    cluster.report_end(leader, 0, 0);
    cluster.report_unusable(leader, false, true);
    cluster.report_end(leader, 0, 0);
    let elected = cluster.p().clone();
    assert_eq!(elected.leader, Some(b(leader)), "nobody else is there, and the policy is to go on");
    assert!(elected.storage_lost.contains(&b(leader)), "so that the broker sees that it was heard");
    cluster.report_unusable(leader, false, true);
    assert_eq!(*cluster.p(), elected);
}
