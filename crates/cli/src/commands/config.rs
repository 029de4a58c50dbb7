//! `highwater config`: checks and prints configuration files.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{SettingFlags, load, print_default};
use crate::failure::{Failure, Outcome};
use crate::output::line;

/// Check a server's configuration, or print one with every setting.
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Check(Check),
    PrintDefault(PrintDefault),
}

/// Say what is wrong with a configuration, with line numbers; exit with 2 if anything is.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  highwater config check --config highwater.toml")]
struct Check {
    /// The file to check.
    #[arg(long, short = 'c', value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Print a configuration file with every setting at its default, and a comment for each.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  highwater config print-default > highwater.toml")]
struct PrintDefault {}

impl Config {
    pub fn run(self) -> Outcome {
        match self.command {
            ConfigCommand::Check(check) => {
                let config = load(Some(&check.config), &check.settings).map_err(Failure::usage)?;
                let roles = config.node.roles.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
                line(format!("{}: good, for a {roles}", check.config.display()))
            }
            ConfigCommand::PrintDefault(_) => line(print_default().trim_end()),
        }
    }
}
