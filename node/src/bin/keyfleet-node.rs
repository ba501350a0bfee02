//! `keyfleet-node run --config /etc/keyfleet/node.yaml`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use keyfleet_api::node_config::LogFormat;
use keyfleet_node::config::Config;
use keyfleet_node::process::{self, Surroundings};
use keyfleet_node::restore;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// One key-management node of a Keyfleet cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the node.
    Run(At),
    /// Restores the state file from its replica, where the volume is empty and there is one; does nothing otherwise.
    Restore(At),
}

#[derive(Args)]
struct At {
    /// The configuration, a strict YAML file.
    #[arg(long, env = "KEYFLEET_CONFIG", default_value = "/etc/keyfleet/node.yaml")]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match act(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            tracing::error!("{fault}");
            // Without a configuration there is no log yet.
            eprintln!("keyfleet-node: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn act(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    let (Command::Run(at) | Command::Restore(at)) = &command;
    let config = Config::read(&at.config)?;
    log(&config)?;
    match command {
        Command::Run(_) => {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let stop = async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            let surroundings = Surroundings::of_pod(&config).await?;
            Ok(Box::pin(process::run(config, surroundings, stop)).await?)
        }
        Command::Restore(_) => Ok(Box::pin(restore::run(&config)).await?),
    }
}

fn log(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(filter)?,
        Err(_) => EnvFilter::try_new(&config.file.log).map_err(|error| format!("the configuration: log: {error}"))?,
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter);
    match config.file.log_format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.init(),
    }
    Ok(())
}
