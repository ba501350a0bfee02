//! Restore of a file from the bucket.
//!
//! ```text
//! look ─▶ choose a snapshot ─▶ pin ─▶ GET in parallel ─▶ chain ─▶ scratch file ─▶ redb's check ─▶ name
//! ```
//!
//! The file gets its name last. Before that every link of the chain was verified, redb walked the whole file,
//! and the file's own row named exactly the commit that the chain ends with.
//!
//! `follow` reads the chain from one snapshot to the target, `image` is the file that this builds, `place` the one that it takes
//! the place of.

mod follow;
mod image;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use serde::Serialize;

use crate::bucket::{Bucket, BucketError};
use crate::chain::ChainError;
use crate::discover::{DiscoverError, Found, discover, read_lowest_needed};
use crate::format::header::{self, Header, ReplicaName};
use crate::keys::KeyRing;
use crate::meta::{Adoption, PositionFile};
use crate::position::{CommitNo, DatabaseId, Head, Position, Seq};

use follow::{Source, follow};
pub(crate) use image::check_file;
pub(crate) use place::set_aside;
use place::{Held, Scratch};

/// State to restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Newest state.
    #[default]
    Newest,
    /// State after this object of the sequence.
    Seq(Seq),
    /// State after the last commit at or before this time, in milliseconds since the Unix epoch.
    Time(u64),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest state"),
            Self::Seq(seq) => write!(f, "seq {seq}"),
            Self::Time(time_ms) => {
                let time = i64::try_from(*time_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
                match time {
                    Some(time) => write!(f, "the time {time}"),
                    None => write!(f, "the time {time_ms} ms after 1970"),
                }
            }
        }
    }
}

/// Observer of a restore's progress: takes the number of objects read and of objects in all.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Options of a restore.
#[derive(Clone)]
pub struct Options {
    /// State to restore.
    pub target: Target,
    /// Oldest position that is accepted.
    pub floor: Option<Position>,
    /// Reason to accept an older one all the same. It is recorded in the position file.
    pub override_floor: Option<String>,
    /// Number of objects read at once.
    pub parallelism: usize,
    /// True to move an existing file aside rather than refuse.
    pub replace: bool,
    /// Reason to go on from this state although it is not the newest: the next start of a database on the file opens a term with
    /// it, which ends the one that is under way. Recorded in the position file.
    pub adopt: Option<String>,
    /// True to protect from retention what the restore needs, meanwhile. Needs the right to PUT.
    pub pin: bool,
    /// Last number that the first snapshot may cover.
    pub begin_at_most: Option<Seq>,
    /// Observer, called once for every object.
    pub progress: Option<Progress>,
}

impl Options {
    fn report(&self, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress(done, total);
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: Target::Newest,
            floor: None,
            override_floor: None,
            parallelism: 16,
            replace: false,
            adopt: None,
            pin: true,
            begin_at_most: None,
            progress: None,
        }
    }
}

/// Result of a restore.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// Database whose history it is.
    pub database: DatabaseId,
    /// Position in the replica. After a restore to a time within an object, the position before that object.
    pub position: Position,
    /// Last commit in the file.
    pub commit: CommitNo,
    /// Time of that commit, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Length of the file, in bytes.
    pub file_len: u64,
    /// Key of the snapshot that the restore began with.
    pub snapshot: String,
    /// Number of objects read.
    pub objects: u64,
    /// Number of bytes read.
    pub bytes: u64,
    /// Newer snapshots that could not be used, each with the reason.
    pub skipped: Vec<String>,
    /// Reason for which the floor was overridden, and the error that it answered.
    pub overridden: Option<String>,
    /// Path of the file that was in the way, now that it was moved aside.
    pub moved_aside: Option<PathBuf>,
    /// Newest object when the restore began.
    #[serde(skip)]
    pub head: Head,
    /// True when retention collected the commits that came after this state: it is the newest that is kept of the time asked
    /// for.
    pub collected: bool,
    /// Time at which the number after it was seen to be free, by the server's clock, in milliseconds since the Unix epoch.
    #[serde(skip)]
    pub seen_ms: u64,
}

/// Restores the file `path` from the bucket.
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
    // Held until the file is out of the way: no process writes to a file that was moved from under it.
    let held = Held::take(path)?;
    let scratch = Scratch::beside(path)?;
    let mut restored = fetch(bucket, replica, keys, scratch.path(), options, check_file).await?;
    if let Some(held) = &held {
        held.pass_on(scratch.path())?;
    }
    invariant_at_floor(&restored, options.floor);
    if held.is_some() {
        restored.moved_aside = Some(set_aside(path, "replaced")?);
    }
    let note = PositionFile {
        database: Some(restored.database),
        replica: Some(replica.to_string()),
        position: Some(restored.position),
        commit: restored.commit,
        intent: None,
        overridden: restored.overridden.clone(),
        adopt: options.adopt.clone().map(|reason| Adoption { reason, over: restored.head.position }),
    };
    note.write(path)?;
    scratch.take_name(path)?;
    Ok(restored)
}

/// No file gets its name below the floor, but where a person overrode it.
fn invariant_at_floor(restored: &Restored, floor: Option<Position>) {
    let at_floor = floor.is_none_or(|floor| restored.position.seq >= floor.seq && restored.position.term >= floor.term);
    assert!(at_floor || restored.overridden.is_some(), "a state below the floor would get the file's name");
}

/// Reads one state into `file`, which must not exist, and checks its chain. `check` looks at the file: one that does not pass is
/// built anew from an older snapshot, as after a broken chain.
pub(crate) async fn fetch(
    bucket: &Bucket,
    replica: &ReplicaName,
    keys: &KeyRing,
    file: &Path,
    options: &Options,
    check: impl Fn(&Path, &Restored) -> Result<(), RestoreError>,
) -> Result<Restored, RestoreError> {
    let found = discover(bucket, replica).await?;
    let Some(head) = found.head else {
        return Err(match options.floor {
            Some(floor) => RestoreError::ReplicaVanished(floor),
            None => RestoreError::NoReplica,
        });
    };
    // At or after the last commit is the newest state, whatever the times before it say. Of an opening the base is newer.
    let target = match options.target {
        Target::Time(time_ms) if !head.is_opening && head.time_ms <= time_ms => Target::Newest,
        target => target,
    };
    let options = &Options { target, ..options.clone() };
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
        let source = Source { bucket, replica, keys, found: &found, head, options };
        let mut outcome = follow(&source, (seq, hash), file).await;
        if let Err(RestoreError::Chain(error)) = &outcome
            && !found.merged.is_empty()
        {
            // A merged segment only saves requests: the segments themselves decide.
            tracing::info!(%error, "trying without merged segments");
            let single = Found { merged: Vec::new(), ..found.clone() };
            outcome = follow(&Source { found: &single, ..source }, (seq, hash), file).await;
        }
        if let Some(pin) = pin {
            pin.release(bucket).await;
        }
        let outcome = outcome.and_then(|restored| check(file, &restored).map(|()| restored));
        match outcome {
            Ok(restored) => return Ok(Restored { skipped, ..restored }),
            // The floor is not moved by an older snapshot, nor the server by asking for one.
            Err(error @ RestoreError::Chain(ChainError::BelowFloor { .. } | ChainError::ForkedBelowFloor { .. })) => {
                return Err(first_error.unwrap_or(error));
            }
            Err(error @ (RestoreError::Chain(_) | RestoreError::Integrity(_) | RestoreError::Length { .. })) => {
                tracing::warn!(%error, snapshot = key, "snapshot cannot be used, trying the one before it");
                skipped.push(format!("{key}: {error}"));
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first_error.unwrap_or(RestoreError::NoSnapshot { head: head.position, target: options.target }))
}

/// Returns true when a restore to `target` may begin with the snapshot under `key`, which covers `seq`.
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

/// Pin of a running restore: keeps retention away from everything at or above a number.
struct Pin(String);

impl Pin {
    async fn set(bucket: &Bucket, lowest: Seq) -> Option<Self> {
        let key = crate::layout::pin(crate::clock::now_ms(), lowest, rand::random());
        match bucket.create(&key, b"restore\n").await {
            // Objects below the lowest needed number may be on their way out; the chain's check notices.
            Ok(_) => {
                if let Ok(Some((lowest_needed, _))) = read_lowest_needed(bucket).await
                    && lowest_needed > lowest
                {
                    tracing::info!(%lowest_needed, %lowest, "restoring from objects that retention is about to delete");
                }
                Some(Self(key))
            }
            Err(error) => {
                tracing::info!(%error, "no pin could be set: the restore must end within retention's grace");
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

/// Error of a restore. The target is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Proven absence of a replica.
    #[error("there is no replica")]
    NoReplica,
    /// Missing replica, although a position in it is known to have been acknowledged.
    #[error("there is no replica, although {0} is known to have been acknowledged")]
    ReplicaVanished(Position),
    /// Replica without a snapshot to begin with.
    #[error("the replica ends at {head}, but no snapshot to begin with is there for {target}")]
    NoSnapshot {
        /// End of the replica.
        head: Position,
        /// State that was asked for.
        target: Target,
    },
    /// Number that does not exist yet.
    #[error("seq {target} was asked for, the replica ends at {head}")]
    Ahead {
        /// Number that was asked for.
        target: Seq,
        /// End of the replica.
        head: Position,
    },
    /// File under the target's name.
    #[error("{} exists: name another target, or ask for it to be moved aside", .0.display())]
    TargetExists(PathBuf),
    /// File that a process has open.
    #[error("{} is open in a process, which would go on in the file that is moved aside: end it first", .0.display())]
    InUse(PathBuf),
    /// Chain that is broken, or older than the floor.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Bucket that does not answer, or refuses.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// Content of the bucket that does not fit together.
    #[error(transparent)]
    Discover(DiscoverError),
    /// Rebuilt file that is not a whole database, or not the state that the chain ends with.
    #[error("the restored file does not pass its check: {0}")]
    Integrity(String),
    /// Rebuilt file of another length than the chain names.
    #[error("the restored file has {found} bytes, the chain says {expected}")]
    Length {
        /// Length that the chain names, in bytes.
        expected: u64,
        /// Length on disk, in bytes.
        found: u64,
    },
    /// Local disk that failed.
    #[error("local file: {0}")]
    Io(#[from] io::Error),
}

impl From<DiscoverError> for RestoreError {
    fn from(error: DiscoverError) -> Self {
        match error {
            DiscoverError::Bucket(error) => Self::Bucket(error),
            DiscoverError::Chain(error) => Self::Chain(error),
            DiscoverError::NoReplica => Self::NoReplica,
            other => Self::Discover(other),
        }
    }
}
