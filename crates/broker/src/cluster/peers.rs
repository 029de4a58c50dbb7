//! Channels to other nodes, one per endpoint, whoever uses them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_metadata::Endpoint;
use highwater_seams::Net;
use tonic::transport::Channel;

/// Opens channels when first asked for and keeps them. A channel connects again by itself after a loss.
#[derive(Clone)]
pub struct Peers {
    net: Arc<dyn Net>,
    channels: Arc<Mutex<BTreeMap<(String, u16), Channel>>>,
}

/// Endpoints kept; a cluster has fewer, and restarts on new ports must not pile up old ones.
const CHANNELS_MAX: usize = 256;

impl Peers {
    pub fn new(net: Arc<dyn Net>) -> Self {
        Self { net, channels: Arc::default() }
    }

    /// Never waits: the channel connects when first used.
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (endpoint.host.clone(), endpoint.port);
        if let Some(channel) = channels.get(&key) {
            return channel.clone();
        }
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let channel = highwater_seams::channel(&self.net, &endpoint.host, endpoint.port);
        channels.insert(key, channel.clone());
        channel
    }
}
