//! Two operators on the modelled API server, and nodes that do what they should.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use keyfleet_crds::KmsCluster;
use keyfleet_crds::values::{ClusterId, PinnedKey};
use keyfleet_threshold::coordination::{Decision, FailReason};
use keyfleet_threshold::curve::{G2, Scalar};
use keyfleet_threshold::identifiers::{self, Digest, NodeIndex, PrekeyNumber};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::plan::FrozenDigests;
use keyfleet_threshold::prekey::{PrekeySecret, SignedPrekey};
use keyfleet_threshold::purpose::{Certificate, Purpose};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::model::{RefusalError, Server, invariants};
use crate::state::{Cluster, Epoch, Node, State, ms};
use crate::view::{Closing, StreamView};
use crate::{Action, decide};
use keyfleet_crds::convert;

/// An operator with what it has read and not yet carried out.
#[derive(Default)]
struct Operator {
    queue: Vec<Action>,
    starved_since: Option<u64>,
}

pub(super) struct Model {
    seed: u64,
    rng: ChaCha8Rng,
    pub(super) api: Server,
    operators: [Operator; 2],
    pub(super) block: u64,
    pub(super) time: i64,
    pub(super) fail_next: u32,
    pub(super) finalizers: bool,
    log: Vec<String>,
    prekeys: BTreeMap<u32, SignedPrekey>,
}

/// Signs a prekey for a node, as its identity key says.
fn prekey(cluster: ClusterId, index: u32) -> SignedPrekey {
    let seed = [u8::try_from(index).expect("few nodes"); 32];
    let secret = PrekeySecret::restore(PrekeyNumber(1), &seed).expect("a small scalar");
    let node = NodeIndex::new(index).expect("indices start at one");
    secret.offer(identifiers::ClusterId(cluster.0), node, &IdentitySecretKey::from_seed(&seed))
}

const SECRET: u64 = 42;

pub(super) fn cluster(yaml: &str) -> Cluster {
    let object: KmsCluster = serde_yaml::from_str(yaml).expect("a sample");
    Cluster {
        name: object.metadata.name.expect("a sample has a name"),
        generation: 1,
        resource_version: "0".into(),
        deleting: false,
        finalizer: false,
        reshare_request: None,
        spec: object.spec,
        status: object.status.unwrap_or_default(),
    }
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        let cluster = cluster(include_str!("../../../../manifests/samples/smallest.yaml"));
        Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            api: Server::new(cluster),
            operators: <[Operator; 2]>::default(),
            block: 1_003,
            time: 1_000_000,
            fail_next: 0,
            finalizers: true,
            log: Vec::new(),
            prekeys: BTreeMap::new(),
        }
    }

    pub(super) fn calm(seed: u64) -> Self {
        Self::new(seed)
    }

    pub(super) fn interval(&self) -> u64 {
        u64::from(self.api.now.cluster.spec.schedule.interval_blocks)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    /// Chaos: either operator reads, or sends one write, or crashes; blocks come; rounds fail; the spec changes.
    pub(super) fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            let who = usize::from(self.below(2) == 0);
            match self.below(20) {
                0 => self.block += self.below(2 * self.interval()),
                1 => self.block += 1,
                2 => self.fail_next = 1,
                3 => {
                    self.operators[who] = Operator::default();
                    self.log.push(format!("operator {who} crashed"));
                }
                4 if self.below(6) == 0 && self.api.now.cluster.status.public_key.is_some() => {
                    let nodes = 3 + u32::try_from(self.below(4)).expect("small");
                    self.api.edit(|spec| spec.nodes = nodes);
                    self.log.push(format!("spec.nodes is {nodes}"));
                }
                5 if self.below(4) == 0 => {
                    let indexes: Vec<u32> = self.api.now.nodes.keys().copied().collect();
                    if let Some(index) = indexes.first() {
                        self.api.delete_node(*index);
                        self.log.push(format!("KmsNode {index} is deleted by hand"));
                    }
                }
                6..=9 => self.read(who),
                _ => self.send(who),
            }
            self.time += 1;
        }
    }

    /// One operator that reads and carries everything out until nothing is left to do at this block.
    pub(super) fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.api.now.revision;
            self.step_calmly();
            if self.api.now.revision == before {
                return;
            }
        }
        self.fail("two hundred runs at one block did not come to rest");
    }

    pub(super) fn step_calmly(&mut self) {
        self.read(0);
        while !self.operators[0].queue.is_empty() {
            self.send(0);
        }
    }

    fn read(&mut self, who: usize) {
        let state = self.state(who);
        let decisions = decide(&state);
        let operator = &mut self.operators[who];
        operator.starved_since = decisions.starved_since;
        operator.queue = decisions.actions;
    }

    fn send(&mut self, who: usize) {
        if self.operators[who].queue.is_empty() {
            return;
        }
        let action = self.operators[who].queue.remove(0);
        let before = self.api.now.clone();
        let said = format!("operator {who} at block {}: {}", self.block, brief(&action));
        let id = ClusterId([u8::try_from(self.below(256)).expect("a byte"); 16]);
        match self.api.execute(action, id) {
            Ok(()) => self.log.push(format!("{said}: done")),
            Err(RefusalError::Invalid(rule)) => self.fail(&format!("{said}: a rule refuses it: {rule}")),
            Err(refusal) => {
                self.log.push(format!("{said}: {refusal}"));
                self.operators[who].queue.clear();
            }
        }
        let per_boundary = invariants::invariant_one_epoch_per_boundary(&self.api.now);
        if let Err(broken) = invariants::check(&before, &self.api.now).and(per_boundary) {
            self.fail(&broken.to_string());
        }
    }

    #[track_caller]
    pub(super) fn fail(&self, what: &str) -> ! {
        let tail: Vec<_> = self.log.iter().rev().take(25).rev().cloned().collect();
        panic!("{what}\nreplay with KEYFLEET_SEED={}\n{}", self.seed, tail.join("\n"));
    }

    /// Returns the state that an operator reads: the objects, and nodes that do all they should at once.
    pub(super) fn state(&mut self, who: usize) -> State {
        let nodes = self.api.now.nodes.iter();
        let mut nodes: BTreeMap<u32, Node> = nodes.map(|(index, node)| (*index, node.as_ref().clone())).collect();
        for (index, node) in &mut nodes {
            let seed = [u8::try_from(*index).expect("few nodes"); 32];
            let key = PinnedKey(IdentitySecretKey::from_seed(&seed).public().0);
            node.offered = Some(key);
            // One prekey for all plans is enough here.
            let mut shown =
                || self.prekeys.entry(*index).or_insert_with(|| prekey(node.spec.cluster_id, *index)).to_owned();
            node.prekey = node.spec.identity_key.map(|_| shown());
            node.ready = true;
            node.erased =
                node.spec.removed
                    && self.api.now.served().last().is_some_and(|(_, epoch)| {
                        !epoch.spec.receivers.iter().any(|receiver| receiver.index == *index)
                    });
        }
        let now = Timestamp::from_second(self.time).expect("a time");
        let connected: BTreeSet<u32> = nodes.keys().copied().collect();
        let mut view = StreamView { connected, ..StreamView::default() };
        for index in nodes.keys() {
            view.highest.insert(*index, self.api.now.epochs.keys().next_back().copied().unwrap_or(0));
        }
        for (number, epoch) in &self.api.now.epochs {
            let receivers: BTreeSet<u32> = epoch.spec.receivers.iter().map(|receiver| receiver.index).collect();
            // The shell asks whenever it is told to, and all answer before it decides again.
            let proven = receivers.intersection(&view.connected).map(|index| (*index, ms(now)));
            view.holds.insert(*number, proven.collect());
            let decision = self.fail_next == 0;
            let closing = Closing { decision: next(epoch, decision), culprits: Vec::new() };
            view.closing.insert(*number, closing);
        }
        if view.closing.values().any(|closing| matches!(closing.decision, Some(Decision::Fail(_)))) {
            self.fail_next -= 1;
        }
        let (block, starved) = (self.block, self.operators[who].starved_since);
        State { nodes, finalizers: self.finalizers, ..self.api.now.state(view, Ok(block), block, starved, now) }
    }
}

/// Returns the core's decision on a round in which everyone does what it should, or which fails.
fn next(epoch: &Epoch, well: bool) -> Option<Decision> {
    use keyfleet_crds::epoch::Phase;
    let plan = convert::plan_of(&epoch.spec).expect("plans made here are valid");
    let frozen = |list: &mut dyn Iterator<Item = NodeIndex>| {
        FrozenDigests::new(list.map(|index| (index, Digest([7; 32]))).collect()).expect("plans ascend")
    };
    match epoch.status.as_ref()?.phase? {
        Phase::Dealing | Phase::Verifying if !well => {
            Some(Decision::Fail(FailReason::TooFewHolders { prepared: 0, needed: plan.holders_needed() }))
        }
        Phase::Dealing => Some(Decision::FreezeDealers(frozen(&mut plan.dealers.iter().map(|dealer| dealer.index)))),
        Phase::Verifying => Some(Decision::FreezeResponses {
            responses: frozen(&mut plan.receivers.iter().map(|receiver| receiver.index)),
            qualified: plan.dealers.iter().map(|dealer| dealer.index).collect(),
        }),
        Phase::Preparing => Some(Decision::Certify),
        Phase::Certifying => {
            let number = u8::try_from(plan.number.0 % 251).expect("a byte");
            let vector = Digest([number; 32]);
            let secret = Scalar::from_u64(SECRET);
            let purpose = Purpose::certificate(plan.cluster, &plan.digest(), &vector, plan.number);
            let signature = purpose.point().times(&secret);
            let certificate =
                Certificate { cluster: plan.cluster, number: plan.number, plan: plan.digest(), vector, signature };
            // f(x) = 42 + x: the public shares lie on a line through the key.
            let share = |index: NodeIndex| G2::generator().times(&Scalar::from_u64(SECRET + u64::from(index.value())));
            let holders = plan.receivers.iter().map(|receiver| (receiver.index, share(receiver.index))).collect();
            let public_key = G2::generator().times(&secret);
            Some(Decision::Activate { certificate, public_key, holders })
        }
        Phase::Active => Some(Decision::Confirm),
        Phase::Confirmed | Phase::Retired | Phase::Failed => None,
    }
}

fn brief(action: &Action) -> String {
    match action {
        Action::UpdateCluster { status, .. } => format!(
            "update of the cluster: reservation {:?}, next {:?}, active {:?}",
            status.reservation, status.next_number, status.active_epoch
        ),
        Action::CreateEpoch(spec) => format!("creation of epoch {}", spec.number),
        Action::UpdateEpoch { number, status, .. } => format!("epoch {number} is {:?}", status.phase),
        Action::CreateNode(spec) => format!("creation of node {}", spec.index),
        Action::UpdateNode { spec, .. } => format!("update of node {}", spec.index),
        Action::WriteRecord { .. } => "write of the record".into(),
        other => format!("{other:?}").chars().take(60).collect(),
    }
}
