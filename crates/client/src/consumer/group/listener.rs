//! What an application may do when partitions come and go.

use highwater_types::{PartitionId, TopicName};

use crate::consumer::group::GroupCommitter;

/// Told, within [`poll`](crate::GroupConsumer::poll) and its like, of partitions that come and go. Implement it with
/// `#[highwater_client::async_trait]`. A poll that is dropped while one of these runs runs it again.
#[tonic::async_trait]
pub trait RebalanceListener: Send + 'static {
    /// These are this member's from now on; their positions are found, and nothing of them was handed out yet.
    async fn assigned(&mut self, partitions: &[(TopicName, PartitionId)], committer: &GroupCommitter) {
        let _ = (partitions, committer);
    }

    /// These are about to be given up: until this returns they are this member's, and it can commit them. The coordinator
    /// waits for `max_poll_interval` at most.
    async fn revoked(&mut self, partitions: &[(TopicName, PartitionId)], committer: &GroupCommitter) {
        let _ = (partitions, committer);
    }

    /// These are this member's no more, and may be another's already: they can't be committed.
    async fn lost(&mut self, partitions: &[(TopicName, PartitionId)]) {
        let _ = partitions;
    }
}

/// Does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoListener;

impl RebalanceListener for NoListener {}
