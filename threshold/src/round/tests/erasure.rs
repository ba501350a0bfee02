//! Erasure: what of an epoch dies, on whose word, and when a node says so.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::returns::NOW_MS;
use super::{Proofs, Table, identity, index};
use crate::coordination::planning::{self, NodeView};
use crate::feed::{self, Feed, ListedEpoch, Listing};
use crate::identifiers::{Digest, EpochNumber, NodeIndex};
use crate::plan::ValidPlan;
use crate::round::*;

/// A table whose rounds an API server lists, and nodes that are away from it.
struct Listed {
    table: Table,
    away: BTreeMap<NodeIndex, Participant>,
    rounds: BTreeMap<EpochNumber, ListedEpoch>,
    retention: usize,
    /// Every plan that was ever dealt on.
    plans: Vec<ValidPlan>,
    /// Every epoch of which a node said `Erased`.
    erased: BTreeSet<(NodeIndex, EpochNumber)>,
}

impl Listed {
    /// A fleet of `nodes` with its first epoch.
    fn begin(nodes: u32) -> Self {
        let mut table = Table::of(nodes);
        let plan = table.genesis();
        let record = table.nodes[&index(1)].records.get(&plan.number).cloned();
        let rounds = BTreeMap::from([(plan.number, ListedEpoch { plan: plan.clone(), record })]);
        Self { table, away: BTreeMap::new(), rounds, retention: 2, plans: vec![plan], erased: BTreeSet::new() }
    }

    fn leave(&mut self, node: u32) {
        let gone = self.table.nodes.remove(&index(node)).unwrap();
        self.away.insert(index(node), gone);
    }

    fn come_back(&mut self, node: u32) {
        let back = self.away.remove(&index(node)).unwrap();
        self.table.nodes.insert(index(node), back);
    }

    fn node(&mut self, node: u32) -> &mut Participant {
        self.table.nodes.get_mut(&index(node)).unwrap()
    }

    fn plan(&self, number: u64, without: Option<u32>) -> ValidPlan {
        let mut view = self.table.view(number);
        view.receivers.extend(self.away.iter().map(|(index, away)| NodeView {
            index: *index,
            identity: away.identity.public(),
            prekey: away.state.shown_prekey().copied(),
        }));
        view.receivers.sort_by_key(|receiver| receiver.index);
        view.receivers.retain(|receiver| Some(receiver.index.value()) != without);
        view.connected.retain(|index| Some(index.value()) != without);
        planning::reshare(&view, &self.table.kept(number - 1)).unwrap()
    }

    /// Runs a reshare of the epoch before, dealt to all but `without`.
    fn round(&mut self, number: u64, without: Option<u32>) {
        let plan = self.plan(number, without);
        self.table.accept(&plan);
        let away = self.away.keys().next().copied();
        let record = match away.filter(|away| plan.receiver(*away).is_some()) {
            Some(away) => self.table.finish_without(&plan, away),
            None => self.table.finish(&plan),
        };
        assert_eq!(record.phase, Phase::Active);
        self.plans.push(plan.clone());
        self.rounds.insert(plan.number, ListedEpoch { plan, record: Some(record) });
        self.invariant_erased_is_closed();
    }

    /// Writes which epochs are kept into a record.
    fn list(&mut self, record: u64, kept: &[u64]) {
        let record = self.rounds.get_mut(&EpochNumber(record)).and_then(|epoch| epoch.record.as_mut()).unwrap();
        record.kept = Some(kept.iter().copied().map(EpochNumber).collect());
    }

    fn listing(&self) -> Listing {
        let (epochs, retention) = (self.rounds.clone(), Some(self.retention));
        Listing { generation: 1, epochs, allow_downtime: Some(false), confirm_after_seconds: Some(0), retention }
    }

    /// Lets every node at the table read the API server twice: what it takes in the first time is committed at the second. Returns
    /// what node 1 was told to retire.
    fn read(&mut self) -> BTreeSet<EpochNumber> {
        let listing = self.listing();
        let mut told = BTreeSet::new();
        let at_table: Vec<_> = self.table.nodes.keys().copied().collect();
        for node in at_table {
            for _ in 0..2 {
                let next = Feed::default().next(&listing, Some(&self.table.nodes[&node].state), true);
                let retire = next.retire.iter().map(|number| listing.retirement(*number, self.proofs(*number)));
                let inputs: Vec<_> = next.inputs.iter().cloned().chain(retire).collect();
                let (node, rng) = (self.table.nodes.get_mut(&node).unwrap(), &mut self.table.rng);
                for input in inputs {
                    let _ = feed::take(&input, node, NOW_MS, rng);
                    let _ = node.date(NOW_MS);
                }
                if node.state.index == index(1) {
                    told.extend(next.retire);
                }
            }
        }
        self.invariant_erased_is_closed();
        told
    }

    /// Proofs of everyone at the table.
    fn proofs(&self, number: EpochNumber) -> Proofs {
        let provers: Vec<_> = self.table.nodes.keys().map(|index| index.value()).collect();
        self.table.proofs(number.0, &provers, NOW_MS)
    }

    /// Lets a node retire an epoch, with the proofs of everyone at the table.
    fn retire(&mut self, node: u32, number: u64) -> Result<Outputs, RetireError> {
        let number = EpochNumber(number);
        let retirement = Retirement { number, proofs: self.proofs(number), confirm_after_ms: Some(0) };
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        self.node(node).retire(&retirement, NOW_MS, rng)
    }

    /// Lets a node that is back at the table hear what the others still have.
    fn catch_up(&mut self, node: u32) {
        let peers = || self.table.nodes.values().filter(|peer| peer.state.index != index(node));
        let vectors: Vec<_> = peers().flat_map(|peer| peer.state.vectors().cloned()).collect();
        let said: Vec<_> = peers().flat_map(outbox).cloned().collect();
        let blobs = vectors.into_iter().map(Blob::Vector).chain(said.into_iter().map(Blob::Message));
        let (node, rng) = (self.table.nodes.get_mut(&index(node)).unwrap(), &mut self.table.rng);
        for blob in blobs {
            let _ = node.learn(&blob, rng);
        }
        self.invariant_erased_is_closed();
    }

    fn has_said_erased(&mut self, node: u32, number: u64) -> bool {
        self.invariant_erased_is_closed();
        self.erased.contains(&(index(node), EpochNumber(number)))
    }

    /// After `Erased` of an epoch no living secret of that node opens a bundle of it, or of an attempt that was dealt on it.
    fn invariant_erased_is_closed(&mut self) {
        let numbers: BTreeMap<Digest, _> = self.plans.iter().map(|plan| (plan.digest(), plan.number)).collect();
        for node in self.table.nodes.values().chain(self.away.values()) {
            let said = outbox(node).filter(|message| message.body == Body::Erased);
            self.erased.extend(said.map(|message| (message.sender, numbers[&message.plan])));
        }
        for (node, erased) in &self.erased {
            let node = self.table.nodes.get(node).or_else(|| self.away.get(node)).unwrap();
            let dealt_on = |plan: &&ValidPlan| plan.source().is_some_and(|source| source.number == *erased);
            for plan in self.plans.iter().filter(|plan| plan.number == *erased || dealt_on(plan)) {
                let opens = node.own_prekey(plan).is_some() || node.secrets.seeds.contains_key(&plan.number);
                let me = node.state.index;
                assert!(!opens, "{me} said that {erased} is erased, and opens bundles of {}", plan.number);
            }
            assert!(node.share(*erased).is_none(), "a share of {erased} outlived the word that it is erased");
        }
    }
}

fn outbox(node: &Participant) -> impl Iterator<Item = &SignedMessage> {
    node.state.attempts.values().flat_map(|attempt| &attempt.outbox)
}

fn numbers(list: &[u64]) -> BTreeSet<EpochNumber> {
    list.iter().copied().map(EpochNumber).collect()
}

/// Somebody deletes the object of an epoch before it was ever retired: the newest record keeps it no longer.
#[test]
fn a_deleted_key_epoch_keeps_no_share_alive() {
    let mut fleet = Listed::begin(4);
    (2..=4).for_each(|number| fleet.round(number, None));
    fleet.rounds.remove(&EpochNumber(2));
    fleet.list(4, &[3]);
    assert_eq!(fleet.read(), numbers(&[1, 2]));
    for node in 1..=4 {
        assert!(fleet.node(node).share(EpochNumber(2)).is_none(), "node {node}: the deleted epoch's share lives on");
        assert!(fleet.has_said_erased(node, 2), "node {node} does not say that it is gone");
        assert!(fleet.node(node).share(EpochNumber(3)).is_some(), "node {node} destroyed an epoch that is kept");
    }
    assert!(fleet.read().is_empty(), "what is retired is retired again");
}

/// The bundles of an epoch are public, so a prekey that outlives the epoch opens a share of it, and its node must not have said
/// that nothing does. Of an epoch that came and went while a node was away, the node does not even know.
#[test]
fn a_node_away_through_retirement_erases_what_it_never_held() {
    let mut fleet = Listed::begin(4);
    fleet.leave(4);
    (2..=5).for_each(|number| fleet.round(number, None));
    let unseen = fleet.rounds.remove(&EpochNumber(2)).unwrap().plan;
    fleet.list(5, &[4]);
    fleet.come_back(4);
    fleet.read();
    fleet.catch_up(4);
    assert!(fleet.node(4).share(EpochNumber(5)).is_some() && fleet.node(4).share(EpochNumber(3)).is_none());
    fleet.read();
    assert!(
        !fleet.has_said_erased(4, 1) && !fleet.has_said_erased(4, 3),
        "the newest plan names the prekey of them all"
    );
    assert!(fleet.node(4).own_prekey(&unseen).is_some(), "the prekey of the newest plan died");
    fleet.round(6, None);
    fleet.read();
    assert!(fleet.node(4).own_prekey(&unseen).is_none(), "a retired epoch's prekey lives on");
    assert!(fleet.has_said_erased(4, 3), "nothing of it opens the epoch any more, and it does not say so");
}

/// The process ends between the retirement and the plan that lets the last prekey die.
#[test]
fn erased_is_said_after_a_restart_too() {
    let mut fleet = Listed::begin(4);
    fleet.leave(4);
    (2..=4).for_each(|number| fleet.round(number, None));
    fleet.list(4, &[3]);
    fleet.come_back(4);
    fleet.read();
    fleet.catch_up(4);
    fleet.read();
    let node = fleet.table.nodes.remove(&index(4)).unwrap();
    assert!(!fleet.has_said_erased(1, 3), "it is kept");
    let stored = node.state.live_secrets().into_iter().map(|name| (name, node.expose(name).unwrap()));
    let (node, _) = Participant::restore(identity(4), &node.state.encode(), stored).unwrap();
    fleet.table.nodes.insert(index(4), node);
    assert!(!fleet.has_said_erased(4, 2), "the newest plan names the prekey that opens it");
    fleet.round(5, None);
    assert!(fleet.has_said_erased(4, 2), "it forgot what it owes");
}

#[test]
fn a_removed_node_destroys_every_secret() {
    let mut fleet = Listed::begin(5);
    fleet.round(2, None);
    fleet.round(3, Some(5));
    fleet.list(3, &[2]);
    fleet.read();
    assert!(fleet.node(5).share(EpochNumber(2)).is_some(), "the epoch is kept: the fleet may have to deal on it again");
    fleet.round(4, Some(5));
    fleet.list(4, &[3]);
    fleet.read();
    let left = fleet.node(5).state.live_secrets();
    assert!(left.is_empty(), "a removed node keeps {left:?}");
    assert!(fleet.has_said_erased(5, 2));
    (5..=6).for_each(|number| fleet.round(number, Some(5)));
    assert!(fleet.node(5).state.live_secrets().is_empty(), "it makes a prekey that nobody will name");
}

/// n = 5, t = 3: a backup of the API server brings an old record back. Its list was right once.
#[test]
fn a_record_that_was_rolled_back_retires_nothing() {
    let mut fleet = Listed::begin(5);
    (2..=3).for_each(|number| fleet.round(number, None));
    fleet.list(3, &[]);
    let backup = fleet.rounds.clone();
    (4..=5).for_each(|number| fleet.round(number, None));
    let newer = std::mem::replace(&mut fleet.rounds, backup);
    assert!(fleet.read().is_empty(), "the list of an epoch that is not the newest counts");
    fleet.rounds = newer;
    fleet.list(3, &[1, 2]);
    assert!(fleet.read().is_empty(), "the newest record has no list yet");
    fleet.list(5, &[1, 2, 3, 4]);
    assert!(fleet.read().is_empty(), "it lists too many, and they are destroyed");
    fleet.list(5, &[3, 4]);
    assert_eq!(fleet.read(), numbers(&[1, 2]), "once it is right, it counts");
}

/// n = 5, t = 3: the newest record lists nothing. What a node serves and deals on stays.
#[test]
fn a_record_that_lists_too_few_takes_no_epoch_in_use() {
    let mut fleet = Listed::begin(5);
    (2..=4).for_each(|number| fleet.round(number, None));
    fleet.leave(5);
    fleet.round(5, None);
    fleet.list(5, &[]);
    fleet.come_back(5);
    fleet.read();
    for held in [4, 5] {
        assert!(fleet.node(1).share(EpochNumber(held)).is_some(), "epoch {held} serves");
    }
    assert!(fleet.node(5).share(EpochNumber(3)).is_some(), "all that a node holds is what it held before it was away");
    assert!(fleet.node(5).share(EpochNumber(2)).is_none() && fleet.node(1).share(EpochNumber(3)).is_none());
    let plan = fleet.plan(6, None);
    fleet.table.begin(&plan);
    let source = fleet.retire(2, 5);
    assert_eq!(source.expect_err("it is dealt on"), RetireError::StillServed(EpochNumber(5)));
}

#[test]
fn a_list_longer_than_retention_allows_retires_nothing() {
    let mut fleet = Listed::begin(4);
    (2..=3).for_each(|number| fleet.round(number, None));
    fleet.list(3, &[2, 10, 11, 12, 13, 14]);
    assert_eq!(fleet.read(), numbers(&[1]), "two confirmed ones and four beside them");
    fleet.round(4, None);
    fleet.list(4, &[3, 10, 11, 12, 13, 14, 15]);
    let next = Feed::default().next(&fleet.listing(), Some(&fleet.table.nodes[&index(1)].state), true);
    let most = Contradiction::Kept { number: EpochNumber(4), listed: 7, most: 6 };
    assert_eq!(next.contradiction, Some(most), "nobody hears of it");
    assert!(fleet.read().is_empty());
    fleet.retention = 3;
    assert_eq!(fleet.read(), numbers(&[2]), "the user keeps more");
}

/// A rolled-back record calls an attempt Failed that nodes have seen certified. Its shares open the key as any.
#[test]
fn an_activated_epoch_goes_by_the_list_though_called_failed() {
    let mut fleet = Listed::begin(4);
    (2..=3).for_each(|number| fleet.round(number, None));
    let rolled_back = fleet.rounds.get_mut(&EpochNumber(3)).and_then(|epoch| epoch.record.as_mut()).unwrap();
    (rolled_back.phase, rolled_back.certificate) = (Phase::Failed, None);
    fleet.read();
    assert!(fleet.node(1).share(EpochNumber(3)).is_some(), "a record's word took back what was certified");
    (4..=5).for_each(|number| fleet.round(number, None));
    fleet.list(5, &[4]);
    fleet.read();
    assert!(fleet.node(1).share(EpochNumber(3)).is_none(), "its share lives for ever");
    assert!(fleet.has_said_erased(1, 3));
}

/// Shares that are sealed in such a round would bring an epoch back of which the node said that nothing is left.
#[test]
fn a_plan_that_deals_on_a_retired_epoch_is_refused() {
    let mut fleet = Listed::begin(4);
    (2..=3).for_each(|number| fleet.round(number, None));
    let late = fleet.table.reshare_plan(4, 1);
    fleet.list(3, &[2]);
    fleet.read();
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let refused = fleet.node(2).accept((*late).clone(), &mut rng).expect_err("epoch 1 is gone");
    assert_eq!(refused, Refusal::SourceRetired(EpochNumber(1)));
}

/// Words about an epoch below the newest do not show that the newest can be dealt on again.
#[test]
fn the_source_of_the_newest_epoch_waits_for_that_alone() {
    let mut fleet = Listed::begin(5);
    (2..=4).for_each(|number| fleet.round(number, None));
    fleet.list(4, &[]);
    let lose = |node: &mut Participant, epochs: &[u64]| {
        for gone in epochs.iter().copied().map(EpochNumber) {
            node.state.attempts.get_mut(&gone).unwrap().holds_share = false;
            node.secrets.shares.remove(&gone);
        }
    };
    // Node 1 served 3 and 2 before, and keeps both; let it have held none but the oldest. Of the newest only two are left.
    lose(fleet.node(1), &[2, 3, 4]);
    (2..=3).for_each(|holder| lose(fleet.node(holder), &[4]));
    let waits = fleet.retire(1, 3).expect_err("nobody is known to hold what was dealt on it");
    assert_eq!(waits, RetireError::NewerNotProven(EpochNumber(3)));
    let _ = fleet.retire(1, 2).expect("four nodes hold 3");
}

/// A state keeps a few retired epochs, and the last word covers the rest.
#[test]
fn a_state_does_not_grow_with_its_retired_epochs() {
    let mut fleet = Listed::begin(4);
    for number in 2..=16 {
        fleet.round(number, None);
        fleet.list(number, &[number - 1]);
        fleet.read();
    }
    let state = &fleet.table.nodes[&index(1)].state;
    assert!(state.attempts.len() <= 10, "{} attempts are kept", state.attempts.len());
    assert!(fleet.has_said_erased(1, 14));
}
