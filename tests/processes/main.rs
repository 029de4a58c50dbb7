//! A cluster of real processes: killed, paused, restarted, and held against the promises.
//!
//! Each test starts its own cluster; one runs at a time, so that timeouts mean the same on every machine.

mod cli;
mod common;
mod controllers;
mod divergence;
mod failover;
mod groups;
mod isr;
mod kafka;
mod kafka_admin;
mod kafka_both_doors;
mod kafka_versions;
mod metrics;
mod min_insync;
mod quickstart;
mod recovery;
mod restart;
mod strangers;
mod thin;
mod transactions;
