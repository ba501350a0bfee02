//! A node: what its disk holds, the process on it, and the points at which the process may die.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use keyfleet_threshold::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::round::{Blob, MessageKind, Notice, Outputs, Participant, SecretName, SignedMessage};
use rand_core::CryptoRng;

use keyfleet_adversary::Behaviour;

/// A node of the simulated fleet.
pub struct Node {
    /// Its index.
    pub index: NodeIndex,
    /// Its identity's seed, in both key stores.
    pub identity: [u8; 32],
    /// What survives a crash.
    pub disk: Disk,
    /// The running process.
    pub process: Option<Participant>,
    /// How it behaves.
    pub behaviour: Behaviour,
    /// What it has let others read, by attempt: only what is durable, unless it lies.
    pub published: BTreeMap<(EpochNumber, usize, MessageKind), (Digest, Rc<SignedMessage>)>,
    /// Digests of what this process has heard.
    pub seen: BTreeSet<Digest>,
    /// What the process wanted a person to hear of.
    pub notices: Vec<Notice>,
    /// Whether its volume and seal are gone for good.
    pub lost: bool,
    /// How often its process died.
    pub crashes: u32,
}

/// A node's volume and seal key stores.
#[derive(Default)]
pub struct Disk {
    /// The committed state.
    pub state: Vec<u8>,
    /// The sealed secrets.
    pub secrets: BTreeMap<SecretName, [u8; 32]>,
    /// The content-addressed file of bundles, responses and prekey sets.
    pub blobs: BTreeMap<Digest, Rc<Blob>>,
}

/// Where a process may die while it carries out outputs.
const CRASH_POINTS: u32 = 5;

impl Node {
    /// A new node with an empty disk; start it with [`Node::first_start`].
    pub fn new(index: NodeIndex, rng: &mut impl CryptoRng) -> Self {
        let mut identity = [0; 32];
        rng.fill_bytes(&mut identity);
        Self {
            index,
            identity,
            disk: Disk::default(),
            process: None,
            behaviour: Behaviour::Honest,
            published: BTreeMap::new(),
            seen: BTreeSet::new(),
            notices: Vec::new(),
            lost: false,
            crashes: 0,
        }
    }

    /// The node's identity key.
    #[must_use]
    pub fn identity_key(&self) -> IdentitySecretKey {
        IdentitySecretKey::from_seed(&self.identity)
    }

    /// Starts a node that has never run.
    pub fn first_start(&mut self, cluster: ClusterId, rng: &mut impl CryptoRng) {
        let (process, outputs) = Participant::new(cluster, self.index, self.identity_key(), rng);
        self.process = Some(process);
        self.carry_out(outputs, None);
    }

    /// Starts the process again from its disk.
    ///
    /// # Panics
    /// When what the node wrote cannot be read: a broken promise of the crate under test.
    pub fn restart(&mut self, cluster: ClusterId, rng: &mut impl CryptoRng) {
        if self.disk.state.is_empty() {
            self.disk = Disk::default();
            return self.first_start(cluster, rng);
        }
        let stored = self.disk.secrets.iter().map(|(name, bytes)| (*name, zeroizing(*bytes)));
        let (process, outputs) = Participant::restore(self.identity_key(), &self.disk.state, stored)
            .unwrap_or_else(|fault| panic!("{}: its own state does not restore: {fault}", self.index));
        self.process = Some(process);
        self.seen.clear();
        self.carry_out(outputs, None);
        self.publish();
    }

    /// The process dies.
    pub fn crash(&mut self) {
        self.process = None;
        self.seen.clear();
        self.crashes += 1;
    }

    /// Carries outputs out in order; with `crash_at`, dies after that many steps.
    pub fn carry_out(&mut self, outputs: Outputs, crash_at: Option<u32>) {
        let Outputs { create, keep, commit, destroy, notices, .. } = outputs;
        let step = |at: u32| crash_at.is_some_and(|crash| crash % CRASH_POINTS == at);
        if step(0) {
            return self.crash();
        }
        let Some(process) = &self.process else { return };
        for name in create {
            let bytes = process.expose(name).expect("a created secret can be exposed for sealing");
            self.disk.secrets.insert(name, *bytes);
        }
        if step(1) {
            return self.crash();
        }
        let Some(process) = &self.process else { return };
        for blob in keep {
            self.disk.blobs.insert(blob.digest(), Rc::new(blob));
        }
        if step(2) {
            return self.crash();
        }
        if commit {
            self.disk.state = process.state().encode();
        }
        if step(3) {
            return self.crash();
        }
        if commit {
            self.publish();
        }
        if step(4) {
            return self.crash();
        }
        for name in destroy {
            self.disk.secrets.remove(&name);
        }
        for notice in notices {
            if !self.notices.contains(&notice) {
                self.notices.push(notice);
            }
        }
    }

    /// Lets others read the outboxes of the committed state, as the node's behaviour bends them.
    pub(crate) fn publish(&mut self) {
        let Some(process) = &self.process else { return };
        let mut current = BTreeSet::new();
        for (number, attempt) in &process.state().attempts {
            for (position, message) in attempt.outbox.iter().enumerate() {
                let key = (*number, position, message.body.kind());
                current.insert(key);
                if self.published.contains_key(&key) {
                    continue;
                }
                if let Some(bent) = self.behaviour.bend(message, process, &IdentitySecretKey::from_seed(&self.identity))
                {
                    let extra = bent.into_iter().enumerate();
                    for (copy, message) in extra {
                        // A second message of the same place goes to a place of its own.
                        let key = (*number, position + copy * 1_000, message.body.kind());
                        current.insert(key);
                        self.published.insert(key, (message.digest(), Rc::new(message)));
                    }
                }
            }
        }
        let kept = |key: &(EpochNumber, usize, MessageKind)| {
            current.contains(key) || current.contains(&(key.0, key.1 % 1_000, key.2))
        };
        self.published.retain(|key, _| kept(key));
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }
}

fn zeroizing(bytes: [u8; 32]) -> zeroize::Zeroizing<[u8; 32]> {
    zeroize::Zeroizing::new(bytes)
}
