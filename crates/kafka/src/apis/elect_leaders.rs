//! ElectLeaders: the preferred replica leads again, or, where nobody can lead without loss, whoever is there (KIP-460).

use std::collections::BTreeMap;

use highwater_protocol::v1::admin_server::Admin;
use highwater_protocol::{topic_id_bytes, v1};
use highwater_types::TopicId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ApiKey, ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tonic::Request;

use super::refusal::{Deadline, Refusal, told};
use super::{Broken, Call, Handler};
use crate::layout::{Layout, array, int8, int32, int32s, text};

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;
/// What the forwarding of an election takes, beside the election.
const ON_THE_WAY_MS: i32 = 5_000;

pub(super) struct ElectLeaders;

impl Handler for ElectLeaders {
    type Request = ElectLeadersRequest;
    type Response = ElectLeadersResponse;
    const KEY: ApiKey = ApiKey::ElectLeaders;
    const VERSIONS: (i16, i16) = (0, 2);
    const LAYOUT: Layout = Layout { flexible: 2, fields: &[int8().since(1), array(&[text(), int32s()]), int32()] };

    async fn handle(call: &Call, request: ElectLeadersRequest) -> Result<ElectLeadersResponse, Broken> {
        let mut response = ElectLeadersResponse::default();
        let unclean = match request.election_type {
            PREFERRED => false,
            UNCLEAN => true,
            _ => return Ok(response.with_error_code(ResponseError::InvalidRequest.code())),
        };
        let image = call.door.api.link.image();
        let mut results: BTreeMap<TopicName, Vec<PartitionResult>> = BTreeMap::new();
        let mut partitions = Vec::new();
        let is_all = request.topic_partitions.is_none();
        for topic in request.topic_partitions.into_iter().flatten() {
            let known = image.topic_by_name(&topic.topic).map(|topic| topic.id);
            let unknown = results.entry(topic.topic.clone()).or_default();
            for index in topic.partitions {
                match (known, u32::try_from(index)) {
                    (Some(id), Ok(partition)) => {
                        partitions.push(v1::PartitionToElect { topic_id: topic_id_bytes(id), partition });
                    }
                    _ => unknown.push(result(index, &Err(Refusal::unknown_topic(&topic.topic)))),
                }
            }
        }
        let mut add = |topic_id: &[u8], partition: u32, outcome: &Result<(), Refusal>| {
            // A topic that was made since the request came is not told.
            if let Some(topic) = TopicId::from_slice(topic_id).and_then(|id| image.topic(id)) {
                let name = StrBytes::from_string(topic.name.as_str().to_owned()).into();
                let index = i32::try_from(partition).unwrap_or(i32::MAX);
                results.entry(name).or_default().push(result(index, outcome));
            }
        };
        // No partition stands for all of them below.
        if is_all || !partitions.is_empty() {
            let timeout_ms = u32::try_from(request.timeout_ms).unwrap_or(0);
            let deadline = Deadline::after_ms(request.timeout_ms.max(0).saturating_add(ON_THE_WAY_MS));
            let asked = v1::ElectLeadersRequest { unclean, partitions: partitions.clone(), timeout_ms };
            match deadline.answer(call.door.api.admin().elect_leaders(Request::new(asked))).await {
                Ok(elected) => {
                    for one in elected.partitions {
                        add(&one.topic_id, one.partition, &outcome(one.outcome()));
                    }
                }
                Err(refusal) => {
                    response.error_code = refusal.error.code();
                    for one in partitions {
                        add(&one.topic_id, one.partition, &Err(refusal.clone()));
                    }
                }
            }
        }
        let told = results.into_iter().filter(|(_, partitions)| !partitions.is_empty()).map(|(topic, partitions)| {
            ReplicaElectionResult::default().with_topic(topic).with_partition_result(partitions)
        });
        response.replica_election_results = told.collect();
        Ok(response)
    }
}

fn result(index: i32, outcome: &Result<(), Refusal>) -> PartitionResult {
    let (code, message) = told(outcome);
    PartitionResult::default().with_partition_id(index).with_error_code(code).with_error_message(message)
}

fn outcome(outcome: v1::ElectionOutcome) -> Result<(), Refusal> {
    use ResponseError as Error;
    use v1::ElectionOutcome as Outcome;
    let (error, message) = match outcome {
        Outcome::Elected => return Ok(()),
        Outcome::NotNeeded => (Error::ElectionNotNeeded, "who was wished leads already"),
        Outcome::PreferredNotAvailable => (
            Error::PreferredLeaderNotAvailable,
            "the preferred replica is down, not in sync, or its storage can't be used",
        ),
        Outcome::NoReplicaAvailable => (Error::EligibleLeadersNotAvailable, "no replica is up"),
        Outcome::Awaited => {
            (Error::RequestTimedOut, "replicas are still asked where their logs end; one of them leads then")
        }
        Outcome::UnknownPartition => (Error::UnknownTopicOrPartition, "there is no such partition"),
        Outcome::Unspecified => (Error::UnknownServerError, "the controller's answer is not understood"),
    };
    Err(Refusal::new(error, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_election_is_a_success() {
        for number in 0..=6 {
            let of = v1::ElectionOutcome::try_from(number).unwrap();
            assert_eq!(outcome(of).is_ok(), of == v1::ElectionOutcome::Elected, "{of:?}");
        }
    }
}
