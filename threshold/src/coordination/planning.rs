//! Plans of rounds: the epoch to deal on, the dealers, and each receiver's prekey.

use std::collections::BTreeSet;

use crate::curve::G2;
use crate::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, Threshold};
use crate::identity::IdentityPublicKey;
use crate::plan::{Deadlines, Member, Origin, Plan, PlanError, PlanVersion, Receiver, Source, ValidPlan};
use crate::prekey::SignedPrekey;

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
    /// Nodes that nobody waits for, as long as enough others remain: proven guilty in the attempt before, or mute in it. Their
    /// word counts like everyone's if it comes in time.
    pub unawaited: BTreeSet<NodeIndex>,
}

/// A node as the operator sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Index of the node.
    pub index: NodeIndex,
    /// Identity key pinned to the index.
    pub identity: IdentityPublicKey,
    /// The newest prekey that it signed, wherever that was seen. Without one it gets no share of the new epoch.
    pub prekey: Option<SignedPrekey>,
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
    let is_there = |node: &&NodeView| view.connected.contains(&node.index) && usable(view, node).is_some();
    if let Some(absent) = view.receivers.iter().find(|node| !is_there(node)) {
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
    // All of them, whatever anyone says of anyone: no word of a liar keeps an honest dealer out.
    let dealers: Vec<_> =
        source.plan.receivers.iter().map(|r| Member { index: r.index, identity: r.identity }).collect();
    let expected = expected(view, source);
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

/// Lists the nodes that the round waits for: connected receivers, and connected dealers that hold the source. Without the
/// unawaited, unless that leaves fewer than the round needs.
fn expected(view: &FleetView, source: &KeptEpoch) -> Vec<NodeIndex> {
    let is_awaited = |index: &NodeIndex| !view.unawaited.contains(index);
    let able = source.holders.intersection(&view.connected).copied();
    let receive = view.receivers.iter().map(|node| node.index).filter(|index| view.connected.contains(index));
    let dealers = enough(able.collect(), is_awaited, source.plan.threshold.count());
    let receivers = enough(receive.collect(), is_awaited, usize::from(view.min_holders));
    let all: BTreeSet<_> = dealers.into_iter().chain(receivers).collect();
    all.into_iter().collect()
}

/// Keeps those that are awaited, or all where these are fewer than `needed`.
fn enough(all: Vec<NodeIndex>, is_awaited: impl Fn(&NodeIndex) -> bool, needed: usize) -> Vec<NodeIndex> {
    let awaited: Vec<_> = all.iter().copied().filter(is_awaited).collect();
    if awaited.len() < needed { all } else { awaited }
}

/// Chooses the epoch to deal on: the active one, unless it starves and an older kept one does not.
///
/// `kept` ascends, the active epoch last. `starved` says that for a whole interval the active epoch could not supply its
/// threshold of connected holders.
///
/// # Errors
/// When no kept epoch can supply its dealers; the active one is waited for until it has starved a whole interval.
pub fn choose_source<'a>(
    kept: &'a [KeptEpoch],
    connected: &BTreeSet<NodeIndex>,
    starved: bool,
) -> Result<&'a KeptEpoch, PlanningError> {
    let answering = |epoch: &KeptEpoch| epoch.holders.intersection(connected).count();
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

/// Returns the prekey of a node, if the node signed it: a wrong one costs its node a share, and nobody else a plan.
fn usable(view: &FleetView, node: &NodeView) -> Option<SignedPrekey> {
    node.prekey.filter(|prekey| prekey.is_of(view.cluster, node.index, &node.identity))
}

fn finish(
    view: &FleetView,
    origin: Origin,
    dealers: Vec<Member>,
    expected: Vec<NodeIndex>,
) -> Result<ValidPlan, PlanningError> {
    let receiver =
        |node: &NodeView| Receiver { index: node.index, identity: node.identity, prekey: usable(view, node) };
    let plan = Plan {
        version: PlanVersion::NEWEST,
        cluster: view.cluster,
        number: view.number,
        origin,
        block: view.block,
        threshold: view.threshold,
        min_holders: view.min_holders,
        dealers,
        receivers: view.receivers.iter().map(receiver).collect(),
        expected,
        deadlines: view.deadlines,
        roster: None,
    };
    Ok(plan.validate()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identifiers::PrekeyNumber;
    use crate::identity::IdentitySecretKey;
    use crate::prekey::PrekeySecret;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn index(i: u8) -> NodeIndex {
        NodeIndex::new(i.into()).unwrap()
    }

    fn node(i: u8) -> NodeView {
        let identity = IdentitySecretKey::from_seed(&[i; 32]);
        let secret = PrekeySecret::restore(PrekeyNumber(1), &[i; 32]).unwrap();
        let prekey = Some(secret.offer(CLUSTER, index(i), &identity));
        NodeView { index: index(i), identity: identity.public(), prekey }
    }

    /// Five nodes, threshold four, all connected.
    fn view(number: u64) -> FleetView {
        FleetView {
            cluster: CLUSTER,
            number: EpochNumber(number),
            block: Block(100 * number),
            threshold: Threshold(4),
            min_holders: 4,
            deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
            receivers: (1..=5).map(node).collect(),
            connected: (1..=5).map(index).collect(),
            unawaited: BTreeSet::new(),
        }
    }

    fn kept() -> KeptEpoch {
        KeptEpoch {
            number: EpochNumber(1),
            plan: genesis(&view(1)).unwrap(),
            vector: Digest([5; 32]),
            public_key: G2::generator(),
            holders: (1..=5).map(index).collect(),
        }
    }

    fn indices(all: impl IntoIterator<Item = u8>) -> Vec<NodeIndex> {
        all.into_iter().map(index).collect()
    }

    /// Whatever is said of a node, it deals: only nobody waits for it, as long as enough others are waited for.
    #[test]
    fn every_receiver_of_the_source_deals_whatever_is_said_of_it() {
        let mut view = view(2);
        view.unawaited = [index(3)].into();
        let plan = reshare(&view, &kept()).unwrap();
        assert_eq!(plan.dealers.iter().map(|dealer| dealer.index).collect::<Vec<_>>(), indices(1..=5));
        assert_eq!(plan.expected, indices([1, 2, 4, 5]));
        view.unawaited = [index(2), index(3)].into();
        assert_eq!(reshare(&view, &kept()).unwrap().expected, indices(1..=5), "three are too few to wait for");
        view.connected = indices([1, 2, 3, 4]).into_iter().collect();
        assert_eq!(reshare(&view, &kept()).unwrap().expected, indices(1..=4), "nobody waits for who is away");
    }

    /// A node that shows no prekey, or one that it did not sign, gets no share. It stops no plan.
    #[test]
    fn a_node_without_a_usable_prekey_costs_nobody_a_plan() {
        let of_another = node(2).prekey;
        for shown in [None, of_another] {
            let mut view = view(2);
            view.receivers[4].prekey = shown;
            let plan = reshare(&view, &kept()).unwrap();
            let sealed: Vec<_> = plan.receivers.iter().filter(|receiver| receiver.prekey.is_some()).collect();
            assert_eq!(sealed.len(), 4, "the others are sealed to");
            assert_eq!(plan.receivers.len(), 5, "it stands in the plan without a prekey");
            view.receivers[3].prekey = None;
            let too_few = PlanError::TooFewPrekeys { found: 3, needed: 4 };
            assert_eq!(reshare(&view, &kept()), Err(PlanningError::Plan(too_few)), "three cannot hold it");
        }
    }

    /// At a genesis every node is needed, so one without a prekey is waited for by name.
    #[test]
    fn a_genesis_waits_for_every_node_and_its_prekey() {
        let mut view = view(1);
        view.receivers[2].prekey = None;
        assert_eq!(genesis(&view), Err(PlanningError::GenesisWaitsFor(index(3))));
        view.receivers[2] = node(3);
        view.connected.remove(&index(4));
        assert_eq!(genesis(&view), Err(PlanningError::GenesisWaitsFor(index(4))));
    }

    /// Only connected holders count for choosing the source, whoever is named for what.
    #[test]
    fn an_older_epoch_is_dealt_on_only_when_the_active_one_starves() {
        let (old, mut active) = (kept(), kept());
        active.holders = indices([1, 2, 3]).into_iter().collect();
        active.number = EpochNumber(2);
        let (epochs, connected) = ([old, active], view(3).connected);
        let chosen = |starved| choose_source(&epochs, &connected, starved).map(|epoch| epoch.number);
        assert_eq!(chosen(false), Err(PlanningError::NoSource { needed: 4, answering: 3 }));
        assert_eq!(chosen(true), Ok(EpochNumber(1)));
    }
}
