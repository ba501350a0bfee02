//! Everything that decisions rest on, gathered before they are made: objects as they were read, with the version that each
//! write has to name, what nodes said, and how far the chain is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::record::Record;
use keyfleet_crds::values::PinnedKey;
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus, KmsClusterSpec, KmsClusterStatus, KmsNodeSpec};
use keyfleet_threshold::coordination::Offer;

use crate::view::Heard;

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
#[derive(Clone, PartialEq, Debug)]
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

/// Why the newest block is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// Nothing was asked yet.
    #[error("the block source has not been asked yet")]
    NotAsked,
    /// It does not answer.
    #[error(
        "the block source does not answer: {0}; no round starts until it does. Check the URL, its access key and the network"
    )]
    Down(String),
    /// It answers for another chain.
    #[error(
        "the block source is chain {found}, the KmsCluster's schedule says {expected}: correct the URL or make a new cluster"
    )]
    OtherChain {
        /// What it answers.
        found: u64,
        /// What was configured.
        expected: u64,
    },
    /// Its answer makes no sense.
    #[error(
        "the block source answers nonsense: {0}; no round starts. Check that the URL is a JSON-RPC endpoint of an Ethereum node"
    )]
    Nonsense(String),
    /// It went back below a height that it had told.
    #[error(
        "the block source says {now} after it had said {before}: a final height never falls. No round starts until it is past {before} again; check the endpoint"
    )]
    Reversed {
        /// What it had told.
        before: u64,
        /// What it says now.
        now: u64,
    },
    /// It jumped implausibly far.
    #[error(
        "the block source jumped from {before} to {now} within {elapsed_seconds} s, which no chain does. No round starts; if the height is right, restart the operator"
    )]
    Jumped {
        /// What it had told.
        before: u64,
        /// What it says now.
        now: u64,
        /// Time between the two answers.
        elapsed_seconds: u64,
    },
}

impl BlockError {
    /// The condition's reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotAsked | Self::Down(_) => Reason::BlockSourceDown,
            Self::OtherChain { .. } | Self::Nonsense(_) => Reason::BlockSourceWrong,
            Self::Reversed { .. } => Reason::BlockSourceReversed,
            Self::Jumped { .. } => Reason::BlockSourceJumped,
        }
    }
}

impl State {
    /// The newest epoch that serves.
    #[must_use]
    pub fn active(&self) -> Option<(u64, &Epoch)> {
        self.served().last()
    }

    /// Epochs that are active or confirmed, ascending.
    pub fn served(&self) -> impl Iterator<Item = (u64, &Epoch)> {
        let serves = |(_, epoch): &(&u64, &Epoch)| crate::key_epoch::serves(epoch.status.as_ref());
        self.epochs.iter().filter(serves).map(|(number, epoch)| (*number, epoch))
    }

    /// The round under way: the newest epoch that can still end either way.
    #[must_use]
    pub fn open(&self) -> Option<(u64, &Epoch)> {
        let open = |(_, epoch): &(&u64, &Epoch)| crate::key_epoch::is_open(epoch.status.as_ref());
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
