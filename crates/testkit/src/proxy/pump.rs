//! Carries the bytes of one connection, each direction by itself.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Path;

const CHUNK: usize = 64 << 10;
/// Chunks of one direction that are on their way at a time; a delay times the rate of a fast connection must fit in.
const UNDER_WAY_MAX: usize = 64;
/// Chunks that pass in one direction while the other is cut: without acknowledgements TCP soon sends no more.
const UNACKNOWLEDGED_MAX: usize = 10;

/// Which end of a direction failed.
enum Broken {
    Source,
    Sink,
}

/// Both directions, until both have ended. A failure is passed on as a reset, once the direction that it comes from is open.
pub async fn both(inbound: &mut TcpStream, outbound: &mut TcpStream, there: &Path, back: &Path) {
    let told_by = {
        let ((in_source, in_sink), (out_source, out_sink)) = (inbound.split(), outbound.split());
        let forth = async {
            one(in_source, out_sink, there, back)
                .await
                .map_err(|end| if matches!(end, Broken::Source) { there } else { back })
        };
        let home = async {
            one(out_source, in_sink, back, there)
                .await
                .map_err(|end| if matches!(end, Broken::Source) { back } else { there })
        };
        match tokio::try_join!(forth, home) {
            Ok(_) => return,
            Err(path) => path,
        }
    };
    told_by.open().await;
    reset(inbound);
    reset(outbound);
}

/// One direction, until its source has no more.
async fn one(mut source: ReadHalf<'_>, mut sink: WriteHalf<'_>, path: &Path, back: &Path) -> Result<(), Broken> {
    // `None` is the end.
    let (sent, mut under_way) = mpsc::channel::<(Instant, Option<Bytes>)>(UNDER_WAY_MAX);
    let take = async move {
        let mut unacknowledged = 0;
        loop {
            path.open().await;
            if !back.quality().is_cut {
                unacknowledged = 0;
            } else if unacknowledged >= UNACKNOWLEDGED_MAX {
                back.open().await;
                continue;
            }
            unacknowledged += 1;
            let mut chunk = BytesMut::with_capacity(CHUNK);
            let read = source.read_buf(&mut chunk).await.map_err(|_| Broken::Source)?;
            let arrives = Instant::now() + path.quality().delay;
            let is_end = read == 0;
            // The other half ends only with an error, which ends this one too.
            let _ = sent.send((arrives, (!is_end).then(|| chunk.freeze()))).await;
            if is_end {
                return Ok(());
            }
        }
    };
    let give = async move {
        while let Some((arrives, chunk)) = under_way.recv().await {
            if arrives > Instant::now() {
                sleep_until(arrives).await;
            }
            path.open().await;
            let Some(chunk) = chunk else {
                return sink.shutdown().await.map_err(|_| Broken::Sink);
            };
            sink.write_all(&chunk).await.map_err(|_| Broken::Sink)?;
            if let Some(rate) = path.quality().bytes_per_second {
                sleep(Duration::from_secs_f64(chunk.len() as f64 / rate.max(1) as f64)).await;
            }
        }
        Ok(())
    };
    tokio::try_join!(take, give).map(|_| ())
}

/// So that the other end sees a reset when the connection is dropped.
pub fn reset(connection: &TcpStream) {
    // What is closed already can't be reset, and need not be.
    let _ = connection.set_zero_linger();
}
