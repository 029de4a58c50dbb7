//! Services on the broker's port that are none of its own: the broker does not know what they are.

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// What such services are told of the broker that they are mounted into.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The port listened on.
    pub port: u16,
    /// Cancelled as the first step of a shutdown, while the broker still leads and serves: streams should end, so that
    /// their clients go to other brokers.
    pub ending: CancellationToken,
}

type Mount = Box<dyn FnOnce(Routes, Surroundings) -> Routes + Send>;

/// More services for [`Broker::start_with`](crate::Broker::start_with). The default is none.
#[derive(Default)]
pub struct ExtraServices {
    pub(crate) names: Vec<&'static str>,
    mount: Option<Mount>,
}

impl ExtraServices {
    /// `names` are those of the services that `mount` adds, for health checks.
    pub fn new(names: &[&'static str], mount: impl FnOnce(Routes, Surroundings) -> Routes + Send + 'static) -> Self {
        Self { names: names.to_vec(), mount: Some(Box::new(mount)) }
    }

    pub(crate) fn mount(self, routes: Routes, surroundings: Surroundings) -> Routes {
        match self.mount {
            Some(mount) => mount(routes, surroundings),
            None => routes,
        }
    }
}
