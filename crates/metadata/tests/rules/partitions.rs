//! ISR proposals, topics and preferred leaders (TRAPS T13, T15, T16, T21).

use std::collections::BTreeSet;

use crate::cluster::{Cluster, b, ids, strings};
use highwater_metadata::*;
use highwater_types::*;

#[test]
fn t13_an_isr_change_is_compare_and_set_on_the_partition_epoch() {
    let mut cluster = Cluster::with_topic(3, &[]);
    let proposal = cluster.proposal(&[1, 2]);
    let altered = cluster.propose(proposal.clone()).unwrap();
    assert_eq!((altered.isr, altered.partition_epoch.get(), altered.leader_epoch.get()), (ids(&[1, 2]), 1, 0));
    let error = cluster.propose(proposal).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidUpdateVersion);
    assert_eq!(cluster.p().partition_epoch.get(), 1);
}

#[test]
fn a_proposal_is_refused_by_reason() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.register(4, None, false).unwrap();
    cluster.unfence(4);
    let good = cluster.proposal(&[1, 2]);
    let code = |cluster: &mut Cluster, broker, change: &dyn Fn(&mut AlterPartition)| {
        let mut proposal = good.clone();
        change(&mut proposal);
        cluster.propose_as(broker, proposal).unwrap_err().code()
    };
    let c = &mut cluster;
    assert_eq!(code(c, 2, &|_| ()), ErrorCode::NotLeader);
    assert_eq!(code(c, 1, &|p| p.leader_epoch = LeaderEpoch::new(-1)), ErrorCode::FencedLeaderEpoch);
    assert_eq!(code(c, 1, &|p| p.leader_epoch = LeaderEpoch::new(1)), ErrorCode::UnknownLeaderEpoch);
    assert_eq!(code(c, 1, &|p| p.partition.topic = TopicId::NIL), ErrorCode::UnknownTopicId);
    assert_eq!(code(c, 1, &|p| p.partition.partition = PartitionId::new(9)), ErrorCode::UnknownPartition);
    assert_eq!(code(c, 1, &|p| _ = p.new_isr.remove(0)), ErrorCode::InvalidRequest);
    assert_eq!(code(c, 1, &|p| p.new_isr.push(p.new_isr[1])), ErrorCode::InvalidRequest);
    assert_eq!(code(c, 1, &|p| p.new_isr[1].broker = b(4)), ErrorCode::InvalidRequest);
    let stale =
        Command::AlterPartitions { broker: b(1), broker_epoch: BrokerEpoch::new(99), partitions: vec![good.clone()] };
    assert_eq!(c.run(&stale).unwrap_err().code(), ErrorCode::StaleBrokerEpoch);
    assert_eq!(c.p().partition_epoch, PartitionEpoch::FIRST, "nothing was changed");
    c.propose(good).unwrap();
}

#[test]
fn a_member_that_has_not_fetched_yet_may_stay_without_its_broker_epoch() {
    let mut cluster = Cluster::with_topic(3, &[]);
    let mut proposal = cluster.proposal(&[1, 2]);
    proposal.new_isr[1].broker_epoch = BrokerEpoch::NONE;
    cluster.propose(proposal).unwrap();
}

#[test]
fn t15_the_minimum_is_bounded_by_the_replication_factor() {
    let mut cluster = Cluster::with_topic(2, &[("min.insync.replicas", "5")]);
    cluster.set_isr(&[1]);
    assert_eq!(cluster.p().elr, ids(&[2]), "below the effective minimum of 2");
    cluster.set_isr(&[1, 2]);
    assert_eq!(cluster.p().elr, ids(&[]), "2 of 2 reach it");
}

#[test]
fn t16_a_changed_minimum_fences_proposals_made_under_the_old_one() {
    let mut cluster = Cluster::with_topic(2, &[("min.insync.replicas", "1")]);
    let old = cluster.proposal(&[1]);
    cluster.alter(&[("min.insync.replicas", "2")], 0).unwrap();
    let error = cluster.propose(old).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidUpdateVersion, "else 2 were eligible, and 1 went on without it");
    cluster.set_isr(&[1]);
    assert_eq!(cluster.p().elr, ids(&[2]));
}

#[test]
fn t16_a_lowered_minimum_ends_the_eligibility_of_those_left_behind() {
    let mut cluster = Cluster::with_topic(2, &[]);
    cluster.set_isr(&[1]);
    cluster.alter(&[("min.insync.replicas", "1")], 0).unwrap();
    assert_eq!(cluster.p().elr, ids(&[]));
    cluster.fence(1);
    assert_eq!((cluster.leader(), &cluster.p().elr), (None, &ids(&[1])));
}

#[test]
fn t21_a_topic_created_again_is_another_topic() {
    let mut cluster = Cluster::with_topic(1, &[]);
    let first = cluster.tp();
    cluster.run(&Command::DeleteTopic { name: "t".into() }).unwrap();
    assert!(cluster.image.partition(first).is_none());
    cluster.seed = 7;
    cluster.create("t", vec![ids(&[1])], &[]).unwrap();
    assert_ne!(cluster.tp().topic, first.topic);
    assert_eq!(cluster.image.topic_by_name("t").unwrap().id, cluster.tp().topic);
    // Who means the first one does not delete the second.
    let late = cluster.run(&Command::DeleteTopicById { topic: first.topic });
    assert_eq!(late.unwrap_err().code(), ErrorCode::UnknownTopicId);
    let second = cluster.tp().topic;
    cluster.run(&Command::DeleteTopicById { topic: second }).unwrap();
    assert!(cluster.image.topic_by_name("t").is_none());
}

#[test]
fn bad_topics_are_refused_by_reason_and_change_nothing() {
    let mut cluster = Cluster::with_topic(2, &[]);
    let version = cluster.image.version;
    let c = &mut cluster;
    let code = |r: Result<CommandResponse, CommandError>| r.unwrap_err().code();
    assert_eq!(code(c.place("a b", 1, 1)), ErrorCode::InvalidTopicName);
    assert_eq!(code(c.place("t", 1, 1)), ErrorCode::TopicAlreadyExists);
    assert_eq!(code(c.place("n", 0, 1)), ErrorCode::InvalidPartitionCount);
    assert_eq!(code(c.place("n", PARTITIONS_PER_TOPIC_MAX + 1, 1)), ErrorCode::InvalidPartitionCount);
    assert_eq!(code(c.place("n", 1, 3)), ErrorCode::InvalidReplicationFactor);
    assert_eq!(code(c.place("n", 1, 0)), ErrorCode::InvalidReplicationFactor);
    assert_eq!(code(c.create("n", vec![ids(&[1, 1])], &[])), ErrorCode::InvalidReplicaAssignment);
    assert_eq!(code(c.create("n", vec![ids(&[1, 9])], &[])), ErrorCode::InvalidReplicaAssignment);
    assert_eq!(code(c.create("n", vec![ids(&[1]), ids(&[1, 2])], &[])), ErrorCode::InvalidReplicaAssignment);
    assert_eq!(code(c.create("n", vec![ids(&[1])], &[("x", "1")])), ErrorCode::InvalidConfig);
    assert_eq!(code(c.alter(&[("retention.ms", "x")], 5)), ErrorCode::InvalidConfig);
    assert_eq!(code(c.alter(&[("retention.ms", "5")], PARTITIONS_PER_TOPIC_MAX + 1)), ErrorCode::InvalidPartitionCount);
    assert_eq!(code(c.run(&Command::DeleteTopic { name: "n".into() })), ErrorCode::UnknownTopic);
    let elect = Command::ElectPreferred { topics: BTreeSet::from(["n".to_owned()]) };
    assert_eq!(code(c.run(&elect)), ErrorCode::UnknownTopic);
    assert_eq!(c.image.version, version);
}

#[test]
fn partitions_grow_and_never_shrink() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.alter(&[("retention.ms", "5")], 4).unwrap();
    let topic = cluster.image.topic_by_name("t").unwrap();
    assert_eq!((topic.partitions.len(), topic.config().retention_ms), (4, Some(5)));
    assert!(topic.partitions.iter().all(|p| p.replicas.len() == 3 && p.isr.len() == 3));
    assert_eq!(cluster.alter(&[], 3).unwrap_err().code(), ErrorCode::InvalidPartitionCount);
}

#[test]
fn a_response_shows_the_topic_as_it_will_be() {
    let mut cluster = Cluster::with_topic(3, &[]);
    let response = cluster.alter(&[("min.insync.replicas", "1")], 4).unwrap();
    let CommandResponse::Topic { topic } = response else { panic!("{response:?}") };
    assert_eq!(&topic, cluster.image.topic_by_name("t").unwrap().as_ref());
}

#[test]
fn validate_only_plans_and_changes_nothing() {
    let mut cluster = Cluster::new(3);
    let before = cluster.image.clone();
    let response = cluster.run(&Command::CreateTopic {
        name: "v".into(),
        partitions: 6,
        replication_factor: 3,
        configs: strings(&[]),
        assignments: vec![],
        validate_only: true,
    });
    assert!(matches!(response, Ok(CommandResponse::Topic { topic }) if topic.partitions.len() == 6));
    assert_eq!(cluster.image, before);
}

#[test]
fn a_topic_can_be_created_while_a_broker_is_down() {
    let mut cluster = Cluster::new(3);
    cluster.fence(2);
    cluster.place("d", 3, 3).unwrap();
    let topic = cluster.image.topic_by_name("d").unwrap();
    for p in &topic.partitions {
        assert_eq!((p.replicas.len(), p.isr.len(), p.is_offline()), (3, 2, false));
        assert!(!p.isr.contains(&b(2)) && p.isr.contains(&p.replicas[0]));
    }
    cluster.place("e", 3, 2).unwrap();
    assert!(cluster.image.topic_by_name("e").unwrap().partitions.iter().all(|p| !p.replicas.contains(&b(2))));
}

#[test]
fn leadership_returns_to_the_first_replica_when_asked() {
    let mut cluster = Cluster::with_topic(3, &[]);
    cluster.fence(1);
    cluster.restart_clean(1);
    let elect = Command::ElectPreferred { topics: BTreeSet::new() };
    assert_eq!(cluster.run(&elect), Ok(CommandResponse::PreferredElected { moved: 0 }), "1 is not in sync");
    cluster.set_isr(&[1, 2, 3]);
    let epoch = cluster.p().leader_epoch;
    assert_eq!(cluster.run(&elect), Ok(CommandResponse::PreferredElected { moved: 1 }));
    assert_eq!((cluster.leader(), cluster.p().leader_epoch), (Some(1), epoch.next()));
}

#[test]
fn controllers_come_and_go() {
    let mut cluster = Cluster::new(0);
    let (controller, endpoint) = (ControllerId::new(4), Endpoint::new("h", 1));
    cluster.run(&Command::AddController { controller, endpoint: endpoint.clone() }).unwrap();
    assert_eq!(cluster.image.controllers[&controller].endpoint, endpoint);
    cluster.run(&Command::RemoveController { controller }).unwrap();
    let again = cluster.run(&Command::RemoveController { controller });
    assert_eq!(again.unwrap_err().code(), ErrorCode::UnknownController);
}

#[test]
fn the_cluster_is_created_once() {
    let mut cluster = Cluster::new(0);
    let create = |id: Option<&str>| Command::CreateCluster { cluster_id: id.map(str::to_owned) };
    assert!(cluster.run(&create(None)).is_ok() && cluster.run(&create(Some("c"))).is_ok());
    assert_eq!(cluster.run(&create(Some("d"))).unwrap_err().code(), ErrorCode::Conflict);
    assert_eq!(cluster.image.cluster_id, "c");
    let empty = ClusterImage::default();
    let decision = decide(&empty, &create(None), 3).unwrap();
    assert!(matches!(&decision.records[..], [Record::ClusterCreated { cluster_id }] if cluster_id.len() == 32));
}

#[test]
fn records_tolerate_fields_of_newer_versions() {
    let json = br#"{"type":"topic_deleted","topic":"000000000000000000000000000000aa","by":"newer"}"#;
    assert!(matches!(Record::from_json(json), Ok(Record::TopicDeleted { .. })));
    let error = Record::from_json(b"{\"type\":\"nonsense\"}").unwrap_err();
    assert!(error.to_string().contains("metadata record"), "{error}");
}

#[test]
fn a_record_that_does_not_fit_changes_nothing() {
    let mut image = Cluster::with_topic(1, &[]).image;
    let before = image.clone();
    let topic = TopicId::from_u128(5);
    assert!(image.replay(&Record::TopicDeleted { topic }).is_err());
    assert!(image.replay(&Record::PartitionsAdded { topic, partitions: vec![] }).is_err());
    let known = image.topic_by_name("t").unwrap();
    let partition = TopicPartition::new(known.id, PartitionId::new(1));
    let state = known.partitions[0].clone();
    assert!(image.replay(&Record::PartitionChanged { partition, state }).is_err());
    assert_eq!(image, before);
}

#[test]
fn defaults_fill_only_what_was_left_open() {
    let create = |partitions, replication_factor, assignments| Command::CreateTopic {
        name: "t".into(),
        partitions,
        replication_factor,
        configs: strings(&[]),
        assignments,
        validate_only: false,
    };
    assert_eq!(create(0, 2, vec![]).with_defaults(6, 3), create(6, 2, vec![]));
    let exact = create(0, 0, vec![ids(&[1])]);
    assert_eq!(exact.clone().with_defaults(6, 3), exact);
}

fn elect(cluster: &mut Cluster, election: Election) -> Vec<ElectionOutcome> {
    let partitions = BTreeSet::from([cluster.tp()]);
    match cluster.run(&Command::ElectLeaders { election, partitions }) {
        Ok(CommandResponse::LeadersElected { partitions }) => {
            partitions.into_iter().map(|(_, outcome)| outcome).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_election_says_of_each_partition_what_became_of_it() {
    let mut cluster = Cluster::with_topic(3, &[]);
    assert_eq!(elect(&mut cluster, Election::Preferred), [ElectionOutcome::NotNeeded]);
    assert_eq!(elect(&mut cluster, Election::Unclean), [ElectionOutcome::NotNeeded]);
    cluster.fence(1);
    cluster.restart_clean(1);
    assert_eq!(elect(&mut cluster, Election::Preferred), [ElectionOutcome::PreferredNotAvailable]);
    cluster.set_isr(&[1, 2, 3]);
    assert_eq!(elect(&mut cluster, Election::Preferred), [ElectionOutcome::Elected]);
    assert_eq!(cluster.leader(), Some(1));
    let unknown = TopicPartition::new(cluster.tp().topic, PartitionId::new(9));
    let command = Command::ElectLeaders { election: Election::Preferred, partitions: BTreeSet::from([unknown]) };
    let expected = vec![(unknown, ElectionOutcome::UnknownPartition)];
    assert_eq!(cluster.run(&command), Ok(CommandResponse::LeadersElected { partitions: expected }));
    // Of all, only those with something to do are told.
    let command = Command::ElectLeaders { election: Election::Preferred, partitions: BTreeSet::new() };
    assert_eq!(cluster.run(&command), Ok(CommandResponse::LeadersElected { partitions: vec![] }));
}

#[test]
fn t19_an_unclean_election_that_is_asked_for_waits_for_log_ends_and_takes_the_longest_whatever_the_policy() {
    let mut cluster = Cluster::with_topic(3, &[("min.insync.replicas", "1")]);
    cluster.set_isr(&[1]);
    cluster.fence(1);
    assert_eq!(cluster.leader(), None);
    assert!(!cluster.image.awaits_log_end(cluster.tp(), b(2)), "the policy is none");
    assert_eq!(elect(&mut cluster, Election::Unclean), [ElectionOutcome::Awaited]);
    cluster.report_end(2, 0, 5);
    assert_eq!(cluster.leader(), None);
    cluster.report_end(3, 0, 7);
    assert_eq!(cluster.leader(), Some(3));
    let p = cluster.p();
    assert!(p.recovering && !p.unclean_asked && p.unclean.as_ref().unwrap().chosen.broker == b(3));
    // The next failure is decided by the policy again.
    cluster.fence(3);
    assert_eq!(cluster.leader(), None);
    assert!(!cluster.image.awaits_log_end(cluster.tp(), b(2)));
    cluster.fence(2);
    assert_eq!(elect(&mut cluster, Election::Unclean), [ElectionOutcome::NoReplicaAvailable]);
}

/// A change of nothing.
fn alter(set: &[(&str, &str)], unset: &[&str], lists: &[(&str, &str, bool)]) -> Command {
    let list = |(key, items, add): &(&str, &str, bool)| ListChange {
        key: (*key).to_owned(),
        items: (*items).to_owned(),
        add: *add,
    };
    Command::AlterTopic {
        name: "t".into(),
        set_configs: strings(set),
        unset_configs: unset.iter().map(|key| (*key).to_owned()).collect(),
        list_changes: lists.iter().map(list).collect(),
        partitions: 0,
        must_grow: false,
        assignments: Vec::new(),
        validate_only: false,
    }
}

#[test]
fn lists_are_changed_as_they_are_when_the_command_is_decided() {
    let mut cluster = Cluster::with_topic(3, &[]);
    const POLICY: &str = "cleanup.policy";
    let policy = |cluster: &Cluster| cluster.image.topic_by_name("t").unwrap().configs.get(POLICY).cloned();
    // Two clients that saw the default at the same time.
    cluster.run(&alter(&[], &[], &[(POLICY, "compact", true)])).unwrap();
    cluster.run(&alter(&[], &[], &[(POLICY, "compact", true)])).unwrap();
    assert_eq!(policy(&cluster).as_deref(), Some("delete,compact"));
    cluster.run(&alter(&[], &[], &[(POLICY, "delete", false), (POLICY, " compact ", true)])).unwrap();
    assert_eq!(policy(&cluster).as_deref(), Some("compact"));
    for wrong in [
        alter(&[], &[], &[(POLICY, "compact", false)]),
        alter(&[], &[], &[(POLICY, "rot", true)]),
        alter(&[], &[], &[("retention.ms", "5", true)]),
        alter(&[], &[], &[("no.such", "5", true)]),
        alter(&[(POLICY, "delete")], &[], &[(POLICY, "compact", true)]),
        alter(&[], &[POLICY], &[(POLICY, "compact", true)]),
    ] {
        assert_eq!(cluster.run(&wrong).unwrap_err().code(), ErrorCode::InvalidConfig, "{wrong:?}");
    }
    assert_eq!(policy(&cluster).as_deref(), Some("compact"));
}

#[test]
fn who_asks_for_more_partitions_is_told_if_another_was_first() {
    let mut cluster = Cluster::with_topic(3, &[]);
    let grow = |to, must| {
        let mut command = alter(&[], &[], &[]);
        let Command::AlterTopic { partitions, must_grow, .. } = &mut command else { unreachable!() };
        (*partitions, *must_grow) = (to, must);
        command
    };
    cluster.run(&grow(3, true)).unwrap();
    assert_eq!(cluster.run(&grow(3, true)).unwrap_err().code(), ErrorCode::InvalidPartitionCount);
    cluster.run(&grow(3, false)).unwrap();
    assert_eq!(cluster.image.topic_by_name("t").unwrap().partitions.len(), 3);
}

#[test]
fn new_partitions_can_be_placed_by_hand_and_a_plan_changes_nothing() {
    let mut cluster = Cluster::with_topic(3, &[]);
    let grow = |partitions, assignments: &[&[u32]], validate_only| Command::AlterTopic {
        name: "t".into(),
        set_configs: strings(&[]),
        unset_configs: BTreeSet::new(),
        list_changes: Vec::new(),
        partitions,
        must_grow: false,
        assignments: assignments.iter().map(|replicas| ids(replicas)).collect(),
        validate_only,
    };
    let before = cluster.image.clone();
    let planned = cluster.run(&grow(3, &[&[3, 2, 1], &[2, 3, 1]], true));
    assert!(matches!(planned, Ok(CommandResponse::Topic { topic }) if topic.partitions.len() == 3));
    for (partitions, wrong) in [
        (3, &[&[3, 2, 1][..]][..]),
        (0, &[&[3, 2][..]]),
        (0, &[&[3, 2, 2][..]]),
        (0, &[&[3, 2, 9][..]]),
        (1, &[&[3, 2, 1][..]]),
    ] {
        let refused = cluster.run(&grow(partitions, wrong, false)).unwrap_err().code();
        assert_eq!(refused, ErrorCode::InvalidReplicaAssignment, "{partitions} {wrong:?}");
    }
    assert_eq!(cluster.image, before);
    cluster.run(&grow(0, &[&[3, 2, 1]], false)).unwrap();
    cluster.run(&grow(3, &[&[2, 3, 1]], false)).unwrap();
    let topic = cluster.image.topic_by_name("t").unwrap();
    let replicas: Vec<_> = topic.partitions.iter().map(|p| p.replicas.clone()).collect();
    assert_eq!(replicas[1..], [ids(&[3, 2, 1]), ids(&[2, 3, 1])]);
}
