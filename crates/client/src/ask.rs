//! Asking whichever broker answers: for what any of them can do, or passes on.

use std::future::Future;
use std::time::Duration;

use highwater_protocol::{MESSAGE_SIZE_MAX, v1};
use highwater_types::{BrokerId, ErrorCode, Outcome, PartitionId};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Response, Status};
use v1::coordinator_client::CoordinatorClient;

use crate::AdminError;
use crate::backoff::Backoff;
use crate::client::ClientInner;

/// One attempt at one broker; the rest of the deadline is for the others.
pub(crate) const ATTEMPT_WAIT: Duration = Duration::from_secs(10);

/// Asks one broker after the other until one answers, the answer forbids asking again, or time is up.
pub(crate) async fn ask<T, F, Fut>(
    client: &ClientInner,
    what: &str,
    deadline: Instant,
    send: F,
    may_repeat: impl Fn(&AdminError) -> bool,
) -> Result<T, AdminError>
where
    F: Fn(Channel) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    let mut turn = client.seams.entropy.next_u64() as usize;
    let mut last = AdminError::new(what, ErrorCode::Unavailable, "no broker is known");
    last.outcome = Outcome::NotApplied;
    loop {
        let brokers = brokers(client);
        if !brokers.is_empty() {
            let broker = brokers[turn % brokers.len()];
            turn = turn.wrapping_add(1);
            if let Some(channel) = client.channel(broker) {
                last = match ask_once(what, broker, deadline, send(channel)).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                if !last.code.is_retriable() || !may_repeat(&last) {
                    return Err(last);
                }
            }
        }
        let pause = backoff.next(&*client.seams.entropy);
        if Instant::now() + pause >= deadline {
            return Err(last);
        }
        sleep(pause).await;
    }
}

/// Asks each broker that is alive; for reads.
pub(crate) async fn ask_all<T, F, Fut>(
    client: &ClientInner,
    what: &str,
    send: F,
) -> Result<Vec<(BrokerId, T)>, AdminError>
where
    F: Fn(Channel) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let deadline = Instant::now() + client.request_timeout;
    // One that dies meanwhile is not waited for: what it did is another's by then.
    let one = |broker| {
        let is_there = move || brokers(client).contains(&broker).then_some(broker);
        let send = &send;
        async move { ask_where(client, what, deadline, is_there, send).await.map(|answer| Some((broker, answer?))) }
    };
    let answers = futures::future::try_join_all(brokers(client).into_iter().map(one)).await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Asks the leader of a partition, whoever that is by then; for what may be asked twice.
pub(crate) async fn ask_leader<T, F, Fut>(
    client: &ClientInner,
    what: &str,
    topic: &str,
    partition: PartitionId,
    send: F,
) -> Result<T, AdminError>
where
    F: Fn(Channel) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let deadline = Instant::now() + client.request_timeout;
    let leads = client.image_when(|image| image.topic(topic).and_then(|t| t.partition(partition)?.leader).is_some());
    let nobody = || AdminError::new(what, ErrorCode::LeaderNotAvailable, "nobody leads the partition now");
    timeout_at(deadline, leads).await.map_err(|_| nobody())?;
    let leader = || client.image().topic(topic)?.partition(partition)?.leader;
    ask_where(client, what, deadline, leader, &send).await?.ok_or_else(nobody)
}

/// Asks the broker that `whom` names, again while that may help; `None` once it names nobody.
async fn ask_where<T, F, Fut>(
    client: &ClientInner,
    what: &str,
    deadline: Instant,
    whom: impl Fn() -> Option<BrokerId>,
    send: &F,
) -> Result<Option<T>, AdminError>
where
    F: Fn(Channel) -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    loop {
        let Some(broker) = whom() else { return Ok(None) };
        let Some(channel) = client.channel(broker) else { return Ok(None) };
        let error = match ask_once(what, broker, deadline, send(channel)).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        let pause = backoff.next(&*client.seams.entropy);
        if !error.is_retriable() || Instant::now() + pause >= deadline {
            return Err(error);
        }
        sleep(pause).await;
    }
}

/// One attempt.
pub(crate) async fn ask_once<T>(
    what: &str,
    broker: BrokerId,
    deadline: Instant,
    asking: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, AdminError> {
    match timeout_at(deadline.min(Instant::now() + ATTEMPT_WAIT), asking).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refused_connection(AdminError::from_status(what, &status), &status)),
        Err(_) => {
            let message = format!("broker {broker} did not answer in time");
            Err(AdminError::new(what, ErrorCode::RequestTimedOut, message))
        }
    }
}

pub(crate) fn coordinator(channel: Channel) -> CoordinatorClient<Channel> {
    CoordinatorClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX)
}

/// Those that may answer: the unfenced ones, or all if that leaves none.
pub(crate) fn brokers(client: &ClientInner) -> Vec<BrokerId> {
    let image = client.image();
    let alive: Vec<_> = image.brokers().filter(|broker| !broker.fenced).map(|broker| broker.id).collect();
    if alive.is_empty() { image.brokers().map(|broker| broker.id).collect() } else { alive }
}

/// Nothing was sent if there was nobody to send it to.
fn refused_connection(mut error: AdminError, status: &Status) -> AdminError {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            error.outcome = Outcome::NotApplied;
        }
        source = cause.source();
    }
    error
}
