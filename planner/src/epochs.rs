//! Confirmation and retirement of epochs, and removal of the records of failed ones.

use std::collections::BTreeSet;

use keyfleet_crds::KeyEpochStatus;
use keyfleet_crds::epoch::Phase;
use keyfleet_threshold::coordination::Decision;
use keyfleet_threshold::coordination::retention::{ActivatedEpoch, confirmed_by_age, kept, listed_max};
use keyfleet_threshold::identifiers::EpochNumber;

use crate::key_epoch;
use crate::state::{Epoch, State, ms};
use crate::{Action, Facts, rounds};
use keyfleet_crds::convert;

/// Milliseconds between two times at which nodes are asked anew: one that does not answer costs little.
const ASK_AGAIN_MS: u64 = 10_000;

/// Proofs that count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counting {
    /// Those of nodes that were asked just now.
    Now,
    /// All of open streams: what may be had by asking anew.
    Open,
}

impl Counting {
    /// Counts the receivers that prove to hold an epoch.
    pub(crate) fn holders(self, state: &State, number: u64, epoch: &Epoch) -> usize {
        match self {
            Self::Now => state.holding_now(number, &epoch.spec),
            Self::Open => holding(state, number, epoch).count(),
        }
    }
}

/// Writes that epochs require, and whether nodes are to be asked anew first.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    /// Writes.
    pub(crate) actions: Vec<Action>,
    /// True when fresh proofs may let an epoch be confirmed or retired.
    pub(crate) asks: bool,
}

/// Confirms, retires, notes who holds and what is kept, keeps the finalizer on the active epoch, forgets old records.
#[must_use]
pub(crate) fn epochs(facts: &Facts<'_>) -> Epochs {
    if facts.gates.reports.is_err() {
        return Epochs::default();
    }
    let state = facts.state;
    let kept = kept_numbers(facts);
    let (mut actions, mut asks) = (Vec::new(), false);
    for (number, epoch) in &state.epochs {
        let Some(before) = &epoch.status else { continue };
        if key_epoch::is_open(Some(before)) {
            continue;
        }
        let moved = advance(facts, *number, epoch, kept.contains(number), Counting::Now);
        asks |= moved.is_none() && advance(facts, *number, epoch, kept.contains(number), Counting::Open).is_some();
        let mut after = moved.unwrap_or_else(|| before.clone());
        observe(state, *number, epoch, &mut after);
        if facts.active.is_some_and(|(active, _)| active == *number) {
            list(state, *number, &mut after);
        }
        if after != *before {
            let resource_version = epoch.resource_version.clone();
            actions.push(Action::UpdateEpoch { number: *number, resource_version, status: Box::new(after) });
        }
    }
    actions.extend(finalizers(facts));
    actions.extend(history(state));
    let asked_ms = state.view.asked_ms.filter(|asked_ms| *asked_ms <= ms(state.now));
    asks &= asked_ms.is_none_or(|asked_ms| ms(state.now) - asked_ms >= ASK_AGAIN_MS);
    Epochs { actions, asks }
}

/// The epochs whose secrets are kept.
#[must_use]
pub(crate) fn kept_numbers(facts: &Facts<'_>) -> BTreeSet<u64> {
    let served = facts.state.served();
    let activated: Vec<_> = served
        .map(|(number, epoch)| ActivatedEpoch {
            number: EpochNumber(number),
            confirmed: key_epoch::is_confirmed(epoch.status.as_ref()),
            source: epoch.spec.source.as_ref().map(|source| EpochNumber(source.number)),
        })
        .collect();
    let under_way = facts.open.and_then(|(_, epoch)| epoch.spec.source.as_ref());
    let under_way = under_way.map(|source| EpochNumber(source.number));
    let retention = facts.state.cluster.spec.epochs.retention as usize;
    kept(&activated, retention, under_way).into_iter().map(|number| number.0).collect()
}

fn advance(facts: &Facts<'_>, number: u64, epoch: &Epoch, kept: bool, counting: Counting) -> Option<KeyEpochStatus> {
    let now = rounds::moment(facts.state);
    // Rounds under way rest on their source; nothing is retired before the status knows the newest active epoch, and while
    // too few nodes prove that they can sign with it.
    let settled = facts.is_settled(counting);
    let status = epoch.status.as_ref()?;
    // A plan's points are costly to check, and most epochs stay as they are.
    let plan = || convert::plan_of(&epoch.spec).ok();
    match status.phase? {
        Phase::Active if confirms(facts.state, number, epoch, counting) => {
            key_epoch::apply(&plan()?, status, &Decision::Confirm, &now).ok()
        }
        Phase::Active | Phase::Confirmed if !kept && settled => key_epoch::retire(&plan()?, status, &now).ok(),
        _ => None,
    }
}

fn confirms(state: &State, number: u64, epoch: &Epoch, counting: Counting) -> bool {
    let said = state.view.closing.get(&number).is_some_and(|closing| closing.decision == Some(Decision::Confirm));
    let holding = counting.holders(state, number, epoch);
    // The core counts words; here they must be proven.
    let needed = || convert::plan_of(&epoch.spec).map(|plan| plan.holders_to_confirm());
    let by_count = said && needed().is_ok_and(|needed| holding >= needed);
    let answering = epoch.receivers().into_iter().filter(|index| is_awaited(state, number, *index)).count();
    let since = epoch.status.as_ref().and_then(key_epoch::entered);
    let after_seconds = i64::from(state.cluster.spec.epochs.confirm_after_seconds);
    let outlasted = since.is_some_and(|since| state.now.as_second() - since.0.as_second() >= after_seconds);
    by_count || confirmed_by_age(holding, answering, epoch.spec.threshold as usize, outlasted)
}

/// Returns the receivers that prove on open streams to hold an epoch.
fn holding<'a>(state: &'a State, number: u64, epoch: &'a Epoch) -> impl Iterator<Item = u32> + 'a {
    let holds = state.view.holds.get(&number).into_iter().flatten().map(|(index, _)| *index);
    holds.filter(|index| epoch.has_receiver(*index))
}

/// Tells whether the age of an epoch waits for a receiver's proof: while its stream is open, unless it was known already when a
/// later round succeeded and proves neither this epoch nor a newer one. Whoever is there and proves nothing counts as away.
fn is_awaited(state: &State, number: u64, index: u32) -> bool {
    let proves = || state.view.holds.range(number..).any(|(_, holds)| holds.contains_key(&index));
    let ended = |epoch: &Epoch| Some(ms(epoch.status.as_ref()?.timings.as_ref()?.ended.as_ref()?.0));
    let succeeded = || state.epochs.range(number + 1..).filter(|(_, epoch)| epoch.was_activated());
    let outlived = |since_ms: u64| succeeded().any(|(_, epoch)| ended(epoch).is_some_and(|ended| since_ms < ended));
    let since_ms = state.view.known_since_ms.get(&index).copied();
    state.view.connected.contains(&index) && (proves() || !since_ms.is_some_and(outlived))
}

/// Writes down which nodes proved to hold an epoch and which destroyed it, when that has changed since the last write.
fn observe(state: &State, number: u64, epoch: &Epoch, status: &mut KeyEpochStatus) {
    if key_epoch::serves(Some(status)) {
        let holds = state.view.holds.get(&number).into_iter().flatten().map(|(index, _)| index);
        let mut possessors: BTreeSet<u32> = status.possessors.iter().chain(holds).copied().collect();
        // A node that cannot prove it now holds it no more.
        let refuted = state.view.unproven.get(&number);
        possessors.retain(|index| refuted.is_none_or(|refuted| !refuted.contains_key(index)));
        status.held = Some(format!("{}/{}", possessors.len(), epoch.spec.receivers.len()));
        status.possessors = possessors.into_iter().collect();
    }
}

/// Lists the older epochs that are not retired. A record that somebody deleted is not listed, and nodes destroy what it was of.
///
/// A longer list than nodes believe is not written: with what stands there, they destroy nothing that is newer.
fn list(state: &State, number: u64, status: &mut KeyEpochStatus) {
    let kept: Vec<u64> = state.served().map(|(kept, _)| kept).filter(|kept| *kept < number).collect();
    if kept.len() <= listed_max(state.cluster.spec.epochs.retention as usize) {
        status.kept = Some(kept);
    }
}

/// The record of the key in use cannot be deleted by accident; that of any other can.
fn finalizers(facts: &Facts<'_>) -> impl Iterator<Item = Action> {
    let state = facts.state;
    let active = facts.active.map(|(number, _)| number);
    let opened = facts.open.map(|(number, _)| number);
    state.epochs.iter().filter_map(move |(number, epoch)| {
        let wanted = state.finalizers && Some(*number) == active;
        // A round about to become active carries it already.
        let keep = state.finalizers && (wanted || Some(*number) == opened);
        match (epoch.finalizer, wanted) {
            (false, true) => Some(Action::SetEpochFinalizer { number: *number, present: true }),
            (true, false) if !keep => Some(Action::SetEpochFinalizer { number: *number, present: false }),
            _ => None,
        }
    })
}

/// The newest failed and the newest retired records stay, to be read.
fn history(state: &State) -> impl Iterator<Item = Action> {
    let limit = state.cluster.spec.epochs.failed_history_limit as usize;
    let reserved = state.cluster.status.reservation.map(|reservation| reservation.number);
    let old = |phase| {
        let ended = state.epochs.iter().rev().filter(move |(_, epoch)| epoch.phase() == Some(phase));
        ended.skip(limit).map(|(number, _)| *number)
    };
    let all = old(Phase::Failed).chain(old(Phase::Retired));
    let mut numbers: Vec<u64> = all.filter(|number| Some(*number) != reserved).collect();
    // The highest number stays, whatever it is: it is what the next one is taken above.
    numbers.retain(|number| Some(number) != state.epochs.keys().next_back());
    numbers.sort_unstable();
    numbers.into_iter().map(|number| Action::DeleteEpoch { number })
}
