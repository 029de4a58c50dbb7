//! The gRPC API: code generated from `/proto`, and the conversions between its messages and [`highwater_types`].
//!
//! [`v1`] is for clients, [`internal`] for brokers and controllers among themselves. Error codes are mapped to gRPC
//! statuses here and nowhere else.

mod error;
mod ids;
mod inbound;

// The nesting follows the proto packages, as the generated code's paths expect.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
mod generated {
    pub mod v1 {
        tonic::include_proto!("highwater.v1");
    }
    pub mod internal {
        pub mod v1 {
            tonic::include_proto!("highwater.internal.v1");
        }
    }
}

/// Messages and services between brokers and controllers.
pub use generated::internal::v1 as internal;
/// Client-facing messages and services.
pub use generated::v1;

pub use error::{ProtocolError, code_of, error_from_status, status_from_error};
pub use ids::{PartitionKey, topic_id_bytes};
pub use inbound::Inbound;

/// Descriptors of the client-facing services, for gRPC reflection.
pub const CLIENT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/highwater_descriptors.bin"));

/// Largest gRPC message accepted, in bytes: the largest `max.message.bytes` and room for its envelope.
pub const MESSAGE_SIZE_MAX: usize = (64 << 20) + (1 << 20);
