//! Rolling changes: pods that were made for an earlier spec are replaced one at a time, through the Eviction API.
//!
//! A pod goes only while every other serves, enough of them remain, and no round is under way; its successor has to be
//! ready before the next one goes. The disruption budget has the last word: it also counts what others evict.

use std::collections::BTreeSet;

use crate::{Action, Facts, State};

/// Wait after a refused eviction before the next one. It is counted either way: a clock may have been put back.
const REFUSED: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

/// State of a rolling change, and what it waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Rolling {
    /// Every pod is as the spec wants it.
    Done,
    /// This one may go.
    Evict(u32),
    /// Some are of an earlier spec, and none may go now: why.
    Waits(String),
}

/// Returns the next step of the rolling change, if one is under way.
#[must_use]
pub(crate) fn rolling(facts: &Facts<'_>) -> Rolling {
    let (state, members) = (facts.state, &facts.members);
    let outdated = outdated(facts);
    let Some(first) = outdated.first().copied() else { return Rolling::Done };
    if state.cluster.spec.paused {
        return Rolling::Waits("spec.paused is set".into());
    }
    if let Err(stop) = &facts.gates.reports {
        return Rolling::Waits(stop.message.clone());
    }
    if facts.open.is_some() || state.cluster.status.reservation.is_some() {
        return Rolling::Waits("a round is under way".into());
    }
    let away: BTreeSet<u32> = members.stay.iter().copied().filter(|index| !state.is_ready(*index)).collect();
    // One that does not serve anyway goes first: what it lacks may be what the change brings.
    if let Some(index) = outdated.iter().find(|index| away.contains(index)) {
        return Rolling::Evict(*index);
    }
    if !away.is_empty() {
        let away: Vec<_> = away.iter().map(u32::to_string).collect();
        return Rolling::Waits(format!("nodes that are not ready: {}", away.join(", ")));
    }
    if let Some((_, why)) =
        state.eviction_refused.as_ref().filter(|(at, _)| state.now.duration_since(*at).abs() < REFUSED)
    {
        return Rolling::Waits(format!("the disruption budget: {why}"));
    }
    let Some((_, active)) = facts.active else { return Rolling::Evict(first) };
    let needed = active.spec.threshold as usize;
    let ready = active.spec.receivers.iter().filter(|receiver| state.is_ready(receiver.index)).count();
    if ready <= needed {
        return Rolling::Waits(format!("all {needed} nodes that serve are needed: a change needs downtime here"));
    }
    Rolling::Evict(first)
}

/// Returns the number of pods that the disruption budget keeps: neither the active nor the next epoch loses its quorum to a drain
/// while the threshold changes.
#[must_use]
pub fn min_available(state: &State) -> u32 {
    let active = state.active().map(|(_, epoch)| epoch.spec.threshold);
    let next = state.open().map(|(_, epoch)| epoch.spec.threshold);
    active.into_iter().chain(next).fold(state.cluster.spec.effective_threshold(), u32::max)
}

/// The write, if there is one. Nothing else may be decided in the same run.
pub(super) fn actions(facts: &Facts<'_>) -> Option<Action> {
    match rolling(facts) {
        Rolling::Evict(index) => Some(Action::Evict { index }),
        Rolling::Done | Rolling::Waits(_) => None,
    }
}

/// The nodes whose pod was made for an earlier spec.
pub(super) fn outdated(facts: &Facts<'_>) -> BTreeSet<u32> {
    let stay = facts.members.stay.iter().copied();
    stay.filter(|index| facts.state.nodes.get(index).is_some_and(|node| node.outdated)).collect()
}
