//! Status for people: phase, conditions, summary. Computed anew each time and written when it differs.
//!
//! `conditions` says what is true of the cluster; here it is put together with phase, summary and the list of removed nodes.

mod conditions;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use keyfleet_crds::KmsClusterStatus;
use keyfleet_crds::cluster::status::{Erasure, NodeSummary, RemovedNode};
use keyfleet_crds::cluster::{DeletionPolicy, Phase};
use keyfleet_crds::conditions::{ClusterCondition, Reason};
use keyfleet_crds::{labels, names};

use crate::gate::Stop;
use crate::state::{Problem, Retention, State};
use crate::{Action, Facts, NotStartedError, membership};

use conditions::{conditions_of, needs_a_look};

/// The most removed nodes that a status lists: the newest.
const REMOVED_MAX: usize = 100;

/// Returns the write of the status for people, if anything in it is new.
#[must_use]
pub(crate) fn action(facts: &Facts<'_>, stop: Option<&Stop>, waiting: Option<&NotStartedError>) -> Vec<Action> {
    let after = status(facts, stop, waiting);
    if after == facts.state.cluster.status { Vec::new() } else { vec![Action::update_cluster(facts.state, after)] }
}

/// Returns the status with phase, conditions and summary computed anew. Fields that rounds rest on stay as they are.
#[must_use]
pub(crate) fn status(facts: &Facts<'_>, stop: Option<&Stop>, waiting: Option<&NotStartedError>) -> KmsClusterStatus {
    let state = facts.state;
    let (cluster, spec) = (&state.cluster, &state.cluster.spec);
    let health = Health::of(facts, stop, waiting);
    let mut after = cluster.status.clone();
    after.observed_generation = Some(cluster.generation);
    after.threshold = Some(spec.effective_threshold());
    after.min_holders = Some(spec.effective_min_holders());
    after.nodes = Some(count(state.nodes.values().filter(|node| !node.spec.removed).count()));
    after.ready_nodes = Some(count(health.ready.len()));
    after.ready = Some(format!("{}/{}", health.ready.len(), spec.nodes));
    after.selector = Some(labels::node_selector(&cluster.name));
    after.next_boundary = next_boundary(state);
    after.node_summary = summary(state);
    after.removed_nodes = removed(state, &facts.members);
    let (phase, reason) = phase(&health);
    after.phase = Some(phase);
    after.reason = Some(reason);
    let now = Time(state.now);
    for (type_, truth, reason, message) in conditions_of(&health) {
        let message = if needs_a_look(type_, truth) { reason.explained(message) } else { message };
        let mut new = keyfleet_crds::conditions::condition(
            type_.as_str(),
            truth,
            reason,
            message,
            Some(cluster.generation),
            now.clone(),
        );
        if type_ == ClusterCondition::Replicated && facts.open.is_some() {
            // In a round positions move with every message: they are reported once it is over.
            let same =
                |old: &&Condition| (&old.type_, &old.status, &old.reason) == (&new.type_, &new.status, &new.reason);
            let before = after.conditions.iter().find(same).map(|before| before.message.clone());
            new.message = before.unwrap_or(new.message);
        }
        keyfleet_crds::conditions::set(&mut after.conditions, new);
    }
    after
}

/// State of the fleet as its status tells it.
struct Health<'a> {
    facts: &'a Facts<'a>,
    /// Receivers of the active epoch that serve; before there is one, all nodes that do.
    ready: BTreeSet<u32>,
    /// Number of nodes that have to serve.
    needed: usize,
    /// Why no round may be started.
    stop: Option<&'a Stop>,
    /// Why a round that is due or open waits.
    waiting: Option<&'a NotStartedError>,
}

impl<'a> Health<'a> {
    fn of(facts: &'a Facts<'a>, stop: Option<&'a Stop>, waiting: Option<&'a NotStartedError>) -> Self {
        let ready = facts.state.nodes.iter().filter(|(_, node)| node.ready).map(|(index, _)| *index);
        let ready = ready.filter(|index| facts.active.is_none_or(|(_, epoch)| epoch.has_receiver(*index)));
        let wanted = facts.state.cluster.spec.effective_threshold();
        let needed = facts.active.map_or(wanted, |(_, epoch)| epoch.spec.threshold) as usize;
        Self { facts, ready: ready.collect(), needed, stop, waiting }
    }

    fn has_epoch(&self) -> bool {
        self.facts.active.is_some()
    }

    fn serves(&self) -> bool {
        self.has_epoch() && self.ready.len() >= self.needed
    }

    /// Nodes of the fleet that do not serve.
    fn away(&self) -> impl Iterator<Item = u32> {
        self.facts.members.stay.iter().filter(|index| !self.ready.contains(index)).copied()
    }

    /// Returns true while the active epoch's receivers are not the nodes that the spec asks for.
    fn is_changing(&self) -> bool {
        let members = &self.facts.members;
        members.missing > 0 || self.facts.active.is_some_and(|(_, epoch)| epoch.receivers() != members.stay)
    }
}

fn phase(health: &Health<'_>) -> (Phase, String) {
    let Health { facts: Facts { state, open, .. }, stop, .. } = *health;
    if state.cluster.deleting {
        return (Phase::Deleting, deletion(state));
    }
    if let Some(stop) = stop.filter(|stop| stop.needs_person) {
        return (Phase::Blocked, stop.message.clone());
    }
    // Before there is a key nothing goes on without it; with one, the fleet serves on.
    if let Some(halted @ NotStartedError::Halted { .. }) = health.waiting.filter(|_| !health.has_epoch()) {
        return (Phase::Blocked, halted.to_string());
    }
    if state.cluster.spec.paused {
        return (Phase::Paused, "spec.paused is set; nodes serve on. Set it to false to go on".into());
    }
    if !health.has_epoch() {
        let reason = health.waiting.map(ToString::to_string);
        return match open {
            Some((number, _)) => (Phase::Genesis, format!("attempt {number} generates the key")),
            None => {
                let stop = stop.map(|stop| stop.message.clone());
                (Phase::Starting, stop.or(reason).unwrap_or_else(|| "the nodes are being started".into()))
            }
        };
    }
    if !health.serves() {
        return (Phase::Unavailable, unavailable(health));
    }
    if let Some(stop) = stop {
        return (Phase::Degraded, stop.message.clone());
    }
    if health.is_changing() {
        return (Phase::Changing, "nodes are being added, removed or replaced".into());
    }
    if let Some((_, message)) = degraded(health) {
        return (Phase::Degraded, message);
    }
    (Phase::Ready, "the fleet serves".into())
}

fn deletion(state: &State) -> String {
    let waits: Vec<u32> = state.nodes.iter().filter(|(_, node)| !node.erased).map(|(index, _)| *index).collect();
    if state.cluster.spec.deletion_policy != DeletionPolicy::Destroy || waits.is_empty() {
        return "the KmsCluster is being deleted".into();
    }
    let waits: Vec<_> = waits.iter().map(u32::to_string).collect();
    let waits = waits.join(", ");
    format!(
        "the KmsCluster is being deleted with everything. The operator waits for these nodes to erase their volumes and seals: {waits}. Their pods \
         have to run for that. To stop waiting and keep their volumes, set spec.deletionPolicy to Retain"
    )
}

fn unavailable(health: &Health<'_>) -> String {
    let name = &health.facts.state.cluster.name;
    let down: Vec<_> = health.away().map(|index| names::node(name, index)).collect();
    format!(
        "{} of the {} nodes that are needed are ready; not ready: {}. Look at these pods: kubectl describe pod {}",
        health.ready.len(),
        health.needed,
        down.join(", "),
        down.join(" ")
    )
}

/// Returns what needs a look although the fleet serves.
fn degraded(health: &Health<'_>) -> Option<(Reason, String)> {
    let Health { facts: Facts { state, members, .. }, stop, waiting, .. } = *health;
    if let Some(stop) = stop.filter(|stop| stop.reason != Reason::Paused) {
        return Some((stop.reason, stop.message.clone()));
    }
    if let Some(halted @ NotStartedError::Halted { .. }) = waiting {
        return Some((Reason::RoundHalted, halted.to_string()));
    }
    let problem = state.nodes.iter().find_map(|(index, node)| Some((index, node.problems.first()?)));
    if let Some((index, Problem { reason, message })) = problem {
        return Some((*reason, format!("node {index}: {message}")));
    }
    if let Some((index, owner)) = membership::impostors(state).next() {
        let message = format!(
            "node {index} offers the identity of node {owner}, so it is not pinned and takes no part. Give it a volume and a seal \
             Secret of its own, or replace it by naming its index in spec.removeNodes"
        );
        return Some((Reason::IdentityTaken, message));
    }
    if let Some((index, message)) = unproven(state).next() {
        return Some((Reason::PossessionUnproven, format!("node {index}: {message}")));
    }
    let failures = state.cluster.status.failures_in_row.unwrap_or(0);
    if failures > 0 {
        return Some((Reason::RoundFailed, format!("{failures} rounds in a row failed{}", last_failure(state))));
    }
    if let Some(
        waiting @ (NotStartedError::Planning(_) | NotStartedError::Convert(_) | NotStartedError::VersionsDiffer),
    ) = waiting
    {
        let reason =
            if matches!(waiting, NotStartedError::VersionsDiffer) { Reason::VersionsDiffer } else { Reason::NodesDown };
        return Some((reason, format!("a round is due and waits: {waiting}")));
    }
    if let Retention::Failing { since, .. } = state.retention {
        let job = names::retention(&state.cluster.name);
        let message = format!(
            "the retention job that started at {since} failed; replicas grow. See kubectl logs of the newest pod of {job}, which \
             kubectl get jobs lists"
        );
        return Some((Reason::RetentionFailed, message));
    }
    let down = members.stay.iter().find(|index| state.nodes.get(index).is_some_and(|node| !node.ready));
    down.filter(|_| health.has_epoch() && !health.is_changing()).map(|index| {
        let pod = names::node(&state.cluster.name, *index);
        (Reason::NodesDown, format!("node {index} is not ready: kubectl describe pod {pod}"))
    })
}

/// Nodes that claim an epoch that serves and do not prove it, by index; of each its newest.
fn unproven(state: &State) -> impl Iterator<Item = (u32, String)> {
    let mut newest: BTreeMap<u32, String> = BTreeMap::new();
    for (number, epoch) in state.served() {
        for (index, why) in state.view.unproven.get(&number).into_iter().flatten() {
            if epoch.has_receiver(*index) {
                let pod = names::node(&state.cluster.name, *index);
                let message = format!(
                    "it claims the share of epoch {number}, but {why}; it is not counted. Restart it (kubectl delete pod \
                     {pod}); if that does not help, replace it by naming its index in spec.removeNodes"
                );
                newest.insert(*index, message);
            }
        }
    }
    newest.into_iter()
}

fn last_failure(state: &State) -> String {
    let last = state.epochs.values().rev().find_map(|epoch| epoch.status.as_ref()?.failure.as_ref());
    last.map_or_else(String::new, |failure| format!(": {}: {}", failure.reason, failure.message))
}

fn summary(state: &State) -> Vec<NodeSummary> {
    let unproven: BTreeMap<u32, String> = unproven(state).collect();
    state
        .nodes
        .iter()
        .map(|(index, node)| NodeSummary {
            index: *index,
            ready: node.ready,
            epoch: newest_held(state, *index),
            worker: node.worker.clone(),
            zone: node.zone.clone(),
            problem: node
                .problems
                .first()
                .map(|Problem { reason, message }| format!("{reason}: {message}"))
                .or_else(|| Some(format!("{}: {}", Reason::PossessionUnproven, unproven.get(index)?))),
        })
        .collect()
}

/// The newest epoch that a node has proven to hold.
fn newest_held(state: &State, index: u32) -> Option<u64> {
    let held = state
        .served()
        .filter(|(_, epoch)| epoch.status.as_ref().is_some_and(|status| status.possessors.contains(&index)));
    held.map(|(number, _)| number).last()
}

fn removed(state: &State, members: &membership::Members) -> Vec<RemovedNode> {
    let mut list: BTreeMap<u32, RemovedNode> =
        state.cluster.status.removed_nodes.iter().map(|node| (node.index, node.clone())).collect();
    for (index, lost) in &members.leave {
        let node = state.nodes.get(index);
        let erasure = match node {
            Some(node) if node.erased => Erasure::Proven,
            _ if *lost => Erasure::Unproven,
            _ => Erasure::Pending,
        };
        let without = state.served().find(|(_, epoch)| !epoch.has_receiver(*index));
        let entry = list.entry(*index).or_insert(RemovedNode { index: *index, erasure, since_epoch: None });
        entry.erasure = erasure;
        entry.since_epoch = entry.since_epoch.or(without.map(|(number, _)| number));
    }
    let skip = list.len().saturating_sub(REMOVED_MAX);
    list.into_values().skip(skip).collect()
}

fn next_boundary(state: &State) -> Option<u64> {
    let interval = u64::from(state.cluster.spec.schedule.interval_blocks);
    let last = state.cluster.status.last_processed_boundary?;
    // A round that is due and waits is shown as what it is: the boundary that was passed.
    Some(last.saturating_add(interval))
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}
