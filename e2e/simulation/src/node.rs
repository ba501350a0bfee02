//! A node: what its disk holds, the process on it, and the points at which the process may die.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use keyfleet_threshold::feed::{Feed, Showing, Turns};
use keyfleet_threshold::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey};
use keyfleet_threshold::possession::Holdings;
use keyfleet_threshold::round::{Blob, Body, Notice, Outputs, Participant, SecretName, SignedMessage};
use rand_core::CryptoRng;

use keyfleet_adversary::Behaviour;

/// A node of the simulated fleet.
pub struct Node {
    /// Index of the node.
    pub index: NodeIndex,
    /// Seed of the node's identity, in both key stores.
    pub identity: [u8; 32],
    /// Public half of the identity: deriving it at every poll was a tenth of a run.
    pub(crate) public: IdentityPublicKey,
    /// Volume and key stores: they survive a crash.
    pub disk: Disk,
    /// The running process.
    pub process: Option<Process>,
    /// Behaviour towards others.
    pub behaviour: Behaviour,
    /// True once the node was anything but honest: it may be named for that, also later.
    pub lied: bool,
    /// Notices that the process gave for a person.
    pub notices: Vec<Notice>,
    /// True when volume and seal are gone for good.
    pub lost: bool,
    /// True when the state came from its replica and the node has not abstained yet.
    pub restored: bool,
    /// True when the node did something since the invariants were checked.
    pub(crate) changed: bool,
    /// Number of times that the process died.
    pub crashes: u32,
    lives: u64,
}

/// A running process: the product's state machines, and where it stands in what it reads.
pub struct Process {
    /// The protocol machine.
    pub participant: Participant,
    /// Memory of what was fed of the API server's lists.
    pub feed: Feed,
    /// The revision that its watch has come to.
    pub revision: u64,
    /// The revision that was fed last.
    pub fed: Option<u64>,
    /// True when something has to be fed again though nothing changed.
    pub again: bool,
    /// Streams of the peers.
    pub readers: BTreeMap<NodeIndex, Reader>,
    /// Proofs of the peers whose streams are open.
    pub holdings: Holdings,
    /// These streams, each with the peer's process that it is of.
    pub streams: BTreeMap<NodeIndex, u64>,
    /// Epochs to be retired once peers prove enough.
    pub retire: BTreeSet<EpochNumber>,
    /// Number that tells this process from the node's earlier ones.
    pub life: u64,
}

/// A stream that is read.
pub struct Reader {
    /// The last row that was read.
    pub position: u64,
    /// The file that the position belongs to.
    pub lineage: u64,
    /// True while a read is on its way.
    pub reading: bool,
    /// Process at the other end when the stream was opened, and the kept epochs that it showed on it.
    pub showing: (u64, Showing),
    /// Turns at which this peer is asked for what is wanted.
    pub turns: Turns,
}

/// A node's volume and key stores.
#[derive(Default)]
pub struct Disk {
    /// The committed state.
    pub state: Vec<u8>,
    /// The sealed secrets.
    pub secrets: BTreeMap<SecretName, [u8; 32]>,
    /// The content-addressed file of bundles and responses.
    pub blobs: BTreeMap<Digest, Rc<Blob>>,
    /// The outbox.
    pub outbox: Outbox,
}

impl Disk {
    fn destroy(&mut self, names: Vec<SecretName>) {
        for name in names {
            self.secrets.remove(&name);
        }
    }
}

/// Rows that a node lets others read, in order: only what is durable, unless it lies.
#[derive(Default)]
pub struct Outbox {
    /// Number that changes when positions begin anew.
    pub lineage: u64,
    /// The rows by position.
    pub rows: BTreeMap<u64, Row>,
    last: u64,
    /// Places of what the node says for each message that the state holds, by what that honestly says.
    said: BTreeMap<Digest, Vec<u64>>,
}

/// One row of an outbox.
pub struct Row {
    /// The attempt that it belongs to.
    pub number: EpochNumber,
    /// Blobs that it shows; a second one to other readers, when the node has two faces.
    pub faces: Vec<Rc<Blob>>,
    /// True where the node shows it to the operator and to no peer.
    pub(crate) is_hidden: bool,
}

/// Points at which a process may die while it carries out outputs.
const CRASH_POINTS: u32 = 5;

impl Node {
    /// A new node with an empty disk; start it with [`Node::start`].
    pub fn new(index: NodeIndex, rng: &mut impl CryptoRng) -> Self {
        let mut identity = [0; 32];
        rng.fill_bytes(&mut identity);
        Self {
            index,
            identity,
            public: IdentitySecretKey::from_seed(&identity).public(),
            disk: Disk::default(),
            process: None,
            behaviour: Behaviour::Honest,
            lied: false,
            notices: Vec::new(),
            lost: false,
            restored: false,
            changed: false,
            crashes: 0,
            lives: 0,
        }
    }

    /// The node's identity key.
    #[must_use]
    pub fn identity_key(&self) -> IdentitySecretKey {
        IdentitySecretKey::from_seed(&self.identity)
    }

    /// Starts the process: from its disk, or for the first time.
    ///
    /// # Panics
    /// When what the node wrote cannot be read: a broken promise of the crate under test.
    pub fn start(&mut self, cluster: ClusterId, rng: &mut impl CryptoRng) {
        let (participant, outputs) = if self.disk.state.is_empty() {
            self.disk = Disk::default();
            Participant::new(cluster, self.index, self.identity_key(), rng)
        } else {
            let stored = self.disk.secrets.iter().map(|(name, bytes)| (*name, zeroize::Zeroizing::new(*bytes)));
            Participant::restore(self.identity_key(), &self.disk.state, stored)
                .unwrap_or_else(|error| panic!("{}: its own state does not restore: {error}", self.index))
        };
        self.lives += 1;
        self.changed = true;
        self.process = Some(Process {
            participant,
            feed: Feed::default(),
            revision: 0,
            fed: None,
            again: false,
            readers: BTreeMap::new(),
            holdings: Holdings::default(),
            streams: BTreeMap::new(),
            retire: BTreeSet::new(),
            life: self.lives,
        });
        self.carry_out(outputs, None);
        self.publish();
    }

    /// Lets the process die.
    pub fn crash(&mut self) {
        self.process = None;
        self.crashes += 1;
    }

    /// Loses the volume and not its replica: state and outbox come back, the file of bundles does not.
    pub fn lose_volume(&mut self) {
        self.crash();
        self.disk.blobs.clear();
        self.restored = true;
        self.disk.outbox.lineage += 1;
    }

    /// Carries outputs out in order; with `crash_at`, dies after that many steps.
    pub fn carry_out(&mut self, outputs: Outputs, crash_at: Option<u32>) {
        let Outputs { create, keep, commit, mut destroy, notices, say } = outputs;
        self.changed |= commit || !create.is_empty() || !destroy.is_empty();
        let step = |at: u32| crash_at.is_some_and(|crash| crash % CRASH_POINTS == at);
        if step(0) {
            return self.crash();
        }
        let Some(process) = &self.process else { return };
        for name in create {
            // What a later input of the same batch destroyed needs not be created.
            let Some(bytes) = process.participant.expose(name) else { continue };
            self.disk.secrets.insert(name, *bytes);
        }
        if step(1) {
            return self.crash();
        }
        for blob in keep {
            self.disk.blobs.insert(blob.digest(), Rc::new(blob));
        }
        if step(2) {
            return self.crash();
        }
        if commit && let Some(process) = &self.process {
            self.disk.state = process.participant.state().encode();
        }
        if step(3) {
            return self.crash();
        }
        if say.iter().any(|message| message.body == Body::Erased) {
            // What is said to be gone goes first.
            self.disk.destroy(std::mem::take(&mut destroy));
        }
        if commit {
            self.publish();
        }
        if step(4) {
            return self.crash();
        }
        self.disk.destroy(destroy);
        for notice in notices {
            if !self.notices.contains(&notice) {
                self.notices.push(notice);
            }
        }
    }

    /// Makes the node honest or not. An honest node says from now on what it had meant to say.
    pub(crate) fn behave(&mut self, behaviour: Behaviour) {
        self.changed = true;
        self.behaviour = behaviour;
        self.lied |= behaviour != Behaviour::Honest;
        if behaviour == Behaviour::Honest {
            let lineage = self.disk.outbox.lineage + 1;
            self.disk.outbox = Outbox { lineage, ..Outbox::default() };
            self.publish();
        }
    }

    /// Lets others read the outboxes of the committed state, as the node's behaviour bends them.
    fn publish(&mut self) {
        let Some(process) = &self.process else { return };
        let (participant, state) = (&process.participant, process.participant.state());
        let outbox = &mut self.disk.outbox;
        let key = LazyCell::new(|| IdentitySecretKey::from_seed(&self.identity));
        let mut current = BTreeSet::new();
        for (number, attempt) in &state.attempts {
            for message in &attempt.outbox {
                let digest = message.digest();
                current.insert(digest);
                if outbox.said.contains_key(&digest) {
                    continue;
                }
                if let Some(bent) = self.behaviour.bend(message, participant, &key) {
                    let is_hidden = self.behaviour.hides_from_peers(message);
                    let mut positions = vec![outbox.push(*number, bent, is_hidden)];
                    for added in self.behaviour.adds(message, participant, &key) {
                        positions.push(outbox.push(*number, vec![added], false));
                    }
                    outbox.said.insert(digest, positions);
                }
            }
        }
        outbox.retain(|digest| current.contains(digest));
    }

    /// The messages that others can read, each with its attempt.
    pub fn said(&self) -> impl Iterator<Item = (EpochNumber, &SignedMessage)> {
        let rows = self.disk.outbox.rows.values();
        rows.flat_map(|row| row.faces.iter().filter_map(|blob| Some((row.number, message(blob)?))))
    }

    /// The messages that `Fetch` hands out as this node's own: to the operator all, to peers those that are for them.
    pub(crate) fn own_messages(&self, to_operator: bool) -> Vec<Arc<SignedMessage>> {
        let rows = self.disk.outbox.rows.values().filter(|row| to_operator || !row.is_hidden);
        let faces = rows.flat_map(|row| row.faces.iter().filter_map(message));
        faces.map(|message| Arc::new(message.clone())).collect()
    }

    /// Tells whether the process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Tells whether the node runs and talks.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.is_up() && self.behaviour != Behaviour::Silent
    }

    /// Tells whether the share of an epoch exists on this node's disk, running or not.
    #[must_use]
    pub fn has_share(&self, number: EpochNumber) -> bool {
        self.disk.secrets.contains_key(&SecretName::Share(number))
    }
}

/// Returns the nodes that run and hold their share of an epoch.
pub(crate) fn holders(nodes: &BTreeMap<NodeIndex, Node>, number: EpochNumber) -> BTreeSet<NodeIndex> {
    let holds = |node: &&Node| node.process.as_ref().is_some_and(|it| it.participant.share(number).is_some());
    nodes.values().filter(holds).map(|node| node.index).collect()
}

/// Returns the nodes that are not lost for good and have their share of an epoch, running or not.
pub(crate) fn living_holders(nodes: &BTreeMap<NodeIndex, Node>, number: EpochNumber) -> BTreeSet<NodeIndex> {
    let lives = |node: &&Node| !node.lost && node.has_share(number);
    nodes.values().filter(lives).map(|node| node.index).collect()
}

fn message(blob: &Rc<Blob>) -> Option<&SignedMessage> {
    match blob.as_ref() {
        Blob::Message(message) => Some(message),
        Blob::Vector(_) => None,
    }
}

impl Outbox {
    fn push(&mut self, number: EpochNumber, faces: Vec<SignedMessage>, is_hidden: bool) -> u64 {
        self.last += 1;
        let faces = faces.into_iter().map(|message| Rc::new(Blob::Message(message))).collect();
        self.rows.insert(self.last, Row { number, faces, is_hidden });
        self.last
    }

    fn retain(&mut self, said: impl Fn(&Digest) -> bool) {
        self.said.retain(|digest, _| said(digest));
        let kept: BTreeSet<u64> = self.said.values().flatten().copied().collect();
        self.rows.retain(|position, _| kept.contains(position));
    }
}
