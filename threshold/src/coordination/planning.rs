//! Plans of rounds: the epoch to deal on, the dealers, and each receiver's prekey set.

use std::collections::BTreeSet;

use crate::curve::G2;
use crate::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, PrekeySetNumber, Threshold};
use crate::identity::IdentityPublicKey;
use crate::plan::{Deadlines, Member, Origin, Plan, PlanError, PlanVersion, Receiver, Source, ValidPlan};

/// Facts that a plan is made from.
#[derive(Clone, Debug)]
pub struct FleetView {
    /// The cluster.
    pub cluster: ClusterId,
    /// The reserved number.
    pub number: EpochNumber,
    /// The boundary, or the current block of an immediate round.
    pub block: Block,
    /// The threshold that the new epoch shall have.
    pub threshold: Threshold,
    /// Number of receivers that must have stored their share.
    pub min_holders: u16,
    /// Longest duration of each phase.
    pub deadlines: Deadlines,
    /// The nodes that shall hold the key, ascending.
    pub receivers: Vec<NodeView>,
    /// The nodes that are connected, whoever they are.
    pub connected: BTreeSet<NodeIndex>,
    /// Dealers to leave out while enough others remain: they cheated in the attempt before, or someone cannot use their shares.
    pub avoid: BTreeSet<NodeIndex>,
}

/// A node as the operator sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Index of the node.
    pub index: NodeIndex,
    /// Identity key pinned to the index.
    pub identity: IdentityPublicKey,
    /// The prekey sets it last offered.
    pub offers: Vec<Offer>,
    /// The highest of its sets that any plan named.
    pub named: Option<PrekeySetNumber>,
}

/// Prekey set on offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Number of the set.
    pub number: PrekeySetNumber,
    /// Digest of the set.
    pub digest: Digest,
    /// True if plans may name the set again.
    pub last_resort: bool,
    /// Number of dealers for which the set has keys.
    pub slots: usize,
}

/// A kept epoch, as a possible source.
#[derive(Clone, Debug)]
pub struct KeptEpoch {
    /// Number of the epoch.
    pub number: EpochNumber,
    /// Plan of the epoch.
    pub plan: ValidPlan,
    /// The digest of its vector.
    pub vector: Digest,
    /// The cluster's public key.
    pub public_key: G2,
    /// Receivers that said they hold their share.
    pub holders: BTreeSet<NodeIndex>,
}

/// Reason why no plan can be made now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanningError {
    /// A node has not offered a prekey set that may be named.
    #[error("{0} has no prekey set on offer; it must have been connected once")]
    NoPrekeys(NodeIndex),
    /// No set on offer has a key for each dealer that is needed.
    #[error(
        "the prekey sets of {node} have keys for {slots} dealers, and {needed} have to deal: it offers larger sets once it is \
         back, or remove it"
    )]
    TooFewSlots {
        /// Node that offers the sets.
        node: NodeIndex,
        /// The most that one of its sets has.
        slots: usize,
        /// Number of dealers that the source needs.
        needed: usize,
    },
    /// At genesis every node must be there.
    #[error("genesis waits for {0}")]
    GenesisWaitsFor(NodeIndex),
    /// No kept epoch has enough answering holders.
    #[error("no kept epoch has {needed} answering holders (the active one has {answering})")]
    NoSource {
        /// Number of dealers that the active epoch needs.
        needed: usize,
        /// Number of its holders that answer.
        answering: usize,
    },
    /// The plan is not one that nodes accept.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Plans a genesis: every node deals, receives and is expected.
///
/// # Errors
/// The reason to wait.
pub fn genesis(view: &FleetView) -> Result<ValidPlan, PlanningError> {
    if let Some(absent) = view.receivers.iter().find(|node| !view.connected.contains(&node.index)) {
        return Err(PlanningError::GenesisWaitsFor(absent.index));
    }
    let dealers = view.receivers.iter().map(|node| Member { index: node.index, identity: node.identity }).collect();
    let expected = view.receivers.iter().map(|node| node.index).collect();
    finish(view, Origin::Genesis, dealers, expected)
}

/// Plans a reshare on `source`.
///
/// # Errors
/// The reason why it cannot be made.
pub fn reshare(view: &FleetView, source: &KeptEpoch) -> Result<ValidPlan, PlanningError> {
    let needed = source.plan.threshold.count();
    let able = |index: &NodeIndex| view.connected.contains(index) && source.holders.contains(index);
    let members = || source.plan.receivers.iter().map(|r| Member { index: r.index, identity: r.identity });
    let trusted: Vec<_> = members().filter(|dealer| !view.avoid.contains(&dealer.index)).collect();
    let enough = trusted.iter().filter(|dealer| able(&dealer.index)).count() >= needed;
    let mut dealers: Vec<_> = if enough { trusted } else { members().collect() };
    // A node that was away while the fleet grew has sets for the fleet that it knew: rather fewer deal than that it waits.
    let room = view.receivers.iter().filter_map(largest_set).min().unwrap_or(0).max(needed);
    if dealers.len() > room {
        dealers.sort_by_key(|dealer| (!able(&dealer.index), dealer.index));
        dealers.truncate(room);
        dealers.sort_by_key(|dealer| dealer.index);
    }
    let mut expected: Vec<_> = dealers.iter().map(|dealer| dealer.index).filter(able).collect();
    expected.extend(view.receivers.iter().map(|node| node.index).filter(|index| view.connected.contains(index)));
    expected.sort_unstable();
    expected.dedup();
    let origin = Origin::Reshare {
        source: Source {
            number: source.number,
            plan: source.plan.digest(),
            vector: source.vector,
            threshold: source.plan.threshold,
        },
        public_key: source.public_key,
    };
    finish(view, origin, dealers, expected)
}

/// Chooses the epoch to deal on: the active one, unless it starves and an older kept one does not.
///
/// `kept` ascends, the active epoch last. `starved` says that for a whole interval the active epoch could not supply its
/// threshold of answering dealers.
///
/// # Errors
/// When no kept epoch can supply its dealers; the active one is waited for until it has starved a whole interval.
pub fn choose_source<'a>(
    kept: &'a [KeptEpoch],
    connected: &BTreeSet<NodeIndex>,
    culprits: &BTreeSet<NodeIndex>,
    starved: bool,
) -> Result<&'a KeptEpoch, PlanningError> {
    let answering = |epoch: &KeptEpoch| epoch.holders.intersection(connected).filter(|i| !culprits.contains(i)).count();
    let supplies = |epoch: &&KeptEpoch| answering(epoch) >= epoch.plan.threshold.count();
    let active = kept.last();
    let none = || PlanningError::NoSource {
        needed: active.map_or(0, |epoch| epoch.plan.threshold.count()),
        answering: active.map_or(0, answering),
    };
    match active.filter(|epoch| supplies(epoch)) {
        Some(active) => Ok(active),
        None if starved => kept.iter().rev().find(supplies).ok_or_else(none),
        None => Err(none()),
    }
}

fn finish(
    view: &FleetView,
    origin: Origin,
    dealers: Vec<Member>,
    expected: Vec<NodeIndex>,
) -> Result<ValidPlan, PlanningError> {
    let needed = dealers.len();
    let receiver = |node: &NodeView| {
        let too_small = |slots| PlanningError::TooFewSlots { node: node.index, slots, needed };
        let none = || largest_set(node).map_or(PlanningError::NoPrekeys(node.index), too_small);
        let offer = choose_prekeys(node, needed).ok_or_else(none)?;
        Ok::<_, PlanningError>(Receiver {
            index: node.index,
            identity: node.identity,
            prekey_set: offer.number,
            prekey_digest: offer.digest,
        })
    };
    let plan = Plan {
        version: PlanVersion::V1,
        cluster: view.cluster,
        number: view.number,
        origin,
        block: view.block,
        threshold: view.threshold,
        min_holders: view.min_holders,
        dealers,
        receivers: view.receivers.iter().map(receiver).collect::<Result<_, _>>()?,
        expected,
        deadlines: view.deadlines,
        roster: None,
    };
    Ok(plan.validate()?)
}

/// Returns the size of the largest set that may be named.
fn largest_set(node: &NodeView) -> Option<usize> {
    nameable(node).map(|offer| offer.slots).max()
}

/// Iterates over the sets that a plan may name: one-time sets above the one last named, and last resorts not below it.
fn nameable(node: &NodeView) -> impl Iterator<Item = &Offer> {
    let named = node.named;
    node.offers.iter().filter(move |offer| {
        named.is_none_or(|named| offer.number > named || (offer.last_resort && offer.number == named))
    })
}

/// Chooses the lowest one-time set above the one last named that has a key for each dealer; when all are consumed, a last
/// resort, again and again.
///
/// A node makes a new last resort with every set that it makes, so older ones lie between its one-time sets. They are passed
/// over: whoever is sealed to one cannot complain.
fn choose_prekeys(node: &NodeView, dealers: usize) -> Option<Offer> {
    let fits = || nameable(node).filter(|offer| offer.slots >= dealers);
    let lowest = |offer: &&Offer| offer.number;
    let one_time = fits().filter(|offer| !offer.last_resort).min_by_key(lowest);
    one_time.or_else(|| fits().min_by_key(lowest)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(number: u64, last_resort: bool) -> Offer {
        Offer { number: PrekeySetNumber(number), digest: Digest([0; 32]), last_resort, slots: 8 }
    }

    /// seed: 001-40
    #[test]
    fn prekey_sets_are_named_in_order_then_the_last_resort() {
        let offers = vec![offer(4, false), offer(5, false), offer(6, true)];
        let mut node =
            NodeView { index: NodeIndex::new(1).unwrap(), identity: IdentityPublicKey([0; 32]), offers, named: None };
        for expected in [4, 5, 6, 6, 6] {
            let chosen = choose_prekeys(&node, 8).unwrap().number.0;
            assert_eq!(chosen, expected, "after {:?}", node.named);
            node.named = Some(PrekeySetNumber(chosen));
        }
        node.offers = vec![offer(6, true), offer(7, false), offer(8, true), offer(9, false), offer(10, true)];
        for expected in [7, 9, 10, 10] {
            let chosen = choose_prekeys(&node, 8).unwrap().number.0;
            assert_eq!(chosen, expected, "older last resorts between one-time sets are passed over");
            node.named = Some(PrekeySetNumber(chosen));
        }
        node.offers = vec![offer(4, false), offer(5, false)];
        assert_eq!(choose_prekeys(&node, 8), None, "a one-time set is never named twice");
    }

    #[test]
    fn a_set_with_too_few_keys_for_the_dealers_is_passed_over() {
        let small = |number, last_resort| offer(number, last_resort);
        let large = |number, last_resort| Offer { slots: 40, ..offer(number, last_resort) };
        let offers = vec![small(4, false), small(5, false), small(6, true), large(7, false), large(8, true)];
        let index = NodeIndex::new(1).unwrap();
        let mut node =
            NodeView { index, identity: IdentityPublicKey([0; 32]), offers, named: Some(PrekeySetNumber(3)) };
        let chosen = |node: &NodeView, dealers| choose_prekeys(node, dealers).map(|offer| offer.number.0);
        assert_eq!(chosen(&node, 8), Some(4), "a set that is large enough was passed over");
        assert_eq!(chosen(&node, 20), Some(7), "a set without keys for the last dealers was named");
        node.named = Some(PrekeySetNumber(7));
        assert_eq!(chosen(&node, 20), Some(8), "the last resort that is large enough was not named");
        assert_eq!(chosen(&node, 41), None, "a set was named that no dealer above its slots can seal to");
        assert_eq!(largest_set(&node), Some(40));
    }
}
