//! The commands: one file for each noun.

mod bench;
mod chaos;
mod cluster;
mod completions;
mod config;
mod consume;
mod group;
mod health;
mod log;
mod produce;
mod quickstart;
mod server;
mod topic;
mod transaction;

pub use cluster::EndSignal;

use clap::{Parser, Subcommand};

use crate::failure::Outcome;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  tried, and failed
  2  an argument or a configuration is wrong; nothing was tried
  3  the cluster can't be reached
  4  done, but what came of it is not what was promised (quickstart, bench; chaos: 1)";

/// Highwater: a replicated, partitioned log.
///
/// Producers append records to topic partitions, brokers replicate them, consumers read what is committed. This one
/// binary is the server and every tool.
#[derive(Debug, Parser)]
#[command(name = "highwater", version, after_long_help = EXIT_CODES, propagate_version = true)]
#[command(arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::Quickstart),
    Server(server::Server),
    Config(config::Config),
    Cluster(cluster::Cluster),
    Topic(topic::Topic),
    Produce(produce::Produce),
    Consume(consume::Consume),
    Group(group::Group),
    Transaction(transaction::Transaction),
    Health(health::Health),
    Log(log::Log),
    Bench(bench::Bench),
    Chaos(chaos::Chaos),
    Completions(completions::Completions),
}

pub fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Quickstart(command) => command.run(),
        Command::Server(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Cluster(command) => command.run(),
        Command::Topic(command) => command.run(),
        Command::Produce(command) => command.run(),
        Command::Consume(command) => command.run(),
        Command::Group(command) => command.run(),
        Command::Transaction(command) => command.run(),
        Command::Health(command) => command.run(),
        Command::Log(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Chaos(command) => command.run(),
        Command::Completions(command) => command.run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    /// Every command that does something shows how it is used.
    #[test]
    fn every_command_has_an_example_and_every_argument_a_help_text() {
        fn look(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} says nothing about itself");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} says nothing about {}", argument.get_id());
            }
            if command.has_subcommands() {
                command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(|sub| look(sub, &path));
            } else {
                let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(text.contains("Example"), "{path} has no example");
                let shown = text.lines().filter(|line| line.contains("highwater ")).count();
                assert!(shown > 0, "{path} has no example");
            }
        }
        look(&Cli::command(), "");
    }

    /// The examples in help texts are read by people and copied: each must be accepted.
    #[test]
    fn the_examples_of_all_commands_parse() {
        fn look(command: &clap::Command, tried: &mut usize) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in text.lines().filter_map(|line| line.trim().strip_prefix("highwater ")) {
                let line = line.split(['|', '>', '<', '#']).next().unwrap_or_default();
                let words: Vec<String> = line.split_whitespace().map(|word| word.replace(['\'', '"'], "")).collect();
                let args = std::iter::once("highwater".to_owned()).chain(words);
                if let Err(error) = Cli::try_parse_from(args) {
                    panic!("{line:?}: {error}");
                }
                *tried += 1;
            }
            command.get_subcommands().for_each(|sub| look(sub, tried));
        }
        let mut tried = 0;
        look(&Cli::command(), &mut tried);
        assert!(tried >= 20, "only {tried} examples were found");
    }
}
