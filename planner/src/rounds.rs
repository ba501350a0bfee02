//! Rounds: when one is due, the reservation that only one operator gets, the plan, and what follows from its end.
//!
//! ```text
//!  due ──▶ reserve (compare-and-swap) ──▶ KeyEpoch (POST) ──▶ phases (compare-and-swap each) ──▶ settle (compare-and-swap)
//! ```
//!
//! A crash between any two steps leaves a state from which the next one follows; a second operator that read the same state
//! loses the compare-and-swap, or finds the KeyEpoch there.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use keyfleet_crds::cluster::status::Reservation;
use keyfleet_crds::{KeyEpochSpec, KmsClusterStatus};
use keyfleet_threshold::coordination::planning::{self, choose_source};
use keyfleet_threshold::coordination::{FleetView, KeptEpoch, NodeView, PlanningError, boundary};
use keyfleet_threshold::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, Threshold};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::plan::{Deadlines, PlanVersion, ValidPlan};

use crate::key_epoch::{self, Moment, MoveError};
use crate::state::{Epoch, State};
use crate::{Action, Facts, prekeys};
use keyfleet_crds::convert::{self, ConvertError};

/// Why a round starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trigger {
    /// There is no key yet.
    Genesis,
    /// The spec asks for other nodes or another threshold than the active epoch has.
    Change,
    /// Someone asked for it by annotation.
    Request,
    /// A boundary.
    Boundary(u64),
}

/// Why a round that is due is not started, or one that is open not moved on.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotStartedError {
    /// No plan can be made.
    #[error(transparent)]
    Planning(#[from] PlanningError),
    /// An object says what this release does not understand.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A node has no pinned identity yet.
    #[error("node {0} has not offered an identity key yet; look at its pod")]
    NoIdentity(u32),
    /// Nodes speak no common version.
    #[error("too few nodes know the plans of this operator: bring operator and nodes to one release")]
    VersionsDiffer,
    /// After failures, some time passes.
    #[error("the next attempt is made at block {0}")]
    BackOff(u64),
    /// The record of a round under way, or of the active epoch, is not as an operator wrote it.
    #[error(
        "the record of attempt {number} cannot be moved on: {error}. No round starts until then. Restore the KeyEpoch {name} as it \
         was; a round that has not ended may also be deleted, and is begun anew"
    )]
    Halted {
        /// Number of the attempt.
        number: u64,
        /// Name of its `KeyEpoch`.
        name: String,
        /// Fault of the record.
        error: MoveError,
    },
}

impl NotStartedError {
    /// A record that cannot be moved on.
    pub(super) fn halted(state: &State, number: u64, error: MoveError) -> Self {
        Self::Halted { number, name: keyfleet_crds::names::epoch(&state.cluster.name, number), error }
    }
}

/// Actions that rounds require at this moment.
#[derive(Clone, Default, Debug)]
pub(crate) struct Rounds {
    /// Writes.
    pub(crate) actions: Vec<Action>,
    /// Why a due round waits.
    pub(crate) waiting: Option<NotStartedError>,
    /// The block since which the active epoch lacks dealers.
    pub(crate) starved_since: Option<u64>,
}

/// The next steps of the round under way, or the start of one that is due.
#[must_use]
pub(crate) fn rounds(facts: &Facts<'_>) -> Rounds {
    if facts.gates.reports.is_err() {
        return Rounds::default();
    }
    if let Some(settled) = settle(facts) {
        return only(settled);
    }
    match strays(facts.state) {
        Ok(strays) if strays.is_empty() => {}
        Ok(actions) => return Rounds { actions, ..Rounds::default() },
        Err(waiting) => return Rounds { waiting: Some(waiting), ..Rounds::default() },
    }
    if let Some((number, epoch)) = facts.open {
        return match drive(facts, number, epoch) {
            Ok(actions) => Rounds { actions, ..Rounds::default() },
            Err(error) => {
                Rounds { waiting: Some(NotStartedError::halted(facts.state, number, error)), ..Rounds::default() }
            }
        };
    }
    let Ok(block) = facts.gates.start else { return Rounds::default() };
    let result = match facts.state.cluster.status.reservation {
        Some(reservation) => reserved(facts, reservation, block),
        None => reserve(facts, block),
    };
    match result {
        Ok(action) => Rounds { actions: action.into_iter().collect(), ..Rounds::default() },
        Err(waiting) => {
            let starved = matches!(waiting, NotStartedError::Planning(PlanningError::NoSource { .. }));
            let since = facts.state.starved_since.unwrap_or(facts.state.last_block);
            Rounds { waiting: Some(waiting), starved_since: starved.then_some(since), ..Rounds::default() }
        }
    }
}

/// Returns the round that is due at `block`, leaving aside the pause after failures.
#[must_use]
pub(crate) fn due(facts: &Facts<'_>, block: u64) -> Option<Trigger> {
    let state = facts.state;
    if !state.has_key() {
        return Some(Trigger::Genesis);
    }
    let (_, active) = facts.active?;
    if facts.members.missing == 0 && !carries_out(facts, &active.spec) && awaited_newcomers(facts).is_empty() {
        return Some(Trigger::Change);
    }
    let request = state.cluster.reshare_request.as_ref();
    if request.is_some() && request != state.cluster.status.answered_reshare_request.as_ref() {
        return Some(Trigger::Request);
    }
    let interval = NonZeroU64::new(u64::from(state.cluster.spec.schedule.interval_blocks))?;
    let last = state.cluster.status.last_processed_boundary.map(Block);
    boundary::due(interval, Block(block), last).map(|boundary| Trigger::Boundary(boundary.0))
}

/// Blocks to wait after a number of failures in a row: doubling, at most four intervals.
#[must_use]
pub(crate) fn back_off_blocks(failures: u32, interval_blocks: u64) -> u64 {
    let doubled = 2_u64.saturating_pow(failures.clamp(1, 30));
    doubled.min(interval_blocks.saturating_mul(4))
}

/// The reservation: one compare-and-swap that takes the number, and the boundary with it.
fn reserve(facts: &Facts<'_>, block: u64) -> Result<Option<Action>, NotStartedError> {
    let Some(trigger) = due(facts, block) else { return Ok(None) };
    let state = facts.state;
    if let Some(at) = state.cluster.status.retry_at_block.filter(|at| block < *at) {
        return Err(NotStartedError::BackOff(at));
    }
    let status = &state.cluster.status;
    let number = status.next_number.unwrap_or(1);
    let reservation = Reservation {
        number,
        boundary: if let Trigger::Boundary(boundary) = trigger { Some(boundary) } else { None },
        block: if let Trigger::Boundary(boundary) = trigger { boundary } else { block },
        generation: state.cluster.generation,
    };
    // A number is not spent on a plan that cannot be made: the boundary stays due until it can.
    plan(facts, &reservation)?;
    let interval = u64::from(state.cluster.spec.schedule.interval_blocks);
    let processed = match trigger {
        Trigger::Boundary(boundary) => Some(boundary),
        // Boundaries before the first key were not missed.
        Trigger::Genesis => status.last_processed_boundary.or_else(|| Some(block - block.checked_rem(interval)?)),
        Trigger::Change | Trigger::Request => status.last_processed_boundary,
    };
    let after = KmsClusterStatus {
        reservation: Some(reservation),
        next_number: Some(number + 1),
        last_processed_boundary: processed,
        last_decision_block: Some(block),
        answered_reshare_request: state.cluster.reshare_request.clone(),
        ..status.clone()
    };
    Ok(Some(Action::update_cluster(state, after)))
}

/// A reservation whose `KeyEpoch` is not there: make it, or take a newer number where the spec has changed since.
fn reserved(facts: &Facts<'_>, reservation: Reservation, block: u64) -> Result<Option<Action>, NotStartedError> {
    let state = facts.state;
    if reservation.generation == state.cluster.generation {
        return Ok(Some(Action::CreateEpoch(Box::new(convert::spec_of(&plan(facts, &reservation)?)))));
    }
    let status = &state.cluster.status;
    let number = status.next_number.unwrap_or(1);
    let block = if reservation.boundary.is_some() { reservation.block } else { block };
    let newer = Reservation { number, block, generation: state.cluster.generation, ..reservation };
    plan(facts, &newer)?;
    let after = KmsClusterStatus { reservation: Some(newer), next_number: Some(number + 1), ..status.clone() };
    Ok(Some(Action::update_cluster(state, after)))
}

/// Takes the end of a round into the cluster's status, once: the compare-and-swap that clears its reservation counts it.
fn settle(facts: &Facts<'_>) -> Option<Action> {
    let Facts { state, active, .. } = *facts;
    let status = &state.cluster.status;
    let mut after = status.clone();
    if let Some((number, epoch)) = active {
        // The record proves that t nodes could sign once; the proofs over a fresh challenge, that they can now.
        if status.active_epoch.is_none_or(|known| known < number) && state.is_proven(number, &epoch.spec) {
            after.active_epoch = Some(number);
            (after.failures_in_row, after.retry_at_block) = (None, None);
        }
        after.public_key = status
            .public_key
            .or(epoch.spec.expected_public_key)
            .or_else(|| key_epoch::public_key::public_key_of(&epoch.spec, epoch.status.as_ref()?));
        after.key_fingerprint = after.public_key.map(|key| key.fingerprint());
    }
    if let Some(reservation) = status.reservation {
        let ended = state.epochs.get(&reservation.number).filter(|epoch| !key_epoch::is_open(epoch.status.as_ref()));
        if let Some(epoch) = ended {
            after.reservation = None;
            if !key_epoch::serves(epoch.status.as_ref()) && active.is_none_or(|(number, _)| number < reservation.number)
            {
                let failures = status.failures_in_row.unwrap_or(0).saturating_add(1);
                let interval = u64::from(state.cluster.spec.schedule.interval_blocks);
                after.failures_in_row = Some(failures);
                after.retry_at_block = Some(state.last_block.saturating_add(back_off_blocks(failures, interval)));
            }
        }
    }
    // Numbers of epochs that are there were given, whatever a restored status says.
    let highest = state.epochs.keys().next_back().copied().unwrap_or(0);
    if after.next_number.unwrap_or(1) <= highest {
        after.next_number = Some(highest + 1);
    }
    (after != *status).then(|| Action::update_cluster(state, after))
}

/// Open rounds that no reservation stands for: a slow operator posted one after its number was given up, or objects were put
/// back without their status. Nobody counts on them.
///
/// # Errors
/// When nothing is left to write, and a record of theirs cannot be moved on.
fn strays(state: &State) -> Result<Vec<Action>, NotStartedError> {
    let reserved = state.cluster.status.reservation.map(|reservation| reservation.number);
    let next = state.cluster.status.next_number.unwrap_or(1);
    let recorded = state.recorded().and_then(|record| record.epoch.as_ref()).map(|epoch| epoch.plan.number);
    let (mut actions, mut halted) = (Vec::new(), None);
    for (number, epoch) in state.epochs.iter().filter(|(_, epoch)| epoch.is_open()) {
        if Some(*number) == reserved || Some(*number) == recorded {
            continue;
        }
        let before = epoch.status.clone().unwrap_or_default();
        match key_epoch::supersede(&epoch.spec, &before, next, &moment(state)) {
            Ok(status) => {
                let resource_version = epoch.resource_version.clone();
                actions.push(Action::UpdateEpoch { number: *number, resource_version, status: Box::new(status) });
            }
            Err(error) => halted = Some(NotStartedError::halted(state, *number, error)),
        }
    }
    match halted {
        Some(waiting) if actions.is_empty() => Err(waiting),
        _ => Ok(actions),
    }
}

/// The next step of the round under way.
///
/// # Errors
/// When its record cannot be moved on: it waits for a person.
pub(super) fn drive(facts: &Facts<'_>, number: u64, epoch: &Epoch) -> Result<Vec<Action>, MoveError> {
    let state = facts.state;
    let now = moment(state);
    let closing = state.view.closing.get(&number).cloned().unwrap_or_default();
    let plan = convert::plan_of(&epoch.spec)?;
    let after = if let Some(before) = epoch.status.as_ref().filter(|status| status.phase.is_some()) {
        // Nothing is decided on a record that does not check, so that this has to come first.
        key_epoch::check(&plan, before)?;
        let Some(decision) = closing.decision else { return Ok(Vec::new()) };
        if let Some(key) = key_epoch::activated_key(&decision) {
            let known = state.cluster.status.public_key;
            let other = known.is_some_and(|known| known != key);
            if other || state.cluster.spec.expected_public_key.is_some_and(|expected| expected != key) {
                return Err(MoveError::OtherKey);
            }
            if !epoch.finalizer && state.finalizers {
                // The record of the key in use is protected before it is one; this moves the object's version.
                return Ok(vec![Action::SetEpochFinalizer { number, present: true }]);
            }
        }
        let mut status = key_epoch::apply(&plan, before, &decision, &now)?;
        let needed = plan.dealers_needed().max(plan.threshold.count());
        let away = &facts.without_bucket;
        let able = epoch.spec.expected.iter().filter(|index| !away.contains_key(index)).count();
        if let Some((first, problem)) = away.first_key_value().filter(|_| able < needed) {
            status = key_epoch::fails_for_want_of_the_bucket(status, &format!("node {first}: {}", problem.message));
        }
        status.culprits = {
            let proven = key_epoch::with_the_proven_before(key_epoch::culprits(&closing.culprits), &before.culprits);
            key_epoch::with_the_silent(proven, &epoch.spec, &status)
        };
        status
    } else {
        key_epoch::opened(&plan, &now)
    };
    let resource_version = epoch.resource_version.clone();
    Ok(vec![Action::UpdateEpoch { number, resource_version, status: Box::new(after) }])
}

pub(super) fn moment(state: &State) -> Moment {
    Moment {
        block: state.block.clone().unwrap_or(state.last_block),
        time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(state.now),
    }
}

fn carries_out(facts: &Facts<'_>, plan: &KeyEpochSpec) -> bool {
    let spec = &facts.state.cluster.spec;
    plan.threshold == spec.effective_threshold()
        && plan.min_holders == spec.effective_min_holders()
        && plan.receivers.iter().map(|receiver| receiver.index).eq(facts.members.stay.iter().copied())
}

/// Returns the newcomers that have shown no prekey yet. One whose pod is still starting holds up nobody: boundaries go on among
/// those who are there. A receiver of the active epoch is no newcomer: without a prekey it is planned without one.
#[must_use]
pub(crate) fn awaited_newcomers(facts: &Facts<'_>) -> BTreeSet<u32> {
    let receives = |index: &u32| facts.active.is_some_and(|(_, epoch)| epoch.has_receiver(*index));
    let newcomers = facts.members.stay.iter().filter(|index| !receives(index));
    let awaited = newcomers.filter(|index| facts.state.nodes.get(index).is_none_or(|node| node.prekey.is_none()));
    awaited.copied().collect()
}

/// The plan for a reservation, from nothing but the state.
fn plan(facts: &Facts<'_>, reservation: &Reservation) -> Result<ValidPlan, NotStartedError> {
    let Facts { state, members, active, .. } = facts;
    let spec = &state.cluster.spec;
    let cluster = ClusterId(facts.id().unwrap_or(keyfleet_crds::values::ClusterId([0; 16])).0);
    let keep = active.filter(|_| members.missing > 0 || !awaited_newcomers(facts).is_empty());
    // While newcomers start, the key stays with those who have it, under the rules it has.
    let (receivers, threshold, min_holders) = match keep {
        Some((_, epoch)) => (
            epoch.spec.receivers.iter().map(|receiver| receiver.index).collect(),
            epoch.spec.threshold,
            epoch.spec.min_holders,
        ),
        None => (members.stay.clone(), spec.effective_threshold(), spec.effective_min_holders()),
    };
    let unawaited = unawaited(state)?;
    let view = FleetView {
        cluster,
        number: EpochNumber(reservation.number),
        block: Block(reservation.block),
        threshold: Threshold(convert::small(threshold, "threshold")?),
        min_holders: convert::small(min_holders, "minHolders")?,
        deadlines: Deadlines {
            dealing_blocks: spec.schedule.deadlines.dealing_blocks,
            verifying_blocks: spec.schedule.deadlines.verifying_blocks,
            preparing_blocks: spec.schedule.deadlines.preparing_blocks,
            certifying_blocks: spec.schedule.deadlines.certifying_blocks,
        },
        receivers: receivers.iter().map(|index| node_view(state, cluster, *index)).collect::<Result<_, _>>()?,
        connected: indexes(&state.view.connected)?,
        unawaited,
    };
    if view.receivers.iter().filter(|node| knows_plans(state, node.index)).count() < usize::from(view.min_holders) {
        return Err(NotStartedError::VersionsDiffer);
    }
    if active.is_none() {
        return Ok(planning::genesis(&view)?);
    }
    let kept: Vec<KeptEpoch> =
        state.served().map(|(number, epoch)| kept(state, number, epoch)).collect::<Result<_, ConvertError>>()?;
    let interval = u64::from(spec.schedule.interval_blocks);
    let starved = state.starved_since.is_some_and(|since| state.last_block >= since.saturating_add(interval));
    let source = choose_source(&kept, &view.connected, starved)?;
    if source.holders.iter().filter(|index| knows_plans(state, **index)).count() < source.plan.threshold.count() {
        return Err(NotStartedError::VersionsDiffer);
    }
    Ok(planning::reshare(&view, source)?)
}

/// Tells whether a node understands the plans that this operator writes. One that has not said yet is taken at its image.
fn knows_plans(state: &State, index: NodeIndex) -> bool {
    state
        .nodes
        .get(&index.value())
        .is_some_and(|node| node.plan_versions.is_empty() || node.plan_versions.contains(&PlanVersion::NEWEST.number()))
}

/// Nodes that the next round does not wait for: whoever was guilty or mute in the last attempt. They deal and receive all the same.
fn unawaited(state: &State) -> Result<BTreeSet<NodeIndex>, ConvertError> {
    let last = state.epochs.values().next_back().and_then(|epoch| epoch.status.as_ref());
    indexes(&last.into_iter().flat_map(|status| &status.culprits).map(|culprit| culprit.index).collect())
}

fn node_view(state: &State, cluster: ClusterId, index: u32) -> Result<NodeView, NotStartedError> {
    let node = state.nodes.get(&index).ok_or(NotStartedError::NoIdentity(index))?;
    let identity = node.spec.identity_key.ok_or(NotStartedError::NoIdentity(index))?;
    let (index, identity) = (convert::index(index)?, IdentityPublicKey(identity.0));
    let knows = knows_plans(state, index);
    let prekey = knows.then(|| prekeys::newest(state, cluster, node, index, &identity)).flatten();
    Ok(NodeView { index, identity, prekey })
}

fn kept(state: &State, number: u64, epoch: &Epoch) -> Result<KeptEpoch, ConvertError> {
    let vector = epoch.status.as_ref().and_then(|status| status.vector_digest);
    let vector = vector.ok_or(ConvertError::Field("status.vectorDigest"))?;
    let key = state.cluster.status.public_key.ok_or(ConvertError::Field("status.publicKey"))?;
    Ok(KeptEpoch {
        number: EpochNumber(number),
        plan: convert::plan_of(&epoch.spec)?,
        vector: Digest(vector.0),
        public_key: convert::point(&key)?,
        holders: indexes(&state.view.holds.get(&number).into_iter().flatten().map(|(index, _)| *index).collect())?,
    })
}

fn indexes(of: &BTreeSet<u32>) -> Result<BTreeSet<NodeIndex>, ConvertError> {
    of.iter().map(|index| convert::index(*index)).collect()
}

fn only(action: Action) -> Rounds {
    Rounds { actions: vec![action], ..Rounds::default() }
}
