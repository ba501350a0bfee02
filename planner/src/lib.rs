//! Decisions of the operator: a pure function of everything that it knows.
//!
//! ```text
//!  objects, reports, block, time ──▶ State ──decide──▶ Decisions { actions, status } ──▶ one write each
//! ```
//!
//! Each [`Action`] is one write, and says which version of the object it was decided on: a write that loses its race is
//! refused by the API server, and everything is read and decided again. So any number of operators may run at any moment,
//! and any of them may stop between any two writes.
//!
//! - [`state`]: what decisions rest on; `facts`: what follows from it alone, looked up once; `action`: the writes that they lead to
//! - [`blocks`]: which heights of a block source are believed
//! - [`view`]: what nodes said, judged: the part of the state that streams are folded into
//! - `gate`: states in which nothing may be decided, each with a sentence for people
//! - `membership`: which nodes there should be
//! - `rounds`: reservation, plan, phases, settlement; `prekeys`: the prekey that a plan names for a receiver
//! - `epochs`: confirmation, retirement, history
//! - [`erasure`]: how far each node destroyed what it had
//! - `record`: the ConfigMap that outlives the cluster
//! - `deletion`: what a deleted cluster leaves
//! - [`node`]: one node's pod, erasure and conditions
//! - `rollout`: pods of an earlier spec, one at a time
//! - [`key_epoch`]: a `KeyEpoch`'s status, each phase folded into it
//! - `status`: conditions, phase and summary for people
//! - [`rules`]: the kinds' CEL rules, as the operator asserts them before it writes
//!
//! Invariants, checked by `tests` after every write of interleaved operators: one epoch per boundary; one open round; a
//! number, an index and the public key once written stay; the active epoch only rises.

mod action;
pub mod blocks;
mod deletion;
mod epochs;
pub mod erasure;
mod facts;
mod gate;
pub mod key_epoch;
mod membership;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod node;
mod prekeys;
mod record;
mod rollout;
mod rounds;
pub mod rules;
pub mod state;
mod status;
#[cfg(test)]
mod tests;
pub mod view;

use std::collections::BTreeSet;

use keyfleet_crds::KmsClusterStatus;

pub use action::Action;
pub use rollout::min_available;
pub use rounds::NotStartedError;
pub use state::State;

pub(crate) use facts::Facts;

/// Writes to make, in this order, and facts to remember.
#[derive(Clone, Default, Debug)]
pub struct Decisions {
    /// The writes. The first that is refused ends the run: everything is read again.
    pub actions: Vec<Action>,
    /// The block since which the active epoch lacks dealers: remembered as [`State::starved_since`].
    pub starved_since: Option<u64>,
    /// Why no round is started although one is due.
    pub waiting: Option<NotStartedError>,
    /// True when every node whose stream is open is to be asked anew what it holds: an epoch can be confirmed or retired if they
    /// prove it.
    pub asks: bool,
    /// True while a round is under way or due: the cluster is then reconciled often.
    pub busy: bool,
}

/// Decides. The same state always gives the same answer.
#[must_use]
pub fn decide(state: &State) -> Decisions {
    let facts = Facts::of(state);
    Decisions { busy: facts.is_busy(), ..decide_on(&facts) }
}

fn decide_on(facts: &Facts<'_>) -> Decisions {
    let cluster = &facts.state.cluster;
    if cluster.deleting {
        let mut actions = deletion::actions(facts);
        if actions.is_empty() {
            // People read there which nodes the deletion waits for.
            actions = status::action(facts, None, None);
        }
        return Decisions { actions, ..Decisions::default() };
    }
    if !cluster.finalizer {
        return only(Action::SetClusterFinalizer { present: true });
    }
    if let Err(stop) = &facts.gates.record {
        let removals = facts.gates.removals.is_ok().then(|| membership::removals(facts));
        let mut actions = removals.unwrap_or_default();
        actions.extend(status::action(facts, Some(stop), None));
        return Decisions { actions, ..Decisions::default() };
    }
    let Some(id) = facts.id() else { return only(record::adopt_or_mint(facts.state)) };
    match record::restore(facts) {
        Ok(None) => {}
        Ok(Some(restored)) => return only(restored),
        Err(waiting) => {
            let actions = status::action(facts, None, Some(&waiting));
            return Decisions { actions, waiting: Some(waiting), ..Decisions::default() };
        }
    }
    if facts.members.missing > 0 && !cluster.spec.paused {
        let next = cluster.status.next_index.unwrap_or(1) + u64::from(facts.members.missing);
        let after = KmsClusterStatus { next_index: Some(next), ..cluster.status.clone() };
        return only(Action::update_cluster(facts.state, after));
    }
    let mut actions = membership::actions(facts, id);
    actions.extend(record::write(facts, id));
    let epochs = epochs::epochs(facts);
    actions.extend(epochs.actions);
    let rounds = rounds::rounds(facts);
    let writes_status = rounds.actions.iter().any(|action| matches!(action, Action::UpdateCluster { .. }));
    actions.extend(rounds.actions);
    actions.extend(erasure::actions(facts));
    if actions.is_empty() {
        actions.extend(rollout::actions(facts));
    }
    if !writes_status {
        // One write of the status per run: the report follows when nothing else is decided.
        actions.extend(status::action(facts, facts.gates.start.as_ref().err(), rounds.waiting.as_ref()));
    }
    let (starved_since, waiting) = (rounds.starved_since, rounds.waiting);
    Decisions { actions: once_each(actions), starved_since, waiting, asks: epochs.asks, busy: false }
}

/// A second write of the same object was decided on a version that the first one changes.
fn once_each(actions: Vec<Action>) -> Vec<Action> {
    let (mut epochs, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    let mut kept = Vec::new();
    for action in actions {
        let first = match &action {
            Action::UpdateEpoch { number, .. } => epochs.insert(*number),
            Action::UpdateNode { spec, .. } => nodes.insert(spec.index),
            Action::NoteErasure { index, .. } => nodes.insert(*index),
            _ => true,
        };
        if first {
            kept.push(action);
        }
    }
    kept
}

fn only(action: Action) -> Decisions {
    Decisions { actions: vec![action], ..Decisions::default() }
}
