//! Carries out what the transaction coordinators here have decided: each end of a transaction on a task of its own.

use std::sync::Arc;

use futures::future::BoxFuture;
use highwater_coordination::transaction::{Action, Request, TransactionShard};
use highwater_seams::Entropy;
use highwater_types::{PartitionId, TopicPartition, TransactionalId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::driver::{Leaders, Markers, RETRY_FIRST, RETRY_MOST, write_markers};
use crate::backoff::Backoff;
use crate::coordinator::{CallError, CoordinatorAction, CoordinatorRuntime, TransactionActions};
use crate::metrics::BrokerMetrics;

type Runtime = CoordinatorRuntime<TransactionShard>;

/// Until `stopping`.
pub(crate) async fn run(
    mut actions: TransactionActions,
    runtime: Arc<Runtime>,
    leaders: Arc<dyn Leaders>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<BrokerMetrics>,
    tasks: TaskTracker,
    stopping: CancellationToken,
) {
    loop {
        let CoordinatorAction { partition, unloaded, action } = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            action = actions.recv() => match action {
                Some(action) => action,
                None => return,
            },
        };
        let Action::WriteMarkers { transactional_id, producer, result, coordinator_epoch, partitions, keeps_epoch } =
            action;
        let markers = Markers { producer, result, coordinator_epoch, partitions, keeps_epoch };
        let report = Report {
            runtime: Arc::clone(&runtime),
            entropy: Arc::clone(&entropy),
            partition,
            transactional_id,
            producer,
        };
        let written = write_markers(Arc::clone(&leaders), Arc::clone(&entropy), markers, move |done| report.send(done));
        let (stopping, metrics) = (stopping.clone(), Arc::clone(&metrics));
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                // Whoever coordinates it next begins anew.
                () = unloaded.cancelled() => {}
                () = written => metrics.transaction_ended(result),
            }
        });
    }
}

#[derive(Clone)]
struct Report {
    runtime: Arc<Runtime>,
    entropy: Arc<dyn Entropy>,
    partition: PartitionId,
    transactional_id: TransactionalId,
    producer: highwater_coordination::ProducerIdentity,
}

impl Report {
    fn send(&self, done: Vec<TopicPartition>) -> BoxFuture<'static, bool> {
        let this = self.clone();
        Box::pin(async move { this.until_taken(done).await })
    }

    /// False: the shard is gone. Reports wait in the shard's queue and are made once: none is left when the transaction is complete,
    /// which the next one of a producer that keeps its epoch relies on.
    async fn until_taken(self, partitions: Vec<TopicPartition>) -> bool {
        let mut pause = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            let Self { transactional_id, producer, .. } = self.clone();
            let request = Request::MarkersWritten { transactional_id, producer, partitions: partitions.clone() };
            match self.runtime.call(self.partition, request).await {
                Ok(_) => return true,
                // What it would record can't be written now.
                Err(CallError::Unavailable { .. } | CallError::Loading { .. }) => {
                    tokio::time::sleep(pause.next(&*self.entropy)).await;
                }
                Err(_) => return false,
            }
        }
    }
}
