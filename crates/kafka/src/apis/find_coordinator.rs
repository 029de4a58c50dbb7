//! FindCoordinator: which broker coordinates a group or a transactional id.

use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator as _;
use highwater_types::BrokerId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use tonic::Request;

use super::metadata::node;
use super::{Broken, Call, Handler};
use crate::error::{self, By};
use crate::layout::{Layout, int8, text, texts};

/// Which versions ask about many at a time.
const MANY: i16 = 4;

pub(super) struct FindCoordinator;

impl Handler for FindCoordinator {
    type Request = FindCoordinatorRequest;
    type Response = FindCoordinatorResponse;
    const KEY: ApiKey = ApiKey::FindCoordinator;
    const VERSIONS: (i16, i16) = (0, 6);
    const LAYOUT: Layout = Layout { flexible: 3, fields: &[text().until(3), int8().since(1), texts().since(4)] };

    async fn handle(call: &Call, request: FindCoordinatorRequest) -> Result<FindCoordinatorResponse, Broken> {
        let response = FindCoordinatorResponse::default();
        if call.version >= MANY {
            let mut found = Vec::with_capacity(request.coordinator_keys.len());
            for key in request.coordinator_keys {
                found.push(find(call, request.key_type, key).await);
            }
            return Ok(response.with_coordinators(found));
        }
        let found = find(call, request.key_type, request.key).await;
        Ok(response
            .with_error_code(found.error_code)
            .with_error_message(found.error_message.filter(|_| call.version >= 1))
            .with_node_id(found.node_id)
            .with_host(found.host)
            .with_port(found.port))
    }
}

async fn find(call: &Call, key_type: i8, key: StrBytes) -> Coordinator {
    let answer = Coordinator::default().with_key(key.clone()).with_node_id((-1).into()).with_port(-1);
    let refuse = |error: ResponseError, message: String| {
        answer.clone().with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(message)))
    };
    let kind = match key_type {
        0 => v1::CoordinatorKind::Group,
        1 => v1::CoordinatorKind::Transaction,
        other => return refuse(ResponseError::InvalidRequest, format!("there is no coordinator of kind {other}")),
    };
    let asked = v1::FindCoordinatorRequest { kind: kind.into(), key: key.to_string() };
    let found = match call.door.api.coordinator().find_coordinator(Request::new(asked)).await {
        Ok(found) => found.into_inner(),
        Err(status) => {
            let (error, said) = error::of_status(By::Coordinator, &status);
            return refuse(error, said.message);
        }
    };
    let image = call.door.api.link.image();
    let broker = BrokerId::new(found.broker_id);
    match call.door.endpoint_of(&image, broker) {
        None => refuse(
            ResponseError::CoordinatorNotAvailable,
            format!("broker {broker} coordinates, and can't be reached by listener {}", call.door.listener),
        ),
        Some(endpoint) => answer
            .clone()
            .with_node_id(node(broker))
            .with_host(StrBytes::from_string(endpoint.host.clone()))
            .with_port(endpoint.port.into()),
    }
}
