//! EndTxn: commits or aborts.

use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator as _;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, EndTxnRequest, EndTxnResponse};
use tonic::Request;

use super::super::{Broken, Call, Handler, answered};
use super::fenced_as;
use crate::layout::{Layout, int8, int16, int64, text};

pub(crate) struct EndTxn;

/// The answer has the producer's next epoch.
const TELLS_EPOCH: i16 = 5;

impl Handler for EndTxn {
    type Request = EndTxnRequest;
    type Response = EndTxnResponse;
    const KEY: ApiKey = ApiKey::EndTxn;
    const VERSIONS: (i16, i16) = (0, 5);
    const LAYOUT: Layout = Layout { flexible: 3, fields: &[text(), int64(), int16(), int8()] };

    async fn handle(call: &Call, request: EndTxnRequest) -> Result<EndTxnResponse, Broken> {
        let asked = v1::EndTransactionRequest {
            transactional_id: request.transactional_id.to_string(),
            producer_id: request.producer_id.0,
            producer_epoch: request.producer_epoch.into(),
            commit: request.committed,
            keeps_epoch: call.version < TELLS_EPOCH,
        };
        let response = EndTxnResponse::default();
        let refused = |error: ResponseError| response.clone().with_error_code(error.code());
        Ok(match answered(call.door.api.coordinator().end_transaction(Request::new(asked)).await) {
            Err(error) => refused(fenced_as(error, call.version, 2)),
            Ok(_) if call.version < TELLS_EPOCH => response,
            Ok(next) => match i16::try_from(next.producer_epoch) {
                Ok(epoch) => response.with_producer_id(next.producer_id.into()).with_producer_epoch(epoch),
                Err(_) => refused(ResponseError::UnknownServerError),
            },
        })
    }
}
