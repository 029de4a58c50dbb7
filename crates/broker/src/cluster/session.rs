//! The stream to the active controller: finding it, registering, living on it, and finding the next one.

use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::{ClusterImage, Endpoint, Record};
use highwater_protocol::internal::broker_message::Message as ToController;
use highwater_protocol::internal::controller_message::Message as FromController;
use highwater_protocol::internal::{BrokerMessage, ControllerMessage, MetadataDelta, Registered};
use highwater_protocol::{code_of, error_from_status, v1};
use highwater_types::{BrokerEpoch, ErrorCode, MetadataVersion};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::candidates::Candidates;
use super::{LinkFatal, LinkMetrics, Shared, TopicDefaults, calls, convert};

/// For one controller to take a registration; longer in later rounds, should all be slow.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(1);
const REGISTER_TIMEOUT_MAX: Duration = Duration::from_secs(4);
/// After a round without success. Short: while controllers elect there is nobody, and what is waited for is the end of it.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// Sessions that end sooner than this are not opened back to back.
const SESSION_MIN: Duration = Duration::from_millis(100);
/// Messages to a controller that does not read.
const OUTBOUND_LENGTH: usize = 8;

/// An open stream, registered.
struct Session {
    endpoint: Endpoint,
    outbound: mpsc::Sender<BrokerMessage>,
    inbound: Streaming<ControllerMessage>,
    heartbeat_interval: Duration,
    /// Without a word for so long the controller is presumed gone.
    silence_max: Duration,
    /// What the controllers knew when they took the registration.
    known: MetadataVersion,
    /// On the way there.
    history: Option<ClusterImage>,
}

/// Why a session ended.
enum End {
    /// The link has been closed.
    Closed,
    /// The stream broke, or the controller said to go elsewhere.
    Lost(Option<v1::Error>),
    /// Not a word in time. The stream stays open until there is another one, for the controller may be alive after all,
    /// and a closed stream means a dead broker to it.
    Silent,
    /// What came can't be replayed on the image there is.
    Confused(String),
}

/// Keeps one session open, with one controller after the other, until the link is closed.
pub(super) async fn keep(shared: Arc<Shared>) {
    let cancel = shared.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        fatal = keep_open(&shared) => {
            tracing::error!(broker = %shared.config.broker, %fatal, "the link to the controllers has ended");
            shared.status.send_modify(|status| status.fatal = Some(fatal));
        }
    }
    shared.status.send_modify(|status| status.active = None);
}

async fn keep_open(shared: &Shared) -> LinkFatal {
    let mut candidates = Candidates::new(&shared.config.controllers);
    let mut from_snapshot = false;
    let mut silent = None;
    loop {
        let mut session = match find(shared, &mut candidates, from_snapshot).await {
            Ok(session) => session,
            Err(fatal) => return fatal,
        };
        // The old stream may end now that there is another.
        drop(silent.take());
        from_snapshot = false;
        LinkMetrics::add(&shared.metrics.sessions, 1);
        let endpoint = session.endpoint.clone();
        tracing::info!(broker = %shared.config.broker, controller = %endpoint, "registered with the active controller");
        shared.status.send_modify(|status| status.active = Some(endpoint.clone()));
        let opened = Instant::now();
        let end = session.run(shared).await;
        shared.status.send_modify(|status| status.active = None);
        match end {
            End::Closed => std::future::pending().await,
            End::Lost(error) => {
                if let Some(error) = error {
                    tracing::info!(controller = %endpoint, message = error.message, "the controller ended the stream");
                    if code_of(&error) == ErrorCode::StaleBrokerEpoch {
                        return LinkFatal::Superseded(error.message);
                    }
                    if let Some(hint) = convert::hinted(&error) {
                        candidates.hint(hint);
                    }
                } else {
                    tracing::info!(controller = %endpoint, "the stream to the controller broke");
                }
            }
            End::Silent => {
                tracing::warn!(controller = %endpoint, "the controller has gone silent");
                silent = Some(session);
            }
            End::Confused(why) => {
                tracing::error!(controller = %endpoint, why, "asking for a snapshot");
                from_snapshot = true;
                candidates.hint(endpoint);
            }
        }
        if opened.elapsed() < SESSION_MIN {
            tokio::time::sleep(SESSION_MIN / 2).await;
        }
    }
}

/// Tries controllers until one takes the registration.
async fn find(shared: &Shared, candidates: &mut Candidates, from_snapshot: bool) -> Result<Session, LinkFatal> {
    let (mut pause, mut timeout) = (PAUSE_MIN, REGISTER_TIMEOUT);
    let mut said = None;
    loop {
        candidates.learn(&shared.image.borrow());
        candidates.begin_round();
        while let Some(endpoint) = candidates.next() {
            let opened = tokio::time::timeout(timeout, open(shared, &endpoint, from_snapshot)).await;
            let error = match opened {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error,
                Err(_) => {
                    v1::Error::new(ErrorCode::Unavailable, format!("no answer from {endpoint} within {timeout:?}"))
                }
            };
            if let Some(fatal) = is_fatal(shared, &error) {
                return Err(fatal);
            }
            if let Some(hint) = convert::hinted(&error) {
                candidates.hint(hint);
            }
            tracing::debug!(controller = %endpoint, message = error.message, "not registered there");
            if code_of(&error) == ErrorCode::DuplicateBrokerRegistration && said.as_ref() != Some(&error.message) {
                tracing::warn!(message = error.message, "waiting to register");
                said = Some(error.message);
            }
        }
        // Half to whole, so that brokers don't come all at once.
        let jitter = shared.seams.entropy.below(pause.as_micros() as u64 / 2);
        tokio::time::sleep(pause / 2 + Duration::from_micros(jitter)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        timeout = (timeout * 2).min(REGISTER_TIMEOUT_MAX);
    }
}

/// Whether trying on is of no use.
fn is_fatal(shared: &Shared, error: &v1::Error) -> Option<LinkFatal> {
    let was_registered = shared.status.borrow().broker_epoch.is_some();
    match code_of(error) {
        ErrorCode::DuplicateBrokerRegistration if was_registered => Some(LinkFatal::Superseded(error.message.clone())),
        ErrorCode::StaleBrokerEpoch => Some(LinkFatal::Superseded(error.message.clone())),
        ErrorCode::InvalidRequest => Some(LinkFatal::Refused(error.message.clone())),
        _ => None,
    }
}

/// Opens a stream and registers.
async fn open(shared: &Shared, endpoint: &Endpoint, from_snapshot: bool) -> Result<Session, v1::Error> {
    let (outbound, messages) = mpsc::channel(OUTBOUND_LENGTH);
    let register = ToController::Register(convert::registration(shared, from_snapshot));
    // An empty channel takes one message.
    let _ = outbound.try_send(BrokerMessage { message: Some(register) });
    let mut client = calls::client(shared.peers.channel(endpoint));
    let response = client.broker_session(ReceiverStream::new(messages)).await;
    let mut inbound = response.map_err(|status| error_from_status(&status))?.into_inner();
    let first = inbound.message().await.map_err(|status| error_from_status(&status))?;
    let registered = match first.and_then(|message| message.message) {
        Some(FromController::Registered(registered)) => registered,
        Some(FromController::Error(error)) => return Err(error),
        _ => {
            let message = format!("{endpoint} did not answer a registration as a controller does");
            return Err(v1::Error::new(ErrorCode::Unavailable, message));
        }
    };
    note(shared, &registered)?;
    let timeout = Duration::from_millis(registered.session_timeout_ms.max(100).into());
    let heartbeat_interval = Duration::from_millis(registered.heartbeat_interval_ms.max(1).into()).min(timeout / 3);
    let silence_max = (timeout / 2).max(heartbeat_interval * 2);
    Ok(Session {
        endpoint: endpoint.clone(),
        outbound,
        inbound,
        heartbeat_interval,
        silence_max,
        known: MetadataVersion::new(registered.metadata_version),
        history: None,
    })
}

/// Takes epoch and cluster id, which hold for the process's life.
fn note(shared: &Shared, registered: &Registered) -> Result<(), v1::Error> {
    let epoch = BrokerEpoch::new(registered.broker_epoch);
    let mut clash = None;
    shared.status.send_if_modified(|status| {
        let before = status.clone();
        if let Some(had) = status.broker_epoch.filter(|had| *had != epoch) {
            let message = format!("the controllers gave broker epoch {epoch}, and this process has {had}");
            clash = Some(v1::Error::new(ErrorCode::StaleBrokerEpoch, message));
            return false;
        }
        if let Some(had) = status.cluster_id.as_ref().filter(|had| **had != registered.cluster_id) {
            let message = format!("this broker is of cluster {had}, and the controllers of {}", registered.cluster_id);
            clash = Some(v1::Error::new(ErrorCode::InvalidRequest, message));
            return false;
        }
        status.broker_epoch = Some(epoch);
        status.cluster_id = Some(registered.cluster_id.clone());
        let (partitions, replication_factor) = (registered.default_partitions, registered.default_replication_factor);
        status.topic_defaults = (partitions > 0).then_some(TopicDefaults { partitions, replication_factor });
        *status != before
    });
    clash.map_or(Ok(()), Err)
}

impl Session {
    async fn run(&mut self, shared: &Shared) -> End {
        let mut heartbeats = tokio::time::interval(self.heartbeat_interval);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = shared.cancel.cancelled() => return End::Closed,
                message = self.inbound.message() => {
                    heard = Instant::now();
                    let message = match message {
                        Ok(Some(ControllerMessage { message: Some(message) })) => message,
                        // A kind of message from a newer version.
                        Ok(Some(ControllerMessage { message: None })) => continue,
                        Ok(None) => return End::Lost(None),
                        Err(status) => return End::Lost(Some(error_from_status(&status))),
                    };
                    if let Err(end) = self.take(shared, message) {
                        return end;
                    }
                }
                () = shared.wake.notified() => {
                    if !self.send_heartbeat(shared) {
                        return End::Lost(None);
                    }
                }
                _ = heartbeats.tick() => {
                    if heard.elapsed() > self.silence_max {
                        return End::Silent;
                    }
                    if !self.send_heartbeat(shared) {
                        return End::Lost(None);
                    }
                }
            }
        }
    }

    /// False: the stream is closed. A controller that does not read has its next heartbeat skipped.
    fn send_heartbeat(&self, shared: &Shared) -> bool {
        let image = shared.image();
        let heartbeat = shared.report(|report| report.heartbeat(&image, shared.config.broker));
        let message = BrokerMessage { message: Some(ToController::Heartbeat(heartbeat)) };
        !matches!(self.outbound.try_send(message), Err(mpsc::error::TrySendError::Closed(_)))
    }

    fn take(&mut self, shared: &Shared, message: FromController) -> Result<(), End> {
        match message {
            FromController::Delta(delta) => self.take_delta(shared, &delta).map_err(End::Confused),
            FromController::Heartbeat(ack) => {
                if ack.controlled_shutdown_complete {
                    shared.status.send_if_modified(|status| !std::mem::replace(&mut status.shutdown_complete, true));
                }
                Ok(())
            }
            FromController::Error(error) => Err(End::Lost(Some(error))),
            FromController::Registered(_) => Ok(()),
        }
    }

    /// T48: until it is as new as the registration, the image is of the past: of topics that have gone since, without others that have
    /// come, with brokers in service that are not.
    fn take_delta(&mut self, shared: &Shared, delta: &MetadataDelta) -> Result<(), String> {
        let image = match self.history.take() {
            Some(history) => advance(&history, delta)?,
            None => advance(&shared.image(), delta)?,
        };
        let counter = if delta.snapshot.is_empty() { &shared.metrics.deltas } else { &shared.metrics.snapshots };
        LinkMetrics::add(counter, 1);
        if image.version < self.known {
            self.history = Some(image);
            return Ok(());
        }
        let was_fenced = shared.is_fenced();
        shared.image.send_replace(Arc::new(image));
        if was_fenced != shared.is_fenced() {
            tracing::info!(broker = %shared.config.broker, fenced = !was_fenced, "fencing changed");
        }
        Ok(())
    }
}

/// The image after `delta`. It must go on from the present one, or be a snapshot that is not older.
fn advance(present: &ClusterImage, delta: &MetadataDelta) -> Result<ClusterImage, String> {
    if !delta.snapshot.is_empty() {
        let image = ClusterImage::from_json(&delta.snapshot).map_err(|error| error.to_string())?;
        if image.version < present.version {
            return Err(format!("a snapshot of version {} is older than {}", image.version, present.version));
        }
        return Ok(image);
    }
    if delta.from_version != present.version.get() {
        return Err(format!("a delta from version {} does not go on from {}", delta.from_version, present.version));
    }
    let mut image = present.clone();
    for record in &delta.records {
        let record = Record::from_json(record).map_err(|error| error.to_string())?;
        image.replay(&record).map_err(|error| error.to_string())?;
    }
    if image.version != MetadataVersion::new(delta.to_version) {
        return Err(format!("a delta to version {} ends at {}", delta.to_version, image.version));
    }
    Ok(image)
}
