//! `keyfleet-node run --config /etc/keyfleet/node.yaml`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use keyfleet_api::node_config::LogFormat;
use keyfleet_api::retention_config::RetentionConfig;
use keyfleet_node::config::Config;
use keyfleet_node::process::{self, Surroundings};
use keyfleet_node::{restore, retain};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A transparent group is for simulations: nothing that is shipped compiles with it.
const _: () = assert!(!keyfleet_threshold::curve::IS_TRANSPARENT);

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
    /// Deletes what no node's replica needs any more: the retention job, whose credentials may delete.
    Retain {
        /// The job's configuration, a strict YAML file.
        #[arg(long, env = "KEYFLEET_CONFIG", default_value = "/etc/keyfleet/retention.yaml")]
        config: PathBuf,
    },
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
    match command {
        Command::Run(at) => {
            let config = configured(&at)?;
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
        Command::Restore(at) => Ok(Box::pin(restore::run(&configured(&at)?)).await?),
        Command::Retain { config: path } => {
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let config = RetentionConfig::parse(&text)?;
            log(&config.log, config.log_format)?;
            let retained = Box::pin(retain::run(&config)).await?;
            tracing::info!(replicas = retained.replicas, deleted = retained.deleted, "done");
            Ok(())
        }
    }
}

/// The node's configuration, once the log is open as it says.
fn configured(at: &At) -> Result<Config, Box<dyn std::error::Error>> {
    let config = Config::read(&at.config)?;
    log(&config.file.log, config.file.log_format)?;
    Ok(config)
}

fn log(configured: &str, format: LogFormat) -> Result<(), Box<dyn std::error::Error>> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(filter)?,
        Err(_) => EnvFilter::try_new(configured).map_err(|error| format!("the configuration: log: {error}"))?,
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.init(),
    }
    Ok(())
}
