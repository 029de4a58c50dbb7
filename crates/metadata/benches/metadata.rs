//! What the active controller does per command, and everybody per record, in a cluster of 10,000 partitions.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use highwater_metadata::*;
use highwater_types::*;

fn apply(image: &mut ClusterImage, command: &Command) -> Vec<Record> {
    let decision = decide(image, command, 1).unwrap();
    image.replay_all(&decision.records).unwrap();
    decision.records
}

fn cluster() -> ClusterImage {
    let mut image = ClusterImage::default();
    apply(&mut image, &Command::CreateCluster { cluster_id: None });
    for id in 1..=6 {
        let registration = Registration {
            broker: BrokerId::new(id),
            incarnation: IncarnationId::from_u128(id.into()),
            cluster_id: None,
            client_endpoint: Endpoint::new("broker", 9092),
            internal_endpoint: Endpoint::new("broker", 9092),
            listeners: Vec::new(),
            rack: Some(format!("rack-{}", id % 3)),
            clean_shutdown: false,
            previous_broker_epoch: BrokerEpoch::NONE,
        };
        apply(&mut image, &Command::RegisterBroker(registration));
        let broker_epoch = image.broker(BrokerId::new(id)).unwrap().broker_epoch;
        apply(&mut image, &Command::UnfenceBroker { broker: BrokerId::new(id), broker_epoch });
    }
    for topic in 0..100 {
        apply(&mut image, &create(format!("topic-{topic}")));
    }
    image
}

fn create(name: String) -> Command {
    Command::CreateTopic {
        name,
        partitions: 100,
        replication_factor: 3,
        configs: BTreeMap::new(),
        assignments: Vec::new(),
        validate_only: false,
    }
}

fn shrink(image: &ClusterImage) -> Command {
    let (partition, state) = image.partitions().next().unwrap();
    let member = |broker: &BrokerId| IsrMember { broker: *broker, broker_epoch: BrokerEpoch::NONE };
    let leader = state.leader.unwrap();
    let proposal = AlterPartition {
        partition,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        new_isr: state.isr[..2].iter().map(member).collect(),
        recovered: false,
    };
    let broker_epoch = image.broker(leader).unwrap().broker_epoch;
    Command::AlterPartitions { broker: leader, broker_epoch, partitions: vec![proposal] }
}

fn benches(c: &mut Criterion) {
    let image = cluster();
    let broker = BrokerId::new(1);
    let fence = Command::FenceBroker { broker, broker_epoch: image.broker(broker).unwrap().broker_epoch };
    let isr = shrink(&image);
    let new_topic = create("new".to_owned());
    let records = decide(&image, &fence, 1).unwrap().records;
    let one = decide(&image, &isr, 1).unwrap().records;
    let json: Vec<_> = records.iter().map(Record::to_json).collect();
    c.bench_function("decide one ISR change", |b| b.iter(|| decide(&image, black_box(&isr), 1)));
    c.bench_function("decide to fence a broker of 5,000 partitions", |b| {
        b.iter(|| decide(&image, black_box(&fence), 1))
    });
    c.bench_function("decide a topic of 100 partitions", |b| b.iter(|| decide(&image, black_box(&new_topic), 1)));
    c.bench_function("clone the image and replay one ISR change", |b| {
        b.iter(|| {
            let mut image = image.clone();
            image.replay_all(black_box(&one)).unwrap();
            image
        });
    });
    c.bench_function("clone the image and replay the fencing", |b| {
        b.iter(|| {
            let mut image = image.clone();
            image.replay_all(black_box(&records)).unwrap();
            image
        });
    });
    c.bench_function("decode the records of the fencing", |b| {
        b.iter(|| json.iter().map(|j| Record::from_json(black_box(j)).unwrap()).collect::<Vec<_>>());
    });
    c.bench_function("encode a snapshot of 10,000 partitions", |b| b.iter(|| image.to_json()));
}

criterion_group!(metadata, benches);
criterion_main!(metadata);
