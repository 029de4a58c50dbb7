//! Keeps the image of the cluster up to date: one WatchMetadata stream, to any broker that answers.
//!
//! Invariant: the stream's end or silence never loses the image; it goes on at another broker, with the newest
//! version kept (a broker that lags behind brings only old news, which the image ignores).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_protocol::{MESSAGE_SIZE_MAX, v1};
use highwater_seams::{Seams, channel};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};
use v1::metadata_client::MetadataClient;

use crate::NodeAddress;
use crate::metadata::ClusterMetadata;

/// A stream is not left for another, on doubt, before this age.
const DOUBT_AGE: Duration = Duration::from_secs(1);
const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(3);
const RETRY_WAIT: Duration = Duration::from_millis(50);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);

/// Follows the cluster's metadata until it is aborted. `lost` has what was tried while no broker can be reached. `failures`
/// keeps the last error of each address tried. `doubt` fires when what is known keeps being wrong: the broker asked may be
/// cut off from the controllers, so another is asked.
pub(crate) async fn follow(
    seams: Seams,
    bootstrap: Vec<NodeAddress>,
    image: watch::Sender<Arc<ClusterMetadata>>,
    lost: watch::Sender<Option<String>>,
    failures: Arc<Mutex<Vec<(NodeAddress, String)>>>,
    doubt: Arc<Notify>,
) {
    let mut turn = seams.entropy.below(bootstrap.len() as u64) as usize;
    let mut failed_in_a_row = 0u32;
    loop {
        let addresses = addresses(&bootstrap, &image.borrow());
        let address = addresses[turn % addresses.len()].clone();
        turn = turn.wrapping_add(1);
        match open(&seams, &address).await {
            Ok((first, mut stream)) => {
                apply(&image, &first);
                failed_in_a_row = 0;
                lost.send_if_modified(|lost| lost.take().is_some());
                let opened = Instant::now();
                loop {
                    let next = tokio::select! {
                        biased;
                        next = stream.message() => next,
                        () = doubt.notified() => {
                            if opened.elapsed() >= DOUBT_AGE {
                                break;
                            }
                            continue;
                        }
                    };
                    match next {
                        Ok(Some(update)) => apply(&image, &update),
                        Ok(None) => break,
                        Err(status) => {
                            tracing::debug!(%address, %status, "metadata stream broke");
                            break;
                        }
                    }
                }
            }
            Err(status) => {
                tracing::debug!(%address, %status, "no metadata from this broker");
                let reason = reason(&status);
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.retain(|(known, _)| *known != address);
                failures.push((address, reason));
                failed_in_a_row += 1;
                if failed_in_a_row as usize >= addresses.len() {
                    let is_news = |lost: &mut Option<String>| {
                        let is_news = lost.is_none();
                        lost.get_or_insert_with(|| tried(&addresses, &failures));
                        is_news
                    };
                    lost.send_if_modified(is_news);
                }
            }
        }
        // Every address once without a pause, then slower with each round.
        let round = failed_in_a_row / addresses.len().max(1) as u32;
        let pause = if round == 0 { Duration::ZERO } else { RETRY_WAIT * 2u32.saturating_pow(round - 1).min(64) };
        sleep(pause.min(RETRY_WAIT_MAX).max(Duration::from_millis(1))).await;
    }
}

/// Each address with why it failed.
pub(crate) fn tried(addresses: &[NodeAddress], failures: &[(NodeAddress, String)]) -> String {
    let one = |address: &NodeAddress| match failures.iter().find(|(failed, _)| failed == address) {
        Some((_, reason)) => format!("{address} ({reason})"),
        None => format!("{address} (no answer)"),
    };
    addresses.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The brokers known, and the bootstrap addresses, each once.
fn addresses(bootstrap: &[NodeAddress], image: &ClusterMetadata) -> Vec<NodeAddress> {
    let known = image.brokers().filter(|broker| !broker.fenced).map(|broker| &broker.address);
    let mut all = bootstrap.to_vec();
    all.extend(known.filter(|address| !bootstrap.contains(address)).cloned());
    all
}

async fn open(
    seams: &Seams,
    address: &NodeAddress,
) -> Result<(v1::MetadataUpdate, Streaming<v1::MetadataUpdate>), Status> {
    let opening = async {
        // A connection of its own: one wedged for data must not keep the news of a new leader from us.
        let channel = channel(&seams.net, &address.host, address.port);
        let mut client = MetadataClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX);
        let mut stream = client.watch_metadata(v1::WatchMetadataRequest::default()).await?.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::unavailable("it has no metadata yet"))?;
        Ok((first, stream))
    };
    timeout(FIRST_ANSWER_WAIT, opening)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {FIRST_ANSWER_WAIT:?}"))))
}

fn apply(image: &watch::Sender<Arc<ClusterMetadata>>, update: &v1::MetadataUpdate) {
    image.send_if_modified(|image| match image.updated(update) {
        Some(next) => {
            *image = Arc::new(next);
            true
        }
        None => false,
    });
}

/// The innermost reason: "connection refused" rather than "transport error".
fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    match status.code() {
        // A controller, perhaps.
        tonic::Code::Unimplemented => "this is not a broker of Highwater".to_owned(),
        code if text.is_empty() => code.to_string(),
        _ => text,
    }
}
