//! Rounds at a table: participants in one room, hand by hand, so that a test can do what no network would.
//!
//! `dealers` is what a dealer may try, `participants` what a node accepts and remembers, `messages` what travels and what it
//! proves to those outside, `returns` what a node needs that was away.

mod dealers;
mod messages;
mod participants;
mod returns;

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::coordination::planning::{self, FleetView, KeptEpoch, NodeView, Offer};
use crate::coordination::{Decision, RoundView, decide};
use crate::identifiers::{Block, ClusterId, EpochNumber, NodeIndex, Threshold};
use crate::identity::IdentitySecretKey;
use crate::plan::{Deadlines, ValidPlan};
use crate::prekey::{PrekeySecret, SignedPrekeySet};

const CLUSTER: ClusterId = ClusterId([0x42; 16]);

fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).unwrap()
}

fn identity(i: u32) -> IdentitySecretKey {
    IdentitySecretKey::from_seed(&[u8::try_from(i).unwrap(); 32])
}

/// Four nodes, threshold three, and everyone hears everything at once.
struct Table {
    rng: ChaCha20Rng,
    nodes: BTreeMap<NodeIndex, Participant>,
    said: Vec<SignedMessage>,
}

impl Table {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(11);
        let nodes = (1..=4).map(|i| (index(i), Participant::new(CLUSTER, index(i), identity(i), &mut rng).0)).collect();
        Self { rng, nodes, said: Vec::new() }
    }

    fn view(&self, number: u64) -> FleetView {
        let node = |(index, participant): (&NodeIndex, &Participant)| NodeView {
            index: *index,
            identity: participant.identity.public(),
            offers: participant.offers().map(|signed| offer(signed, participant)).collect(),
            named: participant.state.accepted_sets.get(index).copied(),
        };
        FleetView {
            cluster: CLUSTER,
            number: EpochNumber(number),
            block: Block(100 * number),
            threshold: Threshold(3),
            min_holders: 3,
            deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
            receivers: self.nodes.iter().map(node).collect(),
            connected: self.nodes.keys().copied().collect(),
            avoid: Default::default(),
        }
    }

    fn kept(&self, number: u64) -> KeptEpoch {
        let attempt = &self.nodes[&index(1)].state.attempts[&EpochNumber(number)];
        let vector = attempt.vector.as_ref().unwrap();
        KeptEpoch {
            number: EpochNumber(number),
            plan: attempt.plan.clone(),
            vector: vector.digest(),
            public_key: vector.constant(),
            holders: self.nodes.keys().copied().collect(),
        }
    }

    fn reshare_plan(&self, number: u64, source: u64) -> ValidPlan {
        planning::reshare(&self.view(number), &self.kept(source)).unwrap()
    }

    /// Everyone accepts the plan, knows all prekeys, and what they say goes round until nobody adds anything.
    fn accept(&mut self, plan: &ValidPlan) {
        self.accept_with(plan, []);
    }

    /// As [`Table::accept`], with the prekey sets of a node that is not at the table.
    fn accept_with(&mut self, plan: &ValidPlan, away: impl IntoIterator<Item = SignedPrekeySet>) {
        let offers = self.nodes.values().flat_map(|node| node.state.offers.values().cloned());
        let offers: Vec<_> = offers.chain(away).collect();
        for node in self.nodes.values_mut() {
            let outputs = node.accept((**plan).clone(), &mut self.rng).unwrap();
            self.said.extend(outputs.say);
            let outputs = node.observe(plan.number, &RoundRecord::opened(), &mut self.rng).unwrap();
            self.said.extend(outputs.say);
        }
        for set in offers {
            self.tell(&Blob::Prekeys(set));
        }
        self.settle();
    }

    fn tell(&mut self, blob: &Blob) {
        for node in self.nodes.values_mut() {
            if let Ok(outputs) = node.learn(blob, &mut self.rng) {
                self.said.extend(outputs.say);
            }
        }
    }

    fn settle(&mut self) {
        while let Some(message) = self.said.pop() {
            self.tell(&Blob::Message(message));
        }
    }

    fn observe(&mut self, number: EpochNumber, record: &RoundRecord) {
        for node in self.nodes.values_mut() {
            let outputs = node.observe(number, record, &mut self.rng).unwrap();
            self.said.extend(outputs.say);
        }
        self.settle();
    }

    /// Runs a round to its end with the operator's decisions, seen with node 1's eyes.
    fn finish(&mut self, plan: &ValidPlan) -> RoundRecord {
        let mut record = RoundRecord::opened();
        for _ in 0..5 {
            let transcript = self.nodes[&index(1)].transcript(plan.number).unwrap();
            let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(1), overdue: false };
            match decide(&view) {
                Some(Decision::Confirm) => return record,
                Some(decision) => record.apply(&decision).unwrap(),
                None => panic!("the round stands still in {:?}", record.phase),
            }
            self.observe(plan.number, &record);
        }
        record
    }

    fn genesis(&mut self) -> ValidPlan {
        let plan = planning::genesis(&self.view(1)).unwrap();
        self.accept(&plan);
        let record = self.finish(&plan);
        assert_eq!(record.phase, Phase::Active);
        plan
    }

    /// As [`Table::finish`], with the deadlines passed: `absent` does not speak.
    fn finish_without(&mut self, plan: &ValidPlan, absent: NodeIndex) -> RoundRecord {
        assert!(plan.receiver(absent).is_some());
        let mut record = RoundRecord::opened();
        for _ in 0..4 {
            let transcript = self.nodes[&index(1)].transcript(plan.number).unwrap();
            let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(2), overdue: false };
            let decision = decide(&view).expect("a phase whose deadline has passed closes");
            record.apply(&decision).unwrap();
            self.observe(plan.number, &record);
        }
        record
    }
}

fn offer(signed: &SignedPrekeySet, node: &Participant) -> Offer {
    let set = signed.verify(&node.identity.public()).unwrap();
    Offer { number: set.number, digest: signed.digest(), last_resort: set.last_resort, slots: set.slots.len() }
}

/// Prekey sets of four nodes, and a genesis plan that names them.
fn genesis_with_prekeys() -> (ValidPlan, BTreeMap<NodeIndex, PrekeySecret>, Vec<SignedPrekeySet>) {
    let mut rng = ChaCha20Rng::seed_from_u64(12);
    let mut plan = crate::plan::tests::genesis_example();
    let mut secrets = BTreeMap::new();
    let mut offers = Vec::new();
    for (position, receiver) in plan.receivers.iter_mut().enumerate() {
        let key = identity(receiver.index.value());
        let secret = PrekeySecret::generate(plan.cluster, receiver.index, receiver.prekey_set, false, &mut rng);
        let signed = secret.offer(8, &key);
        receiver.identity = key.public();
        receiver.prekey_digest = signed.digest();
        plan.dealers[position].identity = key.public();
        secrets.insert(receiver.index, secret);
        offers.push(signed);
    }
    (plan.validate().unwrap(), secrets, offers)
}

fn say(plan: &ValidPlan, sender: u32, body: Body) -> SignedMessage {
    SignedMessage::sign(plan.digest(), index(sender), body, &identity(sender))
}

fn transcript(plan: &ValidPlan, offers: &[SignedPrekeySet]) -> Transcript {
    let mut transcript = Transcript::new(plan.clone(), None);
    for offer in offers {
        transcript.learn_prekeys(offer).unwrap();
    }
    transcript
}
