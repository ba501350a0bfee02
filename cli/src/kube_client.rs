//! Connection to the API server, as kubectl makes it, and what is read there of a fleet.

use std::error::Error;

use k8s_openapi::api::core::v1::ConfigMap;
use keyfleet_api::wire::{FleetRecord, record};
use keyfleet_crds::{KeyEpoch, KmsCluster, names};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::args::{FleetArgs, KubeArgs};
use crate::exit::CommandError;

/// Client of the API server, and the namespace to work in.
#[derive(Clone)]
pub(crate) struct KubeClient {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl KubeClient {
    /// Reads the kubeconfig that kubectl would read.
    ///
    /// # Errors
    /// When there is no kubeconfig, or it is wrong.
    pub(crate) async fn connect(kube: &KubeArgs) -> Result<Self, CommandError> {
        let options = KubeConfigOptions { context: kube.context.clone(), ..KubeConfigOptions::default() };
        let config = match &kube.kubeconfig {
            Some(path) => {
                let given = Kubeconfig::read_from(path).map_err(|error| no_config(&error))?;
                Config::from_custom_kubeconfig(given, &options).await.map_err(|error| no_context(kube, &error))?
            }
            None if kube.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| no_context(kube, &error))?
            }
            None => Config::infer().await.map_err(|error| no_config(&error))?,
        };
        let namespace = kube.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| no_config(&error))?;
        Ok(Self { client, namespace })
    }

    /// Returns the name of the fleet: the one given, or the only one of the namespace.
    ///
    /// # Errors
    /// When the namespace has no fleet or several, or they cannot be listed.
    pub(crate) async fn fleet_name(&self, fleet: &FleetArgs) -> Result<String, CommandError> {
        if let Some(name) = &fleet.cluster {
            return Ok(name.clone());
        }
        let clusters = self.api::<KmsCluster>().list(&ListParams::default()).await.map_err(|error| {
            let what = format!("listing KmsClusters in namespace {}", self.namespace);
            api_error(&what, &error, "name the fleet with --cluster: then nothing is listed")
        })?;
        let names: Vec<_> = clusters.iter().map(ResourceExt::name_any).collect();
        match names.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(CommandError::other(format!(
                "namespace {} has no KmsCluster; name another one with --namespace",
                self.namespace
            ))),
            _ => Err(CommandError::usage(format!(
                "namespace {} has {} KmsClusters ({}); choose one with --cluster",
                self.namespace,
                names.len(),
                names.join(", ")
            ))),
        }
    }

    /// Reads the public facts of a fleet.
    ///
    /// # Errors
    /// When the fleet has no record yet, or its record cannot be read.
    pub(crate) async fn record(&self, cluster: &str) -> Result<FleetRecord, CommandError> {
        let name = names::record(cluster);
        let map = self.api::<ConfigMap>().get_opt(&name).await.map_err(|error| {
            let advice = format!("the Role {} allows it; bind it to your user", names::client_role(cluster));
            api_error(&format!("reading ConfigMap {}/{name}", self.namespace), &error, &advice)
        })?;
        let Some(map) = map else {
            return Err(CommandError::other(format!(
                "there is no ConfigMap {}/{name}: the fleet does not exist or has no key yet; see `keyfleet status {cluster}`",
                self.namespace
            )));
        };
        let Some(text) = map.data.unwrap_or_default().remove(record::FILE) else {
            return Err(CommandError::other(format!(
                "the fleet {}/{cluster} has no key yet; see `keyfleet status {cluster}`",
                self.namespace
            )));
        };
        FleetRecord::parse(&text)
            .map_err(|error| CommandError::other(format!("ConfigMap {}/{name}: {error}", self.namespace)))
    }

    /// Reads the `KeyEpoch` of a number; otherwise the fleet's active one.
    ///
    /// # Errors
    /// When the fleet or the epoch does not exist, or cannot be read.
    pub(crate) async fn key_epoch(&self, cluster: &str, number: Option<u64>) -> Result<KeyEpoch, CommandError> {
        let number = match number {
            Some(number) => number,
            None => self.active_epoch(cluster).await?,
        };
        let name = names::epoch(cluster, number);
        self.api::<KeyEpoch>().get(&name).await.map_err(|error| {
            let what = format!("reading KeyEpoch {}/{name}", self.namespace);
            api_error(&what, &error, "your user needs `get` on keyepochs")
        })
    }

    async fn active_epoch(&self, cluster: &str) -> Result<u64, CommandError> {
        let found = self.api::<KmsCluster>().get(cluster).await.map_err(|error| {
            let what = format!("reading KmsCluster {}/{cluster}", self.namespace);
            api_error(&what, &error, "your user needs `get` on kmsclusters")
        })?;
        found.status.and_then(|status| status.active_epoch).ok_or_else(|| {
            CommandError::other(format!(
                "the fleet {}/{cluster} has no active epoch yet; see `keyfleet status {cluster}`",
                self.namespace
            ))
        })
    }

    /// Lists the objects of a kind, in the namespace or in all.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn list<K>(&self, all_namespaces: bool) -> Result<Vec<K>, CommandError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api = if all_namespaces { Api::<K>::all(self.client.clone()) } else { self.api() };
        let listed = api.list(&ListParams::default()).await.map_err(|error| {
            let kinds = K::plural(&());
            api_error(&format!("listing {kinds}"), &error, &format!("your user needs `list` on {kinds}"))
        })?;
        Ok(listed.items)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

fn no_config(error: &dyn Error) -> CommandError {
    CommandError::other(format!(
        "no configuration for the API server: {error}; name a kubeconfig with --kubeconfig, or set KUBECONFIG"
    ))
}

fn no_context(kube: &KubeArgs, error: &KubeconfigError) -> CommandError {
    let Some(context) = &kube.context else { return no_config(error) };
    CommandError::other(format!("context {context}: {error}; `kubectl config get-contexts` lists the contexts"))
}

/// Says what failed at the API server, and the next step that fits: `advice` is for a missing permission.
fn api_error(what: &str, error: &kube::Error, advice: &str) -> CommandError {
    let text = innermost(error);
    let next = match error {
        kube::Error::Api(status) if status.code == 401 => "log in again, or choose another context with --context",
        kube::Error::Api(status) if status.code == 403 => advice,
        kube::Error::Api(_) => return CommandError::other(format!("{what}: {text}")),
        _ => "check that `kubectl version` reaches the API server",
    };
    CommandError::other(format!("{what}: {text}; {next}"))
}

/// Returns the API server's own message, without the layers around it.
pub(crate) fn innermost(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut inner: &dyn Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
