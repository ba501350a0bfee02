//! Return of a node that was away or was restored: needs from the feed, from itself and from its peers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{CLUSTER, Table, identity, index};
use crate::coordination::planning::{self, NodeView};
use crate::feed::{self, Answer, Feed, ListedEpoch, Listing};
use crate::identifiers::{Digest, EpochNumber, NodeIndex};
use crate::plan::ValidPlan;
use crate::possession::Proofs;
use crate::round::*;

/// The present time at the table.
pub(super) const NOW_MS: u64 = 1_000;

/// A table that goes on from round 2 without one node, which every plan names.
pub(super) struct Away {
    pub(super) table: Table,
    pub(super) node: Participant,
    pub(super) rounds: BTreeMap<EpochNumber, ListedEpoch>,
    pub(super) rng: ChaCha20Rng,
}

impl Away {
    /// Runs round 1 with the four nodes of the table. A newcomer takes no part in it; without one, node 4 goes away after it.
    pub(super) fn begin(newcomer: Option<Participant>) -> Self {
        let mut table = Table::new();
        let plan = table.genesis();
        let record = table.nodes[&index(1)].records.get(&plan.number).cloned();
        let node = newcomer.unwrap_or_else(|| table.nodes.remove(&index(4)).unwrap());
        let rounds = BTreeMap::from([(plan.number, ListedEpoch { plan, record })]);
        Self { table, node, rounds, rng: ChaCha20Rng::seed_from_u64(3) }
    }

    /// Runs a reshare of the epoch before to its certificate.
    pub(super) fn round(&mut self, number: u64) {
        let plan = self.plan(number);
        self.table.accept(&plan);
        self.close(&plan);
    }

    /// Plans a reshare of the epoch before, the absent node included.
    pub(super) fn plan(&self, number: u64) -> ValidPlan {
        let mut view = self.table.view(number);
        view.receivers.push(NodeView {
            index: self.node.state.index,
            identity: self.node.identity.public(),
            prekey: self.node.state.shown_prekey().copied(),
        });
        planning::reshare(&view, &self.table.kept(number - 1)).unwrap()
    }

    /// Runs a round that everyone at the table has dealt in to its certificate.
    pub(super) fn close(&mut self, plan: &ValidPlan) {
        let record = self.table.finish_without(plan, self.node.state.index);
        assert_eq!(record.phase, Phase::Active);
        self.rounds.insert(plan.number, ListedEpoch { plan: plan.clone(), record: Some(record) });
    }

    /// Feeds the retirement of an epoch to the node that is back, with the proofs of all at the table.
    pub(super) fn retire_here(&mut self, number: EpochNumber) -> Result<Outputs, RetireError> {
        let retirement = Retirement { number, proofs: self.proofs(number, NOW_MS), confirm_after_ms: Some(0) };
        self.node.retire(&retirement, NOW_MS, &mut self.rng)
    }

    /// Retires an epoch at the table.
    pub(super) fn retire_at_table(&mut self, number: u64) {
        let number = EpochNumber(number);
        let proofs = self.proofs(number, NOW_MS);
        for node in self.table.nodes.values_mut() {
            let retirement = Retirement { number, proofs: proofs.clone(), confirm_after_ms: Some(0) };
            let _ = node.date(NOW_MS);
            let _ = node.retire(&retirement, NOW_MS, &mut self.table.rng).unwrap();
        }
    }

    fn proofs(&self, number: EpochNumber, now_ms: u64) -> Proofs {
        let at_table: Vec<_> = self.table.nodes.keys().map(|index| index.value()).collect();
        self.table.proofs(number.0, &at_table, now_ms)
    }

    /// Gives the node that is back what the API server lists, once. Returns what is to be retired.
    pub(super) fn feed(&mut self, feed: &mut Feed) -> BTreeSet<EpochNumber> {
        let listing = Listing {
            generation: 1,
            epochs: self.rounds.clone(),
            allow_downtime: Some(false),
            confirm_after_seconds: Some(0),
            retention: Some(2),
        };
        let next = feed.next(&listing, Some(&self.node.state), true);
        let retire = next.retire.iter().map(|number| listing.retirement(*number, self.proofs(*number, NOW_MS)));
        let inputs: Vec<_> = next.inputs.iter().cloned().chain(retire).collect();
        for input in inputs {
            let _ = feed::take(&input, &mut self.node, NOW_MS, &mut self.rng);
            let _ = self.node.date(NOW_MS);
        }
        next.retire
    }

    /// Gives the node what it wants and node 1 hands out, as far as `gives` lets it, until that adds nothing.
    pub(super) fn fetch(&mut self, gives: impl Fn(&Blob) -> bool) -> Vec<Outputs> {
        let mut outputs = Vec::new();
        for _ in 0..6 {
            let wanted = self.node.wants().into_iter().map(|want| want.digest).collect();
            for blob in node_1_answers(&self.table, &wanted).into_values().filter(&gives) {
                outputs.extend(self.node.learn(&blob, &mut self.rng));
            }
        }
        outputs
    }
}

pub(super) fn outbox(node: &Participant) -> impl Iterator<Item = &SignedMessage> {
    node.state.attempts.values().flat_map(|attempt| &attempt.outbox)
}

/// Returns node 1's answer to a `Fetch`. Its second file has every bundle and response that is still kept.
fn node_1_answers(table: &Table, wanted: &BTreeSet<Digest>) -> BTreeMap<Digest, Blob> {
    let peer = &table.nodes[&index(1)];
    let said: Vec<_> = outbox(peer).cloned().map(Arc::new).collect();
    let kept = table.nodes.values().flat_map(outbox);
    let kept = kept.filter(|message| matches!(message.body, Body::Dealing(_) | Body::Response(_)));
    let kept: BTreeMap<_, _> = kept.map(|message| (message.digest(), message.clone())).collect();
    let found = feed::answer(wanted, &peer.state, &said).into_iter().filter_map(|(digest, answer)| {
        let blob = match answer {
            Answer::Said(message) => Blob::Message(message.as_ref().clone()),
            Answer::Vector(vector) => Blob::Vector(vector),
            Answer::Kept => Blob::Message(kept_by_others(&kept, &digest, peer.state.index)?),
        };
        Some((digest, blob))
    });
    found.collect()
}

fn kept_by_others(kept: &BTreeMap<Digest, SignedMessage>, digest: &Digest, own: NodeIndex) -> Option<SignedMessage> {
    kept.get(digest).filter(|message| feed::is_handed_out(&message.encode(), digest, own)).cloned()
}

/// A newcomer knows neither the vector that round 2 reshares nor that of round 3, and peers show the newest one only.
#[test]
fn a_newcomer_that_missed_two_epochs_fetches_their_vectors() {
    let (newcomer, _) = Participant::new(CLUSTER, index(5), identity(5), &mut ChaCha20Rng::seed_from_u64(4));
    let mut away = Away::begin(Some(newcomer));
    (2..=3).for_each(|number| away.round(number));
    away.feed(&mut Feed::default());
    let _ = away.fetch(|_| true);
    for number in [2, 3] {
        assert!(away.node.share(EpochNumber(number)).is_some(), "the share of epoch {number} is out of reach");
    }
}

#[test]
fn a_vector_that_a_node_computes_serves_its_next_round_at_once() {
    let mut away = Away::begin(None);
    (2..=3).for_each(|number| away.round(number));
    away.feed(&mut Feed::default());
    let _ = away.fetch(|blob| !matches!(blob, Blob::Vector(_)));
    assert!(away.node.share(EpochNumber(2)).is_some());
    assert!(away.node.share(EpochNumber(3)).is_some(), "it computed the source's vector and does not know it");
}

/// The node's share came back from the replica, the second file did not: late receivers count on it all the same.
#[test]
fn a_restored_holder_fetches_the_bundles_of_kept_epochs_again() {
    let mut table = Table::new();
    let plan = table.genesis();
    let node = table.nodes.remove(&index(2)).unwrap();
    let stored = node.state.live_secrets().into_iter().map(|name| (name, node.expose(name).unwrap()));
    let (mut node, _) = Participant::restore(identity(2), &node.state.encode(), stored).unwrap();
    assert!(node.share(plan.number).is_some());
    let wanted: BTreeSet<_> = node.wants().into_iter().map(|want| want.digest).collect();
    let frozen = node.state.attempts[&plan.number].frozen.clone().unwrap();
    assert!(frozen.dealers.iter().any(|(_, bundle)| wanted.contains(&bundle)), "it wants nothing");
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let found = node_1_answers(&table, &wanted);
    let kept = found.values().flat_map(|blob| node.learn(blob, &mut rng).unwrap().keep);
    let kept: BTreeSet<_> = kept.map(|blob| blob.digest()).collect();
    assert_eq!(kept, found.into_keys().collect(), "not all that came is kept for others");
    let lacks: Vec<_> = node.wants().into_iter().map(|want| want.digest).collect();
    assert!(lacks.iter().all(|digest| !kept.contains(digest)), "what came is wanted again");
}

/// A node that returns in mid-round would expose shares in a bundle that counts for nothing.
#[test]
fn a_node_deals_only_after_it_read_the_record_as_dealing() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    let node = table.nodes.get_mut(&index(4)).unwrap();
    let deals = |said: &[SignedMessage]| said.iter().any(|message| message.body.kind() == MessageKind::Dealing);
    let mut said = node.accept((*plan).clone(), &mut table.rng).unwrap().say;
    assert!(!deals(&said), "it deals though the dealers may be frozen");
    said = node.observe(plan.number, &RoundRecord::opened(), &mut table.rng).unwrap().say;
    assert!(deals(&said), "the record is read as Dealing, and it does not deal");
}

/// A digest does not cover the signature, and what is kept is for others.
#[test]
fn a_message_heard_again_under_a_bad_signature_is_not_kept() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let dealt = outbox(&table.nodes[&index(1)]).filter(|message| message.plan == plan.digest());
    let dealt = dealt.into_iter().find(|message| message.body.kind() == MessageKind::Dealing).unwrap();
    let forged = SignedMessage::sign(dealt.plan, dealt.sender, dealt.body.clone(), &identity(9));
    assert_eq!(forged.digest(), dealt.digest());
    let node = table.nodes.get_mut(&index(2)).unwrap();
    let heard = node.learn(&Blob::Message(forged), &mut ChaCha20Rng::seed_from_u64(6));
    assert!(heard.is_err() || heard.is_ok_and(|outputs| outputs.keep.is_empty()), "the good copy is replaced");
}
