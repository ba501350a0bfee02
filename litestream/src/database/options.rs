//! Settings of a database.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::bucket::{Location, RetryPolicy};
use crate::format::header::ReplicaName;
use crate::keys::KeyRing;
use crate::position::Position;
use crate::start::Permissions;

/// How redb commits. One-phase is the cheapest, and its open checks every page after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitMode {
    /// One sync per commit.
    #[default]
    OnePhase,
    /// Two syncs: for contents that an attacker may choose.
    TwoPhase,
    /// Two syncs, and an open after a crash that checks little.
    QuickRepair,
}

/// How to open a database. [`Options::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The local file.
    pub path: PathBuf,
    /// Which replica it is.
    pub replica: ReplicaName,
    /// Where the replica lies.
    pub location: Location,
    /// The keys.
    pub keys: Arc<KeyRing>,
    /// Nothing older than this is opened or restored.
    pub floor: Option<Position>,
    /// Open an older state all the same, and say why.
    pub override_floor: Option<String>,
    /// What a start may do without the replica.
    pub permissions: Permissions,
    /// How redb commits.
    pub commit_mode: CommitMode,
    /// redb's cache, in bytes.
    pub cache_bytes: usize,
    /// Compact the file at the start.
    pub compact: bool,
    /// Commits that nobody waits for are sent at most so often; so long one of them may stay local.
    pub sync_interval: Duration,
    /// A snapshot is taken when this long has passed since the last, and something was committed.
    pub snapshot_interval: Duration,
    /// A snapshot is taken after so many segments, which bounds the time of a restore.
    pub snapshot_segments: u64,
    /// So many segments are sent once more as one object, which makes restores shorter; below 2: none is.
    pub merge_segments: u64,
    /// A segment takes commits until it holds this much, in bytes before compression.
    pub segment_bytes: usize,
    /// Commits that wait for the bucket may hold this much memory, in bytes; beyond it the chain is closed.
    pub queue_bytes: usize,
    /// See [`crate::term::Settings::idle_grace_ms`].
    pub idle_grace: Duration,
    /// Transactions that may wait for the writer.
    pub mailbox: usize,
    /// Limits of requests.
    pub retry: RetryPolicy,
}

impl Options {
    /// The defaults.
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
