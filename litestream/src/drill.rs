//! The drill: restores a replica to scratch files and compares what they hold, row by row.
//!
//! Two comparisons, of which each proves what the other cannot. By *two routes*, from the newest snapshot and from the oldest
//! of the term, object by object: a snapshot or a segment that does not tell the same history shows. With the *local file*,
//! where it is given and at rest: a recording that missed a write shows, which no look at the bucket alone could find.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::bucket::Bucket;
use crate::contents;
use crate::discover::discover;
use crate::format::header::{self, Header, ReplicaName};
use crate::keys::KeyRing;
use crate::position::{CommitNo, Position, Seq};
use crate::restore::{Options, Progress, RestoreError, Restored, Target, check_file, fetch};
use crate::start::Meta;
use crate::{layout, meta, verify};

pub use crate::contents::TableContents;

/// Result of a drill.
#[derive(Clone, Debug, Serialize)]
pub struct Drilled {
    /// State restored from the newest snapshot.
    pub newest: Restored,
    /// The same state restored from the oldest snapshot that leads to it, object by object; `None` when there is only
    /// one.
    pub other_route: Option<Restored>,
    /// Outcome of the comparison with the local file.
    pub local: Local,
    /// Tables of the newest state, the same by both routes.
    pub tables: Vec<TableContents>,
}

/// Outcome of the comparison with the local file. A difference is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Local {
    /// Same: every row of every table.
    Same {
        /// Position of the local file in the replica.
        at: Position,
        /// Last commit of the local file.
        commit: CommitNo,
    },
    /// Local file that could not be compared, and the reason.
    NotCompared(String),
}

/// Restores to scratch files and compares. `local` is the database's own file; it is read, never written, and only where no
/// process has it open.
///
/// # Errors
/// As [`crate::restore::restore`]; [`RestoreError::Integrity`] when two of the states differ.
pub async fn drill(
    bucket: &Bucket,
    replica: &ReplicaName,
    keys: &KeyRing,
    local: Option<&Path>,
    progress: Option<Progress>,
) -> Result<Drilled, RestoreError> {
    let folder = tempfile::tempdir()?;
    let (first, second) = (folder.path().join("newest"), folder.path().join("other"));
    let newest = fetch(bucket, replica, keys, &first, &Options { progress, ..Options::default() }, later).await?;
    // A later commit must not look like a difference.
    let target = Target::Seq(newest.position.seq);
    let other_route = match oldest_of_term(bucket, replica, &newest).await? {
        Some(seq) => {
            let how = Options { target, begin_at_most: Some(seq), ..Options::default() };
            Some(fetch(bucket, replica, keys, &second, &how, later).await?)
        }
        None => None,
    };
    if other_route.is_some() && !same_bytes(&first, &second)? {
        return Err(RestoreError::Integrity("two routes to the same state gave different files".into()));
    }
    check_file(&first, &newest)?;
    let tables = restored(&first)?;
    if let Some(other) = &other_route {
        check_file(&second, other)?;
        same(&tables, &restored(&second)?, ["by the one route", "by the other"])?;
    }
    let local = match local {
        None => Local::NotCompared("no local file was named".into()),
        Some(path) => match at_rest(path) {
            Err(why) => Local::NotCompared(why),
            Ok((held, own)) => {
                let at = Newest { bucket, replica, keys, restored: &newest, tables: &tables };
                at.compare(held, &own, &folder.path().join("local")).await?
            }
        },
    };
    Ok(Drilled { newest, other_route, local, tables })
}

/// Leaves the check for later: it changes the file, whose bytes are compared first.
fn later(_: &Path, _: &Restored) -> Result<(), RestoreError> {
    Ok(())
}

/// Newest restored state, to compare a local file with.
struct Newest<'a> {
    bucket: &'a Bucket,
    replica: &'a ReplicaName,
    keys: &'a KeyRing,
    restored: &'a Restored,
    tables: &'a [TableContents],
}

impl Newest<'_> {
    /// Compares at the local file's own commit, restored to `scratch` where that is an older one.
    async fn compare(&self, held: Meta, own: &[TableContents], scratch: &Path) -> Result<Local, RestoreError> {
        const SIDES: [&str; 2] = ["in the replica", "in the local file"];
        let head = self.restored;
        if held.commit == head.commit && held.term == head.position.term {
            same(self.tables, own, SIDES)?;
            return Ok(Local::Same { at: head.position, commit: held.commit });
        }
        if held.commit > head.commit {
            let lacking = held.commit.0 - head.commit.0;
            return Ok(Local::NotCompared(format!("it has {lacking} commits that the bucket does not have")));
        }
        let objects = verify::list(self.bucket, layout::SEQUENCE).await?;
        let point = objects.iter().find(|one| one.last_commit == held.commit && one.term == held.term);
        let Some(point) = point else {
            let why = "no object of the sequence ends with it, or it was collected";
            return Ok(Local::NotCompared(format!("it is at commit {}, which cannot be restored: {why}", held.commit)));
        };
        let how = Options { target: Target::Seq(point.seq), ..Options::default() };
        let older = fetch(self.bucket, self.replica, self.keys, scratch, &how, check_file).await?;
        same(&restored(scratch)?, own, SIDES)?;
        Ok(Local::Same { at: older.position, commit: held.commit })
    }
}

/// Reads the newest row and the contents of a file at rest.
///
/// # Errors
/// Reason, for people, why the file is left alone.
fn at_rest(path: &Path) -> Result<(Meta, Vec<TableContents>), String> {
    if !path.exists() {
        return Err(format!("{} does not exist", path.display()));
    }
    let database = redb::ReadOnlyDatabase::open(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            "a process has it open: only a file at rest can be compared".to_owned()
        }
        redb::DatabaseError::RepairAborted => {
            "it was not closed in order: the next process that opens it repairs it, a drill does not".to_owned()
        }
        other => format!("it cannot be read: {other}"),
    })?;
    let held = meta::read(&database).map_err(|error| format!("it cannot be read: {error}"))?;
    let tables = contents::read(&database).map_err(|error| format!("it cannot be read: {error}"))?;
    match held {
        Some(held) => Ok((held.meta, tables)),
        None => Err("it was never written through a replicating process".into()),
    }
}

fn restored(path: &Path) -> Result<Vec<TableContents>, RestoreError> {
    let database = redb::Database::open(path).map_err(|error| RestoreError::Integrity(error.to_string()))?;
    contents::read(&database).map_err(|error| RestoreError::Integrity(error.to_string()))
}

fn same(one: &[TableContents], other: &[TableContents], sides: [&str; 2]) -> Result<(), RestoreError> {
    match contents::difference(one, other, sides) {
        None => Ok(()),
        Some(difference) => Err(RestoreError::Integrity(difference)),
    }
}

/// Finds the oldest snapshot of the term that a restore ended in, other than the one that it began with.
async fn oldest_of_term(
    bucket: &Bucket,
    replica: &ReplicaName,
    newest: &Restored,
) -> Result<Option<Seq>, RestoreError> {
    let found = discover(bucket, replica).await?;
    for (seq, hash) in found.snapshots {
        let key = layout::snapshot(seq, hash);
        if key == newest.snapshot || found.lowest_needed.is_some_and(|lowest_needed| seq < lowest_needed) {
            continue;
        }
        let Some(start) = bucket.get_start(&key, header::MAX_LEN).await? else { continue };
        if Header::decode(&start).is_ok_and(|(header, _)| header.term == newest.position.term)
            && seq < newest.position.seq
        {
            return Ok(Some(seq));
        }
    }
    Ok(None)
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    use std::io::Read as _;
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}
