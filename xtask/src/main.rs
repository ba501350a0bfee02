//! `cargo xtask`: the one door to everything that developing Keyfleet takes.
//!
//! Each command is a module of its own; [`workplace`] says where things are kept, [`step`] runs what takes long.

mod bench;
mod codegen;
mod demo;
mod dev;
mod fuzz;
mod image;
mod installation;
mod mutants;
mod pinned;
mod prerequisites;
mod simulate;
mod step;
mod target;
mod test;
mod tidy;
mod workplace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything that developing Keyfleet takes, on a machine with Rust, Go and npm.
///
/// What a command needs and the machine lacks is installed (as root, where apt is) or named. All that is built or
/// downloaded is kept in $CARGO_HOME/keyfleet (usually ~/.cargo/keyfleet), shared by all checkouts: delete it when
/// you like.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A real Kubernetes on this machine: bring it up, look at it, take it down
    #[command(subcommand)]
    Dev(dev::Command),
    /// Build the container images, without a registry or a Docker daemon
    Image(image::Arguments),
    /// Write the files that are generated from the sources
    Codegen(codegen::Arguments),
    /// Check everything: what this says is what counts
    Test(test::Arguments),
    /// Check the rules of the house: names have producers, texts name what exists, words are plain
    Tidy(tidy::Arguments),
    /// Run whole fleets in memory, over many seeds: --runs N, --seed S, --results FILE, --log FILE
    Simulate(simulate::Arguments),
    /// Try all short histories of a fleet: --nodes N, --steps K
    Search(simulate::Arguments),
    /// Search for hostile input that breaks a decoder or a round, guided by coverage: TARGET…, --seconds N, --keep
    Fuzz(fuzz::Arguments),
    /// Change the protocol's code line by line, and see whether a test notices: --shard K/N, FILE…
    Mutants(mutants::Arguments),
    /// Show it working: a fleet, a file encrypted and decrypted, two reshares, the commands to look around
    Demo(demo::Arguments),
    /// Measure, and print figures with the command that makes them
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match keyfleet_local_kubernetes::inside::run(&arguments) {
        Ok(false) => run(Arguments::parse().command),
        other => other.map(|_| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev(command) => dev::run(command)?,
        Command::Image(arguments) => image::run(&arguments)?,
        Command::Codegen(arguments) => codegen::run(&arguments)?,
        Command::Test(arguments) => return test::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments)?,
        Command::Simulate(arguments) => simulate::run("simulate", &arguments)?,
        Command::Search(arguments) => simulate::run("search", &arguments)?,
        Command::Fuzz(arguments) => fuzz::run(&arguments)?,
        Command::Mutants(arguments) => mutants::run(&arguments)?,
        Command::Demo(arguments) => demo::run(&arguments)?,
        Command::Bench(command) => bench::run(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}
