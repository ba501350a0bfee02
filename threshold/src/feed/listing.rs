//! Plans and records as inputs: all plans oldest first, then their records, then what the newest record keeps no longer.

use std::collections::{BTreeMap, BTreeSet};

use super::input::Input;
use crate::identifiers::{Block, EpochNumber, NodeIndex};
use crate::plan::{Origin, ValidPlan};
use crate::possession::Proofs;
use crate::round::{Attempt, Contradiction, PersistentState, Retirement, RoundRecord};

/// Everything that a node reads of rounds at the API server.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Grows with every list that was read anew; zero before the first.
    pub generation: u64,
    /// The rounds by number.
    pub epochs: BTreeMap<EpochNumber, ListedEpoch>,
    /// The user's `allowDowntime`; `None` before it was read.
    pub allow_downtime: Option<bool>,
    /// The user's `confirmAfterSeconds`; `None` before it was read.
    pub confirm_after_seconds: Option<u32>,
    /// Number of confirmed epochs that the user wants kept; `None` before it was read.
    pub retention: Option<usize>,
}

/// A round as it is listed.
#[derive(Clone, Debug)]
pub struct ListedEpoch {
    /// The plan.
    pub plan: ValidPlan,
    /// The record; `None` where it is malformed, and before the operator has opened it.
    pub record: Option<RoundRecord>,
}

impl Listing {
    /// Returns the newest block that a plan names: a node restored from its replica [abstains](Input::Abstain) through it,
    /// before it is fed anything else.
    #[must_use]
    pub fn newest_block(&self) -> Block {
        self.epochs.values().map(|epoch| epoch.plan.block).max().unwrap_or(Block(0))
    }

    /// Makes the input for an epoch of [`Next::retire`] from what peers proved for it.
    #[must_use]
    pub fn retirement(&self, number: EpochNumber, proofs: Proofs) -> Input {
        let confirm_after_ms = self.confirm_after_seconds.map(|seconds| u64::from(seconds) * 1_000);
        Input::Retire(Retirement { number, proofs, confirm_after_ms })
    }

    /// Checks that a plan's receivers need not all be present, unless the user allows that or the epoch that it hands on
    /// needs the same ones. The user's word is no part of a plan, so each node reads it itself.
    fn may_need_every_node(&self, plan: &ValidPlan) -> bool {
        let needs_all = |plan: &ValidPlan| plan.threshold.count() >= plan.receivers.len();
        let source = plan.source().and_then(|source| self.epochs.get(&source.number)).map(|epoch| &epoch.plan);
        let as_before = source.is_some_and(|source| needs_all(source) && receivers(source) == receivers(plan));
        !needs_all(plan) || self.allow_downtime == Some(true) || as_before
    }
}

fn receivers(plan: &ValidPlan) -> Vec<NodeIndex> {
    plan.receivers.iter().map(|receiver| receiver.index).collect()
}

/// Why a plan is not fed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeldBack {
    /// Every one of its receivers is needed, and whether the user allows that was not read yet.
    AllowDowntimeUnknown,
    /// Every one of its receivers is needed, and the user does not allow that.
    NeedsEveryNode,
    /// A genesis waits until the bucket durably says that the cluster's name is this cluster's.
    NameNotMarked,
}

/// Answer of [`Feed::next`].
#[must_use]
#[derive(Default, Debug)]
pub struct Next {
    /// The inputs, to be fed in this order.
    pub inputs: Vec<Input>,
    /// The epochs that the record calls retired and whose secrets this node still has. Ask the peers what they hold, then feed
    /// each by [`Listing::retirement`].
    pub retire: BTreeSet<EpochNumber>,
    /// The plans that are not fed yet.
    pub held_back: BTreeMap<EpochNumber, HeldBack>,
    /// Why the list of kept epochs does not count.
    pub contradiction: Option<Contradiction>,
    /// True when [`Feed::next`] has to be called again after a while, even if nothing that is listed changes.
    pub again: bool,
}

/// Remembers what was fed of the list that is current. A list that was read anew is fed whole: what the participant saw before
/// does no harm.
#[derive(Default)]
pub struct Feed {
    generation: u64,
    plans: BTreeSet<EpochNumber>,
    records: BTreeMap<EpochNumber, RoundRecord>,
}

impl Feed {
    /// Tells whether [`Feed::next`] would feed a genesis if the name were marked: mark it first.
    #[must_use]
    pub fn awaits_name_mark(&self, listing: &Listing, state: Option<&PersistentState>) -> bool {
        let is_fed = |number| listing.generation == self.generation && self.plans.contains(number);
        listing.epochs.iter().any(|(number, epoch)| {
            !is_fed(number) && held_back(&epoch.plan, listing, state, false) == Some(HeldBack::NameNotMarked)
        })
    }

    /// Returns what was not fed yet. The caller feeds all of it.
    ///
    /// `state` is what the node committed last, `None` before its first commit. `name_is_marked` says whether a genesis may
    /// begin as far as the bucket is concerned; without a bucket it is true.
    pub fn next(&mut self, listing: &Listing, state: Option<&PersistentState>, name_is_marked: bool) -> Next {
        let mut next = Next::default();
        if listing.generation == 0 {
            return next;
        }
        if self.generation != listing.generation {
            *self = Self { generation: listing.generation, ..Self::default() };
        }
        for (number, epoch) in &listing.epochs {
            if self.plans.contains(number) {
                continue;
            }
            if let Some(reason) = held_back(&epoch.plan, listing, state, name_is_marked) {
                next.held_back.insert(*number, reason);
                next.again = true;
                continue;
            }
            next.inputs.push(Input::Plan((*epoch.plan).clone()));
            self.plans.insert(*number);
        }
        for (number, epoch) in &listing.epochs {
            if !self.plans.contains(number) {
                continue;
            }
            let Some(record) = &epoch.record else { continue };
            self.feed_record(*number, record, &mut next);
        }
        name_retirements(listing, state, &mut next);
        next
    }

    fn feed_record(&mut self, number: EpochNumber, record: &RoundRecord, next: &mut Next) {
        if self.records.get(&number) != Some(record) {
            next.inputs.push(Input::Record(number, record.clone()));
            self.records.insert(number, record.clone());
        }
    }
}

/// Names the retirement of every epoch that the record keeps no longer, listed itself or not, until the node has retired it: the newer
/// one may not be proven yet, or its share not be there.
fn name_retirements(listing: &Listing, state: Option<&PersistentState>, next: &mut Next) {
    let record = |number| listing.epochs.get(&number).and_then(|epoch| epoch.record.as_ref());
    let certified =
        listing.epochs.keys().rev().find(|number| record(**number).is_some_and(|it| it.certificate.is_some()));
    let known = state.and_then(PersistentState::newest_certified).map(|certificate| certificate.number);
    // What was fed just now is not committed yet.
    next.again |= certified.copied() > known;
    let (Some(state), Some(retention)) = (state, listing.retention) else { return };
    match state.unlisted(record, retention) {
        Ok(unlisted) => {
            next.again |= !unlisted.is_empty();
            next.retire.extend(unlisted.into_iter().filter(|number| !state.keeps(*number)));
        }
        Err(contradiction) => next.contradiction = Some(contradiction),
    }
}

fn held_back(
    plan: &ValidPlan,
    listing: &Listing,
    state: Option<&PersistentState>,
    name_is_marked: bool,
) -> Option<HeldBack> {
    if attempt(state, plan.number).is_some() {
        return None;
    }
    if !listing.may_need_every_node(plan) {
        // The KmsCluster may not have been read yet, or change.
        let is_known = listing.allow_downtime.is_some();
        return Some(if is_known { HeldBack::NeedsEveryNode } else { HeldBack::AllowDowntimeUnknown });
    }
    (matches!(plan.origin, Origin::Genesis) && !name_is_marked).then_some(HeldBack::NameNotMarked)
}

fn attempt(state: Option<&PersistentState>, number: EpochNumber) -> Option<&Attempt> {
    state.and_then(|state| state.attempts.get(&number))
}
