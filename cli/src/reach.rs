//! From options to a client or an observer of a fleet.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::tls::Authorities;
use keyfleet_api::wire::{self, FleetRecord, KMS_PORT, ROUND_PORT};
use keyfleet_client::mounted::{MOUNT_PATH, Mounted};
use keyfleet_client::{Client, Dial, Direct, Fleet, Observer, Patience, TokenFiles, Tokens, Trust};
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::NodeIndex;

use crate::arguments::{Kubernetes, Reach, Via, Which, WhichKey};
use crate::cluster::{Cluster, Forwarded, RequestedTokens};
use crate::exit::Failure;

/// Reads a file that `public-key -o json` wrote.
///
/// # Errors
/// When the text is no such value.
pub fn read_record(path: &Path) -> Result<FleetRecord, Failure> {
    let refuse = |error: &dyn std::fmt::Display| Failure::other(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(&error))?;
    FleetRecord::parse(&text).map_err(|error| refuse(&error))
}

/// The public facts of the fleet that is meant. The API server is asked only where no file was named.
///
/// # Errors
/// When there are none.
pub async fn record(kubernetes: &Kubernetes, which: &Which) -> Result<FleetRecord, Failure> {
    if let Some(path) = &which.record {
        return read_record(path);
    }
    if let Some(mounted) = mounted(kubernetes, which)? {
        return Ok(mounted.record);
    }
    let cluster = Cluster::connect(kubernetes).await?;
    let name = cluster.name(which).await?;
    cluster.record(&name).await
}

/// The public key that is meant.
///
/// # Errors
/// When there is none, or it is no point.
pub async fn public_key(kubernetes: &Kubernetes, key: &WhichKey) -> Result<G2, Failure> {
    let public_key = match &key.public_key {
        Some(public_key) => public_key.0,
        None => record(kubernetes, &key.which).await?.public_key.0,
    };
    G2::decode(&public_key).map_err(|_| Failure::usage("the public key is no point of BLS12-381's G2"))
}

/// A client of the fleet that is meant.
///
/// # Errors
/// When its facts, tokens or addresses are missing; the message says which option brings them.
pub async fn client(kubernetes: &Kubernetes, which: &Which, reach: &Reach) -> Result<Client, Failure> {
    let way = way(kubernetes, which, reach, KMS_PORT).await?;
    let trust = match &reach.ca_file {
        None => Trust::Pins,
        Some(path) => {
            let names = certificate_names(&way.fleet, reach, &way.cluster, way.namespace.as_deref());
            Trust::Authorities { authorities: authorities(path)?, names }
        }
    };
    Ok(Client::with_trust(way.fleet, way.dial, way.tokens, way.patience, trust))
}

/// An observer of the rounds of the fleet that is meant.
///
/// # Errors
/// As [`client`].
pub async fn observer(kubernetes: &Kubernetes, which: &Which, reach: &Reach) -> Result<Observer, Failure> {
    let way = way(kubernetes, which, reach, ROUND_PORT).await?;
    Ok(Observer::new(way.fleet, way.dial, way.tokens, way.patience))
}

/// Route to a fleet's nodes, with a token for each.
struct Way {
    fleet: Fleet,
    cluster: String,
    namespace: Option<String>,
    dial: Arc<dyn Dial>,
    tokens: Arc<dyn Tokens>,
    patience: Patience,
}

async fn way(kubernetes: &Kubernetes, which: &Which, reach: &Reach, port: u16) -> Result<Way, Failure> {
    let mounted = mounted(kubernetes, which)?;
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && kubernetes.kubeconfig.is_none();
    let via = match reach.via {
        Via::Auto if in_pod || mounted.is_some() || !reach.address.is_empty() => Via::Direct,
        Via::Auto => Via::PortForward,
        given => given,
    };
    let tokens_mounted = mounted.as_ref().filter(|_| reach.service_account.is_none()).map(|mounted| &mounted.tokens);
    let token_files = reach.token_dir.clone().map(TokenFiles).or_else(|| tokens_mounted.cloned());
    let known = which.record.is_some() || mounted.is_some();
    let mut connected = None;
    if !known || token_files.is_none() || via == Via::PortForward {
        connected = Some(Cluster::connect(kubernetes).await?);
    }
    let record = match (&which.record, &mounted, &connected) {
        (Some(path), ..) => read_record(path)?,
        (None, Some(mounted), _) => mounted.record.clone(),
        (None, None, Some(cluster)) => cluster.record(&cluster.name(which).await?).await?,
        (None, None, None) => return Err(Failure::usage("say which fleet, with --cluster or --record")),
    };
    let fleet = Fleet::try_from(&record).map_err(Failure::other)?;
    let tokens: Arc<dyn Tokens> = match (token_files, &reach.service_account, &connected) {
        (Some(files), ..) => Arc::new(files),
        (None, Some(account), Some(cluster)) => Arc::new(RequestedTokens::new(cluster, account)),
        _ => {
            return Err(Failure::usage(
                "say as whom to ask: --service-account NAME, whose tokens you may create, or --token-dir DIR; in a pod \
                 mount the volume that `keyfleet pod-volume` prints",
            ));
        }
    };
    let given = kubernetes.namespace.clone();
    let namespace = given
        .or_else(|| mounted.map(|mounted| mounted.namespace))
        .or_else(|| connected.as_ref().map(|cluster| cluster.namespace.clone()))
        .or_else(own_namespace);
    let dial: Arc<dyn Dial> = match (via, &connected) {
        (Via::PortForward, Some(cluster)) => Arc::new(Forwarded::new(cluster, record.cluster.clone(), port)),
        _ => Arc::new(addresses(&fleet, reach, &record.cluster, namespace.as_deref(), port)?),
    };
    let request = reach.timeout.unwrap_or(Patience::default().request);
    let patience = Patience { request, call: Patience::default().call.min(request).max(Duration::from_millis(1)) };
    Ok(Way { fleet, cluster: record.cluster, namespace, dial, tokens, patience })
}

fn authorities(path: &Path) -> Result<Authorities, Failure> {
    let refuse = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let pem = std::fs::read(path).map_err(|error| refuse(&error))?;
    Authorities::read(&pem).map_err(|error| refuse(&error))
}

/// The names that each node's certificate may be for: of the address that was given, otherwise those inside the cluster.
fn certificate_names(
    fleet: &Fleet,
    reach: &Reach,
    cluster: &str,
    namespace: Option<&str>,
) -> BTreeMap<NodeIndex, Vec<String>> {
    let given = reach.addresses();
    let names_of = |node: &NodeIndex| match (given.get(&node.value()), namespace) {
        (Some(address), _) => vec![host_of(address)],
        (None, Some(namespace)) => {
            vec![wire::node_host(cluster, node.value(), namespace), wire::service_host(cluster, namespace)]
        }
        (None, None) => Vec::new(),
    };
    fleet.nodes.keys().map(|node| (*node, names_of(node))).collect()
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Returns the volume that a pod has mounted, unless another fleet was named.
fn mounted(kubernetes: &Kubernetes, which: &Which) -> Result<Option<Mounted>, Failure> {
    if let Some(folder) = &which.mount {
        return Mounted::read(folder).map(Some).map_err(Failure::other);
    }
    let folder = Path::new(MOUNT_PATH);
    if which.record.is_some() || kubernetes.kubeconfig.is_some() || kubernetes.context.is_some() || !folder.exists() {
        return Ok(None);
    }
    let mounted = Mounted::read(folder).map_err(Failure::other)?;
    let meant = which.cluster.as_ref().is_none_or(|name| *name == mounted.record.cluster)
        && kubernetes.namespace.as_ref().is_none_or(|name| *name == mounted.namespace);
    Ok(meant.then_some(mounted))
}

/// The namespace of the pod that this runs in.
fn own_namespace() -> Option<String> {
    let read = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok()?;
    Some(read.trim().to_owned())
}

/// Those that were given, for these nodes alone; otherwise the host names inside the cluster.
fn addresses(
    fleet: &Fleet,
    reach: &Reach,
    cluster: &str,
    namespace: Option<&str>,
    port: u16,
) -> Result<Direct, Failure> {
    let given = reach.addresses();
    if given.is_empty() {
        let namespace =
            namespace.ok_or_else(|| Failure::usage("say where the nodes are: --namespace NAME, or --address"))?;
        return Ok(Direct::by_host_names(fleet, cluster, namespace, port));
    }
    let known = |node: &NodeIndex| Some((*node, given.get(&node.value())?.clone()));
    Ok(Direct(fleet.nodes.keys().filter_map(known).collect()))
}
