//! The `highwater` binary: servers, and the tools to use and to look at a cluster. One file per noun in `commands/`.

mod args;
mod commands;
mod config;
mod failure;
mod metrics_endpoint;
mod output;
mod process_stats;

use std::process::ExitCode;

use clap::Parser as _;

/// Large buffers come and go on the data path; this allocator keeps them, where the system's gives them back to the
/// kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
