//! CreatePartitions: more partitions for topics that there are.

use highwater_protocol::v1;
use highwater_protocol::v1::admin_server::Admin;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{ApiKey, CreatePartitionsRequest, CreatePartitionsResponse};
use tonic::Request;

use super::create_topics::assignment;
use super::refusal::{Deadline, Refusal, each, once, told};
use super::{Broken, Call, Handler};
use crate::layout::{Layout, array, int8, int32, int32s, text};

pub(super) struct CreatePartitions;

impl Handler for CreatePartitions {
    type Request = CreatePartitionsRequest;
    type Response = CreatePartitionsResponse;
    const KEY: ApiKey = ApiKey::CreatePartitions;
    const VERSIONS: (i16, i16) = (0, 3);
    const LAYOUT: Layout =
        Layout { flexible: 2, fields: &[array(&[text(), int32(), array(&[int32s()])]), int32(), int8()] };

    async fn handle(call: &Call, request: CreatePartitionsRequest) -> Result<CreatePartitionsResponse, Broken> {
        let deadline = Deadline::after_ms(request.timeout_ms);
        let topics = once(request.topics, |topic| topic.name.clone());
        let grow = |(topic, is_twice): (CreatePartitionsTopic, bool)| async move {
            let grown = match is_twice {
                true => Err(Refusal::twice(&topic.name)),
                false => grow(call, deadline, &topic, request.validate_only).await,
            };
            let (code, message) = told(&grown);
            let result = CreatePartitionsTopicResult::default().with_name(topic.name);
            result.with_error_code(code).with_error_message(message)
        };
        let results = each(topics.into_iter().map(grow).collect()).await;
        Ok(CreatePartitionsResponse::default().with_results(results))
    }
}

async fn grow(
    call: &Call,
    deadline: Deadline,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Refusal> {
    let asked = asked(topic, validate_only)?;
    deadline.answer(call.door.api.admin().alter_topic(Request::new(asked))).await?;
    Ok(())
}

fn asked(topic: &CreatePartitionsTopic, validate_only: bool) -> Result<v1::AlterTopicRequest, Refusal> {
    let (name, count) = (topic.name.to_string(), topic.count);
    let refuse = |message| Err(Refusal::new(ResponseError::InvalidPartitions, message));
    let partitions = match u32::try_from(count) {
        Ok(partitions) if partitions > 0 => partitions,
        _ => return refuse(format!("a topic has 1 or more partitions, not {count}")),
    };
    let new_partitions = topic.assignments.iter().flatten();
    let new_partitions = new_partitions.map(|one| assignment(&one.broker_ids)).collect::<Result<_, _>>()?;
    Ok(v1::AlterTopicRequest { name, partitions, must_grow: true, new_partitions, validate_only, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment;
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    #[test]
    fn a_topic_grows_and_never_to_what_it_has() {
        let topic = CreatePartitionsTopic::default().with_name(StrBytes::from_static_str("t").into()).with_count(3);
        let error = |topic: &CreatePartitionsTopic| asked(topic, false).unwrap_err().error;
        assert_eq!(error(&topic.clone().with_count(0)), ResponseError::InvalidPartitions);
        assert_eq!(error(&topic.clone().with_count(-1)), ResponseError::InvalidPartitions);
        let grown = asked(&topic, true).unwrap();
        assert!(grown.partitions == 3 && grown.must_grow && grown.validate_only && grown.new_partitions.is_empty());
        let one = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(2), BrokerId(1)]);
        let grown = asked(&topic.with_assignments(Some(vec![one])), false).unwrap();
        assert_eq!(grown.new_partitions[0].replicas, [2, 1]);
    }
}
