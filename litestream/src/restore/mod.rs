//! Restoring a file from the bucket.
//!
//! ```text
//! look ─▶ choose a snapshot ─▶ pin ─▶ GET in parallel ─▶ chain ─▶ scratch file ─▶ redb's check ─▶ name
//! ```
//!
//! The file gets its name last. Before that every link of the chain was verified, redb walked the whole file,
//! and the file's own row named exactly the commit that the chain ends with.
//!
//! `follow` walks the chain from one snapshot to the target, `image` is the file that this builds.

mod follow;
mod image;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use serde::Serialize;

use crate::bucket::{Bucket, BucketError};
use crate::chain::ChainError;
use crate::discover::{DiscoverError, Found, discover, read_lowest_needed};
use crate::format::header::{self, Header, ReplicaName};
use crate::keys::KeyRing;
use crate::meta::{self, PositionFile};
use crate::position::{CommitNo, Head, Position, Seq};

use follow::follow;
pub(crate) use image::check_file;

/// Which state to restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The newest.
    #[default]
    Newest,
    /// The state after this object of the sequence.
    Seq(Seq),
    /// The last commit made at or before this time, in milliseconds since the Unix epoch.
    Time(u64),
}

/// Called with objects done and objects in all.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// How to restore.
#[derive(Clone)]
pub struct Options {
    /// Which state.
    pub target: Target,
    /// Nothing older than this is accepted.
    pub floor: Option<Position>,
    /// Accept an older one all the same, and say why: it is written into the note beside the file.
    pub override_floor: Option<String>,
    /// GETs at once.
    pub parallelism: usize,
    /// Where there is a file already, move it aside rather than refuse.
    pub replace: bool,
    /// Protect what is needed from retention meanwhile. Needs the right to PUT.
    pub pin: bool,
    /// Begin with no snapshot that covers more than this.
    pub begin_at_most: Option<Seq>,
    /// Told about every object.
    pub progress: Option<Progress>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: Target::Newest,
            floor: None,
            override_floor: None,
            parallelism: 16,
            replace: false,
            pin: true,
            begin_at_most: None,
            progress: None,
        }
    }
}

/// What was restored.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// The replica's position. After a restore to a time within an object, the one before that object.
    pub position: Position,
    /// Last commit in the file.
    pub commit: CommitNo,
    /// Its time, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Length of the file, in bytes.
    pub file_len: u64,
    /// Key of the snapshot that it began with.
    pub snapshot: String,
    /// Objects read.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Newer snapshots that could not be used, and why.
    pub skipped: Vec<String>,
    /// The floor that was overridden.
    pub overridden: Option<String>,
    /// A file that was in the way and was moved aside.
    pub moved_aside: Option<PathBuf>,
    /// The newest object at that time.
    #[serde(skip)]
    pub head: Head,
    /// When the number after it was seen to be free.
    #[serde(skip)]
    pub seen_ms: u64,
}

/// Restores `path` from the bucket.
///
/// # Errors
/// [`RestoreError::NoReplica`] only when that is proven. On any error `path` is as it was.
pub async fn restore(
    bucket: &Bucket,
    replica: &ReplicaName,
    keys: &KeyRing,
    path: &Path,
    options: &Options,
) -> Result<Restored, RestoreError> {
    if !options.replace && path.exists() {
        return Err(RestoreError::TargetExists(path.into()));
    }
    let scratch = meta::beside(path, &format!(".restoring-{}", hex::encode(rand::random::<[u8; 6]>())));
    let guard = Scratch(scratch.clone());
    let mut restored = fetch(bucket, replica, keys, &scratch, options).await?;
    check_file(&scratch, &restored)?;
    if path.exists() {
        let aside = set_aside(path, "replaced")?;
        restored.moved_aside = Some(aside);
    }
    let note = PositionFile {
        position: Some(restored.position),
        commit: restored.commit,
        intent: None,
        overridden: restored.overridden.clone(),
    };
    note.write(path)?;
    fs::rename(&scratch, path)?;
    meta::sync_folder(path)?;
    std::mem::forget(guard);
    Ok(restored)
}

/// Moves a file out of the way, never deleting it: `<file>.<why>-<time>`.
///
/// # Errors
/// The file system's.
pub fn set_aside(path: &Path, why: &str) -> io::Result<PathBuf> {
    let aside =
        meta::beside(path, &format!(".{why}-{}-{}", crate::clock::now_ms(), hex::encode(rand::random::<[u8; 3]>())));
    fs::rename(path, &aside)?;
    let note = PositionFile::path(path);
    if note.exists() {
        fs::rename(note, PositionFile::path(&aside))?;
    }
    meta::sync_folder(path)?;
    Ok(aside)
}

/// Downloads and checks one state into `file`, which must not exist. `check_file` is still due.
pub(crate) async fn fetch(
    bucket: &Bucket,
    replica: &ReplicaName,
    keys: &KeyRing,
    file: &Path,
    options: &Options,
) -> Result<Restored, RestoreError> {
    let found = discover(bucket, replica, crate::clock::now_ms).await?;
    let Some(head) = found.head else {
        return Err(match options.floor {
            Some(floor) => RestoreError::ReplicaVanished(floor),
            None => RestoreError::NoReplica,
        });
    };
    let mut skipped = Vec::new();
    let mut first_error = None;
    for (seq, hash) in found.snapshots.iter().rev().copied() {
        let key = crate::layout::snapshot(seq, hash);
        if options.begin_at_most.is_some_and(|most| seq > most)
            || !may_begin_with(bucket, &key, seq, options.target).await?
        {
            continue;
        }
        let pin = if options.pin { Pin::set(bucket, seq).await } else { None };
        let mut outcome = follow(bucket, replica, keys, file, options, &found, head, (seq, hash)).await;
        if let Err(RestoreError::Chain(error)) = &outcome
            && !found.merged.is_empty()
        {
            // A merged segment only saves requests: the segments themselves decide.
            tracing::info!(%error, "trying without merged segments");
            let single = Found { merged: Vec::new(), ..found.clone() };
            outcome = follow(bucket, replica, keys, file, options, &single, head, (seq, hash)).await;
        }
        if let Some(pin) = pin {
            pin.release(bucket).await;
        }
        match outcome {
            Ok(restored) => return Ok(Restored { skipped, ..restored }),
            // The floor is not moved by an older snapshot, nor the server by asking for one.
            Err(error @ RestoreError::Chain(ChainError::BelowFloor { .. } | ChainError::ForkedBelowFloor { .. })) => {
                return Err(first_error.unwrap_or(error));
            }
            Err(error @ RestoreError::Chain(_)) => {
                tracing::warn!(%error, snapshot = key, "snapshot cannot be used, trying the one before it");
                skipped.push(format!("{key}: {error}"));
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first_error.unwrap_or(RestoreError::NoSnapshot { head: head.position, target: options.target }))
}

async fn may_begin_with(bucket: &Bucket, key: &str, seq: Seq, target: Target) -> Result<bool, RestoreError> {
    Ok(match target {
        Target::Newest => true,
        Target::Seq(target) => seq <= target,
        Target::Time(time_ms) => {
            let Some(start) = bucket.get_start(key, header::MAX_LEN).await? else { return Ok(false) };
            Header::decode(&start).is_ok_and(|(header, _)| header.time_ms <= time_ms)
        }
    })
}

/// Keeps retention away from everything at or above a number.
struct Pin(String);

impl Pin {
    async fn set(bucket: &Bucket, lowest: Seq) -> Option<Self> {
        let key = crate::layout::pin(crate::clock::now_ms(), lowest, rand::random());
        match bucket.create(&key, b"restore\n").await {
            // What was below the boundary before the pin may be on its way out; the chain check notices.
            Ok(_) => {
                if let Ok(Some((lowest_needed, _))) = read_lowest_needed(bucket).await
                    && lowest_needed > lowest
                {
                    tracing::info!(%lowest_needed, %lowest, "restoring from below the boundary");
                }
                Some(Self(key))
            }
            Err(error) => {
                tracing::info!(%error, "no pin could be set; retention's grace must suffice");
                None
            }
        }
    }

    async fn release(self, bucket: &Bucket) {
        // Writers may not delete; a pin expires then.
        if let Err(error) = bucket.delete(&self.0, None).await {
            tracing::debug!(%error, "the pin stays until it expires");
        }
    }
}

/// Deletes a scratch file unless it got its name.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Proven: there is no replica.
    #[error("there is no replica")]
    NoReplica,
    /// There must be one.
    #[error("there is no replica, although {0} is known to have been acknowledged")]
    ReplicaVanished(Position),
    /// A replica without a usable start.
    #[error("the replica ends at {head}, but no snapshot to begin with is there for {target:?}")]
    NoSnapshot {
        /// Its end.
        head: Position,
        /// What was asked for.
        target: Target,
    },
    /// A number that does not exist yet.
    #[error("seq {target} was asked for, the replica ends at {head}")]
    Ahead {
        /// What was asked for.
        target: Seq,
        /// The end.
        head: Position,
    },
    /// There is a file.
    #[error("{} exists: name another target, or ask for it to be moved aside", .0.display())]
    TargetExists(PathBuf),
    /// The chain is broken, or older than the floor.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The bucket does not answer, or says no.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// What is there does not fit together.
    #[error(transparent)]
    Discover(DiscoverError),
    /// The rebuilt file is no whole database.
    #[error("the restored file does not pass its check: {0}")]
    Integrity(String),
    /// The rebuilt file has another length than the chain says.
    #[error("the restored file has {found} bytes, the chain says {expected}")]
    Length {
        /// By the chain.
        expected: u64,
        /// On disk.
        found: u64,
    },
    /// The local disk.
    #[error("local file: {0}")]
    Io(#[from] io::Error),
}

impl From<DiscoverError> for RestoreError {
    fn from(error: DiscoverError) -> Self {
        match error {
            DiscoverError::Bucket(error) => Self::Bucket(error),
            DiscoverError::Chain(error) => Self::Chain(error),
            other => Self::Discover(other),
        }
    }
}
