use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::*;

const NODE: NodeId = NodeId::broker(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for bytes that can pass to have passed.
const A_WHILE: Duration = Duration::from_millis(200);

/// A node that sends back what it is sent, and the way to it.
async fn echo() -> (Network, u16) {
    let node = listen(0).await.unwrap();
    let port = node.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = node.accept().await {
            tokio::spawn(async move {
                let (mut source, mut sink) = connection.split();
                let _ = tokio::io::copy(&mut source, &mut sink).await;
                let _ = sink.shutdown().await;
            });
        }
    });
    let network = Network::new(Processes::default());
    let proxy = listen(0).await.unwrap();
    let way = proxy.local_addr().unwrap().port();
    network.serve(NODE, proxy, port);
    (network, way)
}

async fn connect(way: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, way)).await.unwrap()
}

async fn say(connection: &mut TcpStream, text: &[u8]) {
    connection.write_all(text).await.unwrap();
}

async fn hear(connection: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut heard = vec![0; bytes];
    timeout(PATIENCE, connection.read_exact(&mut heard)).await.expect("in time").unwrap();
    heard
}

async fn hears_nothing(connection: &mut TcpStream) {
    let mut one = [0];
    assert!(timeout(A_WHILE, connection.read(&mut one)).await.is_err(), "something came, or the connection ended");
}

fn cut(from: Side, to: Side) -> Impairment {
    Impairment { from, to, effect: Effect::Cut }
}

#[tokio::test]
async fn without_impairments_everything_passes_and_ends_pass_too() {
    let (_network, way) = echo().await;
    let mut connection = connect(way).await;
    let text: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut source, mut sink) = connection.split();
    let mut heard = Vec::new();
    let send = async {
        sink.write_all(&text).await.unwrap();
        sink.shutdown().await.unwrap();
    };
    let (_, read) = timeout(PATIENCE, async { tokio::join!(send, source.read_to_end(&mut heard)) }).await.unwrap();
    assert_eq!((read.unwrap(), heard == text), (text.len(), true));
}

#[tokio::test]
async fn a_cut_in_either_direction_holds_bytes_up_and_what_was_held_arrives_in_order() {
    let (network, way) = echo().await;
    let mut connection = connect(way).await;
    say(&mut connection, b"one").await;
    assert_eq!(hear(&mut connection, 3).await, b"one");
    for (from, to) in [(Side::All, Side::Node(NODE)), (Side::Node(NODE), Side::All)] {
        let id = network.impair(cut(from, to));
        say(&mut connection, b"two").await;
        hears_nothing(&mut connection).await;
        network.lift(id, Aftermath::Deliver);
        say(&mut connection, b"three").await;
        assert_eq!(hear(&mut connection, 8).await, b"twothree");
    }
    // Between nodes; this is a client.
    network.impair(cut(Side::Nodes, Side::Nodes));
    say(&mut connection, b"four").await;
    assert_eq!(hear(&mut connection, 4).await, b"four");
}

#[tokio::test]
async fn behind_a_cut_nobody_learns_that_the_other_end_is_gone() {
    let (network, way) = echo().await;
    // A node that has died.
    let gone = NodeId::broker(2);
    let proxy = listen(0).await.unwrap();
    let dead_way = proxy.local_addr().unwrap().port();
    let unused = listen(0).await.unwrap().local_addr().unwrap().port();
    network.serve(gone, proxy, unused);
    let id = network.impair(cut(Side::Node(gone), Side::All));
    let mut connection = connect(dead_way).await;
    hears_nothing(&mut connection).await;
    network.lift(id, Aftermath::Deliver);
    let mut one = [0];
    let ended = timeout(PATIENCE, connection.read(&mut one)).await.expect("in time");
    assert!(!matches!(ended, Ok(1)), "a dead node said something");
    drop(connect(way).await);
}

#[tokio::test]
async fn a_reset_ends_connections_and_new_ones_can_be_made() {
    let (network, way) = echo().await;
    for by_lift in [false, true] {
        let mut connection = connect(way).await;
        say(&mut connection, b"one").await;
        assert_eq!(hear(&mut connection, 3).await, b"one");
        if by_lift {
            let id = network.impair(cut(Side::All, Side::Node(NODE)));
            say(&mut connection, b"lost").await;
            network.lift(id, Aftermath::Reset);
        } else {
            network.reset(Side::Node(NODE), Side::All);
        }
        let mut one = [0];
        let ended = timeout(PATIENCE, connection.read(&mut one)).await.expect("in time");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_delay_counts_each_way_and_a_throttle_takes_its_time() {
    let (network, way) = echo().await;
    let mut connection = connect(way).await;
    let delay = Effect::Delay(Duration::from_millis(100));
    let id = network.impair(Impairment { from: Side::All, to: Side::All, effect: delay });
    let began = Instant::now();
    say(&mut connection, b"one").await;
    assert_eq!(hear(&mut connection, 3).await, b"one");
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    network.lift(id, Aftermath::Deliver);
    let throttle = Effect::Throttle(200_000);
    network.impair(Impairment { from: Side::All, to: Side::Node(NODE), effect: throttle });
    let began = Instant::now();
    let text = vec![7; 200_000];
    let (mut source, mut sink) = connection.split();
    let mut heard = vec![0; text.len()];
    let (_, read) =
        timeout(PATIENCE, async { tokio::join!(sink.write_all(&text), source.read_exact(&mut heard)) }).await.unwrap();
    assert!(read.is_ok() && heard == text);
    // All but the last chunk has been waited for.
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
}
