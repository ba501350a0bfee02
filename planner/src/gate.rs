//! Conditions that forbid decisions, each with a sentence for a person. A gate that is shut changes nothing and loses nothing.

use std::collections::BTreeSet;

use keyfleet_crds::cluster::DeletionPolicy;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::epoch::Phase;
use keyfleet_threshold::coordination::Decision;

use crate::state::{Problem, Recorded, State};
use crate::view::StreamView;

/// Why no round is started, and the next step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stop {
    /// The condition's reason.
    pub(crate) reason: Reason,
    /// Sentence for people: the state, and the next step.
    pub(crate) message: String,
    /// True when the stop lasts until a person acts.
    pub(crate) needs_person: bool,
}

impl Stop {
    fn wait(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), needs_person: false }
    }

    fn person(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), needs_person: true }
    }
}

/// Permissions, each of which rests on the one before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Gates {
    /// Permission to remove nodes that a person names: the record is this fleet's. A stop must not protect the node that causes it.
    pub(crate) removals: Result<(), Stop>,
    /// Permission to write objects at all: the record is not older than what nodes or an earlier life prove.
    pub(crate) record: Result<(), Stop>,
    /// Permission to move a round on: the nodes that hold the key have confirmed that the record is not older than they are. A
    /// process that has just started knows nothing yet.
    pub(crate) reports: Result<(), Stop>,
    /// Permission to start a round now, with the newest block.
    pub(crate) start: Result<u64, Stop>,
}

impl Gates {
    /// Looks at what forbids decisions on this state.
    #[must_use]
    pub(crate) fn of(state: &State) -> Self {
        let removals = earlier_life(state);
        let record = removals.clone().and_then(|()| rolled_back(state));
        let reports = record.clone().and_then(|()| reports(state));
        let start = start(state, &reports);
        Self { removals, record, reports, start }
    }
}

fn reports(state: &State) -> Result<(), Stop> {
    let Some(newest) = state.newest_certified() else { return Ok(()) };
    let (number, needed) = (newest.number, newest.threshold as usize);
    let answered = newest.receivers.iter().filter(|node| state.view.highest.contains_key(&node.index)).count();
    if answered >= needed {
        return Ok(());
    }
    Err(Stop::wait(
        Reason::AwaitingReports,
        format!(
            "{answered} nodes that received epoch {number} have reported to this operator, {needed} are needed: it moves no \
             round on before. If this lasts, look at the nodes' pods"
        ),
    ))
}

fn start(state: &State, reports: &Result<(), Stop>) -> Result<u64, Stop> {
    if state.cluster.deleting {
        return Err(Stop::wait(Reason::Deleting, "the KmsCluster is being deleted"));
    }
    reports.clone()?;
    if state.cluster.spec.paused {
        return Err(Stop::wait(Reason::Paused, "spec.paused is set: no round is started. Set it to false to go on"));
    }
    if !state.has_key() {
        genesis(state)?;
    }
    state.block.clone().map_err(|error| Stop::wait(error.reason(), error.to_string()))
}

fn earlier_life(state: &State) -> Result<(), Stop> {
    let cluster = &state.cluster;
    let name = keyfleet_crds::names::record(&cluster.name);
    match &state.record {
        Recorded::Unreadable(why) => {
            return Err(Stop::person(
                Reason::EarlierLifeFound,
                format!("the ConfigMap {name} cannot be read: {why}. Until then nothing is decided and no key is made"),
            ));
        }
        Recorded::Present { record, .. } => {
            if let Some(id) = cluster.status.cluster_id.filter(|id| *id != record.cluster_id) {
                return Err(Stop::person(
                    Reason::EarlierLifeFound,
                    format!(
                        "the ConfigMap {name} is of cluster id {}, this KmsCluster's status says {id}: two fleets had this \
                         name. Delete the KmsCluster to adopt the record's fleet, or move the ConfigMap away to keep this one",
                        record.cluster_id
                    ),
                ));
            }
            let expected = cluster.spec.expected_public_key;
            if let (Some(expected), Some(found)) = (expected, record.public_key)
                && expected != found
            {
                return Err(Stop::person(
                    Reason::ExpectedKeyNotFound,
                    format!(
                        "spec.expectedPublicKey begins with {}, the fleet found here has a key that begins with {}: \
                         correct the field, or restore the right fleet",
                        expected.fingerprint(),
                        found.fingerprint()
                    ),
                ));
            }
        }
        Recorded::Absent => {
            let own = cluster.status.cluster_id.map(|id| id.to_string());
            let foreign = state.volumes.iter().find(|(_, id)| Some(*id) != own.as_ref());
            if let Some((claim, id)) = foreign {
                return Err(Stop::person(
                    Reason::EarlierLifeFound,
                    format!(
                        "the volume claim {claim} is of cluster id {id}, an earlier life of this name, and the ConfigMap \
                         {name} that would tell its key is gone. Restore the ConfigMap to get the fleet back; only if its \
                         key is needed no more, delete the claims"
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn rolled_back(state: &State) -> Result<(), Stop> {
    let what = match proven(state) {
        Some(number) => proven_sentence(state, number),
        None => match claimed(state) {
            Some((number, next)) => format!(
                "{} that number {number} was used, the API server's record says that {next} is next: its data went back in time",
                sayers(state, number)
            ),
            None => return Ok(()),
        },
    };
    Err(Stop::person(
        Reason::RecordRolledBack,
        format!(
            "{what}. The nodes serve on; until then the operator removes nodes that spec.removeNodes names, and decides nothing \
             else. Restore a newer backup of etcd; docs/runbooks/record-rolled-back.md says what to do without one"
        ),
    ))
}

/// The newest epoch that the record does not know as active and that threshold nodes prove to hold. A failed attempt can have a
/// certificate, too, which one node alone made and kept: that proves nothing about the record.
fn proven(state: &State) -> Option<u64> {
    let active = state.active().map_or(0, |(number, _)| number);
    let is_held = |(number, threshold): &(&u64, &usize)| {
        state.view.holds.get(number).is_some_and(|holders| holders.len() >= **threshold)
    };
    let held = state.view.thresholds.iter().filter(is_held).map(|(number, _)| *number);
    held.filter(|number| *number > active && is_given_up(state, *number)).max()
}

/// Tells whether nothing that is still to come of an attempt makes its record active. What nodes hold may reach the operator
/// before the record of its activation.
fn is_given_up(state: &State, number: u64) -> bool {
    let Some(epoch) = state.epochs.get(&number) else { return true };
    let decision = state.view.closing.get(&number).and_then(|closing| closing.decision.as_ref());
    epoch.phase() == Some(Phase::Failed) || (epoch.is_open() && matches!(decision, Some(Decision::Fail(_))))
}

fn proven_sentence(state: &State, number: u64) -> String {
    let holders = state.view.holds.get(&number).into_iter().flatten().map(|(index, _)| index.to_string());
    let holders = holders.collect::<Vec<_>>().join(", ");
    let record = match state.epochs.get(&number) {
        None => "does not know",
        Some(epoch) if epoch.is_open() => "would now call failed",
        Some(_) => "calls failed",
    };
    format!(
        "nodes {holders} prove that they hold epoch {number}, which the API server's record {record}: its data went back in time"
    )
}

/// The number at or above the next one that more nodes say was used than may be lost, with the next one. A number alone is no
/// proof, and one node that lies must not stop a fleet; a node that alone saw a number refuses it when it is given again, which
/// costs that node one round.
fn claimed(state: &State) -> Option<(u64, u64)> {
    // Without a key all numbers are those of attempts that failed, and no backup is worth a restore: a number that is given again
    // costs a round.
    if !state.has_key() {
        return None;
    }
    // A status alone may be missing because objects were put back without it; the record then still knows.
    let recorded = state.recorded().map_or(1, |record| record.next_number);
    let posted = state.epochs.keys().next_back().map_or(1, |number| number + 1);
    let next = state.cluster.status.next_number.unwrap_or(1).max(recorded).max(posted);
    let may_be_lost =
        state.newest_certified().map_or(0, |plan| plan.receivers.len().saturating_sub(plan.threshold as usize));
    let said = state.view.highest.iter().filter(|(index, highest)| **highest >= next && stays(state, **index));
    let mut said: Vec<u64> = said.map(|(_, highest)| *highest).collect();
    said.sort_unstable();
    // The highest number that one of them says who does not lie.
    let at = said.len().checked_sub(may_be_lost + 1)?;
    Some((said[at], next))
}

/// The nodes that report this number or a higher one, as the subject of a sentence.
fn sayers(state: &State, number: u64) -> String {
    let StreamView { highest, certified, .. } = &state.view;
    let said = highest.iter().chain(certified).filter(|(index, said)| **said >= number && stays(state, **index));
    let said: BTreeSet<u32> = said.map(|(index, _)| *index).collect();
    let list: Vec<_> = said.iter().map(u32::to_string).collect();
    if list.len() == 1 { format!("node {} says", list[0]) } else { format!("nodes {} say", list.join(", ")) }
}

/// Returns true for a node that nobody asked to be removed. A node that causes a stop can be removed during it.
fn stays(state: &State, index: u32) -> bool {
    let named = state.cluster.spec.remove_nodes.iter().any(|remove| remove.index == index);
    !named && state.nodes.get(&index).is_none_or(|node| !node.spec.removed)
}

fn genesis(state: &State) -> Result<(), Stop> {
    let cluster = &state.cluster;
    if cluster.spec.expected_public_key.is_some() {
        return Err(Stop::person(
            Reason::ExpectedKeyNotFound,
            "spec.expectedPublicKey is set, which forbids making a key, and no record, volume or replica of that fleet was \
             found. Restore the fleet (its record and volumes), or remove the field to make a new key",
        ));
    }
    if cluster.spec.deletion_policy == DeletionPolicy::Destroy && cluster.deleting {
        return Err(Stop::wait(Reason::Deleting, "the KmsCluster is being destroyed"));
    }
    // While a round is open its certificate may be here before the record of its activation.
    let shown: Vec<_> = state.view.certified.iter().filter(|(index, _)| stays(state, **index)).collect();
    if let (Some((_, number)), None) = (shown.first(), state.open()) {
        let nodes: Vec<_> = shown.iter().map(|(index, _)| index.to_string()).collect();
        return Err(Stop::person(
            Reason::RecordRolledBack,
            format!(
                "{} {} a certificate of attempt {number}, which the record does not know as active: no second key is made \
                 beside it. Restore a newer backup of etcd; if that attempt failed, replace whoever shows it by naming its index \
                 in spec.removeNodes",
                if nodes.len() == 1 { "node" } else { "nodes" },
                if nodes.len() == 1 { format!("{} shows", nodes[0]) } else { format!("{} show", nodes.join(", ")) },
            ),
        ));
    }
    for (index, node) in state.nodes.iter().filter(|(index, _)| stays(state, **index)) {
        // A certificate for callers has nothing to do with the key.
        let problem = node.problems.iter().find(|problem| problem.reason != Reason::CertificateUnusable);
        if let Some(Problem { reason, message }) = problem {
            return Err(Stop::person(*reason, format!("node {index}: {message}")));
        }
    }
    Ok(())
}
