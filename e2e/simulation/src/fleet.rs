//! The world: virtual time, blocks, a network that delays and loses, nodes that die, and an operator that does too.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::num::NonZeroU64;

use keyfleet_threshold::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, Threshold};
use keyfleet_threshold::plan::Deadlines;
use keyfleet_threshold::round::{MessageKind, Outputs};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::api::Api;
use crate::invariants::Invariants;
use crate::node::Node;
use crate::operator::Operator;
use keyfleet_adversary::Behaviour;

/// How hostile the world is.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Chance of losing one delivery, in thousandths. What was lost is sent again at the next poll.
    pub loss_permille: u32,
    /// Longest delay of one delivery.
    pub delay_max_ms: u64,
    /// Chance that a node dies while it carries out one input's outputs, in ten-thousandths.
    pub crash_per_10k: u32,
    /// Chance that the operator is restarted at a reconcile, in thousandths.
    pub operator_restart_permille: u32,
    /// Chance per block that a node goes away for up to thirty blocks, in thousandths, while no more than n−t are away.
    pub outage_permille: u32,
}

impl Settings {
    /// A network that delays and nothing else goes wrong.
    pub const CALM: Self = Self {
        loss_permille: 0,
        delay_max_ms: 200,
        crash_per_10k: 0,
        operator_restart_permille: 0,
        outage_permille: 0,
    };
    /// Everything goes wrong, seldom enough that rounds can succeed.
    pub const ROUGH: Self = Self {
        loss_permille: 200,
        delay_max_ms: 4_000,
        crash_per_10k: 500,
        operator_restart_permille: 50,
        outage_permille: 80,
    };
}

/// What the cluster shall be: the user's spec.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The nodes that shall hold the key, ascending.
    pub receivers: Vec<NodeIndex>,
    /// The threshold.
    pub threshold: Threshold,
    /// How many must have stored their share before an epoch serves.
    pub min_holders: u16,
    /// Blocks between boundaries.
    pub interval_blocks: NonZeroU64,
    /// Deadlines of the phases.
    pub deadlines: Deadlines,
}

/// The simulated world.
pub struct Fleet {
    /// The seed that reproduces this run.
    pub seed: u64,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// How hostile it is.
    pub settings: Settings,
    /// What the user wants.
    pub spec: Spec,
    /// All nodes that ever were.
    pub nodes: BTreeMap<NodeIndex, Node>,
    /// The API server.
    pub api: Api,
    /// The present block.
    pub block: Block,
    /// Whether the operator runs.
    pub operator_up: bool,
    operator: Operator,
    invariants: Invariants,
    rng: ChaCha20Rng,
    now_ms: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(crate) in_flight: BTreeSet<(NodeIndex, Digest)>,
    log: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Block,
    Reconcile,
    Poll(NodeIndex),
    Deliver { to: NodeIndex, from: NodeIndex, key: (EpochNumber, usize, MessageKind) },
    Restart(NodeIndex),
}

const BLOCK_MS: u64 = 12_000;
const POLL_MS: u64 = 1_000;

impl Fleet {
    /// A fleet of nodes 1..=n that have just started, and a user who wants them to share a key.
    #[must_use]
    pub fn new(seed: u64, settings: Settings, n: u32, threshold: u16, min_holders: u16) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut cluster = [0; 16];
        rng.fill_bytes(&mut cluster);
        let deadlines = Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 };
        let mut fleet = Self {
            seed,
            cluster: ClusterId(cluster),
            settings,
            spec: Spec {
                receivers: Vec::new(),
                threshold: Threshold(threshold),
                min_holders,
                interval_blocks: NonZeroU64::new(10).expect("ten is not zero"),
                deadlines,
            },
            nodes: BTreeMap::new(),
            api: Api { next_number: 1, last_boundary: Some(Block(0)), ..Api::default() },
            block: Block(1),
            operator_up: true,
            operator: Operator::default(),
            invariants: Invariants::default(),
            rng,
            now_ms: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            in_flight: BTreeSet::new(),
            log: Vec::new(),
        };
        for i in 1..=n {
            fleet.add_node(i);
        }
        fleet.spec.receivers = fleet.nodes.keys().copied().collect();
        fleet.schedule(BLOCK_MS, Event::Block);
        fleet.schedule(POLL_MS, Event::Reconcile);
        fleet
    }

    /// Adds a node with an index that was never used. It receives shares once [`Fleet::spec`] names it.
    ///
    /// # Panics
    /// When the index is zero or in use.
    pub fn add_node(&mut self, index: u32) -> NodeIndex {
        let index = NodeIndex::new(index).expect("indices start at one");
        let mut node = Node::new(index, &mut self.rng);
        node.first_start(self.cluster, &mut self.rng);
        self.api.pins.insert(index, node.identity_key().public());
        assert!(self.nodes.insert(index, node).is_none(), "an index is never reused");
        let first_poll = self.random(POLL_MS);
        self.schedule(first_poll, Event::Poll(index));
        index
    }

    /// Sets how a node behaves from now on.
    pub fn behave(&mut self, index: u32, behaviour: Behaviour) {
        self.log(format!("node {index} is now {behaviour:?}"));
        let node = self.node(index);
        node.behaviour = behaviour;
        if behaviour == Behaviour::Honest {
            // From now on it says what it had meant to say.
            node.published.clear();
            node.publish();
        }
    }

    /// Stops a node until [`Fleet::bring_up`]; its disk stays.
    pub fn take_down(&mut self, index: u32) {
        self.log(format!("node {index} goes away"));
        self.node(index).crash();
        let index = NodeIndex::new(index);
        self.queue.retain(|Reverse((.., event))| !matches!(event, Event::Restart(i) if Some(*i) == index));
    }

    /// Starts a stopped node from its disk.
    pub fn bring_up(&mut self, index: u32) {
        let index = NodeIndex::new(index).expect("indices start at one");
        self.restart(index);
    }

    /// Loses a node for good: process, volume and seal.
    pub fn lose(&mut self, index: u32) {
        self.take_down(index);
        self.log(format!("node {index} is lost for good"));
        let node = self.node(index);
        node.disk = crate::node::Disk::default();
        node.lost = true;
        node.published.clear();
    }

    /// Runs until `reached`, or panics with the log's end when `blocks` pass without it.
    ///
    /// # Panics
    /// When the condition is not reached, or an invariant breaks.
    pub fn run_until(&mut self, what: &str, blocks: u64, reached: impl Fn(&Self) -> bool) {
        let limit = self.block.0 + blocks;
        while !reached(self) {
            assert!(self.block.0 < limit, "{}", self.report(&format!("not within {blocks} blocks: {what}")));
            self.step();
        }
    }

    /// Runs for a number of blocks.
    pub fn run_blocks(&mut self, blocks: u64) {
        let end = self.block.0 + blocks;
        while self.block.0 < end {
            self.step();
        }
    }

    /// Runs until an epoch above `after` is active, and gives its number.
    pub fn next_active(&mut self, after: Option<EpochNumber>, blocks: u64) -> EpochNumber {
        self.run_until("a newer active epoch", blocks, |fleet| fleet.api.active() > after);
        self.api.active().expect("it was just seen")
    }

    /// The processes that run and answer.
    #[must_use]
    pub fn answering(&self) -> BTreeSet<NodeIndex> {
        self.nodes
            .values()
            .filter(|node| node.is_up() && node.behaviour != Behaviour::Silent)
            .map(|n| n.index)
            .collect()
    }

    /// The nodes that hold their share of an epoch.
    #[must_use]
    pub fn holders(&self, number: EpochNumber) -> BTreeSet<NodeIndex> {
        let holds = |node: &&Node| node.process.as_ref().is_some_and(|process| process.share(number).is_some());
        self.nodes.values().filter(holds).map(|node| node.index).collect()
    }

    /// The log so far: one line per decision of note.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.log
    }

    /// Adds a line to the log.
    pub fn log(&mut self, line: impl AsRef<str>) {
        self.log.push(format!("{:>8} ms block {:>5}  {}", self.now_ms, self.block.0, line.as_ref()));
    }

    fn report(&self, what: &str) -> String {
        let tail = self.log.len().saturating_sub(60);
        format!("{what}\nreplay with KEYFLEET_SIM_SEED={}\n{}", self.seed, self.log[tail..].join("\n"))
    }

    fn node(&mut self, index: u32) -> &mut Node {
        let index = NodeIndex::new(index).expect("indices start at one");
        self.nodes.get_mut(&index).expect("the scenario names nodes that exist")
    }

    /// One event, then the invariants.
    pub fn step(&mut self) {
        let Reverse((at, _, event)) = self.queue.pop().expect("blocks never end");
        self.now_ms = at;
        let touched = match event {
            Event::Block => {
                self.block = Block(self.block.0 + 1);
                self.schedule(BLOCK_MS, Event::Block);
                self.outage();
                None
            }
            Event::Reconcile => {
                self.reconcile();
                self.schedule(POLL_MS, Event::Reconcile);
                None
            }
            Event::Poll(index) => {
                self.poll(index);
                let jitter = self.random(POLL_MS / 4);
                self.schedule(POLL_MS + jitter, Event::Poll(index));
                Some(index)
            }
            Event::Deliver { to, from, key } => {
                self.deliver(to, from, key);
                Some(to)
            }
            Event::Restart(index) => {
                self.restart(index);
                Some(index)
            }
        };
        let mut invariants = std::mem::take(&mut self.invariants);
        let broken = invariants.check(self, touched);
        self.invariants = invariants;
        assert!(broken.is_none(), "{}", self.report(&format!("INVARIANT BROKEN: {}", broken.unwrap_or_default())));
    }

    /// Sends a random node away for a while, if the fleet can bear it.
    fn outage(&mut self) {
        if !self.chance(self.settings.outage_permille, 1_000) || self.api.active().is_none() {
            return;
        }
        let away = self.spec.receivers.iter().filter(|index| !self.nodes[index].is_up()).count();
        let at = usize::try_from(self.random(self.spec.receivers.len() as u64)).expect("small");
        let index = self.spec.receivers[at];
        if self.nodes[&index].is_up() && away + self.spec.threshold.count() < self.spec.receivers.len() {
            self.take_down(index.value());
            let away_ms = self.random(30 * BLOCK_MS);
            self.schedule(away_ms, Event::Restart(index));
        }
    }

    fn reconcile(&mut self) {
        if !self.operator_up {
            return;
        }
        if self.chance(self.settings.operator_restart_permille, 1_000) {
            self.operator = Operator::default();
        }
        let mut operator = std::mem::take(&mut self.operator);
        operator.reconcile(self);
        self.operator = operator;
    }

    /// Gives a node one input and carries its outputs out, with a chance of dying on the way.
    pub(crate) fn with(
        &mut self,
        index: NodeIndex,
        input: impl FnOnce(&mut keyfleet_threshold::round::Participant, &mut ChaCha20Rng) -> Outputs,
    ) {
        let Some(process) = self.nodes.get_mut(&index).and_then(|node| node.process.as_mut()) else { return };
        let outputs = input(process, &mut self.rng);
        let idle = !outputs.commit && outputs.create.is_empty() && outputs.destroy.is_empty();
        let crash_at = (!idle && self.chance(self.settings.crash_per_10k, 10_000)).then(|| self.rng.next_u32());
        let node = self.nodes.get_mut(&index).expect("it was just there");
        node.carry_out(outputs, crash_at);
        if !node.is_up() {
            let away = 500 + self.random(20_000);
            self.schedule(away, Event::Restart(index));
            self.log(format!("node {index} dies at step {}", crash_at.unwrap_or_default() % 5));
        }
    }

    fn restart(&mut self, index: NodeIndex) {
        let (cluster, rng) = (self.cluster, &mut self.rng);
        let node = self.nodes.get_mut(&index).expect("only nodes that exist are restarted");
        if node.process.is_none() && !node.lost {
            node.restart(cluster, rng);
            self.in_flight.retain(|(to, _)| *to != index);
            self.log(format!("node {index} starts again"));
        }
    }

    pub(crate) fn schedule(&mut self, delay_ms: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now_ms + delay_ms, self.sequence, event)));
    }

    /// A random number below `below`.
    pub fn random(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below.max(1)
    }

    /// Whether one delivery to the operator is lost.
    pub fn loses(&mut self) -> bool {
        self.chance(self.settings.loss_permille, 1_000)
    }

    pub(crate) fn chance(&mut self, share: u32, of: u32) -> bool {
        share > 0 && self.rng.next_u32() % of < share
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this run is replayed by KEYFLEET_SIM_SEED={}", self.seed);
        }
    }
}

/// The seeds to run: `count` fixed ones, as many as `KEYFLEET_SIM_SEEDS` says, or the single one that
/// `KEYFLEET_SIM_SEED` names.
///
/// # Panics
/// When a variable is not a number.
#[must_use]
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("KEYFLEET_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("KEYFLEET_SIM_SEED is a number")],
        Err(_) => {
            let count = std::env::var("KEYFLEET_SIM_SEEDS")
                .map_or(count, |count| count.parse().expect("KEYFLEET_SIM_SEEDS is a number"));
            (1..=count).collect()
        }
    }
}
