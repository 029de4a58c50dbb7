//! InitProducerId: the identity of an idempotent or a transactional producer.

use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse};
use tonic::Request;

use super::transactions::fenced_as;
use super::{Broken, Call, Handler};
use crate::error::{self, By};
use crate::layout::{Layout, int16, int32, int64, text};

pub(super) struct InitProducerId;

impl Handler for InitProducerId {
    type Request = InitProducerIdRequest;
    type Response = InitProducerIdResponse;
    const KEY: ApiKey = ApiKey::InitProducerId;
    const VERSIONS: (i16, i16) = (0, 5);
    const LAYOUT: Layout = Layout { flexible: 2, fields: &[text(), int32(), int64().since(3), int16().since(3)] };

    async fn handle(call: &Call, request: InitProducerIdRequest) -> Result<InitProducerIdResponse, Broken> {
        let refused = |error: ResponseError| {
            InitProducerIdResponse::default()
                .with_error_code(error.code())
                .with_producer_id((-1).into())
                .with_producer_epoch(-1)
        };
        let transactional_id = request.transactional_id.map(|id| id.to_string());
        if transactional_id.as_ref().is_some_and(String::is_empty) {
            return Ok(refused(ResponseError::InvalidRequest));
        }
        let is_transactional = transactional_id.is_some();
        let asked = v1::InitProducerIdRequest {
            transactional_id: transactional_id.unwrap_or_default(),
            transaction_timeout_ms: u32::try_from(request.transaction_timeout_ms).unwrap_or(0),
            producer_id: request.producer_id.0,
            producer_epoch: request.producer_epoch.into(),
        };
        Ok(match call.door.api.coordinator().init_producer_id(Request::new(asked)).await {
            Ok(given) => {
                let given = given.into_inner();
                match i16::try_from(given.producer_epoch) {
                    Ok(epoch) => InitProducerIdResponse::default()
                        .with_producer_id(given.producer_id.into())
                        .with_producer_epoch(epoch),
                    Err(_) => refused(ResponseError::UnknownServerError),
                }
            }
            Err(status) => {
                let (error, _) = error::of_status(By::Coordinator, &status);
                refused(match fenced_as(error, call.version, 4) {
                    // Without a name there is no coordinator that clients could look for: they are to ask again here.
                    ResponseError::CoordinatorNotAvailable if !is_transactional => {
                        ResponseError::CoordinatorLoadInProgress
                    }
                    error => error,
                })
            }
        })
    }
}
