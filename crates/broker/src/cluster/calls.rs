//! Single calls to the active controller.

use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::{ClusterImage, Command, CommandResponse};
use highwater_protocol::internal::controller_client::ControllerClient;
use highwater_protocol::internal::{DescribeQuorumRequest, DescribeQuorumResponse, ExecuteRequest};
use highwater_protocol::{MESSAGE_SIZE_MAX, code_of, error_from_status, v1};
use highwater_types::{ErrorCode, MetadataVersion};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::{ClusterLink, LinkMetrics, Shared};

pub(super) type Client = ControllerClient<Channel>;

/// For a command, from asking to the broker's own image showing it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Adding a controller waits until it has caught up.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(30);
/// When the broker has only just started.
const FIRST_IMAGE_TIMEOUT: Duration = Duration::from_secs(5);
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn client(channel: Channel) -> Client {
    ControllerClient::new(channel)
        .max_decoding_message_size(MESSAGE_SIZE_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_MAX)
}

impl Shared {
    /// One call to the controller that the stream is open to, tried again until `timeout` where it surely had no effect.
    pub(super) async fn call<T, Answer>(
        &self,
        timeout: Duration,
        ask: impl Fn(Client) -> Answer,
    ) -> Result<T, v1::Error>
    where
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + timeout;
        let mut status = self.status.subscribe();
        loop {
            let active = status.borrow_and_update().active.clone();
            let Some(active) = active else {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return Err(shutting_down()),
                    changed = tokio::time::timeout_at(deadline, status.changed()) => match changed {
                        Ok(Ok(())) => continue,
                        _ => return Err(no_controller(timeout)),
                    }
                }
            };
            let result = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(shutting_down()),
                result = tokio::time::timeout_at(deadline, ask(client(self.peers.channel(&active)))) => result,
            };
            let error = match result {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => error_from_status(&status),
                Err(_) => {
                    let message = format!("the controller at {active} did not answer within {timeout:?}");
                    return Err(v1::Error::new(ErrorCode::RequestTimedOut, message));
                }
            };
            let is_elsewhere = matches!(code_of(&error), ErrorCode::NotController | ErrorCode::ControllerNotAvailable);
            if !is_elsewhere || Instant::now() + RETRY_PAUSE >= deadline {
                return Err(error);
            }
            // The stream finds the right one; it may have already.
            let _ = tokio::time::timeout(RETRY_PAUSE, status.changed()).await;
        }
    }
}

fn no_controller(waited: Duration) -> v1::Error {
    let message = format!("no active controller was found within {waited:?}: are most of the controllers up?");
    v1::Error::new(ErrorCode::ControllerNotAvailable, message)
}

fn shutting_down() -> v1::Error {
    v1::Error::new(ErrorCode::BrokerShuttingDown, "this broker is shutting down; ask another one")
}

impl ClusterLink {
    /// Has the active controller carry out `command`, and waits until this broker's own image shows it, so that who asks
    /// here next sees what was done.
    pub async fn execute(&self, command: &Command) -> Result<(CommandResponse, MetadataVersion), v1::Error> {
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        LinkMetrics::add(&self.shared.metrics.commands, 1);
        let request = ExecuteRequest { command: command.to_json().into() };
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.execute(request).await }
        };
        let response = self.shared.call(COMMAND_TIMEOUT, ask).await?;
        let version = MetadataVersion::new(response.version);
        let response = CommandResponse::from_json(&response.response).map_err(|error| {
            // The command took effect all the same.
            v1::Error::new(ErrorCode::Internal, format!("the controller's answer is not understood: {error}"))
        })?;
        // It is done; being late to see it here is no failure.
        let _ = tokio::time::timeout_at(deadline, self.reached(version)).await;
        Ok((response, version))
    }

    /// Resolves once the image is of this version or newer, or the link has been closed.
    pub async fn reached(&self, version: MetadataVersion) {
        let mut images = self.subscribe();
        let reached = async { _ = images.wait_for(|image| image.version >= version).await };
        tokio::select! {
            biased;
            () = self.shared.cancel.cancelled() => {}
            () = reached => {}
        }
    }

    /// The image, once a controller has told of one: before that this broker knows of no topic, and would call all of them unknown
    /// (T48).
    pub async fn known_image(&self) -> Result<Arc<ClusterImage>, v1::Error> {
        const FIRST: MetadataVersion = MetadataVersion::new(1);
        let _ = tokio::time::timeout(FIRST_IMAGE_TIMEOUT, self.reached(FIRST)).await;
        Some(self.image()).filter(|image| image.version >= FIRST).ok_or_else(|| {
            v1::Error::new(
                ErrorCode::ControllerNotAvailable,
                "this broker has not heard from a controller yet; ask again",
            )
        })
    }

    pub async fn describe_quorum(&self) -> Result<DescribeQuorumResponse, v1::Error> {
        let ask = |mut client: Client| async move { client.describe_quorum(DescribeQuorumRequest {}).await };
        self.shared.call(DESCRIBE_TIMEOUT, ask).await
    }

    pub async fn add_controller(&self, request: v1::AddControllerRequest) -> Result<(), v1::Error> {
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.add_controller(request).await }
        };
        self.shared.call(MEMBERSHIP_TIMEOUT, ask).await.map(|_| ())
    }

    pub async fn remove_controller(&self, request: v1::RemoveControllerRequest) -> Result<(), v1::Error> {
        let ask = |mut client: Client| async move { client.remove_controller(request).await };
        self.shared.call(MEMBERSHIP_TIMEOUT, ask).await.map(|_| ())
    }
}
