//! Exhaustive search: every history up to a length, shortest first, but those that lead where another led before.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use keyfleet_crds::epoch::Phase;
use keyfleet_threshold::identifiers::{NodeIndex, PrekeyNumber};
use keyfleet_threshold::round::SecretName;

use crate::history::{self, Step, is_lost, may_be_destroyed, recover, served, unbroken};
use crate::world::Fleet;

/// Fleet that is searched.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Number of nodes.
    pub nodes: u32,
    /// Number of shares that make the key.
    pub threshold: u16,
}

/// Result of one history.
#[derive(Debug)]
pub struct Reached {
    /// Digest of everything about the fleet that decides what can come of it, however its nodes are numbered.
    pub state: u64,
    /// The steps that can follow.
    pub next: Vec<Step>,
}

/// Lives through a history, and once more with a recovery behind it.
///
/// # Errors
/// Returns the broken invariant with the history that leads to it.
pub fn visit(start: Start, history: &[Step]) -> Result<Reached, String> {
    let describe = |broken: String| format!("{history:?}: {broken}");
    let mut fleet = history::begin(1, start.nodes, start.threshold);
    // Confirmed by age after five blocks: a rest between boundaries is what a day is to a fleet whose boundaries are weeks apart.
    fleet.edit(|spec| spec.epochs.confirm_after_seconds = 60);
    unbroken(|| history.iter().for_each(|step| step.live(&mut fleet))).map_err(describe)?;
    let reached = Reached { state: state_of(&fleet), next: steps(&fleet) };
    unbroken(|| recover(&mut fleet)).map_err(describe)?;
    Ok(reached)
}

/// Lists what can happen next.
fn steps(fleet: &Fleet) -> Vec<Step> {
    let mut steps = vec![Step::Round, Step::Rest, Step::OperatorRestart];
    let removed: BTreeSet<u32> = fleet.api.now.cluster.spec.remove_nodes.iter().map(|remove| remove.index).collect();
    for node in fleet.nodes.values().filter(|node| !removed.contains(&node.index.value())) {
        let index = node.index.value();
        match (node.lost, node.is_up()) {
            (true, _) => steps.push(Step::Replace(index)),
            (false, true) => steps.extend([Step::Away(index), Step::Wipe(index)]),
            (false, false) => steps.push(Step::Back(index)),
        }
        if !node.lost && may_be_destroyed(fleet, index) {
            steps.push(Step::Lose(index));
        }
    }
    steps
}

/// Hashes what decides the fleet's future: for each node where it stands and what it has of each served epoch; for each of these
/// its phase. Nodes that differ in their number alone are alike, and so are epochs.
fn state_of(fleet: &Fleet) -> u64 {
    let served = served(fleet);
    let receivers: BTreeSet<u32> = fleet.receivers().into_iter().collect();
    let mut nodes: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for node in fleet.nodes.values() {
        let index = node.index.value();
        let mut facts =
            vec![u8::from(is_lost(fleet, index)), u8::from(node.is_up()), u8::from(receivers.contains(&index))];
        for number in &served {
            let is_named = fleet.api.now.epochs.get(&number.0).is_some_and(|epoch| epoch.receivers().contains(&index));
            facts.extend([u8::from(is_named), u8::from(node.has_share(*number))]);
        }
        facts.push(u8::from(node.disk.blobs.is_empty()));
        facts.push(prekey_of_plan(fleet, node.index));
        *nodes.entry(facts).or_default() += 1;
    }
    let phase = |number: u64| fleet.api.now.epochs.get(&number).and_then(|epoch| epoch.phase());
    let phases: Vec<Option<u8>> = served.iter().map(|number| phase(number.0).map(phase_number)).collect();
    let mut hasher = DefaultHasher::new();
    (nodes, phases, fleet.api.now.epochs.values().any(|epoch| is_open(epoch.phase()))).hash(&mut hasher);
    hasher.finish()
}

/// Tells how the newest plan's prekey of a node stands to the one that its disk can open: 0 without one, 1 where it can, 2 where not.
fn prekey_of_plan(fleet: &Fleet, index: NodeIndex) -> u8 {
    let newest = fleet.api.now.epochs.values().next_back();
    let named = newest.and_then(|epoch| epoch.spec.receivers.iter().find(|receiver| receiver.index == index.value()));
    let Some(prekey) = named.and_then(|receiver| receiver.prekey.as_ref()) else { return 0 };
    let secret = SecretName::Prekey(PrekeyNumber(prekey.number));
    if fleet.nodes[&index].disk.secrets.contains_key(&secret) { 1 } else { 2 }
}

fn is_open(phase: Option<Phase>) -> bool {
    matches!(phase, None | Some(Phase::Dealing | Phase::Verifying | Phase::Preparing | Phase::Certifying))
}

fn phase_number(phase: Phase) -> u8 {
    phase as u8
}
