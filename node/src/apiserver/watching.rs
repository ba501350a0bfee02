//! Watches what the node reads at the API server. A watch that breaks is begun again, with everything there is.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::StreamExt as _;
use keyfleet_api::wire;
use keyfleet_crds::cluster::DeletionPolicy;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsNode, KmsNodeStatus};
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::identity::IdentityPublicKey;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::ApiServer;
use super::last_known::LastKnown;
use crate::runtime::Addresses;

/// The `KeyEpoch`s of the cluster by number.
#[derive(Clone, Default)]
pub(crate) struct Listed {
    /// Grows with every list that was read anew; zero before the first.
    pub(crate) lists: u64,
    /// The objects.
    pub(crate) epochs: BTreeMap<u64, KeyEpoch>,
    /// The user's wishes.
    pub(crate) wishes: Wishes,
}

/// The user's words about rounds and epochs in the `KmsCluster`; `None` before it was read.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// `spec.allowDowntime`.
    pub(crate) allow_downtime: Option<bool>,
    /// `spec.epochs.confirmAfterSeconds`.
    pub(crate) confirm_after_seconds: Option<u32>,
    /// `spec.epochs.retention`.
    pub(crate) retention: Option<usize>,
}

/// The two facts that together end a node for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Doom {
    /// The `KmsCluster` is being deleted with `deletionPolicy: Destroy`.
    pub(crate) cluster_is_destroyed: bool,
    /// This node is being removed.
    pub(crate) node_is_removed: bool,
}

impl Doom {
    /// Tells whether both are true.
    #[must_use]
    pub(crate) fn is_sealed(self) -> bool {
        self.cluster_is_destroyed && self.node_is_removed
    }
}

/// Where a peer is, by its index.
pub(crate) type AddressOf = Arc<dyn Fn(NodeIndex) -> String + Send + Sync>;

/// The address that a peer has in the cluster's DNS.
#[must_use]
pub(crate) fn address_in_dns(cluster: &str, namespace: &str) -> AddressOf {
    let (cluster, namespace) = (cluster.to_owned(), namespace.to_owned());
    Arc::new(move |index| format!("{}:{}", wire::node_host(&cluster, index.value(), &namespace), wire::ROUND_PORT))
}

/// Follows everything, for as long as the process lives.
pub(crate) async fn watch_all(
    server: ApiServer,
    last_known: LastKnown,
    address_of: AddressOf,
    epochs: watch::Sender<Arc<Listed>>,
    own: watch::Sender<Option<Arc<KmsNodeStatus>>>,
    doom: watch::Sender<Doom>,
) {
    let one = watcher::Config::default().fields(&format!("metadata.name={}", server.cluster));
    let cluster = follow(server.clusters_guarded(), one, |all: &Objects<KmsCluster>, _| {
        if let Some(access) = this_cluster(&server, all).map(|cluster| cluster.spec.access.clone()) {
            last_known.set_access(access);
        }
        if let Some(spec) = this_cluster(&server, all).map(|cluster| &cluster.spec) {
            let wishes = Wishes {
                allow_downtime: Some(spec.allow_downtime),
                confirm_after_seconds: Some(spec.epochs.confirm_after_seconds),
                retention: Some(spec.epochs.retention as usize),
            };
            epochs.send_if_modified(|listed| {
                let changed = listed.wishes != wishes;
                if changed {
                    Arc::make_mut(listed).wishes = wishes;
                }
                changed
            });
        }
        let destroyed = is_destroyed(&server, all);
        doom.send_if_modified(|doom| std::mem::replace(&mut doom.cluster_is_destroyed, destroyed) != destroyed);
    });
    let nodes = follow(server.nodes_guarded(), watcher::Config::default(), |all: &Objects<KmsNode>, _| {
        let ours = || all.values().filter(|node| server.is_of_this_cluster(node));
        let (pins, addresses) = peers(ours(), &address_of);
        // An API server that was restored without its objects takes no peer away.
        if !pins.is_empty() {
            last_known.set_peers(pins, &addresses);
        }
        let mine = ours().find(|node| node.spec.index == server.index);
        let removed = mine.is_some_and(|node| node.spec.removed);
        doom.send_if_modified(|doom| std::mem::replace(&mut doom.node_is_removed, removed) != removed);
        let mine = mine.map(|node| Arc::new(node.status.clone().unwrap_or_default()));
        own.send_if_modified(|before| {
            let changed = *before != mine;
            *before = mine;
            changed
        });
    });
    let rounds = follow(server.epochs_guarded(), watcher::Config::default(), |all: &Objects<KeyEpoch>, lists| {
        let ours = all.values().filter(|epoch| server.is_epoch_of_this_cluster(epoch));
        let ours = ours.map(|epoch| (epoch.spec.number, epoch.clone())).collect();
        epochs.send_modify(|listed| {
            let listed = Arc::make_mut(listed);
            (listed.lists, listed.epochs) = (lists, ours);
        });
    });
    tokio::join!(cluster, nodes, rounds);
}

impl ApiServer {
    fn clusters_guarded(&self) -> Api<DeserializeGuard<KmsCluster>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn nodes_guarded(&self) -> Api<DeserializeGuard<KmsNode>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn epochs_guarded(&self) -> Api<DeserializeGuard<KeyEpoch>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// Objects by name.
type Objects<K> = BTreeMap<String, K>;

/// Keeps all objects of an API, and calls `changed` with them and the number of lists that were read, once each list is
/// complete and on every change after it.
async fn follow<K>(api: Api<DeserializeGuard<K>>, config: watcher::Config, mut changed: impl FnMut(&Objects<K>, u64))
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let kind = K::kind(&());
    let mut stream = watcher(api, config).default_backoff().boxed();
    let (mut all, mut coming, mut lists) = (Objects::new(), Objects::new(), 0);
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => coming = Objects::new(),
            Ok(Event::InitApply(object)) => {
                put(&mut coming, object);
            }
            Ok(Event::InitDone) => {
                all = std::mem::take(&mut coming);
                lists += 1;
                changed(&all, lists);
            }
            Ok(Event::Apply(object)) => {
                if put(&mut all, object) {
                    changed(&all, lists);
                }
            }
            Ok(Event::Delete(object)) => {
                all.remove(&object.name_any());
                changed(&all, lists);
            }
            Err(error) => tracing::warn!(%kind, %error, "the watch broke; what is known stays"),
        }
    }
}

/// An object that is not what this release understands is left out, and leaves what was known of it.
fn put<K: Resource<DynamicType = ()>>(all: &mut Objects<K>, object: DeserializeGuard<K>) -> bool {
    match object.0 {
        Ok(object) => {
            all.insert(object.name_any(), object);
            true
        }
        Err(error) => {
            let name = error.metadata.name.unwrap_or_default();
            tracing::warn!(kind = %K::kind(&()), name, error = error.error, "an object is not understood by this release");
            false
        }
    }
}

/// This cluster, and no other that took its name.
fn this_cluster<'a>(server: &ApiServer, all: &'a Objects<KmsCluster>) -> Option<&'a KmsCluster> {
    let cluster = all.get(&server.cluster)?;
    let id = cluster.status.as_ref().and_then(|status| status.cluster_id);
    (id == Some(server.id)).then_some(cluster)
}

/// Tells whether the cluster is being deleted with everything.
fn is_destroyed(server: &ApiServer, all: &Objects<KmsCluster>) -> bool {
    this_cluster(server, all).is_some_and(|cluster| {
        cluster.metadata.deletion_timestamp.is_some() && cluster.spec.deletion_policy == DeletionPolicy::Destroy
    })
}

fn peers<'a>(
    nodes: impl Iterator<Item = &'a KmsNode>,
    address_of: &AddressOf,
) -> (BTreeMap<NodeIndex, IdentityPublicKey>, Addresses) {
    let pinned = nodes.filter_map(|node| {
        let pin = IdentityPublicKey(node.spec.identity_key?.0);
        Some((NodeIndex::new(node.spec.index)?, pin))
    });
    let pins: BTreeMap<_, _> = pinned.collect();
    let addresses = pins.keys().map(|index| (*index, address_of(*index))).collect();
    (pins, addresses)
}
