//! The command line: `keyfleet-node run --config /etc/keyfleet/node.yaml`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use keyfleet_crds::config_file::LogFormat;
use keyfleet_crds::retention_config::RetentionConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::boot::process::{self, Surroundings};
use crate::boot::restore;
use crate::config::Config;
use crate::retain;

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
    Run(ConfigPath),
    /// Restores the state file from its replica, where the volume is empty and there is one; does nothing otherwise.
    Restore(ConfigPath),
    /// Deletes what no node's replica needs any more: the retention job, whose credentials may delete.
    Retain {
        /// The job's configuration, a strict YAML file.
        #[arg(long, env = "KEYFLEET_CONFIG", default_value = "/etc/keyfleet/retention.yaml")]
        config: PathBuf,
    },
}

#[derive(Args)]
struct ConfigPath {
    /// The configuration, a strict YAML file.
    #[arg(long, env = "KEYFLEET_CONFIG", default_value = "/etc/keyfleet/node.yaml")]
    config: PathBuf,
}

type AnyError = Box<dyn std::error::Error>;

/// Reads from the environment which faults a node has.
#[cfg(feature = "danger-faults")]
pub type ReadFaults = fn(&Config) -> Result<Box<dyn crate::fault_injection::FaultInjection>, AnyError>;

/// A node's program.
#[derive(Default)]
pub struct Program {
    /// Reads the faults that are installed before the node persists anything.
    #[cfg(feature = "danger-faults")]
    pub read_faults: Option<ReadFaults>,
}

impl Program {
    /// Runs the command that the arguments name.
    pub async fn run(self) -> ExitCode {
        match self.execute(Arguments::parse().command).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                // Without a configuration there is no log yet.
                eprintln!("keyfleet-node: {error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn execute(&self, command: Command) -> Result<(), AnyError> {
        match command {
            Command::Run(path) => self.run_node(read_config(&path)?).await,
            Command::Restore(path) => Ok(Box::pin(restore::run(&read_config(&path)?)).await?),
            Command::Retain { config: path } => {
                let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                let config = RetentionConfig::parse(&text)?;
                open_log(&config.log, config.log_format)?;
                let retained = Box::pin(retain::run(&config)).await?;
                tracing::info!(replicas = retained.replicas, deleted = retained.deleted, "done");
                Ok(())
            }
        }
    }

    async fn run_node(&self, config: Config) -> Result<(), AnyError> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let surroundings = Surroundings::of_pod(&config).await?;
        let stop = first(terminate, interrupt);
        #[cfg(feature = "danger-faults")]
        if let Some(read) = self.read_faults {
            let faults = read(&config)?;
            return Ok(Box::pin(process::run_with_faults(config, surroundings, faults, stop)).await?);
        }
        Ok(Box::pin(process::run(config, surroundings, stop)).await?)
    }
}

async fn first(mut one: Signal, mut other: Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Reads the node's configuration, and opens the log as it says.
fn read_config(path: &ConfigPath) -> Result<Config, AnyError> {
    let config = Config::read(&path.config)?;
    open_log(&config.file.log, config.file.log_format)?;
    Ok(config)
}

fn open_log(configured: &str, format: LogFormat) -> Result<(), AnyError> {
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
