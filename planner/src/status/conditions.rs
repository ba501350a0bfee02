//! The conditions of a cluster: each with its truth, reason and message, which names the next step.

use std::collections::BTreeMap;

use keyfleet_crds::conditions::{ClusterCondition, Reason};
use keyfleet_crds::names;

use super::{Health, degraded, last_failure, phase, unavailable};
use crate::Facts;
use crate::rollout::{self, Rolling};
use crate::rounds;
use crate::state::{Lag, Node, Problem};

/// Condition with its truth, reason and message.
pub(super) type Finding = (ClusterCondition, Option<bool>, Reason, String);

pub(super) fn conditions_of(health: &Health<'_>) -> Vec<Finding> {
    use ClusterCondition as Is;
    let state = health.facts.state;
    let (_, why) = phase(health);
    let mut findings: Vec<Finding> = Vec::new();
    findings.push(match (health.serves(), health.has_epoch()) {
        (true, _) => (Is::Ready, Some(true), Reason::AsExpected, "an epoch is active and enough nodes serve it".into()),
        (false, true) => (Is::Ready, Some(false), Reason::NodesDown, unavailable(health)),
        (false, false) => {
            let reason = health.stop.map_or(Reason::Starting, |stop| stop.reason);
            (Is::Ready, Some(false), reason, why)
        }
    });
    let progress = match health.facts.open {
        Some(_) if !health.has_epoch() => Some((Reason::Genesis, "the key is being generated")),
        _ if !state.has_key() => Some((Reason::Starting, "nodes are being started")),
        _ => None,
    };
    let progress = progress.map(|(reason, message)| (reason, message.to_owned()));
    let progress = progress.or_else(|| health.is_changing().then(|| scales(health.facts)));
    let progress = progress.or_else(|| rolls(health.facts));
    findings.push(match progress {
        Some((reason, message)) => (Is::Progressing, Some(true), reason, message),
        None => (Is::Progressing, Some(false), Reason::AsExpected, "nothing is under way but routine reshares".into()),
    });
    findings.push(match degraded(health) {
        Some((reason, message)) => (Is::Degraded, Some(true), reason, message),
        None => (Is::Degraded, Some(false), Reason::AsExpected, "nothing needs a look".into()),
    });
    let failures = state.cluster.status.failures_in_row.unwrap_or(0);
    findings.push(match (health.has_epoch(), failures) {
        (false, _) => (Is::EpochCurrent, Some(false), Reason::Starting, "there is no epoch yet".into()),
        (true, 0) => (Is::EpochCurrent, Some(true), Reason::AsExpected, "the last round that was due succeeded".into()),
        (true, _) => (
            Is::EpochCurrent,
            Some(false),
            Reason::RoundFailed,
            format!("the epoch before serves; the round is tried again{}", last_failure(state)),
        ),
    });
    findings.push(replicated(health.facts));
    findings.push(placement(health));
    let spare = health.ready.len().checked_sub(health.needed);
    findings.push(match spare {
        Some(0) if health.has_epoch() => (
            Is::QuorumAtRisk,
            Some(true),
            Reason::NodesDown,
            format!("exactly {} nodes serve: one more away stops the fleet. {}", health.needed, without_spare(health)),
        ),
        _ => (Is::QuorumAtRisk, Some(false), Reason::AsExpected, spared(health.has_epoch(), spare)),
    });
    findings.push(match (health.has_epoch(), spare) {
        (true, None) => (Is::QuorumLost, Some(true), Reason::NodesDown, unavailable(health)),
        _ => (Is::QuorumLost, Some(false), Reason::AsExpected, "enough nodes serve, or there is no key yet".into()),
    });
    findings
}

/// Returns what to do where exactly as many nodes serve as are needed.
fn without_spare(health: &Health<'_>) -> String {
    if health.away().next().is_some() {
        return unavailable(health);
    }
    "All nodes of the fleet are needed and ready. Raise spec.nodes, so that one may fail".into()
}

/// The message of `QuorumAtRisk` False.
fn spared(has_key: bool, spare: Option<usize>) -> String {
    match spare {
        _ if !has_key => "there is no key yet".into(),
        None | Some(0) => "fewer nodes serve than are needed: see QuorumLost".into(),
        Some(1) => "one node can fail without an outage".into(),
        Some(nodes) => format!("{nodes} nodes can fail without an outage"),
    }
}

/// A change of membership, and which newcomers it waits for.
fn scales(facts: &Facts<'_>) -> (Reason, String) {
    let awaited = rounds::awaited_newcomers(facts);
    let pods: Vec<_> = awaited.iter().map(|index| names::node(&facts.state.cluster.name, *index)).collect();
    let waits = match &pods[..] {
        [] => String::new(),
        _ => format!("; the round waits for the prekeys of {}: look at these pods", limited(pods)),
    };
    (Reason::Scaling, format!("nodes are being added, removed or replaced{waits}"))
}

/// Pods that were made for an earlier spec, and what their replacement waits for.
fn rolls(facts: &Facts<'_>) -> Option<(Reason, String)> {
    let left = rollout::outdated(facts).len();
    let next = match rollout::rolling(facts) {
        Rolling::Done => return None,
        Rolling::Evict(index) => format!("node {index} is next"),
        Rolling::Waits(why) => format!("the next one waits: {why}"),
    };
    Some((Reason::RollingOut, format!("{left} pods are of an earlier spec and are replaced one at a time; {next}")))
}

fn replicated(facts: &Facts<'_>) -> Finding {
    let state = facts.state;
    let is = ClusterCondition::Replicated;
    let Some(replication) = &state.cluster.spec.replication else {
        let message = "spec.replication is not set: a node that loses its volume depends on the other nodes alone";
        return (is, Some(false), Reason::NotConfigured, message.into());
    };
    let nodes = || state.nodes.iter().filter(|(_, node)| !node.spec.removed);
    let stands = limited(nodes().map(stands).collect());
    let away = &facts.without_bucket;
    if let Some((first, Problem { reason, message })) = away.first_key_value() {
        let nodes = away.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let cause = message.trim_end_matches('.');
        let message = format!(
            "the state of these nodes does not reach the bucket: {nodes}. Node {first}: {cause}. Acknowledged: {stands}"
        );
        return (is, Some(false), *reason, message);
    }
    if nodes().any(|(_, node)| node.position.is_none()) {
        return (is, Some(false), Reason::ReplicaUnavailable, stands);
    }
    let grows = match &replication.retention {
        Some(retention) if retention.has_identity() => "",
        _ => ". Replicas grow: spec.replication.retention is not set, so nothing is ever deleted",
    };
    (is, Some(true), Reason::AsExpected, format!("acknowledged: {stands}{grows}"))
}

/// Position of one node's replica, for people.
fn stands((index, node): (&u32, &Node)) -> String {
    match (&node.position, node.lag) {
        (None, _) => format!("node {index} has not uploaded anything yet"),
        (Some(at), Lag { commits: 0, .. }) => format!("node {index} at {}:{}", at.term, at.sequence),
        (Some(at), Lag { commits, seconds }) => {
            let unit = if commits == 1 { "commit" } else { "commits" };
            format!("node {index} at {}:{}, {commits} {unit} and {seconds} s behind", at.term, at.sequence)
        }
    }
}

/// A fleet may have a hundred nodes, a message 32 KiB, and a person a line or two.
fn limited(mut all: Vec<String>) -> String {
    const SHOWN: usize = 20;
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more nodes") } else { String::new() };
    all.join("; ") + &more
}

fn placement(health: &Health<'_>) -> Finding {
    let is = ClusterCondition::PlacementAtRisk;
    let Facts { state, members, .. } = health.facts;
    let nodes: Vec<_> = members.stay.iter().filter_map(|index| state.nodes.get(index)).collect();
    let spare = nodes.len().saturating_sub(health.needed);
    for (what, of) in [
        ("worker", nodes.iter().filter_map(|node| node.worker.as_deref()).collect::<Vec<_>>()),
        ("zone", nodes.iter().filter_map(|node| node.zone.as_deref()).collect()),
    ] {
        let mut at: BTreeMap<&str, usize> = BTreeMap::new();
        of.into_iter().for_each(|place| *at.entry(place).or_default() += 1);
        if let Some((place, held)) = at.into_iter().find(|(_, held)| *held >= health.needed || *held > spare) {
            let risk = if held >= health.needed { "open the key" } else { "stop the fleet when it fails" };
            let nodes = if held == 1 { "node" } else { "nodes" };
            let message = format!("{what} {place} holds {held} {nodes}, enough to {risk}: add a {what} and move pods");
            return (is, Some(true), Reason::Unschedulable, message);
        }
    }
    (is, Some(false), Reason::AsExpected, "no worker and no zone holds enough nodes to open the key or stop it".into())
}

/// Returns true when a condition of this type and truth needs a person.
pub(super) fn needs_a_look(type_: ClusterCondition, truth: Option<bool>) -> bool {
    use ClusterCondition as Is;
    match type_ {
        Is::Progressing => false,
        Is::Degraded | Is::PlacementAtRisk | Is::QuorumAtRisk | Is::QuorumLost => truth == Some(true),
        _ => truth == Some(false),
    }
}
