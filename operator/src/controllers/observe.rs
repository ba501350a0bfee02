//! From objects as they were read to the [`State`] that decisions rest on. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use keyfleet_crds::record::Record;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsNode, convert, labels, names};
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, Signature};
use kube::ResourceExt;

use super::{ClusterCache, Options};
use crate::blocks::BlockError;
use crate::objects::{Fleet, config};
use keyfleet_planner::State;
use keyfleet_planner::state::{Cluster, Epoch, Lag, Node, Problem, Recorded, Retention};
use keyfleet_planner::view::StreamView;

/// Objects of one cluster, as read.
pub(super) struct Read {
    pub(super) cluster: KmsCluster,
    pub(super) nodes: Vec<KmsNode>,
    pub(super) epochs: Vec<KeyEpoch>,
    pub(super) pods: Vec<Pod>,
    pub(super) claims: Vec<PersistentVolumeClaim>,
    pub(super) record: Option<ConfigMap>,
    /// The job that deletes what replicas no longer need.
    pub(super) retention: Option<CronJob>,
    /// True while the namespace is being deleted. Looked up only for clusters that are being deleted.
    pub(super) namespace_ends: bool,
}

/// The state, but for what nodes said.
pub(super) fn observe(
    read: &Read,
    view: StreamView,
    block: Result<u64, BlockError>,
    last_block: u64,
    cache: &ClusterCache,
    options: &Options,
    now: jiff::Timestamp,
) -> State {
    let name = read.cluster.name_any();
    let status = read.cluster.status.clone().unwrap_or_default();
    let cluster = Cluster {
        generation: read.cluster.metadata.generation.unwrap_or(0),
        resource_version: read.cluster.resource_version().unwrap_or_default(),
        deleting: read.cluster.metadata.deletion_timestamp.is_some(),
        finalizer: has_finalizer(&read.cluster, labels::CLUSTER_FINALIZER),
        reshare_request: read.cluster.annotations().get(labels::RESHARE_REQUEST).cloned(),
        spec: read.cluster.spec.clone(),
        status,
        name: name.clone(),
    };
    let fleet = Fleet::of(&read.cluster, &options.node_image, &options.subject).ok();
    let nodes = read.nodes.iter().filter(|node| node.spec.cluster_name == name).map(|node| {
        let pod = read.pods.iter().find(|pod| pod.name_any() == node.name_any());
        let wanted = fleet.as_ref().map(|fleet| config::digest(fleet, node.spec.index));
        let outdated = pod.is_some_and(|pod| {
            pod.metadata.deletion_timestamp.is_none() && pod.annotations().get(labels::CONFIG_DIGEST) != wanted.as_ref()
        });
        (node.spec.index, Node { outdated: outdated && wanted.is_some(), ..self::node(node, pod) })
    });
    let epochs = read.epochs.iter().filter(|epoch| epoch.name_any() == names::epoch(&name, epoch.spec.number));
    State {
        nodes: nodes.collect(),
        epochs: epochs.map(|epoch| (epoch.spec.number, self::epoch(epoch))).collect(),
        record: recorded(read.record.as_ref()),
        volumes: read.claims.iter().map(|claim| (claim.name_any(), cluster_id_of(claim))).collect::<BTreeMap<_, _>>(),
        namespace_ends: read.namespace_ends,
        finalizers: !options.scope.is_only(&options.namespace),
        pods_left: read.pods.iter().any(keeps_state),
        deleted_at: read.cluster.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        cluster,
        view,
        block,
        last_block,
        starved_since: cache.starved_since,
        eviction_refused: cache.eviction_refused.clone(),
        retention: Retention::of(read.retention.as_ref()),
        now,
    }
}

fn cluster_id_of(claim: &PersistentVolumeClaim) -> String {
    claim.labels().get(labels::CLUSTER_ID).cloned().unwrap_or_default()
}

/// The retention job's pods have nothing to flush.
fn keeps_state(pod: &Pod) -> bool {
    pod.labels().get(labels::COMPONENT).is_none_or(|component| component != labels::component::RETENTION)
}

fn node(node: &KmsNode, pod: Option<&Pod>) -> Node {
    let report = node.status.as_ref().and_then(|status| status.node.as_ref());
    let offered = report.and_then(|report| report.offer.as_ref()).map(|offer| (offer.key, Signature(offer.proof.0)));
    let offered = offered.filter(|(key, proof)| {
        let (cluster, index) = (ClusterId(node.spec.cluster_id.0), NodeIndex::new(node.spec.index));
        index.is_some_and(|index| IdentityPublicKey(key.0).is_offered(cluster, index, proof))
    });
    let pin = node.spec.identity_key.map(|key| IdentityPublicKey(key.0));
    let prekey = report.and_then(|report| convert::signed_prekey(report.prekey.as_ref()?).ok()).filter(|prekey| {
        let (cluster, index) = (ClusterId(node.spec.cluster_id.0), NodeIndex::new(node.spec.index));
        index.zip(pin).is_some_and(|(index, pin)| prekey.is_of(cluster, index, &pin))
    });
    let status = node.status.as_ref();
    let pod_status = pod.and_then(|pod| pod.status.as_ref());
    let conditions = pod_status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    Node {
        resource_version: node.resource_version().unwrap_or_default(),
        deleting: node.metadata.deletion_timestamp.is_some(),
        spec: node.spec.clone(),
        offered: offered.map(|(key, _)| key),
        prekey,
        // A pod that is being stopped may still say that it is ready.
        ready: pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
            && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        outdated: false,
        problems: report.map(|report| report.problems.iter().map(Problem::read).collect()).unwrap_or_default(),
        worker: pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()),
        zone: status.and_then(|status| status.zone.clone()),
        volume_handle: status.and_then(|status| status.volume.as_ref()?.handle.clone()),
        position: report.and_then(|report| report.replication.as_ref()).map(|at| keyfleet_crds::record::Position {
            term: at.term,
            sequence: at.sequence,
            hash: at.hash,
        }),
        lag: report
            .and_then(|report| report.replication.as_ref())
            .map_or_else(Lag::default, |at| Lag { commits: at.lag_commits, seconds: at.lag_seconds }),
        erased_through: status.and_then(|status| status.erased_through),
        last_epoch: status.and_then(|status| status.last_epoch),
        erased: status.and_then(|status| status.erasure) == Some(keyfleet_crds::cluster::status::Erasure::Proven),
        plan_versions: report.map(|report| report.plan_versions.clone()).unwrap_or_default(),
    }
}

fn epoch(epoch: &KeyEpoch) -> Epoch {
    Epoch {
        resource_version: epoch.resource_version().unwrap_or_default(),
        finalizer: has_finalizer(epoch, labels::EPOCH_FINALIZER),
        spec: epoch.spec.clone(),
        status: epoch.status.clone(),
    }
}

fn recorded(map: Option<&ConfigMap>) -> Recorded {
    let Some(map) = map else { return Recorded::Absent };
    match Record::from_data(map.data.as_ref().unwrap_or(&BTreeMap::new())) {
        Ok(record) => {
            Recorded::Present { resource_version: map.resource_version().unwrap_or_default(), record: Box::new(record) }
        }
        Err(error) => Recorded::Unreadable(error.to_string()),
    }
}

fn has_finalizer(object: &impl ResourceExt, finalizer: &str) -> bool {
    object.finalizers().iter().any(|one| one == finalizer)
}
