//! The client's side of the stream.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_client::{GroupCommitter, GroupConfig, OffsetReset, OffsetToCommit, Subscription};
use highwater_protocol::v1;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use v1::subscribe_request::Request;
use v1::subscribe_response::Response;

use crate::error::{IntoError as _, invalid, status};
use crate::state::State;
use crate::subscribe::session::Session;
use crate::subscribe::{Answers, Listener, Shared, hand_out};
use crate::{read, wire};

/// For the first request to arrive.
const JOIN_WAIT: Duration = Duration::from_secs(10);
const RELEASE_WAIT_DEFAULT: Duration = Duration::from_secs(10);
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(300);
/// Beyond the wait for a release, for the group's coordinator to give a member up.
const POLL_SLACK: Duration = Duration::from_secs(30);
/// Commits of one stream that wait for their turn; above this, no more requests are taken from it.
const COMMITS_MAX: usize = 64;

/// Runs the whole stream.
pub(crate) async fn subscribe(state: Arc<State>, mut requests: Streaming<v1::SubscribeRequest>, answers: Answers) {
    let joined = tokio::select! {
        biased;
        () = answers.closed() => return,
        joined = join(&state, &mut requests, &answers) => joined,
    };
    let (shared, consumer) = match joined {
        Ok(joined) => joined,
        Err(status) => {
            let _ = answers.send(Err(status)).await;
            return;
        }
    };
    let committer = consumer.committer();
    tokio::join!(hand_out::hand_out(state, Arc::clone(&shared), consumer), take_requests(shared, requests, committer),);
}

async fn join(
    state: &State,
    requests: &mut Streaming<v1::SubscribeRequest>,
    answers: &Answers,
) -> Result<(Arc<Shared>, highwater_client::GroupConsumer), Status> {
    let first = match timeout(JOIN_WAIT, requests.message()).await {
        Ok(first) => first?,
        Err(_) => return Err(status(invalid(format!("no request arrived within {JOIN_WAIT:?}; the first one joins")))),
    };
    let Some(Request::Join(join)) = first.and_then(|first| first.request) else {
        return Err(status(invalid("the first request of a subscribed stream must be a join")));
    };
    let client = state.client().await.map_err(status)?;
    let (config, subscription) = member(&join, state).map_err(status)?;
    let mut session = Session::default();
    session.grant(join.credit);
    let shared = Arc::new(Shared {
        session: Mutex::new(session),
        changed: Notify::new(),
        released: Notify::new(),
        closing: CancellationToken::new(),
        failure: Mutex::new(None),
        answers: answers.clone(),
        release_wait: release_wait(join.release_wait_ms),
    });
    let consumer = client.group_consumer(config);
    let mut consumer = consumer.map_err(|error| status(invalid(error.to_string())))?;
    consumer.subscribe_with(subscription, Listener(Arc::clone(&shared)));
    Ok((shared, consumer))
}

fn release_wait(ms: u32) -> Duration {
    match ms {
        0 => RELEASE_WAIT_DEFAULT,
        ms => Duration::from_millis(ms.into()).min(RELEASE_WAIT_MAX),
    }
}

fn member(join: &v1::SubscribeJoin, state: &State) -> Result<(GroupConfig, Subscription), v1::Error> {
    if join.topics.is_empty() && join.topic_pattern.is_empty() {
        return Err(invalid("a join needs topics, or a pattern of topics"));
    }
    let offset_reset = match v1::OffsetReset::try_from(join.offset_reset) {
        Ok(v1::OffsetReset::Earliest) => OffsetReset::Earliest,
        Ok(v1::OffsetReset::Latest) => OffsetReset::Latest,
        Ok(v1::OffsetReset::Error) => OffsetReset::Error,
        Err(_) => return Err(invalid(format!("offset_reset can't be {}", join.offset_reset))),
    };
    let mut consumer = read::config(&state.limits);
    consumer.isolation = wire::isolation(join.isolation_level)?;
    let config = GroupConfig {
        instance_id: Some(join.instance_id.clone()).filter(|id| !id.is_empty()),
        // The client says when.
        auto_commit: false,
        offset_reset,
        max_poll_interval: release_wait(join.release_wait_ms) + POLL_SLACK,
        client_id: join.client_id.clone(),
        consumer,
        ..GroupConfig::new(&join.group_id)
    };
    let mut subscription = Subscription::topics(join.topics.iter().cloned());
    if !join.topic_pattern.is_empty() {
        subscription = subscription.and_pattern(&join.topic_pattern);
    }
    Ok((config, subscription))
}

type Commit = (u64, Result<Vec<OffsetToCommit>, v1::Error>);

/// Takes requests until there are no more; then what was to be committed is, and the member leaves.
async fn take_requests(shared: Arc<Shared>, mut requests: Streaming<v1::SubscribeRequest>, committer: GroupCommitter) {
    let (commits, to_commit) = mpsc::channel(COMMITS_MAX);
    let committing = commit_in_order(Arc::clone(&shared), to_commit, committer);
    let taking = async {
        // Dropped at the end, so that the commits end too.
        let commits = commits;
        loop {
            let request = tokio::select! {
                biased;
                () = shared.closing.cancelled() => return,
                request = requests.message() => request,
            };
            // The end, or a broken connection.
            let Ok(Some(request)) = request else { return };
            if let Err(error) = take(&shared, request, &commits).await {
                shared.fail(error);
                return;
            }
        }
    };
    tokio::join!(taking, committing);
    shared.closing.cancel();
}

async fn take(shared: &Shared, request: v1::SubscribeRequest, commits: &mpsc::Sender<Commit>) -> Result<(), v1::Error> {
    match request.request {
        Some(Request::Credit(credit)) => {
            shared.lock().grant(credit.records);
            shared.changed.notify_one();
        }
        Some(Request::Commit(commit)) => {
            let offsets = shared.lock().commit(&commit);
            // Its receiver lives as long as this.
            let _ = commits.send((commit.commit_id, offsets)).await;
        }
        Some(Request::Release(release)) => {
            shared.lock().release(release.change_id)?;
            shared.released.notify_one();
        }
        Some(Request::Join(_)) => return Err(invalid("this stream has joined already; open another one")),
        None => return Err(invalid("a request without anything asked, or of a newer version")),
    }
    Ok(())
}

async fn commit_in_order(shared: Arc<Shared>, mut commits: mpsc::Receiver<Commit>, committer: GroupCommitter) {
    while let Some((commit_id, offsets)) = commits.recv().await {
        let error = match offsets {
            Ok(offsets) if offsets.is_empty() => None,
            Ok(offsets) => match committer.commit(&offsets).await {
                Ok(()) => None,
                Err(error) => {
                    // Refused for good, it would be refused with the next one too.
                    if error.is_retriable() {
                        shared.lock().commit_failed(offsets);
                    }
                    Some(error.into_error())
                }
            },
            Err(error) => Some(error),
        };
        shared.tell(Response::Commit(v1::SubscribeCommitResult { commit_id, error })).await;
    }
}
