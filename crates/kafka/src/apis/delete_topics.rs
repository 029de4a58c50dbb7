//! DeleteTopics: by name, or by id in the newest version.

use highwater_protocol::v1;
use highwater_protocol::v1::admin_server::Admin;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{ApiKey, DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tonic::Request;
use uuid::Uuid;

use super::refusal::{Deadline, Refusal, duplicates, each, told};
use super::{Broken, Call, Handler};
use crate::apis::topics::topic_id;
use crate::layout::{Layout, array, int32, text, texts, uuid};

pub(super) struct DeleteTopics;

impl Handler for DeleteTopics {
    type Request = DeleteTopicsRequest;
    type Response = DeleteTopicsResponse;
    const KEY: ApiKey = ApiKey::DeleteTopics;
    const VERSIONS: (i16, i16) = (1, 6);
    const LAYOUT: Layout =
        Layout { flexible: 4, fields: &[array(&[text(), uuid()]).since(6), texts().until(5), int32()] };

    async fn handle(call: &Call, request: DeleteTopicsRequest) -> Result<DeleteTopicsResponse, Broken> {
        let deadline = Deadline::after_ms(request.timeout_ms);
        let by_name = |name| DeleteTopicState::default().with_name(Some(name));
        let topics: Vec<_> = request.topic_names.into_iter().map(by_name).chain(request.topics).collect();
        // A name and the id of its topic are the same as well.
        let identities: Vec<_> = topics.iter().map(|topic| identity(call, topic)).collect();
        let twice = duplicates(identities.iter().filter_map(|identity| identity.clone().ok()));
        let delete = |(topic, identity): (DeleteTopicState, Result<Identity, Refusal>)| {
            let is_twice = identity.as_ref().is_ok_and(|identity| twice.contains(identity));
            async move {
                let deleted = match identity {
                    Ok(_) if is_twice => Err(Refusal::invalid("the topic is in the request more than once")),
                    Ok(identity) => delete(call, deadline, &topic, identity).await,
                    Err(refusal) => Err(refusal),
                };
                let (code, message) = told(&deleted);
                let (name, id) = deleted.unwrap_or((topic.name, topic.topic_id));
                let result = DeletableTopicResult::default().with_name(name).with_topic_id(id);
                result.with_error_code(code).with_error_message(message)
            }
        };
        let responses = each(topics.into_iter().zip(identities).map(delete).collect()).await;
        let mut response = DeleteTopicsResponse::default().with_responses(responses);
        // Only the newest version can leave out a name, and no other has one without.
        if call.version < 6 {
            response.responses.iter_mut().for_each(|one| one.topic_id = Uuid::nil());
        }
        Ok(response)
    }
}

/// Which topic is meant, as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Id(Uuid),
    Name(String),
}

fn identity(call: &Call, topic: &DeleteTopicState) -> Result<Identity, Refusal> {
    let image = call.door.api.link.image();
    match (&topic.name, topic.topic_id.is_nil()) {
        (Some(name), true) => {
            let known = image.topic_by_name(name).map(|topic| Uuid::from_bytes(*topic.id.as_bytes()));
            Ok(known.map_or_else(|| Identity::Name(name.to_string()), Identity::Id))
        }
        (None, false) => Ok(Identity::Id(topic.topic_id)),
        (Some(_), false) => Err(Refusal::invalid("a topic is named by its name or by its id, not by both")),
        (None, true) => Err(Refusal::invalid("a topic is named by its name or by its id, and here is neither")),
    }
}

async fn delete(
    call: &Call,
    deadline: Deadline,
    topic: &DeleteTopicState,
    identity: Identity,
) -> Result<(Option<TopicName>, Uuid), Refusal> {
    let request = match (&topic.name, &identity) {
        (Some(name), _) => v1::DeleteTopicRequest { name: name.to_string(), ..Default::default() },
        (None, _) => {
            let topic_id = topic.topic_id.as_bytes().to_vec().into();
            v1::DeleteTopicRequest { topic_id, ..Default::default() }
        }
    };
    let known = call.door.api.link.image().topic(topic_id(topic.topic_id)).map(|topic| topic.name.as_str().to_owned());
    let deleted = deadline.answer(call.door.api.admin().delete_topic(Request::new(request))).await?;
    let name = topic.name.clone().or_else(|| known.map(|name| StrBytes::from_string(name).into()));
    Ok((name, Uuid::from_slice(&deleted.topic_id).unwrap_or_default()))
}
