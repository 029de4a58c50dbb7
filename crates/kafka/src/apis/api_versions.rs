//! ApiVersions: what works here.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

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
                return Ok(answer(ResponseError::InvalidRequest.code(), call.version));
            }
            tracing::debug!(
                name = &*name,
                version = &*version,
                client_id = call.client_id.as_deref(),
                "a Kafka client"
            );
            let _ = call.client.software.set((name, version));
        }
        Ok(answer(error::NONE, call.version))
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

/// What clients look up by name and not by the versions of APIs, as Kafka 4 has it. The Java client ends its transactions as of KIP-890,
/// each with an epoch of its own, only where it finds the second version of them.
const FEATURES: [(&str, i16); 2] = [("group.version", 1), ("transaction.version", 2)];
/// Features are told.
const WITH_FEATURES: i16 = 3;
/// Clients know that a feature's first version may be 0.
const WITH_ZERO: i16 = 4;

fn with_features(answer: ApiVersionsResponse, version: i16) -> ApiVersionsResponse {
    let supported = |(name, last): (&'static str, i16)| {
        let feature = SupportedFeatureKey::default().with_name(StrBytes::from_static_str(name));
        feature.with_min_version(if version < WITH_ZERO { 1 } else { 0 }).with_max_version(last)
    };
    let finalized = |(name, last): (&'static str, i16)| {
        let feature = FinalizedFeatureKey::default().with_name(StrBytes::from_static_str(name));
        feature.with_min_version_level(last).with_max_version_level(last)
    };
    answer
        .with_supported_features(FEATURES.into_iter().map(supported).collect())
        // They never change. Without an epoch, clients take no notice.
        .with_finalized_features_epoch(0)
        .with_finalized_features(FEATURES.into_iter().map(finalized).collect())
}

fn answer(error_code: i16, version: i16) -> ApiVersionsResponse {
    let listed = |api: &super::Supported| {
        let first = if api.key == ApiKey::Produce as i16 { PRODUCE_FIRST } else { api.first };
        ApiVersion::default().with_api_key(api.key).with_min_version(first).with_max_version(api.last)
    };
    let answer = ApiVersionsResponse::default().with_error_code(error_code);
    let answer = answer.with_api_keys(SUPPORTED.iter().map(listed).collect());
    if version >= WITH_FEATURES { with_features(answer, version) } else { answer }
}

/// To a version that is not known here: the list, in the version that everybody reads.
pub(crate) fn unsupported(correlation_id: i32) -> Result<Bytes, EncodeError> {
    let header = ReplyHeader { correlation_id, is_flexible: false };
    reply::message(header, &answer(ResponseError::UnsupportedVersion.code(), 0), 0)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::*;

    #[test]
    fn features_are_told_to_those_who_can_read_them() {
        for version in 0..=4 {
            let mut out = BytesMut::new();
            answer(error::NONE, version).encode(&mut out, version).unwrap();
            let read = ApiVersionsResponse::decode(&mut out.freeze(), version).unwrap();
            let levels: Vec<_> = read.finalized_features.iter().map(|it| (&*it.name, it.max_version_level)).collect();
            let firsts: Vec<_> = read.supported_features.iter().map(|it| it.min_version).collect();
            match version {
                ..3 => assert_eq!((levels.len(), read.finalized_features_epoch), (0, -1)),
                _ => {
                    assert_eq!((levels, read.finalized_features_epoch), (FEATURES.to_vec(), 0));
                    assert_eq!(firsts, [if version == 3 { 1 } else { 0 }; 2]);
                }
            }
        }
    }
}
