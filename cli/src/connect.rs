//! Connection to a fleet: its public facts, a route to its nodes, and a token for each.

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

use crate::args::{FleetArgs, KubeArgs, NodeArgs, PublicKeyArgs, Route};
use crate::exit::CommandError;
use crate::kube_client::KubeClient;
use crate::port_forward::PortForward;
use crate::token_request::TokenRequests;

/// Connects a client to a fleet.
///
/// # Errors
/// When the fleet's record, a token or an address is missing. The message names the option that gives it.
pub(crate) async fn client(kube: &KubeArgs, fleet: &FleetArgs, nodes: &NodeArgs) -> Result<Client, CommandError> {
    let connection = Connection::open(kube, fleet, nodes, KMS_PORT).await?;
    let trust = match &nodes.ca_file {
        None => Trust::Pins,
        Some(path) => {
            Trust::Authorities { authorities: authorities(path)?, names: connection.certificate_names(nodes) }
        }
    };
    let Connection { fleet, dial, tokens, patience, .. } = connection;
    Ok(Client::with_trust(fleet, dial, tokens, patience, trust))
}

/// Connects an observer to the rounds of a fleet.
///
/// # Errors
/// As [`client`].
pub(crate) async fn observer(kube: &KubeArgs, fleet: &FleetArgs, nodes: &NodeArgs) -> Result<Observer, CommandError> {
    let Connection { fleet, dial, tokens, patience, .. } = Connection::open(kube, fleet, nodes, ROUND_PORT).await?;
    Ok(Observer::new(fleet, dial, tokens, patience))
}

/// Returns the public key: the one given, or that of the fleet's record.
///
/// # Errors
/// When the fleet has no record, or the key is not a point.
pub(crate) async fn public_key(kube: &KubeArgs, key: &PublicKeyArgs) -> Result<G2, CommandError> {
    let public_key = match &key.public_key {
        Some(public_key) => public_key.0,
        None => record(kube, &key.fleet).await?.public_key.0,
    };
    G2::decode(&public_key).map_err(|_| CommandError::usage("the public key is not a point of BLS12-381's G2"))
}

/// Returns the public facts of a fleet. Asks the API server only where no file was named and no volume is mounted.
///
/// # Errors
/// When the fleet has no record, or it cannot be read.
pub(crate) async fn record(kube: &KubeArgs, fleet: &FleetArgs) -> Result<FleetRecord, CommandError> {
    if let Some(path) = &fleet.record {
        return read_record(path);
    }
    if let Some(mounted) = mounted(kube, fleet)? {
        return Ok(mounted.record);
    }
    let client = KubeClient::connect(kube).await?;
    let name = client.fleet_name(fleet).await?;
    client.record(&name).await
}

/// Reads a file that `public-key -o json` wrote.
///
/// # Errors
/// When the file cannot be read, or holds something else.
pub(crate) fn read_record(path: &Path) -> Result<FleetRecord, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| CommandError::of_file(path, &error))?;
    FleetRecord::parse(&text).map_err(|error| CommandError::of_file(path, &error))
}

/// Facts of a fleet, a route to its nodes, and a token for each.
struct Connection {
    fleet: Fleet,
    cluster: String,
    /// Namespace of the fleet, where it is known.
    namespace: Option<String>,
    dial: Arc<dyn Dial>,
    tokens: Arc<dyn Tokens>,
    patience: Patience,
}

impl Connection {
    /// Finds everything that requests need. Connects to the API server only where something is still missing.
    async fn open(kube: &KubeArgs, fleet_args: &FleetArgs, nodes: &NodeArgs, port: u16) -> Result<Self, CommandError> {
        let mounted = mounted(kube, fleet_args)?;
        let route = route(kube, nodes, mounted.is_some());
        let token_files = token_files(nodes, mounted.as_ref());
        let has_record = fleet_args.record.is_some() || mounted.is_some();
        let client = match has_record && token_files.is_some() && route != Route::PortForward {
            true => None,
            false => Some(KubeClient::connect(kube).await?),
        };
        let record = match (&fleet_args.record, &mounted, &client) {
            (Some(path), ..) => read_record(path)?,
            (None, Some(mounted), _) => mounted.record.clone(),
            (None, None, Some(client)) => client.record(&client.fleet_name(fleet_args).await?).await?,
            (None, None, None) => return Err(CommandError::usage("name the fleet with --cluster or --record")),
        };
        let fleet = Fleet::try_from(&record).map_err(CommandError::other)?;
        let tokens: Arc<dyn Tokens> = match (token_files, &nodes.service_account, &client) {
            (Some(files), ..) => Arc::new(files),
            (None, Some(account), Some(client)) => Arc::new(TokenRequests::new(client, account)),
            _ => {
                return Err(CommandError::usage(
                    "nodes need a token of the caller: name a ServiceAccount whose tokens you may create with \
                     --service-account, or a folder of tokens with --token-dir; in a pod, mount the volume that `keyfleet \
                     pod-volume` prints",
                ));
            }
        };
        let namespace = kube.namespace.clone();
        let namespace = namespace
            .or_else(|| mounted.map(|mounted| mounted.namespace))
            .or_else(|| client.as_ref().map(|client| client.namespace.clone()))
            .or_else(pod_namespace);
        let dial: Arc<dyn Dial> = match (route, &client) {
            (Route::PortForward, Some(client)) => Arc::new(PortForward::new(client, record.cluster.clone(), port)),
            _ => Arc::new(addresses(&fleet, nodes, &record.cluster, namespace.as_deref(), port)?),
        };
        Ok(Self { fleet, cluster: record.cluster, namespace, dial, tokens, patience: patience(nodes) })
    }

    /// Returns the names that each node's certificate may be for: of the address that was given, otherwise those inside the
    /// cluster.
    fn certificate_names(&self, nodes: &NodeArgs) -> BTreeMap<NodeIndex, Vec<String>> {
        let given = nodes.addresses();
        let names = self.fleet.nodes.keys().map(|node| {
            let names = match (given.get(&node.value()), &self.namespace) {
                (Some(address), _) => vec![host_of(address)],
                (None, Some(namespace)) => vec![
                    wire::node_host(&self.cluster, node.value(), namespace),
                    wire::service_host(&self.cluster, namespace),
                ],
                (None, None) => Vec::new(),
            };
            (*node, names)
        });
        names.collect()
    }
}

fn route(kube: &KubeArgs, nodes: &NodeArgs, mounted: bool) -> Route {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && kube.kubeconfig.is_none();
    match nodes.via {
        Route::Auto if in_pod || mounted || !nodes.address.is_empty() => Route::Direct,
        Route::Auto => Route::PortForward,
        given => given,
    }
}

/// Returns the folder of tokens: the one given, or that of the mounted volume unless another account was named.
fn token_files(nodes: &NodeArgs, mounted: Option<&Mounted>) -> Option<TokenFiles> {
    let mounted = mounted.filter(|_| nodes.service_account.is_none()).map(|mounted| &mounted.tokens);
    nodes.token_dir.clone().map(TokenFiles).or_else(|| mounted.cloned())
}

fn patience(nodes: &NodeArgs) -> Patience {
    let request = nodes.timeout.unwrap_or(Patience::default().request);
    Patience { request, call: Patience::default().call.min(request).max(Duration::from_millis(1)) }
}

fn authorities(path: &Path) -> Result<Authorities, CommandError> {
    let pem = std::fs::read(path).map_err(|error| CommandError::usage(format!("{}: {error}", path.display())))?;
    Authorities::read(&pem).map_err(|error| CommandError::usage(format!("{}: {error}", path.display())))
}

/// Returns the host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Returns the volume that a pod has mounted, unless another fleet was named.
fn mounted(kube: &KubeArgs, fleet: &FleetArgs) -> Result<Option<Mounted>, CommandError> {
    if let Some(folder) = &fleet.mount {
        return Mounted::read(folder).map(Some).map_err(CommandError::other);
    }
    let folder = Path::new(MOUNT_PATH);
    if fleet.record.is_some() || kube.kubeconfig.is_some() || kube.context.is_some() || !folder.exists() {
        return Ok(None);
    }
    let mounted = Mounted::read(folder).map_err(CommandError::other)?;
    let same_fleet = fleet.cluster.as_ref().is_none_or(|name| *name == mounted.record.cluster)
        && kube.namespace.as_ref().is_none_or(|name| *name == mounted.namespace);
    Ok(same_fleet.then_some(mounted))
}

/// Returns the namespace of the pod that this program runs in.
fn pod_namespace() -> Option<String> {
    let text = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok()?;
    Some(text.trim().to_owned())
}

/// Returns the addresses that were given, for these nodes alone; otherwise the host names inside the cluster.
fn addresses(
    fleet: &Fleet,
    nodes: &NodeArgs,
    cluster: &str,
    namespace: Option<&str>,
    port: u16,
) -> Result<Direct, CommandError> {
    let given = nodes.addresses();
    if given.is_empty() {
        let namespace = namespace.ok_or_else(|| {
            CommandError::usage("the fleet's namespace is not known: name it with --namespace, or give every --address")
        })?;
        return Ok(Direct::by_host_names(fleet, cluster, namespace, port));
    }
    let known = fleet.nodes.keys().filter_map(|node| Some((*node, given.get(&node.value())?.clone())));
    Ok(Direct(known.collect()))
}
