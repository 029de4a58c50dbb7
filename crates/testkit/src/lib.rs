//! What tests of a whole cluster are made of: a runner of clusters of real processes, a recorder of what clients did
//! and saw, workloads that fill it, an oracle that holds it against the promises, and a simulated network.
//!
//! The runner is also behind `highwater cluster up` and `highwater quickstart`.

pub mod chaos;
pub mod history;
pub mod local_cluster;
pub mod oracle;
pub mod proxy;
pub mod shrink;
#[cfg(feature = "simulation")]
pub mod sim_net;
pub mod usage;
pub mod workloads;

pub use highwater_storage::sim;
pub use history::{Event, History, RecordId};
pub use local_cluster::{ClusterError, Folder, LocalCluster, LocalClusterConfig, NodeId};
