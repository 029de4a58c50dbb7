//! Random commands never break the image (lib.rs states the invariants), and replaying the records is the image.

use std::collections::BTreeSet;

use crate::cluster::{b, strings};
use highwater_metadata::*;
use highwater_types::*;
use proptest::prelude::*;

/// A step, by small numbers so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    Register { broker: u32, clean: bool, had_storage: bool },
    Fence(u32),
    Unfence(u32),
    ShutDown(u32),
    Propose { topic: usize, partition: u32, isr: u8, recovered: bool, stale: bool },
    Create { name: u8, partitions: u32, rf: u32, sync: bool, min_insync: u8, policy: u8 },
    Delete(u8),
    Configure { name: u8, min_insync: u8, sync: bool, policy: u8, partitions: u32 },
    ElectPreferred,
    ElectUnclean,
    ProducerIds(u32),
    LogEnds { broker: u32, epoch: i32, end: i64 },
    Unusable { broker: u32, unusable: u8, lost: u8, doubtful: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let broker = || 0u32..5;
    prop_oneof![
        3 => (broker(), any::<bool>(), prop::bool::weighted(0.9))
            .prop_map(|(broker, clean, had_storage)| Step::Register { broker, clean, had_storage }),
        3 => broker().prop_map(Step::Fence),
        5 => broker().prop_map(Step::Unfence),
        1 => broker().prop_map(Step::ShutDown),
        8 => (0usize..3, 0u32..3, any::<u8>(), any::<bool>(), prop::bool::weighted(0.1)).prop_map(
            |(topic, partition, isr, recovered, stale)| Step::Propose { topic, partition, isr, recovered, stale }
        ),
        2 => (0u8..3, 1u32..4, 1u32..5, any::<bool>(), 1u8..4, 0u8..3).prop_map(
            |(name, partitions, rf, sync, min_insync, policy)| Step::Create {
                name, partitions, rf, sync, min_insync, policy
            }
        ),
        1 => (0u8..3).prop_map(Step::Delete),
        1 => (0u8..3, 1u8..4, any::<bool>(), 0u8..3, 0u32..6).prop_map(
            |(name, min_insync, sync, policy, partitions)| Step::Configure { name, min_insync, sync, policy, partitions }
        ),
        1 => Just(Step::ElectPreferred),
        1 => Just(Step::ElectUnclean),
        1 => broker().prop_map(Step::ProducerIds),
        3 => (broker(), -1i32..4, 0i64..9).prop_map(|(broker, epoch, end)| Step::LogEnds { broker, epoch, end }),
        2 => (broker(), any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(broker, unusable, lost, doubtful)| {
            Step::Unusable { broker, unusable, lost: lost & 1 & (lost >> 1), doubtful }
        }),
    ]
}

fn topic_name(name: u8) -> String {
    format!("t{name}")
}

fn configs(min_insync: u8, sync: bool, policy: u8) -> std::collections::BTreeMap<String, String> {
    let durability = if sync { "sync" } else { "replicated" };
    let policy = ["none", "balanced", "proactive"][usize::from(policy)];
    let min_insync = min_insync.to_string();
    strings(&[("durability", durability), ("min.insync.replicas", &min_insync), ("unclean.leader.election", policy)])
}

fn command(image: &ClusterImage, step: &Step, incarnation: u128) -> Option<Command> {
    let epoch = |id: u32| image.broker(b(id)).map_or(BrokerEpoch::NONE, |s| s.broker_epoch);
    let picked = |broker: u32, bits: u8| -> BTreeSet<TopicPartition> {
        let of = image.partitions_of(b(broker)).enumerate();
        of.filter(|(i, _)| bits >> (i % 8) & 1 == 1).map(|(_, (tp, _))| tp).collect()
    };
    Some(match *step {
        Step::Register { broker, clean, had_storage } => Command::RegisterBroker(Registration {
            broker: b(broker),
            incarnation: IncarnationId::from_u128(incarnation),
            cluster_id: had_storage.then(|| "c".to_owned()),
            client_endpoint: Endpoint::new("h", 1),
            internal_endpoint: Endpoint::new("h", 2),
            listeners: Vec::new(),
            rack: Some((broker % 2).to_string()),
            clean_shutdown: clean,
            previous_broker_epoch: if clean { epoch(broker) } else { BrokerEpoch::NONE },
        }),
        Step::Fence(id) => Command::FenceBroker { broker: b(id), broker_epoch: epoch(id) },
        Step::Unfence(id) => Command::UnfenceBroker { broker: b(id), broker_epoch: epoch(id) },
        Step::ShutDown(id) => Command::BeginControlledShutdown { broker: b(id), broker_epoch: epoch(id) },
        Step::Propose { topic, partition, isr, recovered, stale } => {
            let topic = image.topics.values().nth(topic)?;
            let state = topic.partition(PartitionId::new(partition))?;
            let leader = state.leader?;
            let wanted = |id: &&BrokerId| **id == leader || isr >> (id.get() % 8) & 1 == 1;
            let member = |id: &BrokerId| IsrMember { broker: *id, broker_epoch: epoch(id.get()) };
            let partition_epoch = PartitionEpoch::new(state.partition_epoch.get() - i32::from(stale));
            Command::AlterPartitions {
                broker: leader,
                broker_epoch: epoch(leader.get()),
                partitions: vec![AlterPartition {
                    partition: TopicPartition::new(topic.id, PartitionId::new(partition)),
                    leader_epoch: state.leader_epoch,
                    partition_epoch,
                    new_isr: state.replicas.iter().filter(wanted).map(member).collect(),
                    recovered,
                }],
            }
        }
        Step::Create { name, partitions, rf, sync, min_insync, policy } => Command::CreateTopic {
            name: topic_name(name),
            partitions,
            replication_factor: rf,
            configs: configs(min_insync, sync, policy),
            assignments: vec![],
            validate_only: false,
        },
        Step::Delete(name) => Command::DeleteTopic { name: topic_name(name) },
        Step::Configure { name, min_insync, sync, policy, partitions } => Command::AlterTopic {
            name: topic_name(name),
            set_configs: configs(min_insync, sync, policy),
            unset_configs: BTreeSet::new(),
            list_changes: Vec::new(),
            partitions,
            must_grow: false,
            assignments: Vec::new(),
            validate_only: false,
        },
        Step::ElectPreferred => Command::ElectPreferred { topics: BTreeSet::new() },
        Step::ElectUnclean => Command::ElectLeaders { election: Election::Unclean, partitions: BTreeSet::new() },
        Step::ProducerIds(id) => Command::AllocateProducerIds { broker: b(id), broker_epoch: epoch(id) },
        Step::LogEnds { broker, epoch: last, end } => Command::ReportLogEnds {
            broker: b(broker),
            broker_epoch: epoch(broker),
            ends: image
                .partitions_of(b(broker))
                .map(|(partition, _)| PartitionLogEnd {
                    partition,
                    last_epoch: LeaderEpoch::new(last),
                    log_end_offset: Offset::new(end),
                })
                .collect(),
        },
        Step::Unusable { broker, unusable, lost, doubtful } => Command::ReportUnusable {
            broker: b(broker),
            broker_epoch: epoch(broker),
            unusable: picked(broker, unusable),
            lost: picked(broker, lost),
            doubtful: picked(broker, doubtful),
        },
    })
}

fn check(image: &ClusterImage) {
    for (tp, p) in image.partitions() {
        let topic = image.topic(tp.topic).unwrap();
        let min = topic.config().min_insync_effective(p.replicas.len());
        assert_eq!(p.leader.is_some(), !p.isr.is_empty(), "{p:?}");
        if let Some(leader) = p.leader {
            assert!(p.isr.contains(&leader) && image.is_unfenced(leader), "{p:?}");
        }
        for list in [&p.isr, &p.elr, &p.last_known_elr, &p.unusable, &p.unsynced, &p.storage_lost, &p.doubtful] {
            assert!(list.iter().all(|id| p.replicas.contains(id)), "{p:?}");
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len(), "{p:?}");
        }
        assert!(p.isr.iter().all(|id| image.is_unfenced(*id)), "{p:?}");
        assert!(!p.doubtful.iter().any(|id| p.isr.contains(id) || p.elr.contains(id)), "T43: {p:?}");
        assert!(!p.elr.iter().any(|id| p.isr.contains(id)), "{p:?}");
        assert!(!p.last_known_elr.iter().any(|id| p.isr.contains(id) || p.elr.contains(id)), "{p:?}");
        assert!(p.isr.len() < min || (p.elr.is_empty() && p.last_known_elr.is_empty()), "{p:?}");
        let copies = p.isr.len() + p.elr.len() + p.last_known_elr.len();
        assert!(copies > 0, "the last copy is forgotten: {p:?}");
        assert!(p.leader.is_none() || (p.log_ends.is_empty() && !p.unclean_asked), "{p:?}");
        if let Some(leader) = p.leader {
            let usable = |id: &BrokerId| image.is_active(*id) && !p.unusable.contains(id);
            assert!(usable(&leader) || !p.isr.iter().any(usable), "a better leader is in sync: {p:?}");
        } else {
            let usable = |id: &BrokerId| image.is_active(*id) && !p.unusable.contains(id);
            assert!(!p.elr.iter().any(usable), "offline while one could lead: {p:?}");
        }
    }
    for broker in image.brokers.values() {
        assert!(broker.broker_epoch < image.next_broker_epoch.0);
        assert!(!broker.fenced || image.led_by(broker.id) == 0);
    }
}

/// What may happen to one partition in one step.
fn check_step(before: &ClusterImage, after: &ClusterImage, command: &Command) {
    assert!(after.version >= before.version);
    assert!(after.next_broker_epoch.0 >= before.next_broker_epoch.0);
    for (id, old) in &before.brokers {
        let new = &after.brokers[id];
        assert!(new.broker_epoch >= old.broker_epoch);
        assert!(new.incarnation == old.incarnation || (new.broker_epoch > old.broker_epoch && old.fenced), "T18");
    }
    for (tp, old) in before.partitions() {
        let Some(new) = after.partition(tp) else { continue };
        assert!(new.leader_epoch >= old.leader_epoch && new.partition_epoch >= old.partition_epoch);
        assert!(new.leader == old.leader || new.leader_epoch > old.leader_epoch);
        assert!(new == old || new.partition_epoch > old.partition_epoch);
        // A copy of all committed records stops being one only if the ISR reaches the minimum without it, if what is
        // on its disk can't be trusted, or by an unclean election, which says so.
        let copies: BTreeSet<_> = new.isr.iter().chain(&new.elr).collect();
        let min = after.topic(tp.topic).unwrap().config().min_insync_effective(new.replicas.len());
        let was_unclean = new.unclean != old.unclean;
        for gone in old.isr.iter().chain(&old.elr).filter(|id| !copies.contains(id)) {
            let is_distrusted = matches!(command, Command::RegisterBroker(r) if r.broker == *gone)
                || matches!(command, Command::ReportUnusable { broker, lost, doubtful, .. }
                    if broker == gone && (lost.contains(&tp) || doubtful.contains(&tp)));
            assert!(new.isr.len() >= min || is_distrusted || was_unclean, "{gone} {old:?} {new:?}");
            assert!(new.isr.len() >= min || new.last_known_elr.contains(gone), "{gone} {old:?} {new:?}");
        }
        // And nobody becomes one but by joining the ISR.
        for joined in new.elr.iter().chain(&new.isr) {
            let was = old.isr.contains(joined) || old.elr.contains(joined);
            assert!(was || was_unclean || matches!(command, Command::AlterPartitions { .. }), "{old:?} {new:?}");
        }
        assert!(!was_unclean || (new.recovering && new.elr.is_empty()));
        let policy = after.topic(tp.topic).unwrap().config().unclean_election;
        let was_asked =
            old.unclean_asked || matches!(command, Command::ElectLeaders { election: Election::Unclean, .. });
        let copies = old.isr.iter().chain(&old.elr).chain(&old.last_known_elr);
        let only_doubtful_left = copies.clone().all(|id| {
            let speaks = matches!(command, Command::RegisterBroker(r) if r.broker == *id)
                || matches!(command, Command::ReportUnusable { broker, .. } if broker == id);
            old.doubtful.contains(id) || old.storage_lost.contains(id) || speaks
        });
        let may_come = was_asked || policy != UncleanElection::None || new.replicas.len() == 1 || only_doubtful_left;
        assert!(!was_unclean || may_come, "{old:?} {new:?}");
        assert!(!new.unclean_asked || was_asked, "nobody has asked for it: {old:?} {new:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_keep_the_invariants_and_records_are_the_image(
        steps in prop::collection::vec(step(), 1..80), seed: u64,
    ) {
        let mut image = ClusterImage::default();
        let mut replayed = ClusterImage::default();
        let mut all = vec![Command::CreateCluster { cluster_id: Some("c".into()) }];
        for id in 0..4 {
            all.push(command(&image, &Step::Register { broker: id, clean: false, had_storage: false }, id.into()).unwrap());
        }
        let mut steps = steps.into_iter();
        let mut incarnation = 100;
        let mut start: Vec<Step> = (0..4).map(Step::Unfence).collect();
        start.push(Step::Create { name: 0, partitions: 3, rf: 3, sync: seed % 2 == 0, min_insync: 2, policy: (seed % 3) as u8 });
        let mut start = start.into_iter();
        let mut setup = all.into_iter();
        loop {
            incarnation += 1;
            let next = setup.next().map(Some).or_else(|| {
                start.next().or_else(|| steps.next()).map(|s| command(&image, &s, incarnation))
            });
            let Some(next) = next else { break };
            let Some(asked) = next else { continue };
            let json = Command::from_json(&asked.to_json()).unwrap();
            prop_assert_eq!(&json, &asked);
            let Ok(decision) = decide(&image, &asked, seed ^ incarnation as u64) else { continue };
            prop_assert_eq!(&CommandResponse::from_json(&decision.response.to_json()).unwrap(), &decision.response);
            let before = image.clone();
            image.replay_all(&decision.records).unwrap();
            // A block is what was given to nobody before, and won't be again.
            let given = image.next_producer_id.0.get() - before.next_producer_id.0.get();
            match decision.response {
                CommandResponse::ProducerIdsAllocated { first, count } => {
                    prop_assert_eq!((first, i64::from(count)), (before.next_producer_id.0, given));
                    prop_assert!(given > 0);
                }
                _ => prop_assert_eq!(given, 0),
            }
            check(&image);
            check_step(&before, &image, &asked);
            for record in &decision.records {
                replayed.replay(&Record::from_json(&record.to_json()).unwrap()).unwrap();
            }
            prop_assert_eq!(&replayed, &image);
            prop_assert_eq!(&ClusterImage::from_json(&image.to_json()).unwrap(), &image);
            // What the changes name is all that differs.
            let changes = Changes::of(&decision.records);
            let differing = Changes::between(&before, &image);
            prop_assert!(differing.topics.is_subset(&changes.topics) && differing.brokers.is_subset(&changes.brokers));
            // Deciding the same again finds nothing left to do, where the command states an end.
            // (Doubt counts in the ELR, and what is unusable is there only after the first time.)
            let doubts = matches!(&asked, Command::ReportUnusable { doubtful, .. } if !doubtful.is_empty());
            if !doubts && matches!(asked, Command::FenceBroker { .. } | Command::UnfenceBroker { .. } | Command::ReportUnusable { .. }
                | Command::BeginControlledShutdown { .. } | Command::ElectPreferred { .. } | Command::RegisterBroker(_)) {
                let again = decide(&image, &asked, seed);
                prop_assert!(again.is_ok_and(|d| d.records.is_empty()));
            }
        }
    }
}
