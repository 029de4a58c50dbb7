use std::sync::atomic::Ordering;

use futures::FutureExt;
use highwater_metadata::*;
use highwater_protocol::code_of;
use highwater_seams::Seams;
use highwater_types::*;

use super::super::{ClusterLink, LinkFatal};
use super::fake::Fake;
use super::*;

fn proposal(image: &ClusterImage, tp: TopicPartition, isr: &[u32]) -> AlterPartition {
    let state = image.partition(tp).unwrap();
    AlterPartition {
        partition: tp,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        new_isr: isr
            .iter()
            .map(|id| IsrMember { broker: BrokerId::new(*id), broker_epoch: BrokerEpoch::NONE })
            .collect(),
        recovered: false,
    }
}

#[tokio::test]
async fn a_broker_is_unfenced_only_once_it_has_applied_what_it_was_told() {
    let fake = Fake::start(1).await;
    let link = ClusterLink::start(config(&fake.endpoints, 1), Seams::real());
    let (epoch, cluster_id) = within(link.registered()).await.unwrap();
    assert_eq!((epoch, cluster_id.as_str(), link.broker_epoch()), (BrokerEpoch::FIRST, "c", epoch));
    let image = caught_up(&fake, &link).await;
    // Heartbeats go on, and change nothing yet.
    let heard = fake.state.lock().unwrap().heartbeats.len();
    while fake.state.lock().unwrap().heartbeats.len() < heard + 3 {
        tokio::task::yield_now().await;
    }
    assert!(link.is_fenced());
    link.set_applied(image.version);
    assert!(within(link.unfenced()).await);
    link.close().await;
    assert!(link.watch().next().await.is_none());
}

#[tokio::test]
async fn t48_a_broker_that_starts_shows_nothing_of_the_past() {
    let fake = Fake::start(1).await;
    fake.add_broker(2);
    fake.create_topic("gone", &[2], &[]);
    let past = fake.image().version.get();
    fake.run(&Command::DeleteTopic { name: "gone".into() }).unwrap();
    let there = fake.create_topic("there", &[2], &[]);
    fake.hold_at(Some(past));
    let link = ClusterLink::start(config(&fake.endpoints, 1), Seams::real());
    let mut watch = link.watch();
    while link.metrics().deltas.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(link.image().version, MetadataVersion::ZERO, "it has what was before it came, and shows none of it");
    assert!(watch.next().now_or_never().is_none());
    fake.hold_at(None);
    let first = within(watch.next()).await.unwrap();
    let names: Vec<_> = first.image.topics.values().map(|topic| topic.name.as_str()).collect();
    assert_eq!((names, first.image.partition(there).is_some()), (vec!["there"], true));
    // What comes now is news, one piece at a time.
    let before = fake.image().version.get();
    fake.hold_at(Some(before + 1));
    fake.create_topic("new", &[2], &[]);
    fake.create_topic("newer", &[2], &[]);
    let next = within(watch.next()).await.unwrap();
    assert_eq!(next.image.version.get(), before + 1);
}

#[tokio::test]
async fn every_step_of_the_image_names_what_changed() {
    let (fake, link) = unfenced(1).await;
    let mut watch = link.watch();
    let first = within(watch.next()).await.unwrap();
    assert!(first.changes.brokers.contains(&BrokerId::new(1)) && first.changes.cluster_id);
    let tp = fake.create_topic("t", &[1], &[]);
    let step = within(watch.next()).await.unwrap();
    assert_eq!((step.changes.topics.len(), step.image.partition(tp).is_some()), (1, true));
    fake.run(&Command::DeleteTopic { name: "t".into() }).unwrap();
    let step = within(watch.next()).await.unwrap();
    assert!(step.changes.topics.contains(&tp.topic) && step.image.topic(tp.topic).is_none());
    assert!(step.before.topic(tp.topic).is_some());
}

#[tokio::test]
async fn the_active_controller_is_found_by_the_hint_of_another() {
    let fake = Fake::start(3).await;
    fake.set_active(Some(2));
    let link = start(config(&fake.endpoints[..1], 1));
    assert!(within(link.unfenced()).await);
    assert_eq!(link.status().borrow().active.as_ref(), Some(&fake.endpoints[2]));
}

#[tokio::test]
async fn t18_losing_the_controller_disturbs_neither_epoch_nor_image() {
    let (fake, link) = unfenced(3).await;
    let tp = fake.create_topic("t", &[1], &[]);
    caught_up(&fake, &link).await;
    let epoch = link.broker_epoch();
    for active in [Some(1), None, Some(2)] {
        fake.set_active(active);
        let endpoint = active.map(|i| fake.endpoints[i].clone());
        within(link.status().wait_for(|status| status.active == endpoint)).await.unwrap();
        assert!(!link.is_fenced());
    }
    assert_eq!(link.broker_epoch(), epoch);
    let later = fake.create_topic("u", &[1], &[]);
    let image = caught_up(&fake, &link).await;
    assert!(image.partition(tp).is_some() && image.partition(later).is_some());
    assert_eq!(link.metrics().snapshots.load(std::sync::atomic::Ordering::Relaxed), 0, "deltas go on");
    let registrations = fake.state.lock().unwrap().registrations.clone();
    assert!(registrations[1..].iter().all(|r| r.metadata_version > 0 && r.cluster_id == "c"));
    assert!(registrations.iter().all(|r| r.incarnation_id == registrations[0].incarnation_id));
}

#[tokio::test]
async fn a_controller_that_falls_silent_is_left_for_another() {
    let (fake, link) = unfenced(2).await;
    fake.mute.send_replace(Some(0));
    fake.set_active(Some(1));
    within(link.status().wait_for(|status| status.active.as_ref() == Some(&fake.endpoints[1]))).await.unwrap();
    let tp = fake.create_topic("t", &[1], &[]);
    assert!(caught_up(&fake, &link).await.partition(tp).is_some());
}

#[tokio::test]
async fn a_delta_that_does_not_fit_is_answered_by_a_snapshot() {
    let (fake, link) = unfenced(1).await;
    fake.state.lock().unwrap().confuse = true;
    let tp = fake.create_topic("t", &[1], &[]);
    assert!(image_where(&link, |image| image.partition(tp).is_some()).await.version > MetadataVersion::ZERO);
    assert_eq!(link.metrics().snapshots.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn proposals_made_at_the_same_time_travel_together() {
    let (fake, link) = unfenced(1).await;
    fake.add_broker(2);
    let partitions: Vec<_> = (0..40).map(|i| fake.create_topic(&format!("t{i}"), &[1, 2], &[])).collect();
    let image = caught_up(&fake, &link).await;
    fake.answers_proposals.send_replace(false);
    let proposals = partitions.iter().map(|tp| proposal(&image, *tp, &[1])).collect();
    let asked = tokio::spawn({
        let link = link.clone();
        async move { link.alter_partitions(proposals).await }
    });
    while fake.state.lock().unwrap().alter_calls == 0 {
        tokio::task::yield_now().await;
    }
    fake.answers_proposals.send_replace(true);
    for result in within(asked).await.unwrap() {
        assert_eq!(result.unwrap().isr, [BrokerId::new(1)]);
    }
    let calls = fake.state.lock().unwrap().alter_calls;
    assert!(calls <= 2, "{calls}");
}

#[tokio::test]
async fn t13_a_proposal_on_an_old_state_fails_and_one_that_still_holds_outlives_the_controller() {
    let (fake, link) = unfenced(2).await;
    fake.add_broker(2);
    let tp = fake.create_topic("t", &[1, 2], &[]);
    let image = caught_up(&fake, &link).await;
    let shrink = proposal(&image, tp, &[1]);
    fake.set_active(None);
    let asked = tokio::spawn({
        let (link, shrink) = (link.clone(), shrink.clone());
        async move { link.alter_partition(shrink).await }
    });
    within(link.status().wait_for(|status| status.active.is_none())).await.unwrap();
    fake.set_active(Some(1));
    let altered = within(asked).await.unwrap().unwrap();
    assert_eq!(altered.isr, [BrokerId::new(1)]);
    caught_up(&fake, &link).await;
    let error = within(link.alter_partition(shrink)).await.unwrap_err();
    assert_eq!(code_of(&error), ErrorCode::InvalidUpdateVersion);
}

#[tokio::test]
async fn a_refused_proposal_fails_with_its_reason() {
    let (fake, link) = unfenced(1).await;
    let tp = fake.create_topic("t", &[1], &[]);
    let image = caught_up(&fake, &link).await;
    let error = within(link.alter_partition(proposal(&image, tp, &[1, 7]))).await.unwrap_err();
    assert_eq!(code_of(&error), ErrorCode::InvalidRequest);
    assert!(error.message.contains("broker 7"), "{}", error.message);
}

#[tokio::test]
async fn a_shutdown_waits_until_leadership_has_moved() {
    let (fake, link) = unfenced(1).await;
    let two = fake.add_broker(2);
    let tp = fake.create_topic("t", &[1, 2], &[]);
    let image = caught_up(&fake, &link).await;
    let state = image.partition(tp).unwrap();
    assert_eq!(state.leader, Some(BrokerId::new(1)));
    within(link.alter_partition(proposal(&image, tp, &[1]))).await.unwrap();
    let stopping = tokio::spawn({
        let link = link.clone();
        async move { link.request_shutdown().await }
    });
    image_where(&link, |image| image.broker(BrokerId::new(1)).is_some_and(|b| b.shutting_down)).await;
    assert!(!stopping.is_finished(), "broker 2 is not in sync");
    let image = caught_up(&fake, &link).await;
    let mut join = proposal(&image, tp, &[1, 2]);
    join.new_isr[1].broker_epoch = two;
    let error = within(link.alter_partition(join)).await.unwrap_err();
    assert_eq!(code_of(&error), ErrorCode::FencedLeaderEpoch, "taken, and leadership is gone");
    within(stopping).await.unwrap();
    assert_eq!(fake.image().partition(tp).unwrap().leader, Some(BrokerId::new(2)));
}

#[tokio::test]
async fn damage_and_log_ends_are_reported_until_they_are_known() {
    let (fake, link) = unfenced(1).await;
    fake.add_broker(2);
    let tp = fake.create_topic("t", &[1, 2], &[]);
    caught_up(&fake, &link).await;
    link.set_unusable([tp]);
    let one = BrokerId::new(1);
    let image = image_where(&link, |image| image.partition(tp).unwrap().unusable == [one]).await;
    assert_eq!(image.partition(tp).unwrap().leader, Some(BrokerId::new(2)));
    link.set_unusable([]);
    image_where(&link, |image| image.partition(tp).unwrap().unusable.is_empty()).await;

    let alone = [("unclean.leader.election", "proactive"), ("min.insync.replicas", "1")];
    let awaited = fake.create_topic("u", &[2, 1], &alone);
    let (two, epoch) = (BrokerId::new(2), fake.image().broker(BrokerId::new(2)).unwrap().broker_epoch);
    let mut leave = proposal(&fake.image(), awaited, &[2]);
    leave.new_isr[0].broker_epoch = epoch;
    fake.run(&Command::AlterPartitions { broker: two, broker_epoch: epoch, partitions: vec![leave] }).unwrap();
    fake.run(&Command::FenceBroker { broker: two, broker_epoch: epoch }).unwrap();
    let image = caught_up(&fake, &link).await;
    assert_eq!(image.awaited_log_ends(one), [awaited]);
    let (last_epoch, log_end_offset) = (LeaderEpoch::FIRST, Offset::new(17));
    link.report_log_ends([PartitionLogEnd { partition: awaited, last_epoch, log_end_offset }]);
    let image = image_where(&link, |image| image.partition(awaited).unwrap().leader == Some(one)).await;
    let report = image.partition(awaited).unwrap().unclean.clone().unwrap();
    assert_eq!((report.chosen.log_end_offset, report.not_heard), (log_end_offset, vec![two]));
    let heard = fake.state.lock().unwrap().heartbeats.len();
    within(async {
        while fake.state.lock().unwrap().heartbeats.len() < heard + 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let last = fake.state.lock().unwrap().heartbeats.last().cloned().unwrap();
    assert!(last.log_ends.is_empty(), "said and done");
}

#[tokio::test]
async fn lost_storage_and_doubt_are_reported_before_the_version_is_claimed() {
    let fake = Fake::start(1).await;
    let link = ClusterLink::start(config(&fake.endpoints, 1), Seams::real());
    let image = {
        within(link.registered()).await.unwrap();
        caught_up(&fake, &link).await
    };
    let tp = TopicPartition::new(TopicId::from_u128(5), PartitionId::new(0));
    link.set_lost([tp]);
    link.set_doubtful([tp]);
    link.set_applied(image.version);
    assert!(within(link.unfenced()).await);
    let heartbeats = fake.state.lock().unwrap().heartbeats.clone();
    let claims = |h: &&highwater_protocol::internal::BrokerHeartbeat| h.metadata_version >= image.version.get();
    assert!(heartbeats.iter().filter(claims).all(|h| h.lost.len() == 1 && h.doubtful.len() == 1));
}

#[tokio::test]
async fn t18_a_process_whose_id_was_given_to_another_is_over() {
    let (fake, link) = unfenced(1).await;
    let (broker, broker_epoch) = (BrokerId::new(1), link.broker_epoch());
    fake.run(&Command::FenceBroker { broker, broker_epoch }).unwrap();
    fake.add_broker(1);
    let fatal = within(link.fatal()).await;
    assert!(matches!(fatal, LinkFatal::Superseded(_)), "{fatal}");
    assert!(link.is_fenced() && !within(link.unfenced()).await);
    assert_eq!(link.broker_epoch(), broker_epoch, "one for life");
}

#[tokio::test]
async fn t18_a_second_process_waits_until_the_first_is_fenced() {
    let (fake, first) = unfenced(1).await;
    let mut other = config(&fake.endpoints, 1);
    other.cluster_id = Some("c".into());
    other.clean_shutdown = Some(first.broker_epoch());
    let second = start(other);
    within(async {
        while fake.state.lock().unwrap().registrations.len() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(second.broker_epoch(), BrokerEpoch::NONE);
    first.close().await;
    fake.run(&Command::FenceBroker { broker: BrokerId::new(1), broker_epoch: first.broker_epoch() }).unwrap();
    assert!(within(second.unfenced()).await);
    assert!(second.broker_epoch() > first.broker_epoch());
    let last = fake.state.lock().unwrap().registrations.last().cloned().unwrap();
    assert_eq!((last.clean_shutdown, last.previous_broker_epoch), (true, first.broker_epoch().get()));
}

#[tokio::test]
async fn a_broker_of_another_cluster_is_told_so() {
    let fake = Fake::start(1).await;
    let mut other = config(&fake.endpoints, 1);
    other.cluster_id = Some("other".into());
    let link = start(other);
    let fatal = within(link.fatal()).await;
    assert!(matches!(&fatal, LinkFatal::Refused(why) if why.contains("other")), "{fatal}");
}
