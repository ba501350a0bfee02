//! Rounds at a table: participants in one room, hand by hand, so that a test can do what no network would.
//!
//! `attacks` is what an adversary tries, `bytes` what does not decode, `catch_up` what a node takes from those that kept an epoch,
//! `complaints` what proves a bad share and what does not, `corrected` what a record that lied leaves behind, `dealers` what a dealer
//! may try, `erasure` what of an epoch dies and when, `exhibits` what is kept of a culprit, `faults` what a faulty machine does not
//! say, `floods` what a liar cannot make others do, `messages` what travels and what it proves to those outside, `participants` what
//! a node accepts and remembers, `retirements` what an epoch is destroyed on, `returns` what a node needs that was away, `rollback`
//! what an API server does that forgot, `withheld` answers that not everyone gets to read. `checks` and `records` miss, one by one,
//! the checks that `docs/protocol-checks.md` lists; `vectors` plays what another program computed.

mod attacks;
mod bytes;
mod catch_up;
mod checks;
mod complaints;
mod corrected;
mod dealers;
mod erasure;
mod exhibits;
mod faults;
mod floods;
mod messages;
mod participants;
mod records;
mod retirements;
mod returns;
mod rollback;
mod vectors;
mod withheld;

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::coordination::planning::{self, FleetView, KeptEpoch, NodeView};
use crate::coordination::{Decision, RoundView, decide};
use crate::curve::Scalar;
use crate::identifiers::PrekeyNumber;
use crate::identifiers::{Block, ClusterId, EpochNumber, NodeIndex, Threshold};
use crate::identity::IdentitySecretKey;
use crate::plan::{Deadlines, FrozenDigests, Plan, ValidPlan};
use crate::possession::{Asked, CertifiedShare, Claimed, Claims, Holdings, Proofs, Turn};
use crate::prekey::PrekeySecret;
use crate::purpose::Purpose;
use crate::serving::signature;

const CLUSTER: ClusterId = ClusterId([0x42; 16]);

pub(super) fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).unwrap()
}

pub(super) fn identity(i: u32) -> IdentitySecretKey {
    IdentitySecretKey::from_seed(&[u8::try_from(i).unwrap(); 32])
}

thread_local! {
    /// Sums of dealers' polynomials that this test has computed so far.
    pub(super) static COMBINED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A few nodes, threshold three, and everyone hears everything at once.
struct Table {
    rng: ChaCha20Rng,
    nodes: BTreeMap<NodeIndex, Participant>,
    said: Vec<SignedMessage>,
}

impl Table {
    fn new() -> Self {
        Self::of(4)
    }

    fn of(nodes: u32) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(11);
        let nodes =
            (1..=nodes).map(|i| (index(i), Participant::new(CLUSTER, index(i), identity(i), &mut rng).0)).collect();
        Self { rng, nodes, said: Vec::new() }
    }

    fn view(&self, number: u64) -> FleetView {
        let node = |(index, participant): (&NodeIndex, &Participant)| NodeView {
            index: *index,
            identity: participant.identity.public(),
            prekey: participant.state.shown_prekey().copied(),
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
            unawaited: Default::default(),
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

    /// The first reshare, in which node 4 has no prekey.
    fn plan_without_the_prekey_of_4(&self) -> ValidPlan {
        let mut plan: Plan = (*self.reshare_plan(2, 1)).clone();
        plan.receivers[3].prekey = None;
        plan.validate().unwrap()
    }

    /// Everyone accepts the plan, and what they say goes round until nobody adds anything.
    fn accept(&mut self, plan: &ValidPlan) {
        self.begin(plan);
        self.settle();
    }

    /// Everyone accepts the plan; what they say waits in `said`.
    fn begin(&mut self, plan: &ValidPlan) {
        for node in self.nodes.values_mut() {
            let outputs = node.accept((**plan).clone(), &mut self.rng).unwrap();
            self.said.extend(outputs.say);
            let outputs = node.observe(plan.number, &RoundRecord::opened(), &mut self.rng).unwrap();
            self.said.extend(outputs.say);
        }
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

    /// Runs a reshare of the epoch before, to its certificate.
    fn reshare(&mut self, number: u64) {
        let plan = self.reshare_plan(number, number - 1);
        self.accept(&plan);
        assert_eq!(self.finish(&plan).phase, Phase::Active);
    }

    /// Asks these nodes at `now_ms` what they hold, as node 9 would, and verifies their answers by node 1's vectors.
    fn proofs(&self, of: u64, provers: &[u32], now_ms: u64) -> Proofs {
        let mut holdings = Holdings::default();
        let of = BTreeSet::from([EpochNumber(of)]);
        provers.iter().for_each(|prover| holdings.connect(index(*prover)));
        assert_eq!(holdings.next(&of, now_ms), Turn::Ask);
        for prover in provers.iter().copied().map(index) {
            let asked = Asked { challenge: [u8::try_from(prover.value()).unwrap(); 32], at_ms: now_ms };
            let mut claims = self.claims(prover, asked);
            claims.judge(|number, prover| {
                let attempt = self.nodes[&index(1)].state.attempts.get(&number)?;
                let point = attempt.vector.as_ref().map(|vector| vector.public_share(prover));
                Some(CertifiedShare { vector: attempt.certificate()?.vector, point })
            });
            holdings.answer(&claims);
        }
        match holdings.next(&of, now_ms) {
            Turn::Use(proofs) => proofs,
            turn => panic!("all have answered: {turn:?}"),
        }
    }

    fn claims(&self, prover: NodeIndex, asked: Asked) -> Claims {
        let node = &self.nodes[&prover];
        let claimed = node.state.attempts.iter().filter_map(|(number, attempt)| {
            let (vector, share) = (attempt.certificate()?.vector, node.share(*number)?);
            let purpose = Purpose::possession(CLUSTER, *number, prover, &vector, &asked.challenge);
            let possession = signature::sign(&purpose, share).encode().to_vec();
            Some(Claimed { number: *number, vector: Some(vector), possession })
        });
        Claims::of(CLUSTER, prover, claimed, &asked.challenge, asked)
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

/// A genesis plan of the nodes 2 to 5, and the secrets of their prekeys.
pub(super) fn genesis_plan() -> (ValidPlan, BTreeMap<NodeIndex, PrekeySecret>) {
    let mut plan = crate::plan::tests::genesis_example();
    let secrets = prekeys_for(&mut plan);
    (plan.validate().unwrap(), secrets)
}

/// Gives every receiver of a plan a prekey of its own.
fn prekeys_for(plan: &mut Plan) -> BTreeMap<NodeIndex, PrekeySecret> {
    let mut rng = ChaCha20Rng::seed_from_u64(12);
    let mut secrets = BTreeMap::new();
    for receiver in &mut plan.receivers {
        let secret = PrekeySecret::generate(PrekeyNumber(3), &mut rng);
        receiver.prekey = Some(secret.offer(plan.cluster, receiver.index, &identity(receiver.index.value())));
        secrets.insert(receiver.index, secret);
    }
    secrets
}

pub(super) fn say(plan: &ValidPlan, sender: u32, body: Body) -> SignedMessage {
    SignedMessage::sign(plan.digest(), index(sender), body, &identity(sender))
}

/// The honest dealing of a genesis, from a seed of the dealer's own.
pub(super) fn deal(plan: &ValidPlan, dealer: u32) -> Dealing {
    let seed = DealerSeed::restore(&[u8::try_from(dealer).unwrap(); 32]);
    Dealing::deal(plan, index(dealer), None, &seed)
}

fn freeze(messages: &[&SignedMessage]) -> FrozenDigests {
    FrozenDigests::new(messages.iter().map(|message| (message.sender, message.digest())).collect()).unwrap()
}

/// Checks that no complaint of an honest node is about the bundle of an honest node.
fn reveals_nothing<'a>(said: impl Iterator<Item = &'a SignedMessage>, corrupt: &[u32]) {
    let is_honest = |index: NodeIndex| !corrupt.contains(&index.value());
    for message in said.filter(|message| is_honest(message.sender)) {
        for complaint in message.body.complaints() {
            assert!(
                !is_honest(complaint.dealer),
                "{} disclosed what it shares with {}",
                message.sender,
                complaint.dealer
            );
        }
    }
}

/// The honest bundle of a genesis, with the share of one receiver shifted by `by`. Sealing adds, so shifting needs no key: but
/// possession is proven over the shifted bundle, which only its dealer can do.
pub(super) fn shifted(plan: &ValidPlan, dealer: u32, victim: NodeIndex, by: Scalar) -> Dealing {
    let mut dealing = deal(plan, dealer);
    let at = plan.receivers.iter().position(|receiver| receiver.index == victim).unwrap();
    dealing.shares[at] = dealing.shares[at].map(|share| share + by);
    prove(plan, dealer, &mut dealing);
    dealing
}

/// Proves possession with the seed with which [`deal`] deals.
fn prove(plan: &ValidPlan, dealer: u32, dealing: &mut Dealing) {
    prove_from(plan, dealer, &DealerSeed::restore(&[u8::try_from(dealer).unwrap(); 32]), dealing);
}

/// Proves possession of the ephemeral secret that a dealer draws from `seed`, over whatever the bundle says now.
fn prove_from(plan: &ValidPlan, dealer: u32, seed: &DealerSeed, dealing: &mut Dealing) {
    let secret = seed.ephemeral(&plan.digest(), index(dealer));
    dealing.possession = dealing.statement(&plan.digest(), index(dealer)).times_secret(&secret);
}

/// All bundles of a genesis heard, and every receiver's `Have` of each.
pub(super) fn dealt(plan: &ValidPlan, bundles: &[SignedMessage]) -> Transcript {
    let mut transcript = Transcript::new(plan.clone(), None);
    for bundle in bundles {
        transcript.hear(bundle).unwrap();
    }
    transcript
}

fn view<'a>(transcript: &'a Transcript, record: &'a RoundRecord, now: u64) -> RoundView<'a> {
    RoundView { transcript, record, opened: Block(0), now: Block(now), overdue: false }
}
