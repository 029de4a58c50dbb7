//! Where each answer has its error codes, which are counted by API. Fetch writes its answers by hand, and counts by itself.

use std::iter::once;

use kafka_protocol::messages::*;

/// An answer of which the error codes can be listed.
pub(crate) trait ErrorCodes {
    /// Each of them, "no error" too.
    fn error_codes(&self) -> impl Iterator<Item = i16>;
}

macro_rules! error_codes {
    ($($answer:ty: |$it:ident| $codes:expr;)*) => {$(
        impl ErrorCodes for $answer {
            fn error_codes(&self) -> impl Iterator<Item = i16> {
                let $it = self;
                $codes
            }
        }
    )*};
}

/// The codes of parts of parts.
macro_rules! each {
    ($it:ident.$list:ident.$code:ident) => {
        $it.$list.iter().map(|it| it.$code)
    };
    ($it:ident.$list:ident.$inner:ident.$code:ident) => {
        $it.$list.iter().flat_map(|it| &it.$inner).map(|it| it.$code)
    };
}

error_codes! {
    ProduceResponse: |it| each!(it.responses.partition_responses.error_code);
    ListOffsetsResponse: |it| each!(it.topics.partitions.error_code);
    MetadataResponse: |it| once(it.error_code)
        .chain(each!(it.topics.error_code))
        .chain(each!(it.topics.partitions.error_code));
    OffsetCommitResponse: |it| each!(it.topics.partitions.error_code);
    OffsetFetchResponse: |it| once(it.error_code)
        .chain(each!(it.topics.partitions.error_code))
        .chain(each!(it.groups.error_code))
        .chain(it.groups.iter().flat_map(|it| each!(it.topics.partitions.error_code)));
    FindCoordinatorResponse: |it| once(it.error_code).chain(each!(it.coordinators.error_code));
    JoinGroupResponse: |it| once(it.error_code);
    HeartbeatResponse: |it| once(it.error_code);
    LeaveGroupResponse: |it| once(it.error_code).chain(each!(it.members.error_code));
    SyncGroupResponse: |it| once(it.error_code);
    DescribeGroupsResponse: |it| each!(it.groups.error_code);
    ListGroupsResponse: |it| once(it.error_code);
    ApiVersionsResponse: |it| once(it.error_code);
    CreateTopicsResponse: |it| each!(it.topics.error_code);
    DeleteTopicsResponse: |it| each!(it.responses.error_code);
    DeleteRecordsResponse: |it| each!(it.topics.partitions.error_code);
    InitProducerIdResponse: |it| once(it.error_code);
    OffsetForLeaderEpochResponse: |it| each!(it.topics.partitions.error_code);
    AddPartitionsToTxnResponse: |it| once(it.error_code)
        .chain(each!(it.results_by_topic_v3_and_below.results_by_partition.partition_error_code))
        .chain(it.results_by_transaction.iter().flat_map(|it| {
            each!(it.topic_results.results_by_partition.partition_error_code)
        }));
    AddOffsetsToTxnResponse: |it| once(it.error_code);
    EndTxnResponse: |it| once(it.error_code);
    TxnOffsetCommitResponse: |it| each!(it.topics.partitions.error_code);
    DescribeConfigsResponse: |it| each!(it.results.error_code);
    AlterConfigsResponse: |it| each!(it.responses.error_code);
    DescribeLogDirsResponse: |it| once(it.error_code).chain(each!(it.results.error_code));
    CreatePartitionsResponse: |it| each!(it.results.error_code);
    DeleteGroupsResponse: |it| each!(it.results.error_code);
    ElectLeadersResponse: |it| once(it.error_code)
        .chain(each!(it.replica_election_results.partition_result.error_code));
    IncrementalAlterConfigsResponse: |it| each!(it.responses.error_code);
    OffsetDeleteResponse: |it| once(it.error_code).chain(each!(it.topics.partitions.error_code));
    DescribeClusterResponse: |it| once(it.error_code);
    DescribeProducersResponse: |it| each!(it.topics.partitions.error_code);
    DescribeTransactionsResponse: |it| each!(it.transaction_states.error_code);
    ListTransactionsResponse: |it| once(it.error_code);
    ConsumerGroupHeartbeatResponse: |it| once(it.error_code);
    ConsumerGroupDescribeResponse: |it| each!(it.groups.error_code);
    DescribeTopicPartitionsResponse: |it| each!(it.topics.error_code)
        .chain(each!(it.topics.partitions.error_code));
}
