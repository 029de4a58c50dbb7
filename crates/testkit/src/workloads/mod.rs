//! What clients do while things break, written down in a history that says what it promised: on real processes and in the
//! simulation alike. Nothing here judges; [`crate::oracle`] does.

pub mod appends;
pub mod front;
pub mod leavers;
pub mod lives;
pub mod members;
pub mod pipeline;
pub mod probe;
pub mod readers;
pub mod retention;
pub mod shape;
pub mod subscribers;
pub mod table;
pub mod thin;
pub mod transactors;
pub mod trims;
pub mod zombies;

use std::error::Error;
use std::time::Duration;

use highwater_client::{AdminError, Client, NewTopic};
use tokio::runtime::{self, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long to wait before asking again what may work later.
pub const PAUSE: Duration = Duration::from_millis(200);

pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A task that runs until it is told to stop.
pub struct Running<T = ()> {
    stop: watch::Sender<bool>,
    task: JoinHandle<T>,
}

impl<T: Send + 'static> Running<T> {
    /// Starts what `work` makes of the sign to stop.
    pub fn start<F: Future<Output = T> + Send + 'static>(work: impl FnOnce(watch::Receiver<bool>) -> F) -> Self {
        let (stop, stopping) = watch::channel(false);
        Self { stop, task: tokio::spawn(work(stopping)) }
    }

    /// Tells it to stop, without waiting.
    pub fn tell(&self) {
        self.stop.send_replace(true);
    }

    /// Tells it to stop, and waits until it has.
    ///
    /// # Panics
    /// If it did.
    pub async fn stop(self) -> T {
        self.tell();
        match self.task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => panic!("a workload's task is gone: {error}"),
        }
    }
}

/// A runtime for clients that can die as a process does. It ends without waiting: it may be dropped where nothing may wait, as when a test
/// gives up, whose error is to be seen.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    /// # Panics
    /// If there is no thread for it.
    fn start(name: String) -> Self {
        let mut builder = runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name(name).enable_all().build();
        Self(Some(runtime.expect("a runtime of its own")))
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.0.as_ref().expect("it is there until it is dropped").spawn(work)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits so long, or until told to stop; says whether to go on.
pub async fn go_on(stopping: &mut watch::Receiver<bool>, after: Duration) -> bool {
    tokio::select! {
        biased;
        // An error: nobody is left who could tell.
        _ = stopping.wait_for(|stop| *stop) => false,
        () = sleep(after) => true,
    }
}

/// Asks until it is answered, as long as patience lasts.
pub async fn insist<T, F>(patience: Duration, mut ask: impl FnMut() -> F) -> Result<T, AdminError>
where
    F: Future<Output = Result<T, AdminError>>,
{
    let deadline = Instant::now() + patience;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Creates a topic; brokers may still be registering.
pub async fn create(client: &Client, topic: NewTopic, patience: Duration) -> Result<(), AdminError> {
    let admin = client.admin();
    insist(patience, || admin.create_topic(topic.clone())).await.map(drop)
}
