//! Options of a database.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::bucket::{Location, RetryPolicy};
use crate::format::header::ReplicaName;
use crate::keys::KeyRing;
use crate::position::Position;
use crate::start::Permissions;

/// Mode of redb's commits. One-phase is the cheapest, and its open checks every page after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitMode {
    /// One sync for a commit.
    #[default]
    OnePhase,
    /// Two syncs for a commit: for contents that an attacker may choose.
    TwoPhase,
    /// Two syncs for a commit, and an open after a crash that checks little.
    QuickRepair,
}

/// Options of a database. [`Options::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Path of the local file.
    pub path: PathBuf,
    /// Name of the replica.
    pub replica: ReplicaName,
    /// Location of the replica.
    pub location: Location,
    /// Keys that wrap and unwrap.
    pub keys: Arc<KeyRing>,
    /// Oldest position that is opened or restored.
    pub floor: Option<Position>,
    /// Reason to open an older state all the same.
    pub override_floor: Option<String>,
    /// Permissions of a start that cannot rely on the replica.
    pub permissions: Permissions,
    /// Mode of redb's commits.
    pub commit_mode: CommitMode,
    /// Size of redb's cache, in bytes.
    pub cache_bytes: usize,
    /// True to make a database where there is neither a file nor a replica.
    pub create: bool,
    /// True to compact the file at the start.
    pub compact: bool,
    /// Longest time that a commit stays local when nobody waits for it. Such commits are sent together, once in this
    /// interval.
    pub sync_interval: Duration,
    /// Time after which a snapshot follows the last one, where a commit was made since.
    pub snapshot_interval: Duration,
    /// Number of segments after which a snapshot follows the last one. Bounds the time of a restore.
    pub snapshot_segments: u64,
    /// Number of segments that are sent once more as one merged object, which shortens restores. Below 2, no segment
    /// is merged.
    pub merge_segments: u64,
    /// Size of a segment in bytes before compression. A segment takes commits until it holds this much.
    pub segment_bytes: usize,
    /// Memory for commits that wait for the bucket, in bytes. Beyond it the chain is closed.
    pub queue_bytes: usize,
    /// Age of a proof of place beyond which the writer proves its place anew: see
    /// [`crate::term::Settings::idle_grace_ms`].
    pub idle_grace: Duration,
    /// Number of transactions that may wait for the writer.
    pub mailbox: usize,
    /// Timeouts and retries of requests.
    pub retry: RetryPolicy,
}

impl Options {
    /// Returns the default options of a database.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, replica: ReplicaName, location: Location, keys: Arc<KeyRing>) -> Self {
        Self {
            path: path.into(),
            replica,
            location,
            keys,
            floor: None,
            override_floor: None,
            permissions: Permissions::default(),
            commit_mode: CommitMode::default(),
            cache_bytes: 64 << 20,
            create: true,
            compact: false,
            sync_interval: Duration::from_secs(1),
            snapshot_interval: Duration::from_secs(3600),
            snapshot_segments: 400,
            merge_segments: 32,
            segment_bytes: 4 << 20,
            queue_bytes: 64 << 20,
            idle_grace: Duration::from_secs(300),
            mailbox: 256,
            retry: RetryPolicy::default(),
        }
    }
}
