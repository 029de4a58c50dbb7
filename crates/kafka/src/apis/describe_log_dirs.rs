//! DescribeLogDirs: what is on the disks of the broker that is asked.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::v1::admin_server::Admin;
use highwater_protocol::{code_of, v1};
use highwater_types::TopicId;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{ApiKey, DescribeLogDirsRequest, DescribeLogDirsResponse};
use kafka_protocol::protocol::StrBytes;
use tonic::Request;

use super::refusal::Refusal;
use super::{Broken, Call, Handler};
use crate::error::{self, By};
use crate::layout::{Layout, array, int32s, text};

pub(super) struct DescribeLogDirs;

impl Handler for DescribeLogDirs {
    type Request = DescribeLogDirsRequest;
    type Response = DescribeLogDirsResponse;
    const KEY: ApiKey = ApiKey::DescribeLogDirs;
    const VERSIONS: (i16, i16) = (1, 4);
    const LAYOUT: Layout = Layout { flexible: 2, fields: &[array(&[text(), int32s()])] };

    async fn handle(call: &Call, request: DescribeLogDirsRequest) -> Result<DescribeLogDirsResponse, Broken> {
        let api = &call.door.api;
        let me = api.core.config.id.get();
        let image = api.link.image();
        let by_name = |topic: kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic| {
            let id = image.topic_by_name(&topic.topic).map(|topic| topic.id)?;
            Some(topic.partitions.into_iter().filter_map(move |index| Some((id, u32::try_from(index).ok()?))))
        };
        let asked: Option<BTreeSet<_>> =
            request.topics.map(|topics| topics.into_iter().filter_map(by_name).flatten().collect());
        let described = api.admin().describe_log_dirs(Request::new(v1::DescribeLogDirsRequest { brokers: vec![me] }));
        let response = DescribeLogDirsResponse::default();
        let brokers = match described.await {
            Ok(described) => described.into_inner().brokers,
            Err(status) => return Ok(response.with_error_code(Refusal::from(status).error.code())),
        };
        let dirs = brokers.into_iter().flat_map(|broker| broker.dirs).map(|dir| {
            let mut topics: BTreeMap<TopicId, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
            for replica in &dir.replicas {
                let Some(id) = TopicId::from_slice(&replica.topic_id) else { continue };
                if asked.as_ref().is_none_or(|asked| asked.contains(&(id, replica.partition))) {
                    topics.entry(id).or_default().push(partition(replica));
                }
            }
            // A topic that is gone has its files for a moment longer.
            let named = topics.into_iter().filter_map(|(id, partitions)| {
                let name = StrBytes::from_string(image.topic(id)?.name.as_str().to_owned());
                Some(DescribeLogDirsTopic::default().with_name(name.into()).with_partitions(partitions))
            });
            DescribeLogDirsResult::default()
                .with_error_code(
                    dir.error.as_ref().map_or(error::NONE, |error| error::of(By::Leader, code_of(error)).code()),
                )
                .with_log_dir(StrBytes::from_string(dir.path))
                .with_topics(named.collect())
                .with_total_bytes(signed(dir.total_bytes))
                .with_usable_bytes(signed(dir.usable_bytes))
        });
        Ok(response.with_results(dirs.collect()))
    }
}

fn partition(replica: &v1::LogDirReplica) -> DescribeLogDirsPartition {
    DescribeLogDirsPartition::default()
        .with_partition_index(i32::try_from(replica.partition).unwrap_or(i32::MAX))
        .with_partition_size(signed(replica.size_bytes))
        .with_offset_lag(signed(replica.offset_lag))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
