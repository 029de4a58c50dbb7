//! What this client knows of the cluster: one image, kept up to date by one stream, and read by everybody.

mod image;
pub(crate) mod watch;

pub use image::{BrokerMetadata, ClusterMetadata, PartitionMetadata, TopicMetadata};
pub(crate) use image::{broker_from_wire, topic_from_wire};
