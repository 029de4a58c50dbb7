//! The gateway, over gRPC, in front of a cluster made up for tests: the same one that the client is tested against.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, unused_imports, reason = "its other half is for the client's own tests")]
#[path = "../../../client/tests/scripted/fake/mod.rs"]
mod fake;
mod subscribe;
