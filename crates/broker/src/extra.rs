//! Services on the broker's port that are none of its own, and doors with ports of their own: the broker does not know
//! what they are.

use futures::future::BoxFuture;
use highwater_metadata::Endpoint;
use highwater_seams::Listener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::api::BrokerApi;

/// What such services are told of the broker that they are mounted into.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The port listened on.
    pub port: u16,
    /// Cancelled as the first step of a shutdown, while the broker still leads and serves: streams should end, so that
    /// their clients go to other brokers.
    pub ending: CancellationToken,
}

/// A bound listener for a further door.
pub struct DoorListener {
    pub name: String,
    pub listener: Box<dyn Listener>,
    /// Where clients reach it.
    pub advertised: Endpoint,
}

type Mount = Box<dyn FnOnce(Routes, Surroundings) -> Routes + Send>;
type Serve = Box<dyn FnOnce(BrokerApi, Vec<DoorListener>) -> BoxFuture<'static, ()> + Send>;

/// More services for [`Broker::start_with`](crate::Broker::start_with). The default is none.
#[derive(Default)]
pub struct ExtraServices {
    pub(crate) names: Vec<&'static str>,
    mount: Option<Mount>,
    door: Option<Serve>,
}

impl ExtraServices {
    /// `names` are those of the services that `mount` adds, for health checks.
    pub fn new(names: &[&'static str], mount: impl FnOnce(Routes, Surroundings) -> Routes + Send + 'static) -> Self {
        Self { names: names.to_vec(), mount: Some(Box::new(mount)), door: None }
    }

    /// And a door with listeners of its own, those of [`BrokerConfig::listeners`](crate::BrokerConfig::listeners). What
    /// `serve` returns runs with the broker. It ends by itself once `core.stopping` is cancelled and what its clients are
    /// owed is answered; dropped, everything that it serves ends at once.
    #[must_use]
    pub fn with_door(
        self,
        serve: impl FnOnce(BrokerApi, Vec<DoorListener>) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        Self { door: Some(Box::new(serve)), ..self }
    }

    pub(crate) fn mount(
        self,
        routes: Routes,
        surroundings: Surroundings,
        api: BrokerApi,
        listeners: Vec<DoorListener>,
    ) -> (Routes, BoxFuture<'static, ()>) {
        let routes = match self.mount {
            Some(mount) => mount(routes, surroundings),
            None => routes,
        };
        let door: BoxFuture<'static, ()> = match self.door {
            Some(serve) => serve(api, listeners),
            None => Box::pin(std::future::ready(())),
        };
        (routes, door)
    }
}
