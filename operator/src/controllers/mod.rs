//! The controllers: the thin shell around [`keyfleet_planner`] and [`crate::objects`].
//!
//! | Controller | Watches | Does |
//! |---|---|---|
//! | `cluster` | `KmsCluster`; its `KmsNode`s, `KeyEpoch`s, record, Services | carries out the planner's actions; Services, budget, policy, status |
//! | `node` | `KmsNode`; its Pod and ConfigMap | volume claim, seal, account, Role, Pod, status |
//! | `epoch` | `KeyEpoch` | takes the finalizer off in a namespace that is being deleted |
//!
//! Rounds are decided with their cluster, not by a controller of their own: one round at a time is a decision of the
//! cluster, and each `KeyEpoch` that changes wakes it. Each reconcile has five steps: dereference (client), validate
//! (pure), build (pure), apply (client), status.

mod applier;
mod apply;
mod cluster;
mod epoch;
mod invariants;
mod node;
mod observe;
mod scope;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use keyfleet_crds::values::ClusterId;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsNode, labels, names};
use keyfleet_planner::blocks::Tracker;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::node_streams::Nodes;

pub use scope::Scope;

type ClusterRef = ObjectRef<DeserializeGuard<KmsCluster>>;

/// Reconciles of one controller that run at once.
const CONCURRENCY: u16 = 8;
/// The longest wait after failures.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// Why a reconcile ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// The API server refused or did not answer.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// The disruption budget refused an eviction. It is asked again later; nothing failed.
    #[error("the disruption budget: {0}")]
    EvictionRefused(String),
    /// The object is not what its schema says; it waits for a change.
    #[error("the object cannot be read: {0}; correct it")]
    Malformed(String),
}

impl ReconcileError {
    /// Returns true for a write that lost its race: read and decide again, at once.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 409)
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Api(_) if self.is_conflict() => "conflict",
            Self::Api(_) => "api",
            Self::EvictionRefused(_) => "eviction-refused",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// Where the operator works and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The operator's own namespace.
    pub namespace: String,
    /// The namespaces whose fleets it keeps.
    pub scope: Scope,
    /// The node image that it brings.
    pub node_image: String,
    /// The subject of its own tokens, which nodes expect at `Round`.
    pub subject: String,
    /// Where Secrets with chain URLs are mounted, a folder each.
    pub chains_folder: std::path::PathBuf,
}

/// Everything that reconciles share.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) nodes: Arc<dyn Nodes>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Recorder,
    failures: Mutex<HashMap<ObjectKey, u32>>,
    caches: Mutex<HashMap<ObjectKey, ClusterCache>>,
}

/// Kind, namespace and name of an object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ObjectKey {
    kind: Cow<'static, str>,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl ObjectKey {
    pub(crate) fn of(kind: impl Into<Cow<'static, str>>, object: &impl ResourceExt) -> Self {
        Self { kind: kind.into(), namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

/// Facts of a cluster that this process keeps between reconciles. All of them can be gathered again.
#[derive(Clone, Default)]
pub(crate) struct ClusterCache {
    pub(crate) tracker: Option<Tracker>,
    pub(crate) starved_since: Option<u64>,
    pub(crate) id: Option<ClusterId>,
    /// When the disruption budget last refused an eviction, and why.
    pub(crate) eviction_refused: Option<(jiff::Timestamp, String)>,
}

impl Context {
    /// A context for [`run`].
    #[must_use]
    pub fn new(client: Client, options: Options, nodes: Arc<dyn Nodes>, metrics: Arc<Metrics>) -> Arc<Self> {
        let reporter = Reporter { controller: labels::FIELD_MANAGER.into(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        let (failures, caches) = (Mutex::default(), Mutex::default());
        Arc::new(Self { client, options, nodes, metrics, recorder, failures, caches })
    }

    /// Objects of a namespace that is watched by itself, or of all.
    fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// The cluster that an id was last seen on.
    fn cluster_of(&self, id: ClusterId) -> Option<ClusterRef> {
        let caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, _) = caches.iter().find(|(_, cache)| cache.id == Some(id))?;
        Some(ObjectRef::new(&key.name).within(&key.namespace))
    }

    pub(crate) fn remembered(&self, key: &ObjectKey) -> ClusterCache {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    pub(crate) fn remember(&self, key: ObjectKey, cache: ClusterCache) {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).insert(key, cache);
    }

    /// Notes that the disruption budget refused an eviction just now.
    pub(crate) fn eviction_refused(&self, key: &ObjectKey, why: String) {
        if let Some(cache) = self.caches.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key) {
            cache.eviction_refused = Some((jiff::Timestamp::now(), why));
        }
    }

    /// Drops everything that this process holds of a cluster: nobody reconciles an object that is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        let cache = self.caches.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        cache.and_then(|cache| cache.id).into_iter().for_each(|id| self.nodes.forget(id));
    }

    fn succeeded(&self, key: &ObjectKey) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Returns the wait after one more failure of this object: a second, doubled each time, at most [`BACK_OFF_MAX`].
    fn failed(&self, key: ObjectKey) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_default();
        *count = count.saturating_add(1);
        Duration::from_secs(2_u64.saturating_pow(count.saturating_sub(1).min(20))).min(BACK_OFF_MAX)
    }
}

/// Runs the controllers until the process is told to stop.
pub async fn run(context: Arc<Context>) {
    let mut notifiers = HashMap::new();
    let controllers = context.options.scope.watched().into_iter().map(|namespace| {
        let (notifier, notifications) = mpsc::unbounded_channel();
        notifiers.insert(namespace.clone(), notifier);
        watch(context.clone(), namespace, notifications)
    });
    let controllers = join_all(controllers.collect::<Vec<_>>());
    // The stream has one reader, which notifies the controller in whose namespace the cluster is.
    let notify = context.nodes.notifications().for_each(|id| {
        let cluster = context.cluster_of(id);
        let notifier = cluster.as_ref().and_then(|of| notifiers.get(&of.namespace).or_else(|| notifiers.get(&None)));
        if let (Some(cluster), Some(notifier)) = (cluster, notifier) {
            // A controller that has ended needs no notification.
            let _ = notifier.send(cluster);
        }
        std::future::ready(())
    });
    tokio::select! {
        _ = controllers => {}
        () = async { notify.await; std::future::pending().await } => {}
    }
}

/// The controllers of one namespace, or of all.
async fn watch(context: Arc<Context>, namespace: Option<String>, notifications: mpsc::UnboundedReceiver<ClusterRef>) {
    let namespace = namespace.as_deref();
    let all = watcher::Config::default().any_semantic();
    let ours = all.clone().labels(labels::CLUSTER);
    let config = Config::default().concurrency(CONCURRENCY);
    let clusters = Controller::new(context.api::<DeserializeGuard<KmsCluster>>(namespace), all.clone())
        .with_config(config.clone())
        .watches(context.api::<DeserializeGuard<KmsNode>>(namespace), all.clone(), |node| by_label(&node))
        .watches(context.api::<DeserializeGuard<KeyEpoch>>(namespace), all.clone(), |epoch| by_label(&epoch))
        .watches(context.api::<ConfigMap>(namespace), ours.clone(), |map| by_label(&map))
        .watches(context.api::<Pod>(namespace), ours.clone(), |pod| by_label(&pod))
        .reconcile_on(stream::unfold(notifications, async |mut from| Some((from.recv().await?, from))))
        .shutdown_on_signal()
        .run(cluster::reconcile, on_error, context.clone())
        .for_each(async |result| log("KmsCluster", result));
    let nodes = Controller::new(context.api::<DeserializeGuard<KmsNode>>(namespace), all.clone())
        .with_config(config.clone())
        .watches(context.api::<DeserializeGuard<KmsCluster>>(namespace), all.clone(), |cluster| nodes_of(&cluster))
        .owns(context.api::<Pod>(namespace), ours.clone())
        .owns(context.api::<ConfigMap>(namespace), ours.clone())
        .shutdown_on_signal()
        .run(node::reconcile, on_error, context.clone())
        .for_each(async |result| log("KmsNode", result));
    let epochs = Controller::new(context.api::<DeserializeGuard<KeyEpoch>>(namespace), all.clone())
        .with_config(config.clone())
        .shutdown_on_signal()
        .run(epoch::reconcile, on_error, context.clone())
        .for_each(async |result| log("KeyEpoch", result));
    tokio::join!(clusters, nodes, epochs);
}

/// A cluster's nodes, which it may keep from having pods.
fn nodes_of(cluster: &DeserializeGuard<KmsCluster>) -> Vec<ObjectRef<DeserializeGuard<KmsNode>>> {
    let Ok(cluster) = &cluster.0 else { return Vec::new() };
    let status = cluster.status.as_ref();
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let indexes = status.into_iter().flat_map(|status| &status.node_summary).map(|summary| summary.index);
    indexes.map(|index| ObjectRef::new(&names::node(&name, index)).within(&namespace)).collect()
}

fn by_label<K>(object: &impl ResourceExt) -> Option<ObjectRef<DeserializeGuard<K>>>
where
    K: kube::Resource<DynamicType = ()>,
    DeserializeGuard<K>: kube::Resource<DynamicType = ()>,
{
    let name = object.labels().get(labels::CLUSTER)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

#[expect(clippy::needless_pass_by_value, reason = "the controller hands them over by value")]
fn on_error<K>(object: Arc<DeserializeGuard<K>>, error: &ReconcileError, context: Arc<Context>) -> Action
where
    K: kube::Resource<DynamicType = ()>,
    DeserializeGuard<K>: ResourceExt,
{
    context.metrics.failed(&K::kind(&()), error.label());
    if matches!(error, ReconcileError::Malformed(_)) {
        return Action::await_change();
    }
    let key = ObjectKey::of(K::kind(&()), object.as_ref());
    Action::requeue(if error.is_conflict() { Duration::from_millis(200) } else { context.failed(key) })
}

fn log<O, A>(kind: &str, result: Result<(O, A), controller::Error<ReconcileError, watcher::Error>>) {
    match result {
        Ok(_) => {}
        // Another writer was faster: that is how concurrent writers are meant to meet.
        Err(controller::Error::ReconcilerFailed(error, object)) if error.is_conflict() => {
            tracing::debug!(kind, %object, "a write lost its race; it is read and decided again");
        }
        Err(error) => tracing::warn!(kind, %error, "a reconcile failed; it is tried again"),
    }
}
