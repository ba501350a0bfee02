//! A genesis of four nodes, one of which is corrupt and says whatever the input holds, with its real key.
//!
//! The input is a program: which message goes to whom, what the corrupt node says, which record the API server shows, who
//! restarts. Nodes are [`Participant`]s, phases are closed by the operator's [`decide`].

use std::collections::BTreeMap;

use keyfleet_threshold::coordination::planning::{self, FleetView, NodeView};
use keyfleet_threshold::coordination::{Decision, FailReason, RoundView, decide};
use keyfleet_threshold::curve::{G1, HashDomain};
use keyfleet_threshold::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, Threshold};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::plan::{Deadlines, FrozenDigests, ValidPlan};
use keyfleet_threshold::round::{
    Blob, Body, Complaint, Outputs, Participant, PersistentState, Phase, Response, RoundRecord, SecretName,
    SignedMessage,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const CLUSTER: ClusterId = ClusterId([0x42; 16]);
const CORRUPT: u32 = 4;
/// Longest program: what comes behind is left out.
const STEPS_MAX: usize = 256;

/// Plays a program against three honest nodes.
///
/// # Panics
/// When an honest node discloses a value that it shares with an honest dealer, when somebody honest is convicted, or when a
/// node cannot be restored from what it committed.
pub fn play(bytes: &[u8]) {
    let mut program = Program(bytes);
    let mut room = Room::new();
    for _ in 0..STEPS_MAX {
        let Some(step) = program.byte() else { break };
        room.step(step, &mut program);
    }
    room.settle();
    room.invariant_nothing_is_disclosed_about_the_honest();
    room.invariant_nobody_honest_is_convicted();
}

/// A genesis without lies, for inputs to begin from.
pub struct HonestRound {
    /// The plan.
    pub plan: ValidPlan,
    /// The record at the end.
    pub record: RoundRecord,
    /// Everything that was said.
    pub said: Vec<SignedMessage>,
    /// State of the first node.
    pub state: PersistentState,
}

/// Runs a genesis in which all four nodes are honest.
///
/// # Panics
/// When it does not end.
#[must_use]
pub fn honest_round() -> HonestRound {
    let mut room = Room::new();
    while room.record.phase != Phase::Active {
        room.settle();
        let before = room.record.phase;
        room.decide(&mut Program(&[0, 0]));
        assert_ne!(room.record.phase, before, "an honest round stands still");
    }
    room.settle();
    let Room { plan, record, said, nodes, .. } = room;
    let state = nodes[&index(1)].state().clone();
    HonestRound { plan, record, said, state }
}

/// The rest of the input. Once it is used up everything reads as zero.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte().unwrap_or_default()) % bound.max(1)
    }
}

struct Room {
    rng: ChaCha20Rng,
    plan: ValidPlan,
    nodes: BTreeMap<NodeIndex, Participant>,
    /// Everything said by anyone, in order.
    said: Vec<SignedMessage>,
    /// Messages that everyone has been sent.
    told: usize,
    record: RoundRecord,
}

fn index(value: u32) -> NodeIndex {
    NodeIndex::new(value).expect("indices begin at one")
}

fn identity(value: u32) -> IdentitySecretKey {
    IdentitySecretKey::from_seed(&[u8::try_from(value).expect("four nodes"); 32])
}

impl Room {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let mut nodes = BTreeMap::new();
        for number in 1..=CORRUPT {
            let (node, _) = Participant::new(CLUSTER, index(number), identity(number), &mut rng);
            nodes.insert(index(number), node);
        }
        let plan = plan(&nodes);
        // The corrupt one takes part as an honest one would; the program adds what it says beside that.
        let mut room = Self { rng, plan, nodes, said: Vec::new(), told: 0, record: RoundRecord::opened() };
        for number in 1..=CORRUPT {
            let node = room.nodes.get_mut(&index(number)).expect("it is there");
            let accepted = node.accept((*room.plan).clone(), &mut room.rng).expect("the plan is valid");
            room.said.extend(accepted.say);
        }
        room.observe(&RoundRecord::opened());
        room
    }

    fn step(&mut self, step: u8, program: &mut Program<'_>) {
        match step % 8 {
            0 => self.deliver(program),
            1 => self.settle(),
            2 => self.lie(program),
            3 => self.repeat_with_a_change(program),
            4 => self.decide(program),
            5 => self.show_a_false_record(program),
            6 => self.restart(program),
            _ => self.complain(program),
        }
    }

    /// One message reaches one node, out of turn.
    fn deliver(&mut self, program: &mut Program<'_>) {
        if self.said.is_empty() {
            return;
        }
        let message = self.said[program.below(self.said.len())].clone();
        let receiver = index(1 + u32::try_from(program.below(3)).expect("small"));
        self.learn(receiver, message);
    }

    /// Everything that was said reaches everyone, until nobody adds anything.
    fn settle(&mut self) {
        while self.told < self.said.len() {
            let message = self.said[self.told].clone();
            self.told += 1;
            for receiver in self.plan.receivers.iter().map(|receiver| receiver.index).collect::<Vec<_>>() {
                self.learn(receiver, message.clone());
            }
        }
    }

    fn learn(&mut self, receiver: NodeIndex, message: SignedMessage) {
        let node = self.nodes.get_mut(&receiver).expect("it is there");
        if let Ok(outputs) = node.learn(&Blob::Message(message), &mut self.rng) {
            self.take(outputs);
        }
    }

    fn take(&mut self, outputs: Outputs) {
        self.said.extend(outputs.say);
    }

    /// The corrupt node says something of any kind, about anyone.
    fn lie(&mut self, program: &mut Program<'_>) {
        let digest = self.digest(program);
        let dealer = index(1 + u32::try_from(program.below(6)).expect("small"));
        let body = match program.below(7) {
            0 => Body::Have { dealer, bundle: digest },
            1 => Body::Response(Response { dealers: digest, unopened: program.below(2) == 1, complaints: Vec::new() }),
            2 => Body::Prepared { vector: digest, frozen: self.digest(program) },
            3 => Body::Partial(G1::hash(&digest.0, HashDomain::Signature)),
            4 => Body::Holds { vector: digest },
            5 => Body::Erased,
            _ => match self.bundles().nth(program.below(8)).map(|bundle| bundle.body.clone()) {
                Some(bundle) => bundle,
                None => return,
            },
        };
        self.say(body);
    }

    /// The corrupt node complains: about any bundle, with a value that it made up.
    fn complain(&mut self, program: &mut Program<'_>) {
        let (bundle, value) = (self.digest(program), program.byte().unwrap_or_default());
        let dealer = index(1 + u32::try_from(program.below(5)).expect("small"));
        let complaint = Complaint { dealer, bundle, key: G1::hash(&[value], HashDomain::Seal) };
        match program.below(2) {
            0 => self.say(Body::Late(vec![complaint])),
            _ => {
                let dealers = self.digest(program);
                self.say(Body::Response(Response { dealers, unopened: false, complaints: vec![complaint] }));
            }
        }
    }

    fn say(&mut self, body: Body) {
        self.said.push(SignedMessage::sign(self.plan.digest(), index(CORRUPT), body, &identity(CORRUPT)));
    }

    /// A message comes again with one bit changed: in its content, or in its signature alone.
    fn repeat_with_a_change(&mut self, program: &mut Program<'_>) {
        if self.said.is_empty() {
            return;
        }
        let mut bytes = self.said[program.below(self.said.len())].encode();
        let at = (program.below(256) << 8 | program.below(256)) % bytes.len();
        bytes[at] ^= 1 << program.below(8);
        if let Ok(message) = SignedMessage::decode(&bytes) {
            let receiver = index(1 + u32::try_from(program.below(3)).expect("small"));
            self.learn(receiver, message);
        }
    }

    /// The operator looks with one node's eyes, before or after the deadline, and everyone reads the record.
    fn decide(&mut self, program: &mut Program<'_>) {
        let eyes = index(1 + u32::try_from(program.below(3)).expect("small"));
        let now = Block(10 * u64::from(program.byte().unwrap_or_default() % 2));
        let Some(transcript) = self.nodes[&eyes].transcript(self.plan.number) else { return };
        let view = RoundView { transcript, record: &self.record, opened: Block(0), now, overdue: false };
        let Some(decision) = decide(&view) else { return };
        // A round that has ended is over; what the program still holds is said to nodes that know.
        if matches!(decision, Decision::Confirm | Decision::Fail(FailReason::EvidenceMissing)) {
            return;
        }
        let mut record = self.record.clone();
        if record.apply(&decision).is_ok() {
            self.record = record.clone();
            self.observe(&record);
        }
    }

    /// Somebody with the right to write the record shows one that nobody decided.
    fn show_a_false_record(&mut self, program: &mut Program<'_>) {
        let dealers = (1..=CORRUPT).map(|dealer| (index(dealer), self.digest(program))).collect();
        let Ok(dealers) = FrozenDigests::new(dealers) else { return };
        let mut record = RoundRecord::opened();
        record.phase = Phase::Verifying;
        record.dealers = Some(dealers);
        let reader = index(1 + u32::try_from(program.below(3)).expect("small"));
        let node = self.nodes.get_mut(&reader).expect("it is there");
        if let Ok(outputs) = node.observe(self.plan.number, &record, &mut self.rng) {
            self.take(outputs);
        }
    }

    fn observe(&mut self, record: &RoundRecord) {
        for node in self.nodes.values_mut() {
            if let Ok(outputs) = node.observe(self.plan.number, record, &mut self.rng) {
                self.said.extend(outputs.say);
            }
        }
    }

    /// A node restarts with what it committed.
    fn restart(&mut self, program: &mut Program<'_>) {
        let restarted = 1 + u32::try_from(program.below(3)).expect("small");
        let node = &self.nodes[&index(restarted)];
        let state = node.state();
        let secrets: Vec<(SecretName, _)> =
            state.live_secrets().into_iter().filter_map(|name| Some((name, node.expose(name)?))).collect();
        let again = Participant::restore(identity(restarted), &state.encode(), secrets);
        let (again, outputs) = again.unwrap_or_else(|error| panic!("a node does not start again: {error}"));
        self.nodes.insert(index(restarted), again);
        self.take(outputs);
        // It reads the record again, and hears everyone from the beginning.
        let record = self.record.clone();
        self.observe(&record);
        self.told = 0;
    }

    /// The digest of something that was said, or one of nothing.
    fn digest(&self, program: &mut Program<'_>) -> Digest {
        let chosen = program.below(self.said.len() + 1);
        self.said.get(chosen).map_or(Digest([0xaa; 32]), SignedMessage::digest)
    }

    fn bundles(&self) -> impl Iterator<Item = &SignedMessage> {
        self.said.iter().filter(|message| matches!(message.body, Body::Dealing(_)))
    }

    /// No complaint of an honest node is about the bundle of an honest dealer.
    fn invariant_nothing_is_disclosed_about_the_honest(&self) {
        for message in self.said.iter().filter(|message| message.sender != index(CORRUPT)) {
            let complaints = match &message.body {
                Body::Response(response) => &response.complaints,
                Body::Late(complaints) => complaints,
                _ => continue,
            };
            for complaint in complaints {
                let about = complaint.dealer;
                assert_eq!(about, index(CORRUPT), "{} disclosed what it shares with {about}", message.sender);
            }
        }
    }

    /// No evidence convicts an honest node.
    fn invariant_nobody_honest_is_convicted(&self) {
        for (witness, node) in self.nodes.iter().filter(|(index, _)| index.value() != CORRUPT) {
            let Some(transcript) = node.transcript(self.plan.number) else { continue };
            for culprit in transcript.culprits() {
                assert_eq!(culprit.index, index(CORRUPT), "{witness} convicts {culprit:?}");
            }
        }
    }
}

fn plan(nodes: &BTreeMap<NodeIndex, Participant>) -> ValidPlan {
    let receivers = nodes.iter().map(|(index, node)| NodeView {
        index: *index,
        identity: identity(index.value()).public(),
        prekey: node.state().shown_prekey().copied(),
    });
    let view = FleetView {
        cluster: CLUSTER,
        number: EpochNumber(1),
        block: Block(100),
        threshold: Threshold(3),
        min_holders: 3,
        deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
        receivers: receivers.collect(),
        connected: nodes.keys().copied().collect(),
        unawaited: Default::default(),
    };
    planning::genesis(&view).expect("everyone is there")
}
