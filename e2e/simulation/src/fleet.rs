//! The world: virtual time, blocks, a network that delays and loses, nodes that die, and operators that do too.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use keyfleet_adversary::Behaviour;
use keyfleet_crds::cluster::RemoveNode;
use keyfleet_crds::convert::plan_of;
use keyfleet_crds::values::PublicKey;
use keyfleet_crds::{KeyEpochStatus, KmsClusterSpec};
use keyfleet_planner::model::Server;
use keyfleet_planner::state::{Cluster, Epoch};
use keyfleet_threshold::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::plan::ValidPlan;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::invariants::Invariants;
use crate::node::Node;
use crate::operator::Operator;
use crate::peers::Parsed;
use crate::settings::Settings;

/// The simulated world.
pub struct Fleet {
    /// The seed that reproduces this run.
    pub seed: u64,
    /// The cluster's id, once one is minted.
    pub cluster: ClusterId,
    /// How hostile it is.
    pub settings: Settings,
    /// All nodes that ever were.
    pub nodes: BTreeMap<NodeIndex, Node>,
    /// The API server.
    pub api: Server,
    /// Whether it answers.
    pub api_up: bool,
    /// The present block.
    pub block: Block,
    pub(crate) operators: [Operator; 2],
    pub(crate) parsed: Parsed,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) now_ms: u64,
    invariants: Invariants,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    events: u64,
    stalls: u64,
    log: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Event {
    Block,
    Reconcile(usize),
    Write(usize),
    OperatorReads { who: usize, index: u32, challenge: [u8; 32], life: u64 },
    Poll(NodeIndex),
    Read { to: NodeIndex, from: NodeIndex, life: u64, upto: u64 },
    Fetch { to: NodeIndex, from: NodeIndex, life: u64, digests: Vec<Digest> },
    Restart(NodeIndex),
    SecondOperatorEnds,
    ApiServerReturns,
}

/// Milliseconds between two blocks.
pub const BLOCK_MS: u64 = 12_000;
const POLL_MS: u64 = 1_000;

impl Fleet {
    /// A `KmsCluster` of n nodes that was just applied. Boundaries are ten blocks apart.
    ///
    /// # Panics
    /// When the kind's defaults do not parse.
    #[must_use]
    pub fn new(seed: u64, settings: Settings, n: u32, threshold: u16, min_holders: u16) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut cluster = [0; 16];
        rng.fill_bytes(&mut cluster);
        let object = serde_json::json!({
            "nodes": n, "threshold": threshold, "minHolders": min_holders, "schedule": { "intervalBlocks": 10 },
            "keyEncryption": { "active": { "id": "1", "secret": { "name": "keys-kek" } } },
        });
        let spec: KmsClusterSpec = serde_json::from_value(object).expect("the smallest spec is one");
        let applied = Cluster {
            name: "keys".into(),
            generation: 1,
            resource_version: String::new(),
            deleting: false,
            finalizer: false,
            reshare_request: None,
            spec,
            status: keyfleet_crds::KmsClusterStatus::default(),
        };
        let mut fleet = Self {
            seed,
            cluster: ClusterId(cluster),
            settings,
            nodes: BTreeMap::new(),
            api: Server::new(applied),
            api_up: true,
            block: Block(1),
            operators: <[Operator; 2]>::default(),
            parsed: Parsed::new(),
            rng,
            now_ms: 0,
            invariants: Invariants::default(),
            sequence: 0,
            queue: BinaryHeap::new(),
            events: 0,
            stalls: 0,
            log: Vec::new(),
        };
        fleet.operators[0].up = true;
        fleet.schedule(BLOCK_MS, Event::Block);
        fleet.schedule(1, Event::Reconcile(0));
        fleet
    }

    /// The user edits the `KmsCluster`.
    pub fn edit(&mut self, edit: impl FnOnce(&mut KmsClusterSpec)) {
        self.api.edit(edit);
        let spec = &self.api.now.cluster.spec;
        let removed: Vec<u32> = spec.remove_nodes.iter().map(|remove| remove.index).collect();
        let line = format!(
            "the user wants {} nodes without {removed:?}, threshold {}, minHolders {}, paused {}",
            spec.nodes,
            spec.effective_threshold(),
            spec.effective_min_holders(),
            spec.paused
        );
        self.log(line);
        // Whoever waits for a change is woken by it.
        self.schedule(1, Event::Reconcile(0));
    }

    /// The user replaces a node: it is let go, and another takes its place under a new index.
    pub fn replace(&mut self, index: u32, lost: bool) {
        self.edit(|spec| {
            spec.remove_nodes.retain(|remove| remove.index != index);
            spec.remove_nodes.push(RemoveNode { index, lost });
        });
    }

    /// Starts or stops the operator.
    pub fn set_operator(&mut self, up: bool) {
        self.operators[0] = Operator::new(up);
    }

    /// From now on nothing goes wrong, and everyone who is not lost for good is there.
    pub fn calm_down(&mut self) {
        self.settings = Settings::CALM;
        self.log("the world calms down");
        self.api_up = true;
        if self.api.now.cluster.spec.paused {
            self.edit(|spec| spec.paused = false);
        }
        let all: Vec<_> = self.nodes.keys().copied().collect();
        all.into_iter().for_each(|index| self.restart(index));
    }

    /// Sets how a node behaves from now on.
    pub fn behave(&mut self, index: u32, behaviour: Behaviour) {
        self.log(format!("node {index} is now {behaviour:?}"));
        self.node(index).behave(behaviour);
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

    /// Loses a node's volume; it comes back from its replica, without the file of bundles.
    pub fn wipe(&mut self, index: u32) {
        self.log(format!("node {index} loses its volume and comes back from its replica"));
        self.node(index).lose_volume();
        self.bring_up(index);
    }

    /// Loses a node for good: process, volume and seal.
    pub fn lose(&mut self, index: u32) {
        self.take_down(index);
        self.log(format!("node {index} is lost for good"));
        let node = self.node(index);
        node.disk = crate::node::Disk::default();
        node.lost = true;
    }

    /// Runs until `reached`, or panics with the log's end when `blocks` pass without it.
    ///
    /// # Panics
    /// When the condition is not reached, or an invariant breaks.
    pub fn run_until(&mut self, what: &str, blocks: u64, reached: impl Fn(&Self) -> bool) {
        assert!(self.comes_to(blocks, reached), "{}", self.report(&format!("not within {blocks} blocks: {what}")));
    }

    /// Runs until `reached` or until `blocks` have passed, and tells which.
    pub fn comes_to(&mut self, blocks: u64, reached: impl Fn(&Self) -> bool) -> bool {
        let limit = self.block.0 + blocks;
        while !reached(self) {
            if self.block.0 >= limit {
                return false;
            }
            self.step();
        }
        true
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
        self.run_until("a newer active epoch", blocks, |fleet| fleet.active() > after);
        self.active().expect("it was just seen")
    }

    /// The newest epoch that serves, by the API server's record.
    #[must_use]
    pub fn active(&self) -> Option<EpochNumber> {
        self.api.now.served().next_back().map(|(number, _)| EpochNumber(number))
    }

    /// The public key in the cluster's status.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.api.now.cluster.status.public_key
    }

    /// The `KeyEpoch`s.
    pub fn epochs(&self) -> impl DoubleEndedIterator<Item = &Epoch> {
        self.api.now.epochs.values().map(AsRef::as_ref)
    }

    /// The status of a `KeyEpoch`.
    ///
    /// # Panics
    /// When there is no such object, or nothing was written to it.
    #[must_use]
    pub fn status(&self, number: EpochNumber) -> &KeyEpochStatus {
        self.api.now.epochs[&number.0].status.as_ref().expect("the round was opened")
    }

    /// The plan of a `KeyEpoch`.
    ///
    /// # Panics
    /// When there is no such object, or it holds no plan.
    #[must_use]
    pub fn plan(&self, number: EpochNumber) -> ValidPlan {
        plan_of(&self.api.now.epochs[&number.0].spec).expect("the operator posts plans")
    }

    /// The indexes that the newest active epoch was dealt to.
    #[must_use]
    pub fn receivers(&self) -> Vec<u32> {
        let newest = self.api.now.served().next_back();
        newest.map_or(Vec::new(), |(_, epoch)| epoch.spec.receivers.iter().map(|receiver| receiver.index).collect())
    }

    /// The nodes that run and hold their share of an epoch.
    #[must_use]
    pub fn holders(&self, number: EpochNumber) -> BTreeSet<NodeIndex> {
        let holds = |node: &&Node| node.process.as_ref().is_some_and(|it| it.participant.share(number).is_some());
        self.nodes.values().filter(holds).map(|node| node.index).collect()
    }

    /// The nodes that are not lost for good and have their share of an epoch, running or not.
    #[must_use]
    pub fn living_holders(&self, number: EpochNumber) -> BTreeSet<NodeIndex> {
        let lives = |node: &&Node| !node.lost && node.has_share(number);
        self.nodes.values().filter(lives).map(|node| node.index).collect()
    }

    /// The log so far: one line per event of note.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.log
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Adds a line to the log.
    pub fn log(&mut self, line: impl AsRef<str>) {
        self.log.push(format!("{:>8} ms block {:>5}  {}", self.now_ms, self.block.0, line.as_ref()));
    }

    /// Adds a line unless the last one said the same.
    pub(crate) fn log_once(&mut self, line: impl AsRef<str>) {
        if !self.log.last().is_some_and(|last| last.ends_with(line.as_ref())) {
            self.log(line);
        }
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        panic!("{}", self.report(&format!("INVARIANT BROKEN: {what}")));
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
        self.events += 1;
        let touched = self.happen(event);
        let mut invariants = std::mem::take(&mut self.invariants);
        let broken = invariants.check(self, touched);
        self.invariants = invariants;
        if let Some(broken) = broken {
            self.fail(&broken);
        }
    }

    /// Returns the node that the event touched.
    fn happen(&mut self, event: Event) -> Option<NodeIndex> {
        match event {
            Event::Block => {
                self.stalls = self.stalls.saturating_sub(1);
                if self.stalls == 0 {
                    self.block = Block(self.block.0 + 1);
                }
                self.schedule(BLOCK_MS, Event::Block);
                self.misfortune();
                self.start_pods();
                None
            }
            Event::Reconcile(who) => {
                self.reconcile_once(who);
                None
            }
            Event::Write(who) => {
                self.write(who);
                None
            }
            Event::OperatorReads { who, index, life, .. } => {
                self.operator_reads(who, index, life);
                None
            }
            Event::Poll(index) => {
                self.poll(index);
                let jitter = self.random(POLL_MS / 4);
                self.schedule(POLL_MS + jitter, Event::Poll(index));
                Some(index)
            }
            Event::Read { to, from, life, upto } => {
                self.read(to, from, life, upto);
                Some(to)
            }
            Event::Fetch { to, from, life, digests } => {
                self.fetch(to, from, life, &digests);
                Some(to)
            }
            Event::Restart(index) => {
                self.restart(index);
                Some(index)
            }
            Event::SecondOperatorEnds => {
                self.operators[1] = Operator::default();
                self.log("operator 1 ends");
                None
            }
            Event::ApiServerReturns => {
                self.api_up = true;
                self.log("the API server is back");
                None
            }
        }
    }

    /// An operator is woken as often as somebody asks; it looks once.
    fn reconcile_once(&mut self, who: usize) {
        self.queue.retain(|Reverse((.., event))| *event != Event::Reconcile(who));
        self.reconcile(who);
    }

    /// What goes wrong by itself with a block.
    fn misfortune(&mut self) {
        let settings = self.settings;
        if self.stalls == 0 && self.chance(settings.stall_permille, 1_000) {
            self.stalls = 1 + self.random(5);
            self.log(format!("the chain stands still for {} block times", self.stalls));
        }
        if self.api_up && self.chance(settings.api_outage_permille, 1_000) {
            self.api_up = false;
            self.log("the API server is away");
            let away = self.random(2 * BLOCK_MS);
            self.schedule(away, Event::ApiServerReturns);
        }
        if !self.operators[1].up && self.chance(settings.second_operator_permille, 1_000) {
            self.operators[1].up = true;
            self.log("a second operator begins");
            self.schedule(1, Event::Reconcile(1));
            let ends = self.random(10 * BLOCK_MS);
            self.schedule(ends, Event::SecondOperatorEnds);
        }
        self.outage();
    }

    /// Sends a random node away for a while, if the fleet can bear it.
    fn outage(&mut self) {
        if !self.chance(self.settings.outage_permille, 1_000) || self.active().is_none() {
            return;
        }
        let receivers: Vec<_> = self.receivers().into_iter().filter_map(NodeIndex::new).collect();
        let threshold = self.api.now.served().next_back().map_or(0, |(_, epoch)| epoch.spec.threshold as usize);
        let away = receivers.iter().filter(|index| !self.nodes[index].is_up()).count();
        let at = usize::try_from(self.random(receivers.len() as u64)).expect("small");
        let index = receivers[at];
        if self.nodes[&index].is_up() && away + threshold < receivers.len() {
            self.take_down(index.value());
            let away_ms = self.random(30 * BLOCK_MS);
            self.schedule(away_ms, Event::Restart(index));
        }
    }

    /// Every `KmsNode` has a pod: it starts once, and says when it is gone that it is not ready.
    pub(crate) fn start_pods(&mut self) {
        if !self.api_up {
            return;
        }
        for index in self.api.now.nodes.keys().copied().collect::<Vec<_>>() {
            let Some(number) = NodeIndex::new(index) else { continue };
            match self.nodes.get(&number).map(Node::is_up) {
                None => {
                    let mut node = Node::new(number, &mut self.rng);
                    node.start(self.cluster, &mut self.rng);
                    self.nodes.insert(number, node);
                    self.log(format!("node {index} starts for the first time"));
                    let first_poll = 1 + self.random(POLL_MS);
                    self.schedule(first_poll, Event::Poll(number));
                }
                Some(false) => self.api.write_node(index, None, |node| node.ready = false),
                Some(true) => {}
            }
        }
    }

    fn restart(&mut self, index: NodeIndex) {
        let (cluster, rng) = (self.cluster, &mut self.rng);
        let node = self.nodes.get_mut(&index).expect("only nodes that exist are restarted");
        if node.process.is_none() && !node.lost {
            node.start(cluster, rng);
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

    /// Whether one read or fetch comes to nothing.
    pub(crate) fn loses(&mut self) -> bool {
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
