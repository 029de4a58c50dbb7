//! `highwater-sim`: a cluster of real controllers, brokers and clients in one process, on simulated network, disks, clock and
//! entropy, under faults drawn from a seed. Every acknowledged record must be there in the end, unchanged and in order,
//! transactions whole, the newest value of every key in a compacted topic; and the same seed gives the same history, or a failure could not be looked at twice.

mod args;
mod budget;
mod cluster;
mod faults;
mod mutation;
mod node;
mod one;
mod operator;
mod run;
mod story;
mod workloads;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    match args.mutation.apply() {
        Ok(true) => {}
        Ok(false) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    }
    let held = if args.is_one_run() { one::run(&args) } else { budget::run(&args) };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(args::FAILED),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
