//! `keyfleet-node --config /etc/keyfleet/node.yaml`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use keyfleet_api::tls::Pins;
use keyfleet_node::config::Config;
use keyfleet_node::homes::Home;
use keyfleet_node::homes::decision::HomeKind;
use keyfleet_node::homes::volume::VolumeHome;
use keyfleet_node::http::{self, Pages, Running};
use keyfleet_node::round::start;
use keyfleet_node::runtime::{Addresses, Node, Options};
use keyfleet_node::startup::assemble;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// What is missing may come: a Secret that is created later, a bucket that answers again.
const RETRY: Duration = Duration::from_secs(5);

/// One key-management node of a Keyfleet cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration, a strict YAML file.
    #[arg(long, env = "KEYFLEET_CONFIG", default_value = "/etc/keyfleet/node.yaml")]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).init();
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            tracing::error!("{fault}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(&arguments.config)?;
    let folder = config.second_home.clone().ok_or(
        "secondHome is not set, and this version cannot reach the seal Secret itself: name a folder on another volume",
    )?;
    let secret: Arc<dyn Home> = Arc::new(VolumeHome::open_as(HomeKind::Secret, folder)?);
    let (trouble, node) = (watch::Sender::new(None), watch::Sender::new(None));
    let pages = Pages { trouble: trouble.subscribe(), node: node.subscribe() };
    let pages = tokio::spawn(http::run(TcpListener::bind(config.listen.http).await?, pages));
    let mut terminate = signal(SignalKind::terminate())?;
    // A node that lacks something says what, on its pages, and waits: a pod that only crashes tells nobody.
    let started = loop {
        let tried = async {
            let parts = assemble(&config, secret.clone()).await.map_err(|fault| fault.to_string())?;
            start(parts).await.map_err(|fault| fault.to_string())
        };
        match tried.await {
            Ok(started) => break started,
            Err(fault) => {
                tracing::error!(fault, "not started");
                trouble.send_replace(Some(fault));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = terminate.recv() => return Ok(()),
        }
    };
    trouble.send_replace(None);
    let peers = TcpListener::bind(config.listen.peers).await?;
    let addresses = watch::Sender::new(Addresses::new());
    let options = Options { peers, kms: None, pins: Pins::default(), addresses: addresses.subscribe(), operator: None };
    let running = Node::run(started, options)?;
    let identity = hex::encode(running.identity().0);
    tracing::info!(identity, "running; the operator pins this identity");
    node.send_replace(Some(Running { identity, published: running.published(), served: running.served() }));
    terminate.recv().await;
    running.stop().await;
    pages.abort();
    Ok(())
}
