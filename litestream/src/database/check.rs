//! Check of a file at rest, before anything of it is sent: redb opens a damaged file without a word, and its damage would become
//! the newest state.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::DatabaseError;

use super::error::OpenError;
use super::options::Options;
use super::store::storage_error;
use crate::meta::{self, Row};

/// First bytes of every redb file.
const MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];

/// Outcome of a check.
pub(super) enum Checked {
    /// File whose every page checks, and its newest row.
    Whole(Option<Row>),
    /// File that redb refuses, or of which a page does not check, and the reason.
    Damaged(String),
}

/// Opens the file, lets redb repair it after a crash and walk the whole of it, and reads its newest row.
///
/// # Errors
/// [`OpenError::Storage`] for a file that a process has open, one of another program or of another version of redb, and for a disk
/// that fails: none of these is damage.
pub(super) fn checked(options: &Options) -> Result<Checked, OpenError> {
    // redb panics on some damaged files.
    let outcome = catch_unwind(AssertUnwindSafe(|| walked(options)));
    match outcome {
        // A row of another version is no damage.
        Ok(Ok(row)) => row.map(Checked::Whole).map_err(|error| storage_error(&options.path, error)),
        Ok(Err(error)) if is_damage(&error) && is_redbs(&options.path)? => Ok(Checked::Damaged(error.to_string())),
        Ok(Err(error)) => Err(storage_error(&options.path, error)),
        Err(_panic) => Ok(Checked::Damaged("redb gave up on it".into())),
    }
}

type ReadRow = Result<Option<Row>, redb::Error>;

/// Walks the whole file. Returns what reading its row came to.
fn walked(options: &Options) -> Result<ReadRow, redb::Error> {
    let mut database = redb::Builder::new().set_cache_size(options.cache_bytes).open(&options.path).map_err(opening)?;
    // A repair goes back to the commit before: the row says to which.
    if !database.check_integrity().map_err(opening)? {
        tracing::warn!(path = %options.path.display(), "redb repaired the file");
    }
    if options.compact {
        // Only here: while nothing is recorded.
        database.compact()?;
    }
    Ok(meta::read(&database))
}

fn opening(error: DatabaseError) -> redb::Error {
    match error {
        // As the words of another error it would be lost.
        DatabaseError::RepairAborted => redb::Error::Corrupted("redb could not repair it".into()),
        error => error.into(),
    }
}

fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => {
            matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput)
        }
        _ => false,
    }
}

/// Returns true for a file that begins as redb's do, or with the zeros of a header that was never written. Another program's file
/// is left where it is.
fn is_redbs(path: &Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(MAGIC.starts_with(&start) || start.iter().all(|byte| *byte == 0))
}
