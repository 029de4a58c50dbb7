//! Transactions: which are open, and the repair of those that hang (KIP-664).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_protocol::{topic_id_bytes, v1};
use highwater_types::{ErrorCode, Offset, PartitionId, ProducerId, TimestampMs, TopicName, TopicPartition};
use v1::coordinator_client::CoordinatorClient;

use crate::AdminError;
use crate::admin::groups::{named, partition_ids};
use crate::admin::{Admin, unknown_topic};
use crate::ask::{ask_all, ask_leader, coordinator};
use crate::coordinator::Coordinator;

/// What a transactional id is up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionDescription {
    /// The id.
    pub transactional_id: String,
    /// Its producer.
    pub producer_id: ProducerId,
    /// And that one's epoch.
    pub producer_epoch: i32,
    /// `Empty`, `Ongoing`, `PrepareCommit`, `PrepareAbort`, `CompleteCommit` or `CompleteAbort`.
    pub state: String,
    /// After this the coordinator aborts a transaction.
    pub timeout: Duration,
    /// When the open one began.
    pub started_at: Option<TimestampMs>,
    /// What the open one has written to.
    pub partitions: Vec<(TopicName, PartitionId)>,
    /// The broker that coordinates it.
    pub coordinator: u32,
}

/// What the leader of a partition knows of a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerDescription {
    /// Its id.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: i32,
    /// Of its last record.
    pub last_sequence: i32,
    /// When that was written.
    pub last_timestamp: TimestampMs,
    /// Of its last marker; -1: none.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub transaction_start: Option<Offset>,
}

/// An open transaction in a partition that no coordinator knows of: nobody will end it, and readers of committed records
/// wait for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HangingTransaction {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// Who left it open.
    pub producer: ProducerDescription,
}

impl Admin {
    /// Every transactional id, of all coordinators.
    pub async fn list_transactions(&self) -> Result<Vec<TransactionDescription>, AdminError> {
        let send =
            |channel| async move { coordinator(channel).list_transactions(v1::ListTransactionsRequest {}).await };
        let answers = ask_all(&self.client, "list transactions", send).await?;
        let each = answers.into_iter().flat_map(|(broker, answer)| {
            answer.transactions.into_iter().map(move |transaction| (broker.get(), transaction))
        });
        // One that moved meanwhile may be told twice.
        let all: BTreeMap<_, _> =
            each.map(|(broker, info)| (info.transactional_id.clone(), self.describe(info, broker))).collect();
        Ok(all.into_values().collect())
    }

    /// What a transactional id is up to. Fails with [`ErrorCode::TransactionalIdNotFound`] if nobody knows it.
    pub async fn describe_transaction(&self, transactional_id: &str) -> Result<TransactionDescription, AdminError> {
        let what = format!("describe transactional id {transactional_id:?}");
        let request = v1::DescribeTransactionRequest { transactional_id: transactional_id.to_owned() };
        let send = |mut client: CoordinatorClient<_>| {
            let request = request.clone();
            async move { client.describe_transaction(request).await }
        };
        let coordinator = Coordinator::of_transactions(&self.client, transactional_id);
        let answer = coordinator.call(&what, self.deadline(), |_| true, send).await?;
        let missing = || AdminError::new(&what, ErrorCode::Internal, "the answer has no transaction in it");
        Ok(self.describe(answer.transaction.ok_or_else(missing)?, answer.coordinator))
    }

    /// The producers that have written to a partition lately, from its leader.
    pub async fn describe_producers(
        &self,
        topic: &str,
        partition: PartitionId,
    ) -> Result<Vec<ProducerDescription>, AdminError> {
        let what = format!("describe the producers of {topic}-{partition}");
        let known = self.client.topic(topic).await.ok_or_else(|| unknown_topic(&what, topic))?;
        let request = v1::DescribeProducersRequest { topic_id: topic_id_bytes(known.id), partition: partition.get() };
        let send = |channel| {
            let request = request.clone();
            async move { coordinator(channel).describe_producers(request).await }
        };
        let answer = ask_leader(&self.client, &what, topic, partition, send).await?;
        Ok(answer.producers.into_iter().map(producer).collect())
    }

    /// Transactions that hang: open in a partition of this topic (of any, for `None`), with nothing written for
    /// `older_than`, while no coordinator has an open transaction of that producer with that partition. One younger than
    /// the longest transaction timeout may only look so: choose `older_than` above it.
    pub async fn find_hanging_transactions(
        &self,
        topic: Option<&str>,
        older_than: Duration,
    ) -> Result<Vec<HangingTransaction>, AdminError> {
        let image = self.client.image();
        let before = i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX);
        let before = self.client.seams.clock.now_ms().saturating_sub(before);
        let mut open = Vec::new();
        for known in image.topics().filter(|known| topic.is_none_or(|topic| known.name.as_str() == topic)) {
            for partition in &known.partitions {
                let id = TopicPartition::new(known.id, partition.id);
                for producer in self.describe_producers(known.name.as_str(), partition.id).await? {
                    if producer.transaction_start.is_some() && producer.last_timestamp.get() < before {
                        open.push((
                            id,
                            HangingTransaction { topic: known.name.clone(), partition: partition.id, producer },
                        ));
                    }
                }
            }
        }
        if open.is_empty() {
            return Ok(Vec::new());
        }
        // After the partitions: one that began since is not among them.
        let send =
            |channel| async move { coordinator(channel).list_transactions(v1::ListTransactionsRequest {}).await };
        let coordinated: BTreeSet<(ProducerId, TopicPartition)> = ask_all(&self.client, "list transactions", send)
            .await?
            .into_iter()
            .flat_map(|(_, answer)| answer.transactions)
            .filter(|info| matches!(&*info.state, "Ongoing" | "PrepareCommit" | "PrepareAbort"))
            .flat_map(|info| {
                let producer = ProducerId::new(info.producer_id);
                partition_ids(&info.partitions).into_iter().map(move |partition| (producer, partition))
            })
            .collect();
        open.retain(|(id, hanging)| !coordinated.contains(&(hanging.producer.producer_id, *id)));
        Ok(open.into_iter().map(|(_, hanging)| hanging).collect())
    }

    /// Ends a hanging transaction in its partition: its records are never shown to readers of committed records. If its
    /// coordinator knows of it after all, it may be committed elsewhere: see
    /// [`find_hanging_transactions`](Self::find_hanging_transactions).
    pub async fn abort_hanging_transaction(&self, hanging: &HangingTransaction) -> Result<(), AdminError> {
        let (topic, partition) = (hanging.topic.as_str(), hanging.partition);
        let what = format!("abort the transaction of producer {} in {topic}-{partition}", hanging.producer.producer_id);
        let known = self.client.topic(topic).await.ok_or_else(|| unknown_topic(&what, topic))?;
        let request = v1::AbortHangingTransactionRequest {
            topic_id: topic_id_bytes(known.id),
            partition: partition.get(),
            producer_id: hanging.producer.producer_id.get(),
            producer_epoch: hanging.producer.producer_epoch,
            coordinator_epoch: hanging.producer.coordinator_epoch,
        };
        let send = |channel| {
            let request = request.clone();
            async move { coordinator(channel).abort_hanging_transaction(request).await }
        };
        ask_leader(&self.client, &what, topic, partition, send).await.map(drop)
    }

    fn describe(&self, info: v1::TransactionInfo, coordinator: u32) -> TransactionDescription {
        let names = self.client.image().topics().map(|topic| (topic.id, topic.name.clone())).collect();
        TransactionDescription {
            transactional_id: info.transactional_id,
            producer_id: ProducerId::new(info.producer_id),
            producer_epoch: info.producer_epoch,
            state: info.state,
            timeout: Duration::from_millis(info.timeout_ms.into()),
            started_at: Some(info.started_at_ms).filter(|at| *at >= 0).map(TimestampMs::new),
            partitions: named(&info.partitions, &names),
            coordinator,
        }
    }
}

fn producer(info: v1::ProducerInfo) -> ProducerDescription {
    ProducerDescription {
        producer_id: ProducerId::new(info.producer_id),
        producer_epoch: info.producer_epoch,
        last_sequence: info.last_sequence,
        last_timestamp: TimestampMs::new(info.last_timestamp_ms),
        coordinator_epoch: info.coordinator_epoch,
        transaction_start: Some(info.transaction_start_offset).filter(|at| *at >= 0).map(Offset::new),
    }
}
