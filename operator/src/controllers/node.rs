//! The controller of `KmsNode`s: the objects of one node, and its Pod while there is a live cluster.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use keyfleet_api::erasure;
use keyfleet_crds::node::Volume;
use keyfleet_crds::{KmsCluster, KmsNode, KmsNodeStatus, labels, names};
use keyfleet_planner::node as planner;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, Signature};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::applier::set_finalizer;
use super::invariants::{invariant_erasure_stays_proven, invariant_node_status_is_stored};
use super::{Context, ObjectKey, ReconcileError, apply};
use crate::objects::{Fleet, access, config, pod, storage};

/// Wait between two reconciles of a node at rest.
const IDLE: Duration = Duration::from_secs(300);

/// Reconciles one node: dereference, validate, apply, status. Decisions are the planner's.
///
/// # Errors
/// The first step that failed; the controller tries again.
pub(super) async fn reconcile(
    guarded: Arc<DeserializeGuard<KmsNode>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let node = guarded.0.as_ref().map_err(|error| ReconcileError::Malformed(error.error.clone()))?;
    let key = ObjectKey::of("KmsNode", node);
    let timer = context.metrics.reconcile("KmsNode");

    let read = dereference(&context.client, node).await?;
    release(&context.client, node).await?;
    let Some(cluster) = read.cluster.as_ref().filter(|cluster| planner::has_pod(node, cluster)) else {
        stop(&context, node, read.pod.as_ref()).await?;
        return Ok(Action::await_change());
    };
    let Ok(fleet) = Fleet::of(cluster, &context.options.node_image, &context.options.subject) else {
        return Ok(Action::await_change());
    };
    let mut wrote = apply_objects(&context.client, &fleet, node, &read).await?;
    let after = status(&context.client, node, read.pod.as_ref(), read.claim.as_ref()).await;
    if node.status.as_ref() != Some(&after) {
        write_status(&context.client, &key.namespace, node, &after).await?;
        wrote = true;
    }
    if wrote {
        context.metrics.wrote("KmsNode");
    }
    context.succeeded(&key);
    timer.done();
    Ok(Action::requeue(IDLE))
}

/// Objects of one node, as read.
struct Read {
    /// The `KmsCluster` that the node names.
    cluster: Option<KmsCluster>,
    pod: Option<Pod>,
    claim: Option<PersistentVolumeClaim>,
}

async fn dereference(client: &Client, node: &KmsNode) -> Result<Read, ReconcileError> {
    let namespace = node.namespace().unwrap_or_default();
    let clusters: Api<KmsCluster> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let cluster = clusters.get_opt(&node.spec.cluster_name).await?;
    let claim = claims.get_opt(&names::volume_claim(&node.spec.cluster_name, node.spec.index)).await?;
    Ok(Read { cluster, pod: pods.get_opt(&node.name_any()).await?, claim })
}

/// Takes the finalizer off a `KmsNode` that the planner releases.
async fn release(client: &Client, node: &KmsNode) -> Result<(), ReconcileError> {
    if !planner::is_released(node) {
        return Ok(());
    }
    let nodes: Api<KmsNode> = Api::namespaced(client.clone(), &node.namespace().unwrap_or_default());
    set_finalizer(&nodes, &node.name_any(), labels::NODE_FINALIZER, false).await
}

/// Ends the pod of a node that must not have one.
async fn stop(context: &Context, node: &KmsNode, pod: Option<&Pod>) -> Result<(), ReconcileError> {
    if let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_ours(pod, node)) {
        let pods: Api<Pod> = Api::namespaced(context.client.clone(), &node.namespace().unwrap_or_default());
        pods.delete(&pod.name_any(), &DeleteParams::default()).await?;
        context.metrics.wrote("KmsNode");
    }
    Ok(())
}

/// Applies the node's objects: the account first, the Pod last. Returns true where something was written.
async fn apply_objects(
    client: &Client,
    fleet: &Fleet<'_>,
    node: &KmsNode,
    read: &Read,
) -> Result<bool, ReconcileError> {
    let index = node.spec.index;
    let mut wrote = apply::apply(client, &access::service_account(fleet, node)).await?;
    wrote |= apply::apply(client, &access::node_role(fleet, index)).await?;
    wrote |= apply::apply(client, &access::node_role_binding(fleet, index)).await?;
    wrote |= apply::apply(client, &config::config_map(fleet, node)).await?;
    match &read.claim {
        None => {
            apply::create(client, &storage::claim(fleet, index)).await?;
            // A seal that is there answers 409 and shows nothing: the operator cannot read it.
            apply::create(client, &storage::seal(fleet, index)).await?;
            wrote = true;
        }
        Some(claim) => wrote |= grow(client, fleet, claim).await?,
    }
    match &read.pod {
        // The seal may have been lost while the volume stayed.
        None => {
            apply::create(client, &storage::seal(fleet, index)).await?;
            wrote |= apply::create(client, &pod::pod(fleet, node)).await?;
        }
        Some(pod) if is_over(pod) && pod.metadata.deletion_timestamp.is_none() => {
            // Never by force: a second pod of an index must not come to be while the first may run.
            let pods: Api<Pod> = Api::namespaced(client.clone(), fleet.namespace);
            pods.delete(&pod.name_any(), &DeleteParams::default()).await?;
            wrote = true;
        }
        Some(_) => {}
    }
    Ok(wrote)
}

/// A Pod of this name that another owner controls is left alone.
fn is_ours(pod: &Pod, node: &KmsNode) -> bool {
    pod.owner_references().iter().any(|owner| Some(&owner.uid) == node.metadata.uid.as_ref())
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Volumes grow with the spec; they never shrink, which the kind's own rule says.
async fn grow(client: &Client, fleet: &Fleet<'_>, claim: &PersistentVolumeClaim) -> Result<bool, ReconcileError> {
    let wanted = &fleet.cluster.spec.storage.size;
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    if requests.and_then(|requests| requests.get("storage")).is_some_and(|size| size.0 == *wanted) {
        return Ok(false);
    }
    let patch = json!({ "spec": { "resources": { "requests": { "storage": wanted } } } });
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), fleet.namespace);
    claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(true)
}

/// The status with where the node runs and stores, looked up, and everything else as the planner says.
async fn status(
    client: &Client,
    node: &KmsNode,
    pod: Option<&Pod>,
    claim: Option<&PersistentVolumeClaim>,
) -> KmsNodeStatus {
    let mut after = node.status.clone().unwrap_or_default();
    if let Some(worker) = pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()) {
        if after.worker.as_ref() != Some(&worker) {
            // An operator for one namespace may not read workers: then the zone is not known.
            let found = Api::<Node>::all(client.clone()).get_opt(&worker).await.ok().flatten();
            after.zone = found.and_then(|node| node.labels().get("topology.kubernetes.io/zone").cloned());
        }
        after.worker = Some(worker);
    }
    after.image = pod.and_then(|pod| pod.spec.as_ref()?.containers.first()?.image.clone()).or(after.image);
    if let Some(claim) = claim {
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
        let known = after.volume.as_ref().filter(|volume| volume.name == name).and_then(|volume| volume.handle.clone());
        let handle = match (&name, known) {
            (_, Some(handle)) => Some(handle),
            (Some(name), None) => {
                let volume = Api::<PersistentVolume>::all(client.clone()).get_opt(name).await.ok().flatten();
                volume.and_then(|volume| Some(volume.spec?.csi?.volume_handle))
            }
            (None, None) => None,
        };
        after.volume = Some(Volume { claim: claim.name_any(), name, handle });
    }
    let seen = planner::Observed { node, pod, has_signed: has_erased(node) };
    planner::status(&seen, after, jiff::Timestamp::now())
}

/// Returns true where the node has signed, under its pin, that everything secret it had is destroyed.
fn has_erased(node: &KmsNode) -> bool {
    let said = node.status.as_ref().and_then(|status| status.node.as_ref()?.erased);
    let (Some(said), Some(pin), Some(index)) = (said, node.spec.identity_key, NodeIndex::new(node.spec.index)) else {
        return false;
    };
    erasure::is_signed(ClusterId(node.spec.cluster_id.0), index, &IdentityPublicKey(pin.0), &Signature(said.0))
}

/// A merge patch of the operator's part: `status.node` is the node's own, and is not in it.
async fn write_status(
    client: &Client,
    namespace: &str,
    node: &KmsNode,
    after: &KmsNodeStatus,
) -> Result<(), ReconcileError> {
    invariant_erasure_stays_proven(node.status.as_ref(), after);
    let nodes: Api<KmsNode> = Api::namespaced(client.clone(), namespace);
    let mut status = serde_json::to_value(after).map_err(kube::Error::SerdeError)?;
    if let Some(fields) = status.as_object_mut() {
        fields.remove("node");
    }
    let patch = json!({ "metadata": { "resourceVersion": node.resource_version() }, "status": status });
    let parameters = PatchParams { field_manager: Some(labels::FIELD_MANAGER.into()), ..PatchParams::default() };
    let stored = nodes.patch_status(&node.name_any(), &parameters, &Patch::Merge(&patch)).await?;
    invariant_node_status_is_stored(node, after, &stored);
    Ok(())
}
