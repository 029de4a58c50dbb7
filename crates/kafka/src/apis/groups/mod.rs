//! Groups: the classic protocol, KIP-848, their offsets, and what administrators see of them.

pub(super) mod classic;
pub(super) mod consumer;
pub(super) mod describe;
pub(super) mod offsets;

use highwater_protocol::v1;
use kafka_protocol::protocol::StrBytes;

use super::{Call, answered};
use crate::error::{self, By};

/// Of a part of a request.
fn code_of(error: Option<&v1::Error>) -> i16 {
    error.map_or(error::NONE, |error| error::of(By::Coordinator, highwater_protocol::code_of(error)).code())
}

/// Null and the empty text are the same to the coordinator.
fn stated(text: Option<&StrBytes>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn client_id(call: &Call) -> String {
    stated(call.client_id.as_ref())
}

fn text(text: String) -> StrBytes {
    StrBytes::from_string(text)
}

/// The empty text is none.
fn text_or_none(given: String) -> Option<StrBytes> {
    Some(given).filter(|given| !given.is_empty()).map(text)
}

/// What can't be is zero, which the coordinator refuses, or takes as not stated.
fn milliseconds(stated: i32) -> u32 {
    u32::try_from(stated).unwrap_or(0)
}
