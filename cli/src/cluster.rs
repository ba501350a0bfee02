//! Everything that is asked of the API server.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use keyfleet_api::wire::{FleetRecord, record};
use keyfleet_client::{Dial, Duplex, NoToken, Token, Tokens};
use keyfleet_crds::{KmsCluster, names};
use keyfleet_threshold::identifiers::NodeIndex;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};

use crate::arguments::{Kubernetes, Which};
use crate::exit::Failure;

/// Lifetime of tokens for nodes, in seconds: the shortest that the API server gives.
const TOKEN_SECONDS: i64 = 600;

/// The API server, and the namespace that is looked at.
#[derive(Clone)]
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

impl Cluster {
    /// Connects as kubectl would.
    ///
    /// # Errors
    /// When there is no kubeconfig, or it is wrong.
    pub async fn connect(kubernetes: &Kubernetes) -> Result<Self, Failure> {
        let options = KubeConfigOptions { context: kubernetes.context.clone(), ..KubeConfigOptions::default() };
        let config = match &kubernetes.kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path).map_err(|error| no_config(&error))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| no_config(&error))?
            }
            None if kubernetes.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| no_config(&error))?
            }
            None => Config::infer().await.map_err(|error| no_config(&error))?,
        };
        let namespace = kubernetes.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| no_config(&error))?;
        Ok(Self { client, namespace })
    }

    /// The fleet that is meant: by name, or the only one of the namespace.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub async fn name(&self, which: &Which) -> Result<String, Failure> {
        if let Some(name) = &which.cluster {
            return Ok(name.clone());
        }
        let all = Api::<KmsCluster>::namespaced(self.client.clone(), &self.namespace);
        let all = all.list(&ListParams::default()).await.map_err(|error| {
            Failure::other(format!("KmsClusters cannot be listed: {}; name one with --cluster", explained(&error)))
        })?;
        let names: Vec<_> = all.iter().map(ResourceExt::name_any).collect();
        match names.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Failure::other(format!(
                "namespace {} has no KmsCluster; name another one with --namespace",
                self.namespace
            ))),
            _ => Err(Failure::usage(format!(
                "namespace {} has {} KmsClusters ({}); say which with --cluster",
                self.namespace,
                names.len(),
                names.join(", ")
            ))),
        }
    }

    /// The public facts of a fleet.
    ///
    /// # Errors
    /// When it has no record yet, or it cannot be read.
    pub async fn record(&self, cluster: &str) -> Result<FleetRecord, Failure> {
        let name = names::record(cluster);
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let map = maps.get_opt(&name).await.map_err(|error| {
            Failure::other(format!(
                "ConfigMap {}/{name} cannot be read: {}; the Role {} allows it",
                self.namespace,
                explained(&error),
                names::client_role(cluster)
            ))
        })?;
        let Some(map) = map else {
            return Err(Failure::other(format!(
                "there is no ConfigMap {}/{name}: no such fleet, or it has no key yet (`keyfleet status {cluster}`)",
                self.namespace
            )));
        };
        let Some(text) = map.data.unwrap_or_default().remove(record::FILE) else {
            return Err(Failure::other(format!("the fleet {cluster} has no key yet: see `keyfleet status {cluster}`")));
        };
        FleetRecord::parse(&text).map_err(Failure::other)
    }
}

fn no_config(error: &dyn std::error::Error) -> Failure {
    Failure::other(format!("no way to the API server: {error}; name a kubeconfig with --kubeconfig, or set KUBECONFIG"))
}

/// Returns the API server's own message, without the layers around it.
#[must_use]
pub fn explained(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut inner: &dyn std::error::Error = other;
            while let Some(source) = inner.source() {
                inner = source;
            }
            inner.to_string()
        }
    }
}

/// Tokens of a ServiceAccount, requested for each node's audience when it is first asked.
pub struct RequestedTokens {
    accounts: Api<ServiceAccount>,
    name: String,
    namespace: String,
    known: Mutex<BTreeMap<NodeIndex, Token>>,
}

impl RequestedTokens {
    /// Tokens of `account`: a name in the cluster's namespace, or namespace/name.
    #[must_use]
    pub fn new(cluster: &Cluster, account: &str) -> Self {
        let (namespace, name) = account.split_once('/').unwrap_or((&cluster.namespace, account));
        Self {
            accounts: Api::namespaced(cluster.client.clone(), namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            known: Mutex::default(),
        }
    }
}

#[async_trait]
impl Tokens for RequestedTokens {
    async fn token(&self, node: NodeIndex, audience: &str, renew: bool) -> Result<Token, NoToken> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned();
        if let Some(token) = known.filter(|_| !renew) {
            return Ok(token);
        }
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref: None,
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let granted = self.accounts.create_token_request(&self.name, &PostParams::default(), &request).await;
        let granted = granted.map_err(|error| NoToken {
            why: format!("ServiceAccount {}/{}: {}", self.namespace, self.name, explained(&error)),
            lasting: matches!(&error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429),
        })?;
        let granted = granted.status.ok_or_else(|| NoToken {
            why: "the API server answered a TokenRequest without a token".to_owned(),
            lasting: true,
        })?;
        let token = Token::new(granted.token);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(node, token.clone());
        Ok(token)
    }
}

/// Connections to the nodes' pods through the API server.
pub struct Forwarded {
    pods: Api<Pod>,
    cluster: String,
    port: u16,
}

impl Forwarded {
    /// To this port of a fleet's pods.
    #[must_use]
    pub fn new(cluster: &Cluster, name: String, port: u16) -> Self {
        Self { pods: Api::namespaced(cluster.client.clone(), &cluster.namespace), cluster: name, port }
    }
}

#[async_trait]
impl Dial for Forwarded {
    async fn dial(&self, node: NodeIndex) -> io::Result<Box<dyn Duplex>> {
        let pod = names::node(&self.cluster, node.value());
        let forward = self.pods.portforward(&pod, &[self.port]).await;
        let mut forward =
            forward.map_err(|error| io::Error::other(format!("port-forward to pod {pod}: {}", explained(&error))))?;
        let stream = forward.take_stream(self.port);
        let stream = stream.ok_or_else(|| io::Error::other(format!("port-forward to pod {pod} gave no stream")))?;
        Ok(Box::new(stream))
    }
}
