//! ApiVersions: what works here.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use super::{Broken, Call, Handler, SUPPORTED};
use crate::error;
use crate::layout::{Layout, text};
use crate::reply::{self, EncodeError, ReplyHeader};

pub(super) struct ApiVersions;

impl Handler for ApiVersions {
    type Request = ApiVersionsRequest;
    type Response = ApiVersionsResponse;
    const KEY: ApiKey = ApiKey::ApiVersions;
    const VERSIONS: (i16, i16) = (0, 4);
    const LAYOUT: Layout = Layout { flexible: 3, fields: &[text().since(3), text().since(3)] };
    /// A client that does not know yet what there is must be able to read it.
    const FLEXIBLE_REPLY_HEADER: bool = false;

    async fn handle(call: &Call, request: ApiVersionsRequest) -> Result<ApiVersionsResponse, Broken> {
        let (name, version) = (request.client_software_name, request.client_software_version);
        if call.version >= 3 {
            // KIP-511: what would not do as the value of a metric is refused.
            if !is_plain(&name) || !is_plain(&version) {
                return Ok(answer(ResponseError::InvalidRequest.code()));
            }
            tracing::debug!(
                name = &*name,
                version = &*version,
                client_id = call.client_id.as_deref(),
                "a Kafka client"
            );
            let _ = call.client.software.set((name, version));
        }
        Ok(answer(error::NONE))
    }
}

/// The oldest version of Produce that is listed, as Kafka 4 lists it: librdkafka before 2.8 sends gzip, snappy and lz4
/// uncompressed to a broker whose list does not begin there. It sends none of these versions itself, and they are not taken.
const PRODUCE_FIRST: i16 = 0;

fn is_plain(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.chars().all(inner) && is_edge(text.chars().next()) && is_edge(text.chars().next_back())
}

fn answer(error_code: i16) -> ApiVersionsResponse {
    let version = |api: &super::Supported| {
        let first = if api.key == ApiKey::Produce as i16 { PRODUCE_FIRST } else { api.first };
        ApiVersion::default().with_api_key(api.key).with_min_version(first).with_max_version(api.last)
    };
    ApiVersionsResponse::default().with_error_code(error_code).with_api_keys(SUPPORTED.iter().map(version).collect())
}

/// To a version that is not known here: the list, in the version that everybody reads.
pub(crate) fn unsupported(correlation_id: i32) -> Result<Bytes, EncodeError> {
    let header = ReplyHeader { correlation_id, is_flexible: false };
    reply::message(header, &answer(ResponseError::UnsupportedVersion.code()), 0)
}
