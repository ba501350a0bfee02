//! A model of the API server, nodes that do what they should, and two operators.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use keyfleet_crds::record::Record;
use keyfleet_crds::values::{ClusterId, IdentityKey};
use keyfleet_crds::{KmsCluster, KmsNodeSpec};
use keyfleet_threshold::coordination::{Decision, FailReason, Offer};
use keyfleet_threshold::curve::{G2, Scalar};
use keyfleet_threshold::identifiers::{Digest, NodeIndex, PrekeySetNumber};
use keyfleet_threshold::plan::FrozenDigests;
use keyfleet_threshold::purpose::{Certificate, Purpose};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::super::state::{Closing, Cluster, Epoch, Heard, Lag, Node, Recorded, Retention, State};
use super::super::{Action, decide};
use crate::round;
use keyfleet_api::convert;

/// Objects with versions, and what the real server refuses.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) cluster: Cluster,
    pub(super) nodes: BTreeMap<u32, Node>,
    pub(super) epochs: BTreeMap<u64, Epoch>,
    pub(super) record: Option<(u64, Record)>,
    version: u64,
    pub(super) writes: u64,
}

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
        let api =
            Server { cluster, nodes: BTreeMap::new(), epochs: BTreeMap::new(), record: None, version: 1, writes: 0 };
        Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            api,
            operators: <[Operator; 2]>::default(),
            block: 1_003,
            time: 1_000_000,
            fail_next: 0,
            finalizers: true,
            log: Vec::new(),
        }
    }

    pub(super) fn calm(seed: u64) -> Self {
        Self::new(seed)
    }

    pub(super) fn interval(&self) -> u64 {
        u64::from(self.api.cluster.spec.schedule.interval_blocks)
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
                4 if self.below(6) == 0 && self.api.cluster.status.public_key.is_some() => {
                    self.api.cluster.spec.nodes = 3 + u32::try_from(self.below(4)).expect("small");
                    self.api.cluster.generation += 1;
                    self.api.bump_cluster();
                    let nodes = self.api.cluster.spec.nodes;
                    self.log.push(format!("spec.nodes is {nodes}"));
                }
                5 if self.below(4) == 0 => {
                    let indexes: Vec<u32> = self.api.nodes.keys().copied().collect();
                    if let Some(index) = indexes.first() {
                        self.api.nodes.get_mut(index).expect("it is there").deleting = true;
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
            let before = self.api.writes;
            self.step_calmly();
            if self.api.writes == before {
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
        operator.starved_since = decisions.starved.then(|| operator.starved_since.unwrap_or(self.block));
        operator.queue = decisions.actions;
    }

    fn send(&mut self, who: usize) {
        if self.operators[who].queue.is_empty() {
            return;
        }
        let action = self.operators[who].queue.remove(0);
        let before = self.api.clone();
        let said = format!("operator {who} at block {}: {}", self.block, brief(&action));
        let id = ClusterId([u8::try_from(self.below(256)).expect("a byte"); 16]);
        let carried_out = self.api.carry_out(action, id);
        self.log.push(format!("{said}: {}", if carried_out { "done" } else { "refused" }));
        if !carried_out {
            self.operators[who].queue.clear();
        }
        if let Err(broken) = invariants(&before, &self.api) {
            self.fail(&broken);
        }
    }

    #[track_caller]
    pub(super) fn fail(&self, what: &str) -> ! {
        let tail: Vec<_> = self.log.iter().rev().take(25).rev().cloned().collect();
        panic!("{what}\nreplay with KEYFLEET_SEED={}\n{}", self.seed, tail.join("\n"));
    }

    /// What an operator reads: the objects, and nodes that do all they should at once.
    pub(super) fn state(&mut self, who: usize) -> State {
        let mut nodes = self.api.nodes.clone();
        for (index, node) in &mut nodes {
            let key = IdentityKey([u8::try_from(*index).expect("few nodes"); 32]);
            node.offered = Some(key);
            let used = self.api.epochs.len() as u64;
            let offer = |number, last_resort| Offer {
                number: PrekeySetNumber(number),
                digest: Digest([u8::try_from(number % 251).expect("a byte"); 32]),
                last_resort,
                slots: 100,
            };
            node.offers = if node.spec.identity_key.is_some() {
                (used..used + 3).map(|number| offer(1 + number, false)).collect()
            } else {
                Vec::new()
            };
            node.ready = true;
            node.erased =
                node.spec.removed
                    && self.api.served().last().is_some_and(|(_, epoch)| {
                        !epoch.spec.receivers.iter().any(|receiver| receiver.index == *index)
                    });
        }
        let connected: BTreeSet<u32> = nodes.keys().copied().collect();
        let mut heard = Heard { connected, ..Heard::default() };
        for index in nodes.keys() {
            heard.highest.insert(*index, self.api.epochs.keys().next_back().copied().unwrap_or(0));
        }
        for (number, epoch) in &self.api.epochs {
            let receivers: BTreeSet<u32> = epoch.spec.receivers.iter().map(|receiver| receiver.index).collect();
            heard.holds.insert(*number, receivers.intersection(&heard.connected).copied().collect());
            let decision = self.fail_next == 0;
            let closing = Closing { decision: next(epoch, decision), culprits: Vec::new() };
            heard.closing.insert(*number, closing);
        }
        if heard.closing.values().any(|closing| matches!(closing.decision, Some(Decision::Fail(_)))) {
            self.fail_next -= 1;
        }
        State {
            cluster: self.api.cluster.clone(),
            nodes,
            epochs: self.api.epochs.clone(),
            record: match &self.api.record {
                None => Recorded::Absent,
                Some((version, record)) => {
                    Recorded::Present { resource_version: version.to_string(), record: Box::new(record.clone()) }
                }
            },
            volumes: BTreeMap::new(),
            namespace_ends: false,
            finalizers: self.finalizers,
            stopped: true,
            heard,
            block: Ok(self.block),
            last_block: self.block,
            starved_since: self.operators[who].starved_since,
            eviction_refused: None,
            retention: Retention::default(),
            now: Timestamp::from_second(self.time).expect("a time"),
        }
    }
}

/// What the core would decide of a round in which everyone does what it should, or which fails.
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

impl Server {
    fn served(&self) -> impl Iterator<Item = (&u64, &Epoch)> {
        self.epochs.iter().filter(|(_, epoch)| round::serves(epoch.status.as_ref()))
    }

    pub(super) fn bump_cluster(&mut self) {
        self.version += 1;
        self.cluster.resource_version = self.version.to_string();
    }

    /// All objects deleted and put back as a backup of manifests would: specs, no status.
    pub(super) fn lose_status(&mut self) {
        self.cluster.status = keyfleet_crds::KmsClusterStatus::default();
        self.cluster.finalizer = false;
        self.bump_cluster();
        for epoch in self.epochs.values_mut() {
            self.version += 1;
            epoch.status = None;
            epoch.resource_version = self.version.to_string();
        }
    }

    /// Carries out one write, or refuses it as the real server would: by the version, by the rules.
    fn carry_out(&mut self, action: Action, id: ClusterId) -> bool {
        self.version += 1;
        let version = self.version.to_string();
        let done = match action {
            Action::SetClusterFinalizer { present } => {
                self.cluster.finalizer = present;
                self.cluster.resource_version = version;
                true
            }
            Action::MintClusterId { resource_version, mut status } => {
                status.cluster_id = Some(id);
                self.update_cluster(&resource_version, *status, version)
            }
            Action::UpdateCluster { resource_version, status } => {
                self.update_cluster(&resource_version, *status, version)
            }
            Action::CreateEpoch(spec) => {
                let epoch = Epoch { resource_version: version, finalizer: false, spec: *spec, status: None };
                self.epochs.entry(epoch.spec.number).or_insert(epoch);
                true
            }
            Action::UpdateEpoch { number, resource_version, status } => match self.epochs.get_mut(&number) {
                Some(epoch) if epoch.resource_version == resource_version => {
                    epoch.status = Some(*status);
                    epoch.resource_version = version;
                    true
                }
                _ => false,
            },
            Action::SetEpochFinalizer { number, present } => match self.epochs.get_mut(&number) {
                Some(epoch) => {
                    epoch.finalizer = present;
                    // A merge patch without a version moves the version all the same.
                    epoch.resource_version = version;
                    true
                }
                None => false,
            },
            Action::DeleteEpoch { number } => {
                if self.epochs.get(&number).is_some_and(|epoch| !epoch.finalizer) {
                    self.epochs.remove(&number);
                }
                true
            }
            Action::CreateNode(spec) => {
                let node = node(*spec, version);
                self.nodes.entry(node.spec.index).or_insert(node);
                true
            }
            Action::UpdateNode { resource_version, spec } => match self.nodes.get_mut(&spec.index) {
                Some(node) if node.resource_version == resource_version => {
                    let repinned = node.spec.identity_key.is_some() && node.spec.identity_key != spec.identity_key;
                    assert!(!repinned, "a pin would change: the real server refuses that, so the operator is broken");
                    node.spec = *spec;
                    node.resource_version = version;
                    true
                }
                _ => false,
            },
            Action::ReleaseNode { index } => {
                if self.nodes.get(&index).is_some_and(|node| node.deleting) {
                    self.nodes.remove(&index);
                }
                true
            }
            Action::DeleteNode { index } => {
                self.nodes.remove(&index);
                true
            }
            Action::Evict { index } => self.nodes.get(&index).is_some_and(|node| node.outdated),
            Action::WriteRecord { resource_version, record } => {
                let current = self.record.as_ref().map(|(version, _)| version.to_string());
                if current != resource_version {
                    return false;
                }
                self.record = Some((self.version, *record));
                true
            }
            Action::DeleteRecord => {
                self.record = None;
                true
            }
        };
        if done {
            self.writes += 1;
        }
        done
    }

    fn update_cluster(&mut self, read: &str, status: keyfleet_crds::KmsClusterStatus, version: String) -> bool {
        if self.cluster.resource_version != read {
            return false;
        }
        self.cluster.status = status;
        self.cluster.resource_version = version;
        true
    }
}

pub(super) fn node(spec: KmsNodeSpec, version: String) -> Node {
    Node {
        resource_version: version,
        deleting: false,
        spec,
        offered: None,
        offers: Vec::new(),
        ready: false,
        outdated: false,
        problems: Vec::new(),
        worker: None,
        zone: None,
        volume_handle: None,
        position: None,
        lag: Lag::default(),
        erased: false,
        plan_versions: vec![1],
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

/// All invariants, on the objects before and after one write.
pub(super) fn invariants(before: &Server, after: &Server) -> Result<(), String> {
    invariant_one_epoch_per_boundary(after)?;
    invariant_one_open_round(after)?;
    invariant_written_once(before, after)?;
    invariant_numbers_only_rise(before, after)?;
    invariant_an_epoch_serves_once_one_did(before, after)
}

/// A boundary has one epoch that did not fail, and a failed one is not tried again at the same boundary.
fn invariant_one_epoch_per_boundary(server: &Server) -> Result<(), String> {
    let interval = u64::from(server.cluster.spec.schedule.interval_blocks);
    let superseded = |epoch: &&Epoch| {
        let failure = epoch.status.as_ref().and_then(|status| status.failure.as_ref());
        failure.is_some_and(|failure| failure.reason == "Superseded")
    };
    let mut seen = BTreeMap::new();
    for epoch in server.epochs.values().filter(|epoch| !superseded(epoch)) {
        // Rounds that start at once carry the current block, which may be a boundary by chance.
        let at_boundary = epoch.spec.block % interval == 0 && epoch.spec.source.is_some();
        if let Some(other) = at_boundary.then(|| seen.insert(epoch.spec.block, epoch)).flatten() {
            let same = other.spec.receivers.iter().map(|r| r.index).eq(epoch.spec.receivers.iter().map(|r| r.index));
            if same {
                let (a, b) = (other.spec.number, epoch.spec.number);
                return Err(format!("epochs {a} and {b} are both for boundary {}", epoch.spec.block));
            }
        }
    }
    Ok(())
}

/// At most one round that stands under the reservation is open; strays are on their way out.
fn invariant_one_open_round(server: &Server) -> Result<(), String> {
    let started = server.epochs.values().filter(|epoch| {
        let phase = epoch.status.as_ref().and_then(|status| status.phase);
        phase.is_some() && round::is_open(epoch.status.as_ref())
    });
    let numbers: Vec<u64> = started.map(|epoch| epoch.spec.number).collect();
    if numbers.len() > 1 { Err(format!("rounds {numbers:?} are open at once")) } else { Ok(()) }
}

fn invariant_written_once(before: &Server, after: &Server) -> Result<(), String> {
    let (old, new) = (&before.cluster.status, &after.cluster.status);
    if old.public_key.is_some() && old.public_key != new.public_key {
        return Err("the public key changed".into());
    }
    if old.cluster_id.is_some() && old.cluster_id != new.cluster_id {
        return Err("the cluster id changed".into());
    }
    for (number, epoch) in &after.epochs {
        let Some(old) = before.epochs.get(number) else { continue };
        if old.spec != epoch.spec {
            return Err(format!("the plan of epoch {number} changed"));
        }
        let (Some(old), Some(new)) = (&old.status, &epoch.status) else { continue };
        let kept = (old.dealers.is_none() || old.dealers == new.dealers)
            && (old.responses.is_none() || old.responses == new.responses)
            && (old.certificate.is_none() || old.certificate == new.certificate)
            && (old.phase != Some(keyfleet_crds::epoch::Phase::Failed) || new.phase == old.phase);
        if !kept {
            return Err(format!("frozen fields of epoch {number} changed"));
        }
    }
    Ok(())
}

fn invariant_numbers_only_rise(before: &Server, after: &Server) -> Result<(), String> {
    let (old, new) = (&before.cluster.status, &after.cluster.status);
    let falls = old.next_number > new.next_number
        || old.next_index > new.next_index
        || old.last_processed_boundary > new.last_processed_boundary
        || old.active_epoch > new.active_epoch;
    if falls { Err("a number of the cluster's status fell".into()) } else { Ok(()) }
}

fn invariant_an_epoch_serves_once_one_did(before: &Server, after: &Server) -> Result<(), String> {
    if before.served().next().is_some() && after.served().next().is_none() {
        return Err("no epoch serves any more".into());
    }
    Ok(())
}
