//! The producer end to end, against a broker in the same process that only acknowledges:
//! `cargo bench -p highwater-client --bench produce`. Both ends share one thread, so what is measured is the CPU time
//! of client, gRPC and loopback together.

use std::hint::black_box;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::{Stream, StreamExt as _};
use highwater_client::{Client, Partitioning, ProducerConfig, ProducerRecord, TopicRef};
use highwater_protocol::v1;
use highwater_seams::{Net as _, TcpNet, incoming};
use tonic::{Request, Response, Status, Streaming};
use v1::data_server::{Data, DataServer};
use v1::metadata_server::{Metadata, MetadataServer};

struct Acknowledger {
    port: u16,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Metadata for Acknowledger {
    type WatchMetadataStream = Answers<v1::MetadataUpdate>;

    async fn get_metadata(&self, _: Request<v1::GetMetadataRequest>) -> Result<Response<v1::MetadataUpdate>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn watch_metadata(
        &self,
        _: Request<v1::WatchMetadataRequest>,
    ) -> Result<Response<Self::WatchMetadataStream>, Status> {
        let partition = |partition| v1::PartitionInfo { partition, leader: Some(1), ..Default::default() };
        let topic = v1::TopicInfo {
            topic_id: vec![1; 16].into(),
            name: "t".into(),
            partitions: (0..6).map(partition).collect(),
            ..Default::default()
        };
        let endpoint = v1::Endpoint { host: "127.0.0.1".into(), port: self.port.into() };
        let broker = v1::BrokerInfo { broker_id: 1, endpoint: Some(endpoint), ..Default::default() };
        let update = v1::MetadataUpdate {
            version: 1,
            snapshot: true,
            brokers: vec![broker],
            topics: vec![topic],
            cluster_id: "bench".into(),
            ..Default::default()
        };
        let forever = futures::stream::iter([Ok(update)]).chain(futures::stream::pending());
        Ok(Response::new(Box::pin(forever)))
    }
}

#[tonic::async_trait]
impl Data for Acknowledger {
    type ProduceStream = Answers<v1::ProduceResponse>;
    type FetchStream = Answers<v1::FetchResponse>;

    async fn produce(
        &self,
        requests: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let answers = requests.into_inner().map(|request| {
            let request = request?;
            let result = |partition: v1::ProducePartition| v1::ProducePartitionResult {
                topic_id: partition.topic_id,
                partition: partition.partition,
                log_append_time_ms: -1,
                ..Default::default()
            };
            let partitions = request.partitions.into_iter().map(result).collect();
            Ok(v1::ProduceResponse { request_id: request.request_id, partitions, error: None })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch(&self, _: Request<Streaming<v1::FetchRequest>>) -> Result<Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }
    async fn list_offsets(
        &self,
        _: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
    async fn offsets_for_leader_epoch(
        &self,
        _: Request<v1::OffsetsForLeaderEpochRequest>,
    ) -> Result<Response<v1::OffsetsForLeaderEpochResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

async fn client() -> Client {
    let listener = TcpNet.bind("127.0.0.1", 0).await.expect("a free port");
    let port = listener.port();
    let data = DataServer::new(Acknowledger { port }).max_decoding_message_size(64 << 20);
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_frame_size(1 << 20)
        .add_service(data)
        .add_service(MetadataServer::new(Acknowledger { port }))
        .serve_with_incoming(incoming(listener));
    tokio::spawn(server);
    Client::connect(format!("127.0.0.1:{port}")).await.expect("it listens")
}

/// Sends `count` records, awaits the last delivery and then all, and says how long that took.
async fn produce(client: &Client, partitioning: Partitioning, value: Bytes, count: u64) -> Duration {
    let config = ProducerConfig { partitioning, ..Default::default() };
    let producer = client.producer(config).expect("sound settings");
    let topic = TopicRef::from("t");
    let began = Instant::now();
    for _ in 0..count {
        let record = ProducerRecord::new(&topic).value(value.clone());
        drop(black_box(producer.send(record).await.expect("accepted")));
    }
    producer.flush().await.expect("acknowledged");
    began.elapsed()
}

fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = runtime.block_on(client());
    let mut group = criterion.benchmark_group("produce");
    for (size, count) in [(100, 200_000u64), (1024, 50_000)] {
        group.throughput(Throughput::Elements(count));
        for how in [Partitioning::KeyOrSticky, Partitioning::RoundRobin] {
            let id = BenchmarkId::new(format!("{how:?}"), format!("{size}B"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|iterations| {
                    let value = Bytes::from(vec![b'x'; size]);
                    let one = || runtime.block_on(produce(&client, how.clone(), value.clone(), count));
                    (0..iterations).map(|_| one()).sum()
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = bench
}
criterion_main!(benches);
