//! The controller's gRPC services: decode, hand in, encode. No decisions.

mod controller;
mod convert;
mod seen;
mod session;

pub(crate) use controller::ControllerCalls;
pub(crate) use seen::Seen;
