//! Peers that say nothing, nonsense, or too much, harm nobody else.

use std::time::Duration;

use highwater_protocol::MESSAGE_SIZE_MAX;
use highwater_protocol::v1::Acks;
use highwater_storage::sim::SimDisk;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::*;

async fn still_serves(test: &mut TestBroker) {
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    assert_eq!(test.produce_to(tp, Acks::All, batch(&["a"])).await.error, None);
}

async fn connect(test: &TestBroker) -> TcpStream {
    soon(TcpStream::connect(("127.0.0.1", test.port))).await.unwrap()
}

/// The server closes it.
async fn is_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = soon(stream.read_to_end(&mut rest)).await;
}

/// Whether a new connection is answered, where one beyond the bound is closed.
async fn is_admitted(test: &TestBroker) -> bool {
    let mut stream = connect(test).await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let greeting = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat();
    stream.write_all(&greeting).await.is_ok() && matches!(soon(stream.read(&mut [0; 1])).await, Ok(1))
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let mut test = TestBroker::start().await;
    let http1 = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    let frames = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![0xff; 4096]].concat();
    for garbage in [vec![0; 4096], vec![0xff; 65536], http1, frames] {
        let mut stream = connect(&test).await;
        let _ = stream.write_all(&garbage).await;
        is_closed(stream).await;
    }
    still_serves(&mut test).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_too_little_is_closed() {
    let mut test = TestBroker::start_with(SimDisk::new(1), |config| config.limits.handshake_ms = 100).await;
    let silent = connect(&test).await;
    let mut partial = connect(&test).await;
    partial.write_all(b"PRI * HTTP/2").await.unwrap();
    is_closed(silent).await;
    is_closed(partial).await;
    still_serves(&mut test).await;
}

/// It has spoken HTTP/2 once, and then neither speaks nor closes: it does not answer pings.
#[tokio::test]
async fn a_half_open_connection_is_noticed() {
    let mut test = TestBroker::start_with(SimDisk::new(1), |config| config.limits.keepalive_ms = 100).await;
    let mut stream = connect(&test).await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat()).await.unwrap();
    is_closed(stream).await;
    still_serves(&mut test).await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once() {
    let test = TestBroker::start_with(SimDisk::new(1), |config| config.limits.connections_max = 3).await;
    let held: Vec<TcpStream> = vec![connect(&test).await, connect(&test).await, connect(&test).await];
    is_closed(connect(&test).await).await;
    drop(held);
    soon(async {
        while !is_admitted(&test).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_own_stream_only() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let mut producer = test.producer().await;
    let bystander = test.producer().await;
    producer.send(request(1, Acks::All, &[(tp, vec![0; MESSAGE_SIZE_MAX].into())])).await;
    let mut ended = false;
    while !ended {
        ended = producer.next_status().await.is_some();
    }
    let mut bystander = bystander;
    bystander.send(request(2, Acks::All, &[(tp, batch(&["a"]))])).await;
    assert_eq!(bystander.answer().await.request_id, 2);
    still_serves(&mut test).await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let producer = test.producer().await;
    producer.send(request(1, Acks::All, &[(tp, batch(&["a"]))])).await;
    let consumer = test.consumer().await;
    consumer.send(fetch_request(1, Duration::from_secs(60), &[(tp, 0)])).await;
    eventually(|| test.log_end(tp) == 1).await;
    drop((producer, consumer));
    test.acknowledge(tp, 2, 1);
    assert_eq!(test.read(tp, 0).await.len(), 1);
}
