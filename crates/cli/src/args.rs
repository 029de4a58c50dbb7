//! Arguments that several commands share.

use std::time::Duration;

use clap::Args;
use highwater_client::{AdminError, Client, CommitError, ConnectError, ConsumeError, ProduceError};

use crate::commands::EndSignal;
use crate::failure::{Failure, Outcome};

/// How to reach the cluster.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Some brokers of the cluster, separated by commas; the others are found through them.
    #[arg(
        long,
        short = 'b',
        env = "HIGHWATER_BOOTSTRAP",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT,..."
    )]
    pub bootstrap: String,
    /// How long to try to reach the cluster, and how long a request or the writing of a record may take, in seconds.
    #[arg(long, default_value = "10", value_parser = parse_seconds, value_name = "SECONDS")]
    pub timeout: Duration,
}

impl ConnectArgs {
    pub async fn connect(&self) -> Outcome<Client> {
        let builder = Client::builder().bootstrap([&self.bootstrap]);
        let client = builder.connect_timeout(self.timeout).request_timeout(self.timeout).build().await;
        client.map_err(|error| match error {
            ConnectError::Unreachable { .. } => Failure::unreachable(format!("{error} (--bootstrap names them)")),
            ConnectError::BadAddress { .. } | ConnectError::NoAddress => Failure::usage(error),
        })
    }
}

/// For a command that goes on for as long as the cluster does: says on standard error when no broker can be reached any more,
/// and when one is again.
pub fn tell_when_lost(client: &Client) {
    let client = client.clone();
    tokio::spawn(async move {
        loop {
            eprintln!("no broker can be reached, trying on: {}", client.lost().await);
            client.found().await;
            eprintln!("a broker is reached again");
        }
    });
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::of_code(error.code, &error.to_string())
    }
}
impl From<ProduceError> for Failure {
    fn from(error: ProduceError) -> Self {
        Self::of_code(error.code, &error.to_string())
    }
}
impl From<ConsumeError> for Failure {
    fn from(error: ConsumeError) -> Self {
        Self::of_code(error.code(), &error.to_string())
    }
}
impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        Self::of_code(error.code, &error.to_string())
    }
}

/// Runs a command that waits for the network.
pub fn block_on<T>(future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads(0))
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start the runtime: {error}")))?;
    let result = runtime.block_on(future);
    // A thread that still waits for standard input must not keep the command from ending.
    runtime.shutdown_background();
    result
}

/// Lets SIGINT and SIGTERM end a command that may go on for ever. Elsewhere they do so by themselves, but the kernel keeps
/// them from the first process of a container unless it asks for them.
pub async fn until_ended<T>(command: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    if std::process::id() != 1 {
        return command.await;
    }
    let mut end = EndSignal::new()?;
    tokio::select! {
        biased;
        result = command => result,
        () = end.wait() => Err(Failure::failed("ended by a signal")),
    }
}

/// The number of worker threads for a setting where 0 means one for each processor.
pub fn worker_threads(setting: usize) -> usize {
    if setting > 0 { setting } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

/// Seconds, with a fraction if need be.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.filter(|it| !it.is_zero()).ok_or_else(|| "must be a number of seconds above 0, as in 10 or 0.5".to_owned())
}

/// `NAME=VALUE`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

/// A separator as written on a command line: `\t` stands for a tab.
pub fn parse_separator(text: &str) -> Result<String, String> {
    let text = text.replace("\\t", "\t").replace("\\0", "\0");
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction_but_not_be_nothing() {
        assert_eq!(parse_seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_seconds("3s"), Ok(Duration::from_secs(3)));
        for bad in ["", "0", "-1", "x", "1e99", "NaN"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
