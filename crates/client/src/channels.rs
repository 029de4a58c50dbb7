//! One connection to each broker, shared by everything that this client asks of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use highwater_seams::{Seams, channel};
use highwater_types::BrokerId;
use tonic::transport::Channel;

use crate::NodeAddress;
use crate::metadata::ClusterMetadata;

#[derive(Default)]
pub(crate) struct Channels {
    open: Mutex<BTreeMap<BrokerId, (NodeAddress, Channel)>>,
}

impl Channels {
    /// The connection to `broker`, which connects when first used. `None` if the cluster has no such broker.
    pub fn get(&self, seams: &Seams, image: &ClusterMetadata, broker: BrokerId) -> Option<Channel> {
        let address = &image.broker(broker)?.address;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = open.get(&broker)
            && known == address
        {
            return Some(channel.clone());
        }
        let channel = channel(&seams.net, &address.host, address.port);
        open.insert(broker, (address.clone(), channel.clone()));
        Some(channel)
    }
}
