//! Histories: short lives written down step by step, each step lived through to rest.

use std::panic::{AssertUnwindSafe, catch_unwind};

use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};

use crate::settings::Settings;
use crate::world::Fleet;

/// One step of a history. Nothing goes wrong beside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// The node goes away, and its disk stays.
    Away(u32),
    /// The node returns.
    Back(u32),
    /// A boundary's round ends well, where one can.
    Round,
    /// The node is destroyed.
    Lose(u32),
    /// The node loses its volume and comes back from its replica.
    Wipe(u32),
    /// The user replaces a destroyed node; its first attempt is not waited for.
    Replace(u32),
    /// The operator's process ends and another begins.
    OperatorRestart,
    /// Time passes without a boundary: epochs that are confirmed by age are, and others retire.
    Rest,
}

/// Blocks within which a round that can succeed has done so: the longest pause after failures and an interval.
const ROUND_BLOCKS: u64 = 30;
/// Blocks of a rest.
const REST_BLOCKS: u64 = 6;
/// Blocks after each step, in which everyone hears of it.
const STEP_BLOCKS: u64 = 2;
/// Blocks within which a fleet recovers that has lost no more than is promised: the longest pause after failures, an interval of
/// starvation, and ten boundaries.
const RECOVERY_BLOCKS: u64 = 200;

/// Begins a fleet in a calm world, whose first epoch everyone holds.
///
/// # Panics
/// When there is no first epoch: nothing went wrong yet.
#[must_use]
pub fn begin(seed: u64, n: u32, threshold: u16) -> Fleet {
    let mut fleet = Fleet::new(seed, Settings::CALM, n, threshold, threshold);
    let first = fleet.next_active(None, ROUND_BLOCKS);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(first).len() == n as usize);
    fleet
}

impl Step {
    /// Lives through the step.
    ///
    /// # Panics
    /// When an invariant breaks.
    pub fn live(self, fleet: &mut Fleet) {
        fleet.log(format!("{self:?}"));
        match self {
            Self::Away(index) => fleet.take_down(index),
            Self::Back(index) => fleet.bring_up(index),
            Self::Round => {
                let active = fleet.active();
                fleet.comes_to(ROUND_BLOCKS, |fleet| fleet.active() > active);
            }
            Self::Lose(index) => fleet.lose(index),
            Self::Wipe(index) => fleet.wipe(index),
            Self::Replace(index) => fleet.replace(index, true),
            Self::OperatorRestart => fleet.set_operator(true),
            Self::Rest => fleet.run_blocks(REST_BLOCKS),
        }
        fleet.run_blocks(STEP_BLOCKS);
    }
}

/// Brings everyone back who is not destroyed, and waits for a newer epoch that all of them hold.
///
/// # Panics
/// When the fleet does not recover, or an invariant breaks.
pub fn recover(fleet: &mut Fleet) {
    let is_away = |node: &&crate::node::Node| !node.lost && !node.is_up();
    let away: Vec<u32> = fleet.nodes.values().filter(is_away).map(|node| node.index.value()).collect();
    away.into_iter().for_each(|index| fleet.bring_up(index));
    reach_a_newer_epoch(fleet);
}

/// Waits for a newer epoch that everyone holds who is not destroyed.
pub(crate) fn reach_a_newer_epoch(fleet: &mut Fleet) {
    let before = fleet.active();
    fleet.run_until("a newer epoch that every living receiver holds", RECOVERY_BLOCKS, |fleet| {
        let living = fleet.receivers().into_iter().filter(|index| !is_lost(fleet, *index)).count();
        fleet.active() > before && fleet.active().is_some_and(|active| fleet.holders(active).len() >= living)
    });
}

/// Runs `live` and returns what it panicked with.
pub(crate) fn unbroken(live: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(live)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "it panicked without a word".to_owned())
    })
}

/// Returns true for a node whose volume and seal are gone for good.
pub(crate) fn is_lost(fleet: &Fleet, index: u32) -> bool {
    NodeIndex::new(index).and_then(|index| fleet.nodes.get(&index)).is_some_and(|node| node.lost)
}

/// Returns true when no more than n−t receivers of any served epoch are destroyed once this one is, too.
#[must_use]
pub fn may_be_destroyed(fleet: &Fleet, victim: u32) -> bool {
    fleet.api.now.served().all(|(_, epoch)| {
        let receivers = epoch.spec.receivers.iter().map(|receiver| receiver.index);
        let gone = receivers.filter(|index| *index == victim || is_lost(fleet, *index)).count();
        gone + epoch.spec.threshold as usize <= epoch.spec.receivers.len()
    })
}

/// Returns the epochs that are served, newest first.
pub(crate) fn served(fleet: &Fleet) -> Vec<EpochNumber> {
    let mut served: Vec<_> = fleet.api.now.served().map(|(number, _)| EpochNumber(number)).collect();
    served.reverse();
    served
}
