//! Rolling changes: pods that were made for an earlier spec are replaced one at a time, through the Eviction API.
//!
//! A pod goes only while every other serves, enough of them remain, and no round is under way; its successor has to be
//! ready before the next one goes. The disruption budget has the last word: it also counts what others evict.

use std::collections::BTreeSet;

use crate::state::State;
use crate::{Action, gate, membership::Members};

/// State of a rolling change, and what it waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rolling {
    /// Every pod is as the spec wants it.
    Done,
    /// This one may go.
    Evict(u32),
    /// Some are of an earlier spec, and none may go now: why.
    Waits(String),
}

/// Returns the next step of the rolling change, if one is under way.
#[must_use]
pub fn rolling(state: &State, members: &Members) -> Rolling {
    let outdated = outdated(state, members);
    if outdated.is_empty() {
        return Rolling::Done;
    }
    let list = |of: &BTreeSet<u32>| of.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    if state.cluster.spec.paused {
        return Rolling::Waits("spec.paused is set".into());
    }
    if let Err(stop) = gate::reports(state) {
        return Rolling::Waits(stop.message);
    }
    if state.open().is_some() || state.cluster.status.reservation.is_some() {
        return Rolling::Waits("a round is under way".into());
    }
    let serves = |index: &u32| state.nodes.get(index).is_some_and(|node| node.ready);
    let away: BTreeSet<u32> = members.stay.iter().filter(|index| !serves(index)).copied().collect();
    // One that does not serve anyway goes first: what it lacks may be what the change brings.
    if let Some(index) = outdated.iter().find(|index| away.contains(index)) {
        return Rolling::Evict(*index);
    }
    if !away.is_empty() {
        return Rolling::Waits(format!("nodes that are not ready: {}", list(&away)));
    }
    if let Some(why) = &state.eviction_refused {
        return Rolling::Waits(format!("the disruption budget: {why}"));
    }
    let needed = state.active().map_or(0, |(_, epoch)| epoch.spec.threshold as usize);
    let ready = state
        .active()
        .map_or(0, |(_, epoch)| epoch.spec.receivers.iter().filter(|receiver| serves(&receiver.index)).count());
    match outdated.first() {
        Some(index) if ready > needed || state.active().is_none() => Rolling::Evict(*index),
        _ => Rolling::Waits(format!("all {needed} nodes that serve are needed: a change needs downtime here")),
    }
}

/// The write, if there is one. Nothing else may be decided in the same run.
pub(super) fn actions(state: &State, members: &Members) -> Option<Action> {
    match rolling(state, members) {
        Rolling::Evict(index) => Some(Action::Evict { index }),
        Rolling::Done | Rolling::Waits(_) => None,
    }
}

/// The nodes whose pod was made for an earlier spec.
pub(super) fn outdated(state: &State, members: &Members) -> BTreeSet<u32> {
    let is = |index: &&u32| state.nodes.get(index).is_some_and(|node| node.outdated);
    members.stay.iter().filter(is).copied().collect()
}
