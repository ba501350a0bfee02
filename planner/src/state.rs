//! Everything that decisions rest on, gathered before they are made: objects as they were read, with the version that each
//! write has to name, what nodes said, and how far the chain is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::CronJob;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_crds::record::Record;
use keyfleet_crds::values::{ClusterId, PinnedKey};
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus, KmsClusterSpec, KmsClusterStatus, KmsNodeSpec};
use keyfleet_threshold::possession;
use keyfleet_threshold::prekey::SignedPrekey;

use crate::view::StreamView;

/// One cluster as the operator sees it at one moment.
#[derive(Clone, Debug)]
pub struct State {
    /// The `KmsCluster`.
    pub cluster: Cluster,
    /// The `KmsNode`s by index, removed ones included.
    pub nodes: BTreeMap<u32, Node>,
    /// The `KeyEpoch`s by number.
    pub epochs: BTreeMap<u64, Epoch>,
    /// The ConfigMap `<cluster>-record`.
    pub record: Recorded,
    /// Volume claims labelled with this cluster's name, each with the cluster id in its label.
    pub volumes: BTreeMap<String, String>,
    /// True when the namespace is being deleted with everything in it.
    pub namespace_ends: bool,
    /// True when `KmsNode` and `KeyEpoch` get finalizers: not from an operator for its own namespace alone, which would go with
    /// it and leave nobody to take them off.
    pub finalizers: bool,
    /// True while a pod is left that may hold what its replica lacks.
    pub pods_left: bool,
    /// When the deletion of the cluster was asked for.
    pub deleted_at: Option<Timestamp>,
    /// Messages and reports of nodes to this process, judged.
    pub view: StreamView,
    /// The newest block that is believed, or the fault of its source.
    pub block: Result<u64, BlockError>,
    /// The highest block that this process or a record ever had. Deadlines and back-off count from it while the source is down.
    pub last_block: u64,
    /// The block since which no reshare could be planned for want of dealers.
    pub starved_since: Option<u64>,
    /// When and why the disruption budget last refused an eviction.
    pub eviction_refused: Option<(Timestamp, String)>,
    /// State of the job that deletes objects which no restore needs.
    pub retention: Retention,
    /// The wall clock.
    pub now: Timestamp,
}

/// The job that deletes what replicas no longer need, as its CronJob says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Retention {
    /// No job: nothing is ever deleted.
    #[default]
    Absent,
    /// The job exists; the newest run that has ended succeeded, or none has ended yet.
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
    /// Reads the state from the CronJob. A run that began last and neither goes on nor ended well has failed.
    #[must_use]
    pub fn of(job: Option<&CronJob>) -> Self {
        let Some(job) = job else { return Self::Absent };
        let status = job.status.as_ref();
        let succeeded = status.and_then(|status| status.last_successful_time.as_ref()).map(|time| time.0);
        let runs = status.and_then(|status| status.active.as_ref()).is_some_and(|active| !active.is_empty());
        match status.and_then(|status| status.last_schedule_time.as_ref()) {
            Some(began) if !runs && succeeded.is_none_or(|succeeded| succeeded < began.0) => {
                Self::Failing { since: began.0, succeeded }
            }
            _ => Self::Fine { succeeded },
        }
    }

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
    /// The cluster's name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The version read; every write of its status names it.
    pub resource_version: String,
    /// True when it is being deleted.
    pub deleting: bool,
    /// True when the operator's finalizer is on it.
    pub finalizer: bool,
    /// The annotation that asks for a round.
    pub reshare_request: Option<String>,
    /// Spec, as the user wrote it.
    pub spec: KmsClusterSpec,
    /// Status, as recorded.
    pub status: KmsClusterStatus,
}

/// A `KmsNode`.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// The version read.
    pub resource_version: String,
    /// True when it is being deleted.
    pub deleting: bool,
    /// The node's spec.
    pub spec: KmsNodeSpec,
    /// The identity key that it offers with a good proof.
    pub offered: Option<PinnedKey>,
    /// Newest prekey of the node, signed by the pinned identity.
    pub prekey: Option<SignedPrekey>,
    /// True when its pod is ready: it serves the newest active epoch that it knows of.
    pub ready: bool,
    /// True when its pod was made for an earlier spec or image.
    pub outdated: bool,
    /// Problems that it found with its configuration.
    pub problems: Vec<Problem>,
    /// The worker that its pod is bound to.
    pub worker: Option<String>,
    /// That worker's zone.
    pub zone: Option<String>,
    /// The storage's handle of its volume.
    pub volume_handle: Option<String>,
    /// Where its replica stands.
    pub position: Option<keyfleet_crds::record::Position>,
    /// Lag of its replica in its newest report.
    pub lag: Lag,
    /// The newest epoch of which it signed that its secrets are gone, as its `KmsNode` says.
    pub erased_through: Option<u64>,
    /// The newest epoch that gave it a share, once it is removed.
    pub last_epoch: Option<u64>,
    /// True when it has proven that its secrets are gone.
    pub erased: bool,
    /// Plan versions it understands; empty until it has reported.
    pub plan_versions: Vec<u16>,
}

impl Node {
    /// Returns the problem that keeps what the node writes out of its bucket.
    #[must_use]
    pub fn bucket_problem(&self) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.is_of_the_bucket())
    }
}

/// A problem that a node found with what it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The condition's reason.
    pub reason: Reason,
    /// The fault, and the next step.
    pub message: String,
}

impl Problem {
    /// Takes over a node's own report. A reason that only a newer release knows counts by its subject: one about the replica is
    /// [`Reason::ReplicaUnavailable`], any other [`Reason::Unknown`]. Its word stays, in the message.
    #[must_use]
    pub fn read(reported: &keyfleet_crds::node::report::Problem) -> Self {
        match Reason::of(&reported.reason) {
            Some(reason) => Self { reason, message: reported.message.clone() },
            None if reported.about == ProblemAbout::Replication => Self {
                reason: Reason::ReplicaUnavailable,
                message: format!("{}: {}", reported.reason, reported.message),
            },
            None => Self { reason: Reason::Unknown, message: format!("{}: {}", reported.reason, reported.message) },
        }
    }

    fn is_of_the_bucket(&self) -> bool {
        use Reason::{AuthoritiesMissing, BucketMissing, CredentialsRefused, ReplicaUnavailable};
        matches!(self.reason, ReplicaUnavailable | BucketMissing | CredentialsRefused | AuthoritiesMissing)
    }
}

/// Lag of a replica.
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
    /// True when the finalizer of the active epoch is on it.
    pub finalizer: bool,
    /// The plan.
    pub spec: KeyEpochSpec,
    /// The record, absent until something was written.
    pub status: Option<KeyEpochStatus>,
}

impl Epoch {
    /// Returns the phase in the record, if one was written.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.status.as_ref().and_then(|status| status.phase)
    }

    /// Returns true while the round can still end either way.
    #[must_use]
    pub fn is_open(&self) -> bool {
        crate::key_epoch::is_open(self.status.as_ref())
    }

    /// Returns true when the epoch serves, or is kept beside the one that does.
    #[must_use]
    pub fn serves(&self) -> bool {
        crate::key_epoch::serves(self.status.as_ref())
    }

    /// Returns true once the round has succeeded, retired or not.
    #[must_use]
    pub fn was_activated(&self) -> bool {
        matches!(self.phase(), Some(Phase::Active | Phase::Confirmed | Phase::Retired))
    }

    /// Returns true for one of the nodes that the plan gives a share.
    #[must_use]
    pub fn has_receiver(&self, index: u32) -> bool {
        self.spec.receivers.iter().any(|receiver| receiver.index == index)
    }

    /// Returns the indexes of the nodes that the plan gives a share.
    #[must_use]
    pub fn receivers(&self) -> BTreeSet<u32> {
        self.spec.receivers.iter().map(|receiver| receiver.index).collect()
    }
}

/// The ConfigMap `<cluster>-record`, which outlives the `KmsCluster`.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// No ConfigMap of this name.
    Absent,
    /// The record exists.
    Present {
        /// The version read.
        resource_version: String,
        /// Content of the record.
        record: Box<Record>,
    },
    /// The record exists and cannot be read, for this reason.
    Unreadable(String),
}

/// Why the newest block is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// Nothing was asked yet.
    #[error("the block source has not been asked yet")]
    NotAsked,
    /// No answer.
    #[error(
        "the block source does not answer: {0}; no round starts until it does. Check the URL, its access key and the network"
    )]
    Down(String),
    /// Answer for another chain.
    #[error(
        "the block source is chain {found}, the KmsCluster's schedule says {expected}: correct the URL or make a new cluster"
    )]
    OtherChain {
        /// Chain id in the answer.
        found: u64,
        /// Chain id in the spec.
        expected: u64,
    },
    /// Answer that makes no sense.
    #[error(
        "the block source answers nonsense: {0}; no round starts. Check that the URL is a JSON-RPC endpoint of an Ethereum node"
    )]
    Nonsense(String),
    /// Height below an earlier one.
    #[error(
        "the block source says {now} after it had said {before}: a final height never falls. No round starts until it is past {before} again; check the endpoint"
    )]
    Reversed {
        /// Height in the earlier answer.
        before: u64,
        /// Height in the present answer.
        now: u64,
    },
    /// Height implausibly far above the earlier one.
    #[error(
        "the block source jumped from {before} to {now} within {elapsed_seconds} s, which no chain does. No round starts; if the height is right, restart the operator"
    )]
    Jumped {
        /// Height in the earlier answer.
        before: u64,
        /// Height in the present answer.
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
        self.epochs.iter().filter(|(_, epoch)| epoch.serves()).map(|(number, epoch)| (*number, epoch))
    }

    /// The round under way: the newest epoch that can still end either way.
    #[must_use]
    pub fn open(&self) -> Option<(u64, &Epoch)> {
        self.epochs.iter().rev().find(|(_, epoch)| epoch.is_open()).map(|(number, epoch)| (*number, epoch))
    }

    /// The record, if it is there and readable.
    #[must_use]
    pub fn recorded(&self) -> Option<&Record> {
        match &self.record {
            Recorded::Present { record, .. } => Some(record),
            Recorded::Absent | Recorded::Unreadable(_) => None,
        }
    }

    /// Returns true when the record is of a fleet with another cluster id, which had this name before.
    #[must_use]
    pub fn has_record_of_another(&self, id: ClusterId) -> bool {
        self.recorded().is_some_and(|record| record.cluster_id != id)
    }

    /// The plan of the newest epoch that is known to be certified, by its own object or by the record.
    #[must_use]
    pub fn newest_certified(&self) -> Option<&KeyEpochSpec> {
        let active = self.active().map(|(_, epoch)| &epoch.spec);
        let recorded = self.recorded().and_then(|record| record.epoch.as_ref()).map(|epoch| &epoch.plan);
        active.into_iter().chain(recorded).max_by_key(|plan| plan.number)
    }

    /// Returns true when a node's pod is ready.
    #[must_use]
    pub fn is_ready(&self, index: u32) -> bool {
        self.nodes.get(&index).is_some_and(|node| node.ready)
    }

    /// Returns true when as many receivers of an epoch as its threshold prove that they hold it: enough to serve and to deal.
    #[must_use]
    pub fn is_proven(&self, number: u64, plan: &KeyEpochSpec) -> bool {
        let holds = self.view.holds.get(&number);
        let receivers = plan.receivers.iter().map(|receiver| receiver.index);
        let proven = receivers.filter(|index| holds.is_some_and(|holds| holds.contains_key(index))).count();
        proven >= plan.threshold as usize
    }

    /// Counts the receivers that prove at this moment to hold an epoch: on open streams, asked within [`possession::GOOD_MS`], and
    /// after the last retirement.
    #[must_use]
    pub fn holding_now(&self, number: u64, plan: &KeyEpochSpec) -> usize {
        let (now_ms, last_ms) = (ms(self.now), self.retired_last_ms());
        let counts =
            |asked_ms: u64| possession::is_good(asked_ms, now_ms) && last_ms.is_none_or(|last| asked_ms > last);
        let holds = self.view.holds.get(&number);
        let receivers = plan.receivers.iter().map(|receiver| receiver.index);
        receivers
            .filter(|index| holds.and_then(|holds| holds.get(index)).is_some_and(|asked_ms| counts(*asked_ms)))
            .count()
    }

    /// Returns the end of the second in which an epoch was retired last: the record counts in seconds.
    fn retired_last_ms(&self) -> Option<u64> {
        let statuses = self.epochs.values().filter_map(|epoch| epoch.status.as_ref());
        let retired = statuses.filter_map(|status| status.timings.as_ref()?.retired.as_ref());
        let second = retired.map(|time| time.0.as_second()).max()?;
        u64::try_from(second).ok().map(|second| second.saturating_mul(1_000).saturating_add(999))
    }

    /// Returns true when the API server has anything that shows that a key was made. What nodes show is judged by
    /// `gate`: a word of theirs may stop a genesis, and says so.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.cluster.status.public_key.is_some()
            || self.active().is_some()
            || self.recorded().is_some_and(Record::forbids_genesis)
    }
}

/// A time in milliseconds since the Unix epoch, as proofs count it.
#[must_use]
pub fn ms(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}
