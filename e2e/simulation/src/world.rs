//! The state of the world: virtual time, the queue of events, blocks, nodes, operators, the API server, and chance.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use keyfleet_crds::convert::plan_of;
use keyfleet_crds::values::PublicKey;
use keyfleet_crds::{KeyEpochStatus, KmsClusterSpec};
use keyfleet_planner::model::Server;
use keyfleet_planner::state::{Cluster, Epoch};
use keyfleet_threshold::feed::ListedEpoch;
use keyfleet_threshold::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::plan::ValidPlan;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::invariants::Invariants;
use crate::node::{Node, holders, living_holders};
use crate::operator::Operator;
use crate::settings::Settings;

/// Parsed `KeyEpoch`s by number and version: every node reads the same ones.
pub(crate) type Parsed = BTreeMap<u64, (String, Option<ListedEpoch>)>;

/// The simulated world.
pub struct Fleet {
    /// Seed that reproduces this run.
    pub seed: u64,
    /// The cluster's id, once one is minted.
    pub cluster: ClusterId,
    /// Chances of everything that goes wrong by itself.
    pub settings: Settings,
    /// All nodes that ever were.
    pub nodes: BTreeMap<NodeIndex, Node>,
    /// The API server.
    pub api: Server,
    /// True while the API server answers.
    pub api_up: bool,
    /// The present block.
    pub block: Block,
    pub(crate) operators: [Operator; 2],
    pub(crate) parsed: Parsed,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) now_ms: u64,
    pub(crate) invariants: Invariants,
    /// Block times for which the chain still stands still.
    pub(crate) stalls: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    events: u64,
    kinds: BTreeMap<&'static str, u64>,
    log: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Event {
    Block,
    Reconcile(usize),
    Write(usize),
    OperatorReads { who: usize, index: u32, life: u64 },
    Poll(NodeIndex),
    Read { to: NodeIndex, from: NodeIndex, life: u64, upto: u64 },
    Prove { to: NodeIndex, from: NodeIndex, life: u64, asked_ms: u64 },
    OperatorHears { who: usize, index: u32, life: u64, asked_ms: u64 },
    Fetch { to: NodeIndex, from: NodeIndex, life: u64, digests: Vec<Digest> },
    Restart(NodeIndex),
    SecondOperatorEnds,
    ApiServerReturns,
}

/// Milliseconds between two blocks.
pub(crate) const BLOCK_MS: u64 = 12_000;
/// Milliseconds between two polls of a node, at least.
pub(crate) const POLL_MS: u64 = 1_000;

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
            stalls: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            events: 0,
            kinds: BTreeMap::new(),
            log: Vec::new(),
        };
        fleet.operators[0].up = true;
        fleet.schedule(BLOCK_MS, Event::Block);
        fleet.schedule(1, Event::Reconcile(0));
        fleet
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
        holders(&self.nodes, number)
    }

    /// The nodes that are not lost for good and have their share of an epoch, running or not.
    #[must_use]
    pub fn living_holders(&self, number: EpochNumber) -> BTreeSet<NodeIndex> {
        living_holders(&self.nodes, number)
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

    /// Counts of the acts, faults and decisions so far, by kind.
    #[must_use]
    pub fn kinds(&self) -> &BTreeMap<&'static str, u64> {
        &self.kinds
    }

    /// Counts one act, fault or decision of a kind.
    pub(crate) fn count(&mut self, kind: &'static str) {
        *self.kinds.entry(kind).or_default() += 1;
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

    pub(crate) fn report(&self, what: &str) -> String {
        let tail = self.log.len().saturating_sub(60);
        format!("{what}\nreplay with KEYFLEET_SIM_SEED={}\n{}", self.seed, self.log[tail..].join("\n"))
    }

    pub(crate) fn node(&mut self, index: u32) -> &mut Node {
        let index = NodeIndex::new(index).expect("indices start at one");
        self.nodes.get_mut(&index).expect("the scenario names nodes that exist")
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
                Some(false) => self.api.write_node(index, |node| node.ready = false),
                Some(true) => {}
            }
        }
    }

    /// Starts a node from its disk unless it runs or is lost for good.
    pub(crate) fn restart(&mut self, index: NodeIndex) {
        let (cluster, rng) = (self.cluster, &mut self.rng);
        let node = self.nodes.get_mut(&index).expect("only nodes that exist are restarted");
        if node.process.is_none() && !node.lost {
            node.start(cluster, rng);
            self.log(format!("node {index} starts again"));
        }
    }

    /// Takes the next event out of the queue, and moves the time to it.
    pub(crate) fn next_event(&mut self) -> Event {
        let Reverse((at, _, event)) = self.queue.pop().expect("blocks never end");
        self.now_ms = at;
        self.events += 1;
        event
    }

    /// Takes back the scheduled events that match.
    pub(crate) fn unschedule(&mut self, matches: impl Fn(&Event) -> bool) {
        self.queue.retain(|Reverse((.., event))| !matches(event));
    }

    pub(crate) fn schedule(&mut self, delay_ms: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now_ms + delay_ms, self.sequence, event)));
    }

    /// Draws a random number below `below`.
    pub fn random(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below.max(1)
    }

    /// Draws, and tells whether one read or fetch comes to nothing.
    pub(crate) fn loses(&mut self) -> bool {
        let loses = self.chance(self.settings.loss_permille, 1_000);
        if loses {
            self.count("fault: a read or fetch is lost");
        }
        loses
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
