//! Registration, fencing and shutdown of brokers.

use highwater_types::{BrokerEpoch, BrokerId, Durability, ProducerId};

use super::{Brokers, Decision, broker_of_epoch};
use crate::command::{CommandResponse, Registration};
use crate::error::CommandError;
use crate::image::{BrokerState, ClusterImage};
use crate::record::Record;

/// Producer ids of one block. What a broker has not given out when it ends is lost: there are enough.
const PRODUCER_IDS: u32 = 1000;

/// The block is given by a committed record, so that no two are ever the same, whoever is the active controller.
pub(super) fn allocate_producer_ids(
    image: &ClusterImage,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<Decision, CommandError> {
    super::broker_of_epoch(image, broker, broker_epoch)?;
    let first = image.next_producer_id.0;
    let next = first.get().checked_add(PRODUCER_IDS.into()).map(ProducerId::new);
    let next = next.ok_or(CommandError::NoProducerIds)?;
    let response = CommandResponse::ProducerIdsAllocated { first, count: PRODUCER_IDS };
    Ok(Decision::new(vec![Record::ProducerIdsAllocated { next }], response))
}

/// A new incarnation gets a new broker epoch, once the old one is fenced (TRAPS T18), and starts fenced. What it can
/// still prove to have decides whether it stays eligible to lead (TRAPS T17).
pub(super) fn register(image: &ClusterImage, registration: &Registration) -> Result<Decision, CommandError> {
    let broker = registration.broker;
    if image.cluster_id.is_empty() {
        return Err(CommandError::NoCluster);
    }
    if let Some(found) = registration.cluster_id.as_ref().filter(|found| **found != image.cluster_id) {
        return Err(CommandError::WrongCluster { broker, found: found.clone(), cluster: image.cluster_id.clone() });
    }
    let response = |broker_epoch| CommandResponse::Registered { broker_epoch, cluster_id: image.cluster_id.clone() };
    let known = image.broker(broker);
    if let Some(known) = known {
        if known.incarnation == registration.incarnation {
            return Ok(Decision::new(Vec::new(), response(known.broker_epoch)));
        }
        if !known.fenced {
            return Err(CommandError::DuplicateRegistration { broker, broker_epoch: known.broker_epoch });
        }
    }
    let state = BrokerState {
        id: broker,
        incarnation: registration.incarnation,
        broker_epoch: image.next_broker_epoch.0,
        client_endpoint: registration.client_endpoint.clone(),
        internal_endpoint: registration.internal_endpoint.clone(),
        listeners: registration.listeners.clone(),
        rack: registration.rack.clone(),
        fenced: true,
        shutting_down: false,
    };
    let storage_is_new = registration.cluster_id.is_none();
    // A marker of an older epoch is no proof: later runs may have ended uncleanly.
    let was_clean = !storage_is_new
        && registration.clean_shutdown
        && known.is_some_and(|known| known.broker_epoch == registration.previous_broker_epoch);
    let mut records = vec![Record::BrokerRegistered { broker: state.clone() }];
    records.extend(Brokers::with(image, &state).settle_all(|_, topic, next| {
        if !next.replicas.contains(&broker) {
            return None;
        }
        let is_synced = topic.config().durability == Durability::Sync && !next.unsynced.contains(&broker);
        let kept = !storage_is_new && (was_clean || is_synced);
        if was_clean {
            next.unsynced.retain(|b| *b != broker);
        }
        if storage_is_new && !next.storage_lost.contains(&broker) {
            next.storage_lost.push(broker);
        }
        // Of the run before; this one says so again before it is unfenced.
        next.unusable.retain(|b| *b != broker);
        Some(if kept { Vec::new() } else { vec![broker] })
    }));
    let broker_epoch = state.broker_epoch;
    Ok(Decision::new(records, response(broker_epoch)))
}

pub(super) fn fence(
    image: &ClusterImage,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<Decision, CommandError> {
    let known = broker_of_epoch(image, broker, broker_epoch)?;
    Ok(change(image, BrokerState { fenced: true, ..known.clone() }))
}

pub(super) fn unfence(
    image: &ClusterImage,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<Decision, CommandError> {
    let known = broker_of_epoch(image, broker, broker_epoch)?;
    if known.shutting_down && known.fenced {
        return Err(CommandError::ShuttingDown { broker });
    }
    Ok(change(image, BrokerState { fenced: false, ..known.clone() }))
}

pub(super) fn begin_shutdown(
    image: &ClusterImage,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<Decision, CommandError> {
    let known = broker_of_epoch(image, broker, broker_epoch)?;
    Ok(change(image, BrokerState { shutting_down: true, ..known.clone() }))
}

/// The broker's new standing, and what follows for its partitions.
fn change(image: &ClusterImage, state: BrokerState) -> Decision {
    if image.broker(state.id) == Some(&state) {
        return Decision::new(Vec::new(), CommandResponse::Done);
    }
    let mut records = vec![Record::BrokerChanged {
        broker: state.id,
        broker_epoch: state.broker_epoch,
        fenced: state.fenced,
        shutting_down: state.shutting_down,
    }];
    let brokers = Brokers::with(image, &state);
    records.extend(brokers.settle_all(|_, _, next| next.replicas.contains(&state.id).then(Vec::new)));
    Decision::new(records, CommandResponse::Done)
}
