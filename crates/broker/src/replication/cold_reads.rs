//! Reads from files for a session: outside every lock, bounded in bytes over the whole broker, answered when they are done.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use highwater_replication::FollowerFetch;
use highwater_storage::{FileRead, ReadError};
use highwater_types::TopicPartition;
use tokio::sync::OwnedSemaphorePermit;

use crate::core::Core;

/// A read that is done; its bytes count as held until this is dropped.
pub(super) struct ColdRead {
    pub tp: TopicPartition,
    /// The entry that it is for.
    pub fetch: FollowerFetch,
    pub found: Result<Bytes, ReadError>,
    _held: Option<OwnedSemaphorePermit>,
}

/// Those under way.
#[derive(Default)]
pub(super) struct ColdReads {
    reads: FuturesUnordered<BoxFuture<'static, ColdRead>>,
}

impl ColdReads {
    pub(super) fn start(
        &self,
        core: &Arc<Core>,
        tp: TopicPartition,
        fetch: FollowerFetch,
        read: FileRead,
        max_bytes: usize,
    ) {
        let core = Arc::clone(core);
        let read = async move {
            let held = core.read_budget.acquire(max_bytes).await;
            ColdRead { tp, fetch, found: read.run().await, _held: held }
        };
        self.reads.push(read.boxed());
    }

    /// The next one done; never, while there is none.
    pub(super) async fn next(&mut self) -> ColdRead {
        match self.reads.next().await {
            Some(read) => read,
            None => std::future::pending().await,
        }
    }
}
