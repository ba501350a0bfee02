//! One `KmsNode`: its pod, its finalizer and its status.
//!
//! The controller of nodes reads the objects, decides by this, and carries it out.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keyfleet_crds::cluster::DeletionPolicy;
use keyfleet_crds::cluster::status::Erasure;
use keyfleet_crds::conditions::{self, NodeCondition, Reason};
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_crds::{KmsCluster, KmsNode, KmsNodeStatus};

use crate::erasure::is_proven_of;
use crate::state::Problem;

/// A node as its objects show it.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The node's object.
    pub node: &'a KmsNode,
    /// The node's pod.
    pub pod: Option<&'a Pod>,
    /// True where the node has signed, under its pin, that its volume and its seal are erased.
    pub has_signed: bool,
}

/// Condition with its truth, reason and message.
type Finding = (NodeCondition, Option<bool>, Reason, String);

/// Returns true where the cluster gives the node a pod: not while the node is being deleted, and not once it has erased itself.
#[must_use]
pub fn has_pod(node: &KmsNode, cluster: &KmsCluster) -> bool {
    let erasure = node.status.as_ref().and_then(|status| status.erasure);
    is_live(cluster, node) && node.metadata.deletion_timestamp.is_none() && erasure != Some(Erasure::Proven)
}

/// Returns true for the node's own cluster that is not being deleted, or that destroys everything: the node's own pod destroys it.
fn is_live(cluster: &KmsCluster, node: &KmsNode) -> bool {
    let id = cluster.status.as_ref().and_then(|status| status.cluster_id);
    let destroyed = cluster.spec.deletion_policy == DeletionPolicy::Destroy;
    (cluster.metadata.deletion_timestamp.is_none() || destroyed) && id == Some(node.spec.cluster_id)
}

/// Returns true where the finalizer goes: a `KmsNode` that is being deleted goes at once, with or without a cluster. It comes back
/// while there is one: deleting it is no way to scale.
#[must_use]
pub fn is_released(node: &KmsNode) -> bool {
    node.metadata.deletion_timestamp.is_some()
}

/// Returns the status with the verdict on the node's secrets and its conditions. `after` has what was looked up.
#[must_use]
pub fn status(seen: &Observed<'_>, mut after: KmsNodeStatus, now: Timestamp) -> KmsNodeStatus {
    let Observed { node, pod, .. } = *seen;
    after.observed_generation = node.metadata.generation;
    after.erasure = erasure(seen);
    let now = Time(now);
    let conditions = conditions_of(node, pod).into_iter().chain(replicated(node)).chain(after.erasure.map(erased));
    for (type_, truth, reason, message) in conditions {
        let message = match truth {
            Some(false) if type_ == NodeCondition::Placed => {
                conditions::explained_by(conditions::WORKER_GONE_PAGE, message)
            }
            Some(false) => reason.explained(message),
            _ => message,
        };
        let new = conditions::condition(type_.as_str(), truth, reason, message, node.metadata.generation, now.clone());
        conditions::set(&mut after.conditions, new);
    }
    after
}

/// State of a removed node's secrets; `None` for a node that stays. What is proven once stays proven.
fn erasure(seen: &Observed<'_>) -> Option<Erasure> {
    let Observed { node, has_signed, .. } = *seen;
    let before = node.status.as_ref().and_then(|status| status.erasure);
    if before == Some(Erasure::Proven) || has_signed || is_proven_of(node.spec.removed, node.status.as_ref()) {
        return Some(Erasure::Proven);
    }
    let given_up = if node.spec.lost { Erasure::Unproven } else { Erasure::Pending };
    node.spec.removed.then_some(given_up)
}

/// The condition `Erased` of a removed node.
fn erased(erasure: Erasure) -> Finding {
    let message = match erasure {
        Erasure::Proven => {
            let message = "the node has signed that the secrets of every epoch that it had a share of are destroyed".to_owned();
            return (NodeCondition::Erased, Some(true), Reason::AsExpected, message);
        }
        Erasure::Pending => "The node was removed. It has not yet signed that its secrets are destroyed".to_owned(),
        Erasure::Unproven => {
            "the node was given up as lost: nothing proves that its secrets are gone. Delete its volume and its seal Secret"
                .to_owned()
        }
    };
    (NodeCondition::Erased, Some(false), Reason::ErasureUnproven, message)
}

fn conditions_of(node: &KmsNode, pod: Option<&Pod>) -> Vec<Finding> {
    let pod_conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.clone()).unwrap_or_default();
    let is = |type_: &str, status: &str| pod_conditions.iter().find(|one| one.type_ == type_ && one.status == status);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let ready = match is("Ready", "True") {
        Some(_) => (NodeCondition::Ready, Some(true), Reason::AsExpected, "the node serves".to_owned()),
        None => {
            let message = format!("the pod is not ready: kubectl describe pod {name}");
            (NodeCondition::Ready, Some(false), Reason::Starting, message)
        }
    };
    let offered = node.status.as_ref().and_then(|status| status.node.as_ref()?.offer.as_ref()).map(|offer| offer.key);
    let pinned = match (node.spec.identity_key, offered) {
        (None, _) => (
            NodeCondition::IdentityPinned,
            Some(false),
            Reason::IdentityMissing,
            "waiting for the pod to start and offer an identity key".to_owned(),
        ),
        (Some(pin), Some(shown)) if pin != shown => (
            NodeCondition::IdentityPinned,
            Some(false),
            Reason::IdentityLost,
            format!(
                "the node shows another identity key than the pinned one: its key material is lost. Replace it by naming \
                 index {} in the KmsCluster's removeNodes",
                node.spec.index
            ),
        ),
        _ => (NodeCondition::IdentityPinned, Some(true), Reason::AsExpected, "the identity is pinned".to_owned()),
    };
    let placed = match is("PodScheduled", "False") {
        Some(condition) => (
            NodeCondition::Placed,
            Some(false),
            Reason::Unschedulable,
            format!(
                "no worker takes the pod: {}. If its worker is gone for good, taint it with \
                 node.kubernetes.io/out-of-service, or replace the node by removeNodes",
                condition.message.as_deref().unwrap_or("no reason is given")
            ),
        ),
        None => {
            (NodeCondition::Placed, Some(true), Reason::AsExpected, "the node has a worker, or gets one".to_owned())
        }
    };
    vec![ready, pinned, placed]
}

/// The condition `Replicated`, from the node's own report. `None` for a node that never had a replica. Positions are in
/// `status.node`: they move, and a condition is for what changes seldom.
fn replicated(node: &KmsNode) -> Option<Finding> {
    let report = node.status.as_ref()?.node.as_ref()?;
    let problem = report.problems.iter().find(|problem| problem.about == ProblemAbout::Replication);
    if let Some(Problem { reason, message }) = problem.map(Problem::read) {
        return Some((NodeCondition::Replicated, Some(false), reason, message));
    }
    let at = report.replication.as_ref()?;
    let message = if at.flushed {
        format!("The pod has ended, and the bucket has everything. Last position {}:{}", at.term, at.sequence)
    } else {
        "Everything that the node acknowledged is in the bucket".to_owned()
    };
    Some((NodeCondition::Replicated, Some(true), Reason::AsExpected, message))
}

#[cfg(test)]
mod tests {
    use keyfleet_crds::KmsClusterStatus;
    use keyfleet_crds::values::PinnedKey;

    use super::*;

    fn removed(lost: bool) -> KmsNode {
        let spec = serde_json::json!({
            "clusterName": "keys", "clusterId": "00112233445566778899aabbccddeeff", "index": 2, "removed": true, "lost": lost,
        });
        KmsNode::new("keys-2", serde_json::from_value(spec).expect("a spec"))
    }

    fn erased_is(node: &KmsNode) -> Option<Erasure> {
        erasure(&Observed { node, pod: None, has_signed: false })
    }

    /// Nobody waits for a lost node; a status that says `Pending` for ever would.
    #[test]
    fn the_erasure_of_a_lost_node_is_unproven_and_of_another_pending() {
        assert_eq!(erased_is(&removed(false)), Some(Erasure::Pending));
        assert_eq!(erased_is(&removed(true)), Some(Erasure::Unproven));
        let (_, truth, reason, message) = erased(Erasure::Unproven);
        assert_eq!((truth, reason), (Some(false), Reason::ErasureUnproven));
        assert!(message.contains("Delete its volume and its seal Secret"), "it does not say what to do: {message}");
    }

    #[test]
    fn what_is_proven_stays_proven() {
        let mut node = removed(true);
        node.status = Some(KmsNodeStatus { erasure: Some(Erasure::Proven), ..KmsNodeStatus::default() });
        assert_eq!(erased_is(&node), Some(Erasure::Proven));
    }

    /// A node that is gone comes back by its object; one that erased itself never does.
    #[test]
    fn a_node_has_a_pod_while_its_cluster_lives_and_it_is_not_erased() {
        let sample = include_str!("../../manifests/samples/smallest.yaml");
        let mut cluster: KmsCluster = serde_yaml::from_str(sample).expect("a sample");
        let mut node = removed(false);
        assert!(!has_pod(&node, &cluster), "a cluster without an id is nobody's");
        cluster.status =
            Some(KmsClusterStatus { cluster_id: Some(node.spec.cluster_id), ..KmsClusterStatus::default() });
        assert!(has_pod(&node, &cluster), "a removed node has to erase what it holds");

        let deleted = Some(Time(Timestamp::UNIX_EPOCH));
        cluster.metadata.deletion_timestamp.clone_from(&deleted);
        cluster.spec.deletion_policy = DeletionPolicy::Retain;
        assert!(!has_pod(&node, &cluster), "pods of a deleted cluster end");
        cluster.spec.deletion_policy = DeletionPolicy::Destroy;
        assert!(has_pod(&node, &cluster), "its own pod destroys what it holds");

        assert!(!is_released(&node));
        node.metadata.deletion_timestamp = deleted;
        assert!(is_released(&node) && !has_pod(&node, &cluster));
        node.metadata.deletion_timestamp = None;
        node.status = Some(KmsNodeStatus { erasure: Some(Erasure::Proven), ..KmsNodeStatus::default() });
        assert!(!has_pod(&node, &cluster), "nothing is left that a pod could serve");
    }

    /// A word of a newer release is shown, and the replica counts as away: in the node's condition and in its cluster's.
    #[test]
    fn an_unknown_reason_about_the_replica_is_one_of_the_bucket() {
        let mut node = removed(false);
        let report = serde_json::json!({
            "node": { "problems": [{ "about": "Replication", "reason": "QuotaReached", "message": "the bucket is full" }] }
        });
        node.status = Some(serde_json::from_value(report).expect("a status"));
        let (type_, truth, reason, message) = replicated(&node).expect("it has a replica");
        assert_eq!((type_, truth, reason), (NodeCondition::Replicated, Some(false), Reason::ReplicaUnavailable));
        assert_eq!(message, "QuotaReached: the bucket is full");
    }

    #[test]
    fn another_identity_than_the_pinned_one_is_lost_key_material() {
        let mut node = removed(false);
        let pinned = |node: &KmsNode| {
            let seen = Observed { node, pod: None, has_signed: false };
            let after = status(&seen, node.status.clone().unwrap_or_default(), Timestamp::UNIX_EPOCH);
            let found = after.conditions.into_iter().find(|one| one.type_ == NodeCondition::IdentityPinned.as_str());
            found.map(|one| (one.status, one.reason)).expect("there is always one")
        };
        assert_eq!(pinned(&node), ("False".into(), "IdentityMissing".into()));
        node.spec.identity_key = Some(PinnedKey([1; 32]));
        assert_eq!(pinned(&node), ("True".into(), "AsExpected".into()));
        let key = |byte| serde_json::to_value(PinnedKey([byte; 32])).expect("a key");
        let offer = serde_json::json!({ "node": { "offer": { "key": key(2), "proof": "00".repeat(64) } } });
        match serde_json::from_value(offer) {
            Ok(status) => node.status = Some(status),
            Err(error) => panic!("an offer: {error}"),
        }
        assert_eq!(pinned(&node), ("False".into(), "IdentityLost".into()));
    }
}
