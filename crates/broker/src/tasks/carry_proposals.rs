//! Carries ISR proposals from the partitions to the controller, and what became of them back.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use highwater_metadata::{AlterPartition, AlteredPartition, IsrMember};
use highwater_protocol::{code_of, v1};
use highwater_replication::{ProposalOutcome, isr_error_outcome};
use tokio::sync::mpsc;

use crate::cluster::ClusterLink;
use crate::core::Core;
use crate::partition::IsrProposal;

/// Proposals that are on their way at a time; the link carries them together.
const UNDER_WAY_MAX: usize = 10_000;

pub(super) async fn run(core: Arc<Core>, link: ClusterLink, mut proposals: mpsc::UnboundedReceiver<IsrProposal>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some((proposal, result)) = under_way.next(), if !under_way.is_empty() => answer(&core, &proposal, result),
            Some(proposal) = proposals.recv(), if under_way.len() < UNDER_WAY_MAX => {
                let asked = link.alter_partition(to_metadata(&proposal));
                under_way.push(async move { (proposal, asked.await) });
            }
            else => return,
        }
    }
}

fn answer(core: &Core, proposal: &IsrProposal, result: Result<AlteredPartition, v1::Error>) {
    let outcome = match result {
        Ok(AlteredPartition { partition_epoch, .. }) => ProposalOutcome::Accepted { partition_epoch },
        Err(error) => {
            let code = code_of(&error);
            tracing::debug!(partition = %proposal.partition, %code, message = error.message, "ISR proposal refused");
            isr_error_outcome(code)
        }
    };
    if let Ok(partition) = core.partitions.find(proposal.partition) {
        partition.on_proposal_result(&proposal.proposal, outcome);
    }
}

fn to_metadata(IsrProposal { partition, proposal }: &IsrProposal) -> AlterPartition {
    let members = proposal.new_isr.iter();
    AlterPartition {
        partition: *partition,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        new_isr: members.map(|m| IsrMember { broker: m.broker, broker_epoch: m.broker_epoch }).collect(),
        recovered: proposal.recovered,
    }
}
