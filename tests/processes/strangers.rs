//! Whoever speaks nonsense to a port harms nobody else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use highwater_testkit::oracle::Expectations;

use crate::common::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_half_open_connections_and_oversized_frames_harm_nobody_else() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(100).await;
    let ports: Vec<u16> = scene.cluster.nodes().map(|(_, node)| node.port()).collect();
    let mut held = Vec::new();
    for port in &ports {
        let connect = || TcpStream::connect(("127.0.0.1", *port)).expect("the port is open");
        // Silence, held to the end.
        held.push(connect());
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        // A preface and then silence; a frame that claims 16 MB; a header block that never ends.
        for bytes in
            [&preface[..], b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82"]
        {
            let mut connection = connect();
            if bytes != preface {
                connection.write_all(preface).expect("it is open");
            }
            // It may have been closed on us already, which is an answer.
            let _ = connection.write_all(bytes);
            held.push(connection);
        }
        for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 4096], &[0; 4096], b"\n"] {
            let mut connection = connect();
            let _ = connection.write_all(garbage);
            connection.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket takes a timeout");
            let _ = connection.read(&mut [0; 1024]);
        }
        // Connected and reset, many times over.
        for _ in 0..100 {
            drop(connect());
        }
    }
    scene.acknowledged(300).await;
    scene.cluster.check_alive().unwrap_or_else(|error| panic!("{error}"));
    writers.stop().await;
    drop(held);
    scene.check(&Expectations::default()).await;
}
