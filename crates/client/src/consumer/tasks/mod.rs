//! The consumer's tasks: one that follows the cluster, and one for each broker that leads something it reads.

pub(crate) mod fetch;
pub(crate) mod supervise;
