//! The services that clients and other nodes call: decode, one call, encode.

pub mod admin;
pub mod metadata;
