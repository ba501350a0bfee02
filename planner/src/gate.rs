//! Conditions that forbid decisions, each with a sentence for a person. A gate that is shut changes nothing and loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_crds::cluster::DeletionPolicy;
use keyfleet_crds::conditions::Reason;

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
        let record = earlier_life(state).and_then(|()| rolled_back(state));
        let reports = record.clone().and_then(|()| reports(state));
        let start = start(state, &reports);
        Self { record, reports, start }
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
    // A status alone may be missing because objects were put back without it; the record then still knows.
    let recorded = state.recorded().map_or(1, |record| record.next_number);
    let posted = state.epochs.keys().next_back().map_or(1, |number| number + 1);
    let next = state.cluster.status.next_number.unwrap_or(1).max(recorded).max(posted);
    let active = state.active().map_or(0, |(number, _)| number);
    // A number alone is no proof, and one node that lies must not stop a fleet: more nodes than may be lost have to say it.
    // A node that alone saw a number refuses it when it is given again, which costs that node one round.
    let may_be_lost =
        state.newest_certified().map_or(0, |plan| plan.receivers.len().saturating_sub(plan.threshold as usize));
    let said = state.view.highest.iter().filter(|(index, highest)| **highest >= next && stays(state, **index));
    let mut said: Vec<_> = said.collect();
    said.sort_by_key(|(_, highest)| **highest);
    // The highest number that one of them says who does not lie. Without a key all numbers are those of attempts that failed,
    // and no backup is worth a restore: a number that is given again costs a round.
    let above = said.len().checked_sub(may_be_lost + 1).filter(|_| state.has_key()).map(|at| said[at]);
    let newer = newest_believed(state, active, may_be_lost);
    let Some(number) = newer.or(above.map(|(_, number)| *number)) else { return Ok(()) };
    let proven = state.view.holds.get(&number).map_or(0, BTreeMap::len);
    let holds = match proven {
        0 => String::new(),
        1 => " (one node proves that it holds its share)".into(),
        proven => format!(" ({proven} nodes prove that they hold its share)"),
    };
    Err(Stop::person(
        Reason::RecordRolledBack,
        format!(
            "{} that number {number} was used{holds}, the API server's record says that {next} is next: its data went back in \
             time. The nodes serve on; the operator decides nothing. Restore a newer backup of etcd",
            sayers(state, number)
        ),
    ))
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

/// The newest certified epoch that the record does not know and that is believed. A failed attempt
/// can have a certificate, too, and one node alone may have kept it to itself: so `t` nodes must prove to hold that epoch, or
/// more nodes must show it than may be lost.
fn newest_believed(state: &State, active: u64, may_be_lost: usize) -> Option<u64> {
    // A certificate of a known attempt may reach the operator before the record of its activation.
    let shown = state
        .view
        .certified
        .iter()
        .filter(|(index, number)| **number > active && !state.epochs.contains_key(number) && stays(state, **index));
    let shown: BTreeMap<&u32, &u64> = shown.collect();
    let believed = shown.iter().filter(|(_, number)| {
        let proven = state.view.holds.get(number).map_or(0, BTreeMap::len);
        let is_held = state.view.thresholds.get(number).is_some_and(|threshold| proven >= *threshold);
        is_held || shown.values().filter(|other| other >= number).count() > may_be_lost
    });
    believed.map(|(_, number)| **number).max()
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
    let shown = state.view.certified.iter().find(|(index, _)| stays(state, **index));
    if let Some((index, number)) = shown.filter(|_| state.open().is_none()) {
        return Err(Stop::person(
            Reason::RecordRolledBack,
            format!(
                "node {index} shows a certificate of attempt {number}, which the record does not know as active: no second key is \
                 made beside it. Restore a newer backup of etcd; if that attempt failed, replace the node by naming its index \
                 in spec.removeNodes"
            ),
        ));
    }
    for (index, node) in &state.nodes {
        // A certificate for callers has nothing to do with the key.
        let problem = node.problems.iter().find(|problem| problem.reason != Reason::CertificateUnusable);
        if let Some(Problem { reason, message }) = problem {
            return Err(Stop::person(*reason, format!("node {index}: {message}")));
        }
    }
    Ok(())
}
