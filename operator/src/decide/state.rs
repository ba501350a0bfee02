//! Everything that decisions rest on, gathered before they are made: objects as they were read, with the version that each
//! write has to name, what nodes said, and how far the chain is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use keyfleet_crds::record::Record;
use keyfleet_crds::values::PinnedKey;
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus, KmsClusterSpec, KmsClusterStatus, KmsNodeSpec};
use keyfleet_threshold::coordination::{Decision, Offer};
use keyfleet_threshold::round::Culprit;

use crate::blocks::BlockError;

/// One cluster as the operator sees it at one moment.
#[derive(Clone, Debug)]
pub struct State {
    /// The `KmsCluster`.
    pub cluster: Cluster,
    /// Its `KmsNode`s by index, removed ones included.
    pub nodes: BTreeMap<u32, Node>,
    /// Its `KeyEpoch`s by number.
    pub epochs: BTreeMap<u64, Epoch>,
    /// The ConfigMap `<cluster>-record`.
    pub record: Recorded,
    /// Volume claims labelled with this cluster's name, each with the cluster id in its label.
    pub volumes: BTreeMap<String, String>,
    /// Whether the namespace is being deleted with everything in it.
    pub namespace_ends: bool,
    /// Whether `KmsNode` and `KeyEpoch` get finalizers: not from an operator for its own namespace alone, which would go with
    /// it and leave nobody to take them off.
    pub finalizers: bool,
    /// Whether no pod of the cluster is left, or a deletion has waited for them as long as it may.
    pub stopped: bool,
    /// What nodes said to this process.
    pub heard: Heard,
    /// The newest block that counts, or why none is known.
    pub block: Result<u64, BlockError>,
    /// The newest block ever known to this process or any record; deadlines and back-off go by it while the source is down.
    pub last_block: u64,
    /// The block since which no reshare could be planned for want of dealers.
    pub starved_since: Option<u64>,
    /// Why the disruption budget refused the last eviction, until it is asked again.
    pub eviction_refused: Option<String>,
    /// How the job that deletes what replicas no longer need gets on.
    pub retention: Retention,
    /// The wall clock.
    pub now: Timestamp,
}

/// The job that deletes what replicas no longer need, as its CronJob says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Retention {
    /// There is none: nothing is ever deleted.
    #[default]
    Absent,
    /// It is there; the newest run that ended ended well, or none has ended yet.
    Fine {
        /// When a run last ended well.
        succeeded: Option<Timestamp>,
    },
    /// The newest run did not end well.
    Failing {
        /// When that run began.
        since: Timestamp,
        /// When a run last ended well.
        succeeded: Option<Timestamp>,
    },
}

impl Retention {
    /// When a run last ended well.
    #[must_use]
    pub fn succeeded(self) -> Option<Timestamp> {
        match self {
            Self::Absent => None,
            Self::Fine { succeeded } | Self::Failing { succeeded, .. } => succeeded,
        }
    }
}

/// A `KmsCluster`.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The version read; every write of its status names it.
    pub resource_version: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether the operator's finalizer is on it.
    pub finalizer: bool,
    /// The annotation that asks for a round.
    pub reshare_request: Option<String>,
    /// What the user wants.
    pub spec: KmsClusterSpec,
    /// What is recorded.
    pub status: KmsClusterStatus,
}

/// A `KmsNode`.
#[derive(Clone, Debug)]
pub struct Node {
    /// The version read.
    pub resource_version: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its spec.
    pub spec: KmsNodeSpec,
    /// The identity key that it offers with a good proof.
    pub offered: Option<PinnedKey>,
    /// Prekey sets on offer, signed by the pinned identity.
    pub offers: Vec<Offer>,
    /// Whether its pod is ready, which means that it serves the newest active epoch it has heard of.
    pub ready: bool,
    /// Whether its pod was made for an earlier spec or image.
    pub outdated: bool,
    /// What it finds wrong with what it was given: a condition reason, and what to do.
    pub problems: Vec<(String, String)>,
    /// The worker that its pod is bound to.
    pub worker: Option<String>,
    /// That worker's zone.
    pub zone: Option<String>,
    /// The storage's handle of its volume.
    pub volume_handle: Option<String>,
    /// Where its replica stands.
    pub position: Option<keyfleet_crds::record::Position>,
    /// How far its replica was behind when it last said where it stands.
    pub lag: Lag,
    /// Whether it has proven that its secrets are gone.
    pub erased: bool,
    /// Plan versions it understands; empty until it has reported.
    pub plan_versions: Vec<u16>,
}

/// How far a replica is behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lag {
    /// Commits that S3 has not acknowledged.
    pub commits: u64,
    /// Age of the oldest of them, in seconds.
    pub seconds: u64,
}

/// A `KeyEpoch`.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// The version read.
    pub resource_version: String,
    /// Whether the finalizer of the active epoch is on it.
    pub finalizer: bool,
    /// The plan.
    pub spec: KeyEpochSpec,
    /// The record, absent until something was written.
    pub status: Option<KeyEpochStatus>,
}

/// The ConfigMap `<cluster>-record`, which outlives the `KmsCluster`.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// There is none.
    Absent,
    /// It is there.
    Present {
        /// The version read.
        resource_version: String,
        /// What it says.
        record: Box<Record>,
    },
    /// It is there and cannot be read: why.
    Unreadable(String),
}

/// What nodes said to this process since it started.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Nodes whose stream is open.
    pub connected: BTreeSet<u32>,
    /// Nodes that have reported at least once, with the highest number that each ever accepted.
    pub highest: BTreeMap<u32, u64>,
    /// The newest certified epoch that each named.
    pub certified: BTreeMap<u32, u64>,
    /// Per epoch, who has proven to hold its share of the certified vector: by its partial signature over a fresh challenge.
    pub holds: BTreeMap<u64, BTreeSet<u32>>,
    /// Per epoch, who claims to hold its share and proves it not.
    pub unproven: BTreeMap<u64, BTreeMap<u32, Unproven>>,
    /// Per epoch, who said that it destroyed its secrets, with the statement's digest.
    pub erased: BTreeMap<u64, BTreeMap<u32, keyfleet_crds::values::Digest>>,
    /// What the core decides on each epoch that can still move, and whom it blames.
    pub closing: BTreeMap<u64, Closing>,
    /// Dealers whose shares someone could not use: left out of the next plan while others remain.
    pub cheated: BTreeSet<u32>,
}

/// Why a node that claims to hold an epoch does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unproven {
    /// It sent no proof.
    #[error("it sends no partial signature")]
    Missing,
    /// Its report answers a challenge that it was not asked.
    #[error("its report answers another challenge than the one it was sent: it was made earlier, or elsewhere")]
    OtherChallenge,
    /// It names another vector than the certified one.
    #[error("it names another verification vector than the certified one")]
    OtherVector,
    /// The signature is not that of its share.
    #[error("its partial signature does not verify under its public share")]
    WrongSignature,
}

/// What the core makes of a round.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    /// What to write next, if anything.
    pub decision: Option<Decision>,
    /// Who is provably at fault.
    pub culprits: Vec<Culprit>,
}

impl State {
    /// The newest epoch that serves.
    #[must_use]
    pub fn active(&self) -> Option<(u64, &Epoch)> {
        self.served().last()
    }

    /// Epochs that are active or confirmed, ascending.
    pub fn served(&self) -> impl Iterator<Item = (u64, &Epoch)> {
        let serves = |(_, epoch): &(&u64, &Epoch)| crate::round::serves(epoch.status.as_ref());
        self.epochs.iter().filter(serves).map(|(number, epoch)| (*number, epoch))
    }

    /// The round under way: the newest epoch that can still end either way.
    #[must_use]
    pub fn open(&self) -> Option<(u64, &Epoch)> {
        let open = |(_, epoch): &(&u64, &Epoch)| crate::round::is_open(epoch.status.as_ref());
        self.epochs.iter().rev().find(open).map(|(number, epoch)| (*number, epoch))
    }

    /// The record, if it is there and readable.
    #[must_use]
    pub fn recorded(&self) -> Option<&Record> {
        match &self.record {
            Recorded::Present { record, .. } => Some(record),
            Recorded::Absent | Recorded::Unreadable(_) => None,
        }
    }

    /// The plan of the newest epoch that is known to be certified, by its own object or by the record.
    #[must_use]
    pub fn newest_certified(&self) -> Option<&KeyEpochSpec> {
        let active = self.active().map(|(_, epoch)| &epoch.spec);
        let recorded = self.recorded().and_then(|record| record.epoch.as_ref()).map(|epoch| &epoch.plan);
        active.into_iter().chain(recorded).max_by_key(|plan| plan.number)
    }

    /// Whether enough receivers of an epoch prove that they hold it to serve and to deal: its threshold.
    #[must_use]
    pub fn is_proven(&self, number: u64, plan: &KeyEpochSpec) -> bool {
        let holds = self.heard.holds.get(&number);
        let receivers = plan.receivers.iter().map(|receiver| receiver.index);
        let proven = receivers.filter(|index| holds.is_some_and(|holds| holds.contains(index))).count();
        proven >= plan.threshold as usize
    }

    /// Whether anything shows that a key was ever made.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.cluster.status.public_key.is_some()
            || self.active().is_some()
            || self.recorded().is_some_and(Record::forbids_genesis)
            || !self.heard.certified.is_empty()
    }
}
