//! Event in, exact effects out.

mod follower;
mod joins;
mod leader;
mod proposals;
