//! A follower gets back what its disk has damaged; a leader goes on without what nobody has.

use highwater_types::{BrokerId, Offset};

use super::cluster::*;

#[tokio::test]
async fn t43_a_damaged_range_of_a_follower_is_fetched_anew_from_the_leader() {
    let mut cluster = Cluster::start(2).await;
    let topic = cluster.topic(1, &[1, 2], &[("segment.bytes", "20000"), ("min.insync.replicas", "1")]).await;
    let tp = tp(topic, 0);
    for n in 0..30 {
        cluster.commit(1, tp, large(n, 3_000)).await;
    }
    cluster.converged(tp).await;
    let disk = cluster.kill(2).await;
    cluster.change(tp, |state| state.isr = vec![BrokerId::new(1)]).await;
    let logs: Vec<_> = disk.files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    assert!(logs.len() > 3);
    // One in the middle of a segment in the middle, and one at its end.
    disk.flip_bit(&logs[1], 8_000, 3).unwrap();
    disk.flip_bit(&logs[2], 17_000, 1).unwrap();
    cluster.start_node(2, disk, |_| {}).await;
    // Damage may be found at the start, or when it is read.
    let partition = cluster.partition(2, tp);
    let found_at_start = partition.unusable_because().is_some();
    let found = damaged_ranges(&cluster, tp).await;
    assert!(found_at_start || found.len() == 2, "{found:?}");
    for range in found {
        partition.note_damage(range);
    }
    cluster.commit(1, tp, large(99, 100)).await;
    eventually(|| partition.unusable_because().is_none()).await;
    cluster.converged(tp).await;
}

#[tokio::test]
async fn t43_what_is_damaged_and_was_nowhere_else_holds_up_nobody_for_ever_where_the_policy_is_to_go_on() {
    let mut cluster = Cluster::start(2).await;
    let configs = [("segment.bytes", "20000"), ("min.insync.replicas", "1"), ("unclean.leader.election", "balanced")];
    let topic = cluster.topic(1, &[1, 2], &configs).await;
    let tp = tp(topic, 0);
    let empty = cluster.kill(2).await;
    cluster.change(tp, |state| state.isr = vec![BrokerId::new(1)]).await;
    for n in 0..30 {
        cluster.commit(1, tp, large(n, 3_000)).await;
    }
    // Nothing of it in memory.
    let disk = cluster.kill(1).await;
    let logs: Vec<_> = disk.files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    cluster.start_node(1, disk.clone(), |_| {}).await;
    disk.flip_bit(&logs[1], 8_000, 3).unwrap();
    cluster.start_node(2, empty, |_| {}).await;
    cluster.converged(tp).await;
    assert_eq!(cluster.partition(1, tp).unusable_because(), None);
    let bytes = cluster.bytes(2, tp).await;
    let batches = highwater_record::split(bytes.into()).unwrap();
    let given_up = batches.iter().filter(|batch| batch.header().is_filler()).count();
    assert_eq!((batches.len(), given_up), (30, 1), "one batch, and nothing else");
}

#[tokio::test]
async fn t43_damage_waits_for_an_operator_where_the_policy_is_none() {
    let mut cluster = Cluster::start(1).await;
    for (policy, goes_on) in [("none", false), ("balanced", true)] {
        let configs = [("min.insync.replicas", "1"), ("unclean.leader.election", policy)];
        let topic = cluster.topic_with_isr(1, &[1, 2], &[1], &configs).await;
        let tp = tp(topic, 0);
        cluster.commit(1, tp, large(1, 3_000)).await;
        let partition = cluster.partition(1, tp);
        let range = highwater_storage::DamagedRange { start: Offset::new(0), end: Offset::new(1) };
        partition.note_damage(range);
        let found = partition.damaged_as_leader();
        assert_eq!(found.is_some(), goes_on, "{policy}");
        if let Some((range, epoch, noted)) = found {
            assert!(partition.to_give_up(range, epoch, noted).is_none(), "2 has not said what it has");
        }
    }
}

/// What a reader of everything finds damaged at broker 2.
async fn damaged_ranges(
    cluster: &Cluster,
    tp: highwater_types::TopicPartition,
) -> Vec<highwater_storage::DamagedRange> {
    use highwater_storage::{ReadError, ReadPlan};
    let partition = cluster.partition(2, tp);
    let mut damaged = Vec::new();
    let (ends, _) = partition.positions().unwrap();
    let mut from = ends.start;
    while from < ends.end {
        let read = match partition.read_log(from, 1 << 20) {
            Ok(ReadPlan::Empty) => break,
            Ok(ReadPlan::Cached(pieces)) => Ok(pieces.concat().into()),
            Ok(ReadPlan::File(file)) => file.run().await,
            Err(error) => Err(error),
        };
        match read {
            Ok(bytes) => from = highwater_record::split(bytes).unwrap().last().unwrap().header().next_offset(),
            Err(ReadError::Damaged(range)) => {
                from = range.end;
                damaged.push(range);
            }
            Err(error) => panic!("{error}"),
        }
    }
    damaged
}
