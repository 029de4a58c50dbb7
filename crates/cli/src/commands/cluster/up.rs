//! `highwater cluster up`: a local cluster until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use highwater_testkit::local_cluster::ControlSocket;
use highwater_testkit::{Folder, LocalCluster, LocalClusterConfig};

use crate::args::{block_on, parse_pair};
use crate::failure::{Failure, Outcome};
use crate::output::line;

/// Run a cluster on this machine, each node its own process, until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater cluster up                              # 3 controllers, 3 brokers
  highwater cluster up --controllers 1 --brokers 1
  highwater cluster up --data-dir ./my-cluster      # goes on where it was left
  highwater cluster up --set broker.replica_lag_time_max_ms=2000")]
pub struct Up {
    /// How many controllers: 1, 3 or 5.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..=9))]
    controllers: u32,
    /// How many brokers.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    brokers: u32,
    /// Keep everything in this folder, and go on with the cluster that is in it; otherwise a temporary one, removed at
    /// the end.
    #[arg(long, short = 'd', value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The first broker's port; the others take the next ones, controllers from 100 higher. Ports in use are passed over.
    #[arg(long, default_value = "9092")]
    port: u16,
    /// A setting of every node, by its name in the configuration file and as TOML; can be given several times.
    #[arg(long, value_parser = parse_pair, value_name = "NAME=VALUE")]
    set: Vec<(String, String)>,
}

impl Up {
    pub fn run(self) -> Outcome {
        block_on(self.up())
    }

    async fn up(self) -> Outcome {
        check_controllers(self.controllers)?;
        let config = LocalClusterConfig {
            controllers: self.controllers,
            brokers: self.brokers,
            folder: self.data_dir.map_or(Folder::Temporary, Folder::At),
            first_port: Some(self.port),
            settings: self.set,
            ..LocalClusterConfig::new(this_binary()?)
        };
        let mut end = EndSignal::new()?;
        let mut cluster = tokio::select! {
            biased;
            () = end.wait() => return Ok(()),
            started = LocalCluster::start(config) => started?,
        };
        // `highwater chaos` tells it through this what to do with its nodes.
        let mut control = ControlSocket::open(&cluster)
            .inspect_err(|error| eprintln!("warning: no control socket in {}: {error}", cluster.dir().display()))
            .ok();
        print_cluster(&cluster)?;
        line("\nCtrl-C ends it.")?;
        let mut look = tokio::time::interval(Duration::from_millis(200));
        let died = loop {
            tokio::select! {
                biased;
                () = end.wait() => break None,
                _ = look.tick() => {
                    let alive = match &mut control {
                        Some(control) => control.check_alive(&mut cluster),
                        None => cluster.check_alive(),
                    };
                    if let Err(died) = alive {
                        break Some(died);
                    }
                }
                served = serve(&mut control, &mut cluster) => {
                    if let Err(error) = served {
                        eprintln!("warning: the control socket failed: {error}");
                    }
                }
            }
        };
        // Whoever reads this may be gone already; the nodes are to end in good order all the same.
        let _ = line("ending the cluster ...");
        // A second Ctrl-C is for those who can't wait.
        tokio::select! {
            biased;
            () = end.wait() => {}
            ended = cluster.shutdown(Duration::from_secs(20)) => ended?,
        }
        died.map_or(Ok(()), |died| Err(died.into()))
    }
}

/// Does what is next asked for; without a socket, nothing, for ever.
async fn serve(control: &mut Option<ControlSocket>, cluster: &mut LocalCluster) -> std::io::Result<()> {
    match control {
        Some(control) => control.serve_one(cluster).await,
        None => std::future::pending().await,
    }
}

/// Refuses an even number of controllers.
pub fn check_controllers(controllers: u32) -> Outcome {
    if controllers.is_multiple_of(2) {
        let why = "an even number of controllers survives no more failures than one less; take 1, 3 or 5";
        return Err(Failure::usage(format!("--controllers {controllers}: {why}")));
    }
    Ok(())
}

/// The running binary, to start nodes with.
pub fn this_binary() -> Outcome<PathBuf> {
    std::env::current_exe().map_err(|error| Failure::failed(format!("can't find this program's own file: {error}")))
}

/// What is running where, and how to use it.
pub fn print_cluster(cluster: &LocalCluster) -> Outcome {
    let rows = cluster.nodes().map(|(id, node)| {
        let pid = node.pid().map_or("-".to_owned(), |pid| pid.to_string());
        vec![id.to_string(), format!("127.0.0.1:{}", node.port()), pid, node.log_path().display().to_string()]
    });
    line(crate::output::table(&["node", "address", "#pid", "log"], rows))?;
    let bootstrap = cluster.bootstrap();
    line(format!("\nThe cluster is up. To use it, in another terminal:\n  export HIGHWATER_BOOTSTRAP={bootstrap}"))?;
    line("  highwater cluster describe")?;
    line("  highwater topic create orders --partitions 6")?;
    line("  highwater produce orders        # a line is a record; Ctrl-D ends")?;
    line("  highwater consume orders")?;
    line(format!("Kafka clients connect to:\n  bootstrap.servers={}", cluster.kafka_bootstrap()))
}

/// SIGINT or SIGTERM.
pub struct EndSignal {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl EndSignal {
    /// From now on, the signals end nothing by themselves.
    pub fn new() -> Outcome<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |error| Failure::failed(format!("can't watch for signals: {error}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    pub async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
