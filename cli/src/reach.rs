//! From options to a client of a fleet.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::client::{Client, Dial, Direct, Fleet, Patience, TokenFiles, Tokens, Trust};
use keyfleet_api::convert;
use keyfleet_api::tls::Authorities;
use keyfleet_crds::record::{CLIENT_KEY, ClientRecord};
use keyfleet_crds::{names, wire};
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::NodeIndex;

use crate::arguments::{Kubernetes, Reach, Via, Which, WhichKey};
use crate::cluster::{Cluster, Forwarded, RequestedTokens};
use crate::exit::Failure;

/// Reads a file that `public-key -o json` wrote.
///
/// # Errors
/// When it is none.
pub fn read_record(path: &Path) -> Result<ClientRecord, Failure> {
    let refuse = |error: &dyn std::fmt::Display| Failure::other(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(&error))?;
    ClientRecord::from_data(&BTreeMap::from([(CLIENT_KEY.to_owned(), text)])).map_err(|error| refuse(&error))
}

/// The public facts of the fleet that is meant. The API server is asked only where no file was named.
///
/// # Errors
/// When there are none.
pub async fn record(kubernetes: &Kubernetes, which: &Which) -> Result<ClientRecord, Failure> {
    if let Some(path) = &which.record {
        return read_record(path);
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
        Some(public_key) => *public_key,
        None => record(kubernetes, &key.which).await?.public_key,
    };
    convert::point(&public_key).map_err(|_| Failure::usage("the public key is no point of BLS12-381's G2"))
}

/// A client of the fleet that is meant.
///
/// # Errors
/// When its facts, tokens or addresses are missing; the message says which option brings them.
pub async fn client(kubernetes: &Kubernetes, which: &Which, reach: &Reach) -> Result<Client, Failure> {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && kubernetes.kubeconfig.is_none();
    let via = match reach.via {
        Via::Auto if in_pod || !reach.address.is_empty() => Via::Direct,
        Via::Auto => Via::PortForward,
        given => given,
    };
    let mut connected = None;
    if which.record.is_none() || reach.token_dir.is_none() || via == Via::PortForward {
        connected = Some(Cluster::connect(kubernetes).await?);
    }
    let record = match (&which.record, &connected) {
        (Some(path), _) => read_record(path)?,
        (None, Some(cluster)) => cluster.record(&cluster.name(which).await?).await?,
        (None, None) => return Err(Failure::usage("say which fleet, with --cluster or --record")),
    };
    let fleet = Fleet::try_from(&record).map_err(Failure::other)?;
    let tokens: Arc<dyn Tokens> = match (&reach.token_dir, &reach.service_account, &connected) {
        (Some(folder), ..) => Arc::new(TokenFiles(folder.clone())),
        (None, Some(account), Some(cluster)) => Arc::new(RequestedTokens::new(cluster, account)),
        _ => {
            return Err(Failure::usage(
                "say as whom to ask: --service-account NAME, whose tokens you may create, or --token-dir DIR",
            ));
        }
    };
    let dial: Arc<dyn Dial> = match (via, &connected) {
        (Via::PortForward, Some(cluster)) => Arc::new(Forwarded::new(cluster, record.cluster.clone())),
        _ => {
            let namespace = connected.as_ref().map(|cluster| &cluster.namespace).or(kubernetes.namespace.as_ref());
            Arc::new(Direct(addresses(&fleet, reach, &record.cluster, namespace.map(String::as_str))?))
        }
    };
    let namespace = connected.as_ref().map(|cluster| &cluster.namespace).or(kubernetes.namespace.as_ref());
    let trust = match &reach.ca_file {
        None => Trust::Pins,
        Some(path) => {
            let names = certificate_names(&fleet, reach, &record.cluster, namespace.map(String::as_str));
            Trust::Authorities { authorities: authorities(path)?, names }
        }
    };
    let request = reach.timeout.unwrap_or(Patience::default().request);
    let patience = Patience { request, call: Patience::default().call.min(request).max(Duration::from_millis(1)) };
    Ok(Client::with_trust(fleet, dial, tokens, patience, trust))
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
            vec![
                names::node_host(cluster, node.value(), namespace),
                format!("{}.{namespace}.svc", names::service(cluster)),
            ]
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

fn addresses(
    fleet: &Fleet,
    reach: &Reach,
    cluster: &str,
    namespace: Option<&str>,
) -> Result<BTreeMap<NodeIndex, String>, Failure> {
    let given = reach.addresses();
    let mut all = BTreeMap::new();
    for node in fleet.nodes.keys() {
        let address = match (given.get(&node.value()), namespace) {
            (Some(address), _) => address.clone(),
            // Given for some: the others are not guessed.
            (None, _) if !given.is_empty() => continue,
            (None, Some(namespace)) => {
                format!("{}:{}", names::node_host(cluster, node.value(), namespace), wire::KMS_PORT)
            }
            (None, None) => return Err(Failure::usage("say where the nodes are: --namespace NAME, or --address")),
        };
        all.insert(*node, address);
    }
    Ok(all)
}
