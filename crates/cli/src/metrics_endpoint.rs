//! `GET /metrics` in Prometheus' text format, on a port of its own, so that it can be kept from clients.
//!
//! **Invariants**: a few connections at a time, each for a bounded time; what can't be answered costs the data path nothing.

use std::sync::Arc;
use std::time::Duration;

use highwater_broker::BrokerScrape;
use highwater_controller::ControllerScrape;
use highwater_metrics::{Page, families};
use highwater_seams::{BoxedIo, Listener};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::process_stats;

/// Scrapers at a time; a further one waits for the end of another.
const CONNECTIONS_MAX: usize = 16;
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);
/// After which a connection ends; scrapers open another.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// Out of descriptors: the pause keeps a full server from spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is to be told of this process.
#[derive(Clone)]
pub struct Scrape {
    pub broker: Option<BrokerScrape>,
    pub controller: Option<ControllerScrape>,
}

impl Scrape {
    /// Everything, as it is now.
    pub async fn page(&self) -> Page {
        let mut page = Page::default();
        page.add(&families::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
        process_stats::write(&mut page);
        if let Some(controller) = &self.controller {
            controller.write(&mut page);
        }
        if let Some(broker) = &self.broker {
            broker.write(&mut page).await;
        }
        page
    }
}

/// Answers until it is dropped.
pub async fn serve(mut listener: Box<dyn Listener>, scrape: Scrape) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(io) => {
                let scrape = scrape.clone();
                tokio::spawn(async move {
                    if tokio::time::timeout(CONNECTION_TIME_MAX, converse(io, scrape)).await.is_err() {
                        debug!("a scraper's connection has been open for long; closed");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "a scraper can't connect");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(io: BoxedIo, scrape: Scrape) {
    let service = service_fn(move |request| {
        let scrape = scrape.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&request, &scrape).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS_TIMEOUT);
    if let Err(error) = http.serve_connection(TokioIo::new(io), service).await {
        debug!(%error, "a scraper's connection");
    }
}

async fn answer(request: &Request<Incoming>, scrape: &Scrape) -> Response<String> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, Page::CONTENT_TYPE, scrape.page().await.to_string()),
        (&Method::GET, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (_, "/metrics" | "/healthz") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "there are /metrics and /healthz\n".to_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
    }
    response
}
