//! From objects to the report. Pure: the time is an argument.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use keyfleet_crds::cluster::status::Phase;
use keyfleet_crds::conditions::is_true;
use keyfleet_crds::epoch::{Phase as RoundPhase, RoundKind};
use keyfleet_crds::values::{ClusterId, PublicKey};
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsClusterStatus, KmsNode};
use serde::Serialize;

/// The objects of fleets, as the API server lists them.
#[derive(Default)]
pub struct Objects {
    /// The fleets to report on.
    pub clusters: Vec<KmsCluster>,
    /// Nodes, of these and other fleets.
    pub nodes: Vec<KmsNode>,
    /// Epochs, of these and other fleets.
    pub epochs: Vec<KeyEpoch>,
}

/// A fleet.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct FleetReport {
    /// The fleet's namespace.
    pub namespace: String,
    /// The fleet's name.
    pub name: String,
    /// True when the fleet serves: the condition `Ready`.
    pub ready: bool,
    /// Phase, in a word.
    pub phase: Option<Phase>,
    /// The cluster id.
    pub cluster_id: Option<ClusterId>,
    /// The public key, once there is one.
    pub public_key: Option<PublicKey>,
    /// Number of nodes that answer together: the threshold.
    pub threshold: Option<u32>,
    /// Number of nodes that serve.
    pub ready_nodes: u32,
    /// The epoch that serves.
    pub active_epoch: Option<EpochReport>,
    /// The block of the next round.
    pub next_boundary: Option<u64>,
    /// The round under way.
    pub round: Option<EpochReport>,
    /// The nodes, by index.
    pub nodes: Vec<NodeRow>,
    /// Problem and next step.
    pub attention: Vec<Attention>,
}

/// An epoch, or the round that is to make it.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct EpochReport {
    /// The epoch's number.
    pub number: u64,
    /// Kind of its round; absent when its object is gone.
    pub kind: Option<RoundKind>,
    /// Phase of its round.
    pub phase: Option<RoundPhase>,
    /// Block at which the round was due.
    pub block: Option<u64>,
    /// Holders and receivers, like `4/4`.
    pub held: Option<String>,
    /// Seconds since it became active, or since the round began.
    pub age_seconds: Option<i64>,
}

/// A node.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// The node's index.
    pub index: u32,
    /// True when it serves the active epoch.
    pub ready: bool,
    /// The newest epoch that it holds.
    pub epoch: Option<u64>,
    /// Kubernetes node that its pod runs on.
    pub worker: Option<String>,
    /// Zone of this Kubernetes node.
    pub zone: Option<String>,
    /// Problem of the node.
    pub problem: Option<String>,
}

/// Something that needs attention.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Attention {
    /// A condition type, or the object it is about.
    pub about: String,
    /// A condition's reason.
    pub reason: String,
    /// Problem and next step.
    pub message: String,
}

/// Conditions to report, worst first, with the status that needs attention.
const WATCHED: [(&str, &str); 7] = [
    ("QuorumLost", "True"),
    ("Ready", "False"),
    ("QuorumAtRisk", "True"),
    ("EpochCurrent", "False"),
    ("Replicated", "False"),
    ("PlacementAtRisk", "True"),
    ("Degraded", "True"),
];

/// Reports on all fleets, by namespace and name.
#[must_use]
pub fn report(objects: &Objects, now: Timestamp) -> Vec<FleetReport> {
    let mut fleets: Vec<_> = objects.clusters.iter().map(|cluster| fleet(cluster, objects, now)).collect();
    fleets.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    fleets
}

fn fleet(cluster: &KmsCluster, objects: &Objects, now: Timestamp) -> FleetReport {
    let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
    let name = cluster.metadata.name.clone().unwrap_or_default();
    let status = cluster.status.clone().unwrap_or_default();
    let nodes = objects.nodes.iter().filter(|node| {
        node.metadata.namespace.as_deref() == Some(&namespace) && node.spec.cluster_name == name && !node.spec.removed
    });
    let mut nodes: Vec<_> = nodes.map(|node| node_row(node, &status)).collect();
    nodes.sort_by_key(|node| node.index);
    let epochs = objects.epochs.iter().filter(|epoch| {
        epoch.metadata.namespace.as_deref() == Some(&namespace) && Some(epoch.spec.cluster_id) == status.cluster_id
    });
    let epochs: Vec<_> = epochs.collect();
    let round = status.reservation.map(|reservation| epoch_report(reservation.number, &epochs, now));
    FleetReport {
        ready: is_true(&status.conditions, "Ready"),
        phase: status.phase,
        cluster_id: status.cluster_id,
        public_key: status.public_key,
        threshold: status.threshold,
        ready_nodes: u32::try_from(nodes.iter().filter(|node| node.ready).count()).unwrap_or(u32::MAX),
        active_epoch: status.active_epoch.map(|number| epoch_report(number, &epochs, now)),
        next_boundary: status.next_boundary,
        round: round.filter(|round| Some(round.number) != status.active_epoch),
        attention: attention(cluster, &nodes),
        namespace,
        name,
        nodes,
    }
}

fn node_row(node: &KmsNode, status: &KmsClusterStatus) -> NodeRow {
    let own = node.status.clone().unwrap_or_default();
    let summary = status.node_summary.iter().find(|summary| summary.index == node.spec.index);
    let reported = own.node.as_ref();
    let problem = reported.and_then(|reported| reported.problems.first());
    let problem = problem.map(|problem| format!("{}: {}", problem.reason, problem.message));
    NodeRow {
        index: node.spec.index,
        ready: summary.map_or_else(|| is_true(&own.conditions, "Ready"), |summary| summary.ready),
        epoch: summary.and_then(|summary| summary.epoch).or_else(|| reported.and_then(|node| node.active_epoch)),
        worker: own.worker.clone(),
        zone: own.zone.clone(),
        problem: problem
            .or_else(|| summary.and_then(|summary| summary.problem.clone()))
            .or_else(|| first_false(&own.conditions)),
    }
}

/// Returns reason and message of the first condition that is False. `Erased` is False while a node lives.
fn first_false(conditions: &[Condition]) -> Option<String> {
    let found = conditions.iter().find(|condition| condition.status == "False" && condition.type_ != "Erased")?;
    Some(format!("{}: {}", found.reason, found.message))
}

fn epoch_report(number: u64, epochs: &[&KeyEpoch], now: Timestamp) -> EpochReport {
    let object = epochs.iter().find(|epoch| epoch.spec.number == number);
    let status = object.and_then(|object| object.status.clone()).unwrap_or_default();
    let timings = status.timings.clone().unwrap_or_default();
    let since = match status.phase {
        Some(RoundPhase::Active | RoundPhase::Confirmed | RoundPhase::Retired | RoundPhase::Failed) => timings.ended,
        _ => object.and_then(|object| object.metadata.creation_timestamp.clone()),
    };
    EpochReport {
        number,
        kind: object.map(|object| object.spec.kind),
        phase: status.phase,
        block: object.map(|object| object.spec.block),
        held: status.held,
        age_seconds: since.map(|Time(since)| now.duration_since(since).as_secs().max(0)),
    }
}

fn attention(cluster: &KmsCluster, nodes: &[NodeRow]) -> Vec<Attention> {
    let Some(status) = &cluster.status else {
        return vec![Attention {
            about: "KmsCluster".to_owned(),
            reason: "NotSeen".to_owned(),
            message: "no operator has answered this object yet: check that keyfleet-operator runs and watches this \
                namespace"
                .to_owned(),
        }];
    };
    let mut all = Vec::new();
    if let (Some(seen), Some(is)) = (status.observed_generation, cluster.metadata.generation)
        && seen < is
    {
        all.push(Attention {
            about: "KmsCluster".to_owned(),
            reason: "NotSeen".to_owned(),
            message: format!("the operator has answered generation {seen} of {is}: what follows may be out of date"),
        });
    }
    for condition in WATCHED.iter().filter_map(|(type_, bad)| bad_condition(&status.conditions, type_, bad)) {
        let (about, reason) = (condition.type_.clone(), condition.reason.clone());
        // One fault often shows in several conditions.
        if !all.iter().any(|earlier: &Attention| earlier.message == condition.message) {
            all.push(Attention { about, reason, message: condition.message.clone() });
        }
    }
    for node in nodes {
        if let Some(problem) = &node.problem {
            let (reason, message) = problem.split_once(": ").unwrap_or(("Problem", problem));
            all.push(Attention {
                about: format!("node {}", node.index),
                reason: reason.to_owned(),
                message: message.to_owned(),
            });
        }
    }
    all
}

/// Returns the condition of a type, if its status is `bad` or unknown.
fn bad_condition<'a>(conditions: &'a [Condition], type_: &str, bad: &str) -> Option<&'a Condition> {
    let condition = conditions.iter().find(|condition| condition.type_ == type_)?;
    (condition.status == bad || condition.status == "Unknown").then_some(condition)
}
