//! The producer's tasks: one that follows the cluster and the clock, and one for each broker that leads.

pub(crate) mod send;
pub(crate) mod session;
pub(crate) mod supervise;
