//! Transactions: what producers ask of their coordinator, the offsets that are part of them, and what administrators see.
//!
//! Clients of the older protocol are not told of another epoch when a transaction ends: they go on in the one they have, and
//! add partitions before they write to them. Those of the newer one (KIP-890) do neither.

pub(super) mod describe;
pub(super) mod end;
pub(super) mod join;

use kafka_protocol::error::ResponseError;

/// Clients before `since` know of no fencing by its own name.
pub(super) fn fenced_as(error: ResponseError, version: i16, since: i16) -> ResponseError {
    match error {
        ResponseError::ProducerFenced if version < since => ResponseError::InvalidProducerEpoch,
        error => error,
    }
}
