//! What the consumer promises, against brokers that go wrong as told.

use std::sync::Arc;
use std::time::Duration;

use crate::fake::{Fake, OnFetch, error, soon, until};
use highwater_client::{
    ConsumeError, Consumer, ConsumerConfig, ErrorCode, LeaderEpoch, Offset, OffsetReset, PartitionId, Position,
    StartAt, TimestampMs,
};

fn quick() -> ConsumerConfig {
    ConsumerConfig { fetch_wait_max: Duration::from_millis(100), ..Default::default() }
}

/// A topic with one partition, batches of 10 records, values 0 to `records`.
async fn cluster(brokers: u32, records: usize) -> Arc<Fake> {
    let fake = Fake::start(brokers).await;
    fake.create_topic("t", &[1]);
    append(&fake, 0..records);
    fake
}

fn append(fake: &Fake, numbers: std::ops::Range<usize>) {
    let values: Vec<String> = numbers.map(|number| number.to_string()).collect();
    for batch in values.chunks(10) {
        let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
        fake.with_log("t", 0, |log| log.append_values(&batch));
    }
}

async fn consumer(fake: &Fake, config: ConsumerConfig, at: StartAt) -> Consumer {
    let mut consumer = fake.client().await.consumer(config);
    soon(consumer.assign([("t", 0, at)])).await.unwrap();
    consumer
}

/// Reads `count` records: their values must be the numbers from `first` on, their offsets the same.
async fn expect(consumer: &mut Consumer, first: usize, count: usize) {
    let mut next = first;
    while next < first + count {
        let records = soon(consumer.poll(Duration::from_secs(10))).await.unwrap();
        assert!(!records.is_empty(), "no record {next} within 10 s");
        for record in records {
            assert_eq!(record.offset.get(), next as i64);
            assert_eq!(record.value.unwrap(), next.to_string());
            next += 1;
        }
    }
    assert_eq!(next, first + count);
}

fn offset(at: i64) -> StartAt {
    StartAt::Offset(Offset::new(at))
}

fn at(consumer: &Consumer) -> i64 {
    consumer.position("t", 0).unwrap().offset.get()
}

#[tokio::test]
async fn everything_is_read_in_order_and_the_position_follows() {
    let fake = cluster(1, 1000).await;
    let mut consumer = consumer(&fake, ConsumerConfig { poll_records_max: 7, ..quick() }, StartAt::Beginning).await;
    assert_eq!(at(&consumer), 0);
    let first = soon(consumer.poll(Duration::from_secs(10))).await.unwrap();
    assert_eq!(first.len(), 7);
    assert_eq!((at(&consumer), first[6].leader_epoch), (7, LeaderEpoch::new(5)));
    expect(&mut consumer, 7, 993).await;
    assert_eq!(at(&consumer), 1000);
    assert!(consumer.poll(Duration::from_millis(20)).await.unwrap().is_empty());
    append(&fake, 1000..1010);
    expect(&mut consumer, 1000, 10).await;
}

#[tokio::test]
async fn reading_begins_where_it_is_told() {
    let fake = cluster(1, 100).await;
    fake.with_log("t", 0, |log| log.start = 10);
    let mut consumer = consumer(&fake, quick(), StartAt::Beginning).await;
    assert_eq!(at(&consumer), 10);
    // In the middle of a batch.
    soon(consumer.seek("t", 0, Offset::new(25))).await.unwrap();
    expect(&mut consumer, 25, 75).await;
    // Timestamps are 1000 and the offset.
    soon(consumer.seek("t", 0, StartAt::Timestamp(TimestampMs::new(1042)))).await.unwrap();
    assert_eq!(at(&consumer), 42);
    expect(&mut consumer, 42, 58).await;
    soon(consumer.seek("t", 0, StartAt::Timestamp(TimestampMs::new(9999)))).await.unwrap();
    assert_eq!(at(&consumer), 100);
    soon(consumer.seek("t", 0, StartAt::End)).await.unwrap();
    append(&fake, 100..105);
    expect(&mut consumer, 100, 5).await;
}

#[tokio::test]
async fn what_follows_assign_at_the_end_is_read() {
    let fake = cluster(1, 50).await;
    let mut consumer = consumer(&fake, quick(), StartAt::End).await;
    append(&fake, 50..60);
    expect(&mut consumer, 50, 10).await;
}

#[tokio::test]
async fn partitions_of_a_topic_take_turns() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1, 2, 1]);
    for partition in 0..3 {
        for _ in 0..20 {
            fake.with_log("t", partition, |log| log.append_values(&["v"; 5]));
        }
    }
    let mut consumer = fake.client().await.consumer(ConsumerConfig { poll_records_max: 30, ..quick() });
    soon(consumer.assign_topic("t", StartAt::Beginning)).await.unwrap();
    assert_eq!(consumer.assignment().len(), 3);
    let mut next = [0i64; 3];
    while next.iter().sum::<i64>() < 300 {
        for record in soon(consumer.poll(Duration::from_secs(10))).await.unwrap() {
            let next = &mut next[record.partition.get() as usize];
            assert_eq!(record.offset.get(), *next);
            *next += 1;
        }
    }
}

#[tokio::test]
async fn fetching_runs_ahead_of_polling_up_to_its_bound() {
    let fake = cluster(1, 1000).await;
    let batch = fake.with_log("t", 0, |log| log.batches[50].bytes().len()) as u32;
    let config = ConsumerConfig { partition_bytes_max: batch * 4, ..quick() };
    let mut consumer = consumer(&fake, config, StartAt::Beginning).await;
    until("fetches without a poll", || !fake.lock().fetched.is_empty()).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let ahead = fake.lock().fetched.last().unwrap().1.partitions[0].fetch_offset;
    assert!(ahead <= 100, "fetched up to {ahead} with nothing polled");
    expect(&mut consumer, 0, 1000).await;
}

#[tokio::test]
async fn t41_a_truncated_log_is_reported_and_reading_stops_until_a_seek() {
    let fake = cluster(1, 100).await;
    let config = ConsumerConfig { offset_reset: OffsetReset::Earliest, ..quick() };
    let mut consumer = consumer(&fake, config, StartAt::Beginning).await;
    expect(&mut consumer, 0, 100).await;
    until("an open fetch", || fake.lock().fetched.last().unwrap().1.partitions[0].fetch_offset == 100).await;
    // An unclean election: the new leader has only the first 50.
    fake.with_log("t", 0, |log| log.batches.truncate(5));
    fake.on_fetch([OnFetch::Diverge { leader_epoch: 5, end_offset: 50 }]);
    fake.lead("t", 0, Some(1));
    let error = loop {
        match soon(consumer.poll(Duration::from_millis(200))).await {
            Ok(records) => assert!(records.is_empty()),
            Err(error) => break error,
        }
    };
    let asked = fake.lock().fetched.last().unwrap().1.partitions[0].clone();
    assert_eq!((asked.fetch_offset, asked.last_fetched_epoch, asked.leader_epoch), (100, 5, 6));
    let ConsumeError::LogTruncated { position, diverged_at, .. } = error else { panic!("{error}") };
    assert_eq!((position, diverged_at), (Offset::new(100), Offset::new(50)));
    assert!(consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty());
    soon(consumer.seek("t", 0, diverged_at)).await.unwrap();
    append(&fake, 50..60);
    expect(&mut consumer, 50, 10).await;
}

#[tokio::test]
async fn t41_a_position_kept_by_the_application_brings_its_epoch() {
    let fake = cluster(1, 100).await;
    let kept = Position { offset: Offset::new(40), leader_epoch: LeaderEpoch::new(3) };
    let mut consumer = consumer(&fake, quick(), kept.into()).await;
    expect(&mut consumer, 40, 60).await;
    assert_eq!(fake.lock().fetched[0].1.partitions[0].last_fetched_epoch, 3);
}

#[tokio::test]
async fn reading_goes_on_at_the_next_leader() {
    let fake = cluster(2, 100).await;
    let mut consumer = consumer(&fake, quick(), StartAt::Beginning).await;
    expect(&mut consumer, 0, 100).await;
    fake.kill_broker(1);
    fake.lead("t", 0, Some(2));
    append(&fake, 100..200);
    expect(&mut consumer, 100, 100).await;
    assert_eq!(fake.lock().fetched.last().unwrap().0, 2);
}

#[tokio::test]
async fn not_leader_with_a_hint_and_broken_streams_are_not_noticed() {
    let fake = cluster(2, 300).await;
    fake.lock().hint = true;
    let refuse = OnFetch::Refuse(error(ErrorCode::Throttled));
    fake.on_fetch([OnFetch::Drop, refuse, OnFetch::Serve, OnFetch::Drop]);
    let mut consumer =
        consumer(&fake, ConsumerConfig { partition_bytes_max: 500, poll_records_max: 10, ..quick() }, offset(0)).await;
    expect(&mut consumer, 0, 100).await;
    fake.lead_in_secret("t", 0, Some(2));
    expect(&mut consumer, 100, 200).await;
}

#[tokio::test]
async fn an_offset_out_of_range_is_an_error_with_the_valid_range_or_resets() {
    let fake = cluster(1, 100).await;
    fake.with_log("t", 0, |log| {
        log.start = 20;
        log.batches.drain(..2);
    });
    let mut strict = consumer(&fake, quick(), offset(5)).await;
    let error = soon(strict.poll(Duration::from_secs(10))).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::OffsetOutOfRange);
    assert!(error.to_string().contains("20 to 100"), "{error}");
    let mut earliest =
        consumer(&fake, ConsumerConfig { offset_reset: OffsetReset::Earliest, ..quick() }, offset(5)).await;
    expect(&mut earliest, 20, 80).await;
    drop((strict, earliest));
    let mut latest =
        consumer(&fake, ConsumerConfig { offset_reset: OffsetReset::Latest, ..quick() }, offset(500)).await;
    let asked =
        || fake.lock().fetched.iter().map(|(_, request)| request.partitions[0].fetch_offset).collect::<Vec<_>>();
    until("the reset", || asked().iter().skip_while(|at| **at != 500).any(|at| *at == 100)).await;
    append(&fake, 100..110);
    expect(&mut latest, 100, 10).await;
}

#[tokio::test]
async fn damage_on_the_way_is_fetched_again_and_damage_that_stays_is_reported() {
    let fake = cluster(1, 30).await;
    fake.on_fetch([OnFetch::Damage, OnFetch::Damage]);
    let mut healed = consumer(&fake, quick(), offset(0)).await;
    expect(&mut healed, 0, 30).await;

    fake.on_fetch(vec![OnFetch::Damage; 20]);
    drop(healed);
    until("the first consumer's fetches end", || fake.lock().on_fetch.len() < 21).await;
    let mut broken = consumer(&fake, quick(), offset(0)).await;
    // The last batch of the answer is the damaged one; what comes before it is read.
    expect(&mut broken, 0, 20).await;
    let error = soon(broken.poll(Duration::from_secs(10))).await.unwrap_err();
    let ConsumeError::CorruptBatch { position, .. } = &error else { panic!("{error}") };
    assert_eq!((*position, error.code()), (Offset::new(20), ErrorCode::CorruptBatch));
    assert_eq!(at(&broken), 20);
}

#[tokio::test]
async fn partitions_that_a_topic_gets_later_are_read_from_their_beginning() {
    let fake = cluster(1, 10).await;
    let mut consumer = fake.client().await.consumer(quick());
    soon(consumer.assign_topic("t", StartAt::End)).await.unwrap();
    fake.lock().topics.get_mut("t").unwrap().partitions.push(highwater_protocol::v1::PartitionInfo {
        partition: 1,
        leader: Some(1),
        leader_epoch: 5,
        ..Default::default()
    });
    fake.with_log("t", 1, |log| log.append_values(&["early"]));
    fake.publish();
    let records = soon(consumer.poll(Duration::from_secs(10))).await.unwrap();
    assert_eq!((records[0].partition, records[0].offset), (PartitionId::new(1), Offset::ZERO));
    assert_eq!(consumer.assignment().len(), 2);
}

#[tokio::test]
async fn bad_assignments_are_refused_by_name() {
    let fake = cluster(1, 10).await;
    let mut consumer = consumer(&fake, quick(), offset(0)).await;
    let error = consumer.assign([("nope", 0, StartAt::Beginning)]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnknownTopic);
    let error = consumer.assign([("t", 7, StartAt::Beginning)]).await.unwrap_err();
    assert!(matches!(error, ConsumeError::UnknownPartition { partitions: 1, .. }));
    let error = consumer.seek("t", 1, StartAt::End).await.unwrap_err();
    assert!(matches!(error, ConsumeError::NotAssigned { .. }));
    assert_eq!(consumer.position("t", PartitionId::new(1)), None);
    // What was assigned before is still read.
    expect(&mut consumer, 0, 10).await;
}

#[tokio::test]
async fn t21_a_topic_deleted_or_created_again_is_reported() {
    let fake = cluster(1, 10).await;
    let mut reader = consumer(&fake, quick(), offset(0)).await;
    expect(&mut reader, 0, 10).await;
    fake.delete_topic("t");
    let error = soon(reader.poll(Duration::from_secs(10))).await.unwrap_err();
    assert!(matches!(error, ConsumeError::UnknownTopic { .. }));

    fake.create_topic("t", &[1]);
    append(&fake, 0..10);
    let client = fake.client().await;
    client.metadata_when(|image| image.topic("t").is_some()).await;
    let mut reader = consumer(&fake, quick(), offset(0)).await;
    expect(&mut reader, 0, 10).await;
    fake.lock().topics.get_mut("t").unwrap().topic_id = vec![99; 16].into();
    fake.publish();
    let error = soon(reader.poll(Duration::from_secs(10))).await.unwrap_err();
    assert!(matches!(error, ConsumeError::TopicRecreated { .. }), "{error}");
}

#[tokio::test]
async fn a_cancelled_poll_loses_nothing() {
    let fake = cluster(1, 0).await;
    let mut consumer = consumer(&fake, quick(), offset(0)).await;
    for start in (0..200).step_by(10) {
        let _ = tokio::time::timeout(Duration::from_millis(1), consumer.poll(Duration::from_secs(1))).await;
        append(&fake, start..start + 10);
        expect(&mut consumer, start, 10).await;
    }
}

fn in_rack() -> ConsumerConfig {
    ConsumerConfig { rack: Some("b".into()), ..quick() }
}

fn asked_of(fake: &Fake, broker: u32) -> usize {
    fake.lock().fetched.iter().filter(|(id, _)| *id == broker).count()
}

#[tokio::test]
async fn t26_a_reader_goes_to_the_replica_that_its_leader_names_and_back_when_that_fails() {
    let fake = cluster(2, 20).await;
    fake.lock().preferred = Some(2);
    let mut consumer = consumer(&fake, in_rack(), StartAt::Beginning).await;
    expect(&mut consumer, 0, 20).await;
    assert_eq!(asked_of(&fake, 1), 1, "the leader was asked once, who to ask");
    assert!(fake.lock().fetched.iter().all(|(_, request)| request.rack == "b"));
    // An error of the replica is none of the reader's: neither a stop nor a reset, whatever it is.
    let valid = error(ErrorCode::OffsetOutOfRange).with_valid_offsets(0, 5);
    fake.on_fetch([OnFetch::Refuse(valid)]);
    until("the leader is asked", || asked_of(&fake, 1) > 1).await;
    let to_leader = fake.lock().fetched.iter().rev().find(|(id, _)| *id == 1).cloned().unwrap().1;
    assert!(to_leader.partitions[0].not_elsewhere && to_leader.partitions[0].fetch_offset == 20);
    append(&fake, 20..40);
    expect(&mut consumer, 20, 20).await;
}

#[tokio::test]
async fn t26_a_reader_loses_nothing_when_the_replica_dies_or_its_leader_changes() {
    let fake = cluster(3, 20).await;
    fake.lock().preferred = Some(2);
    let mut consumer = consumer(&fake, in_rack(), StartAt::Beginning).await;
    expect(&mut consumer, 0, 20).await;
    fake.kill_broker(2);
    append(&fake, 20..30);
    expect(&mut consumer, 20, 10).await;
    fake.lock().preferred = None;
    fake.lead("t", 0, Some(3));
    append(&fake, 30..40);
    expect(&mut consumer, 30, 10).await;
    assert!(asked_of(&fake, 3) > 0);
}
