//! The operator's process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use keyfleet_operator::controllers::{self, Context, Options, Scope};
use keyfleet_operator::leader::Candidate;
use keyfleet_operator::metrics::Metrics;
use keyfleet_operator::node_streams::Followers;
use keyfleet_operator::node_streams::token::OwnAccount;

/// A transparent group is for simulations: nothing that is shipped compiles with it.
const _: () = assert!(!keyfleet_threshold::curve::IS_TRANSPARENT);

/// Keeps fleets of key-management nodes as their KmsClusters say.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The operator's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "keyfleet-system")]
    namespace: String,
    /// The pod's name, by which the lease's holder is known.
    #[arg(long, env = "POD_NAME", default_value = "keyfleet-operator")]
    pod: String,
    /// The operator's own ServiceAccount: nodes know it by tokens of this account.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "keyfleet-operator")]
    service_account: String,
    /// The namespaces to watch, with commas between them; may be repeated. Default: all.
    #[arg(long, env = "WATCH_NAMESPACE", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    /// The node image for clusters that name none.
    #[arg(long, env = "NODE_IMAGE", default_value = "keyfleet/node")]
    node_image: String,
    /// Where Secrets with chain URLs are mounted, a folder each.
    #[arg(long, default_value = "/etc/keyfleet/chains")]
    chains: PathBuf,
    /// Where health and metrics are served.
    #[arg(long, default_value = "0.0.0.0:9090")]
    http: SocketAddr,
    /// Works without a lease. Harmless, but two operators then do everything twice.
    #[arg(long)]
    no_leader_election: bool,
    /// Logs lines for people instead of JSON.
    #[arg(long)]
    plain_logs: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter);
    if arguments.plain_logs {
        logs.init();
    } else {
        logs.json().init();
    }
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let client = kube::Client::try_default().await?;
    let metrics = Arc::new(Metrics::default());
    let listener = tokio::net::TcpListener::bind(arguments.http).await?;
    let routes = metrics.clone().routes();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let options = Options {
        namespace: arguments.namespace.clone(),
        scope: Scope::of(arguments.watch_namespace),
        node_image: arguments.node_image,
        subject: format!("system:serviceaccount:{}:{}", arguments.namespace, arguments.service_account),
        chains_folder: arguments.chains,
    };
    let tokens = OwnAccount::new(client.clone(), &arguments.namespace, &arguments.service_account);
    let nodes = Arc::new(Followers::new(Arc::new(tokens)));
    let context = Context::new(client.clone(), options, nodes, metrics.clone());
    if arguments.no_leader_election {
        metrics.set_leading(true);
        controllers::run(context).await;
        return Ok(());
    }
    let me = format!("{}-{:08x}", arguments.pod, rand::random::<u32>());
    let mut candidate = Candidate::new(client, &arguments.namespace, "keyfleet-operator", me);
    tokio::select! {
        () = candidate.acquire() => {}
        _ = tokio::signal::ctrl_c() => return Ok(()),
    }
    metrics.set_leading(true);
    tracing::info!("holds the lease");
    let lost = tokio::select! {
        lost = candidate.hold() => Some(lost),
        () = controllers::run(context) => None,
    };
    match lost {
        // Somebody else may lead by now: whatever is under way must not go on.
        Some(lost) => Err(lost.into()),
        None => {
            candidate.release().await;
            Ok(())
        }
    }
}
