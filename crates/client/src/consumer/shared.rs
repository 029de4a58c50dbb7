//! What a consumer and its tasks share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::client::ClientInner;
use crate::consumer::ConsumerConfig;
use crate::consumer::assignment::Assignment;

pub(crate) struct Shared {
    pub client: Arc<ClientInner>,
    pub config: ConsumerConfig,
    assignment: Mutex<Assignment>,
    /// Fires when there may be something to hand out or to report.
    pub arrived: Notify,
    /// Fires when the supervisor has something to do.
    pub attention: Notify,
    /// True once the consumer is gone.
    pub done: watch::Sender<bool>,
}

impl Shared {
    pub fn new(client: Arc<ClientInner>, config: ConsumerConfig) -> Self {
        Self {
            client,
            config,
            assignment: Mutex::default(),
            arrived: Notify::new(),
            attention: Notify::new(),
            done: watch::Sender::new(false),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Assignment> {
        self.assignment.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
