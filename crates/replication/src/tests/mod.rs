//! Event in, exact effects out.

mod follower;
mod leader;
mod proposals;
