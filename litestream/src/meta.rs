//! Facts about a database file: the row that every transaction writes, and the position file beside it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{ReadableDatabase, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::position::{CommitNo, Position, Seq, Term};
use crate::start::{Acknowledged, Intent, Local, Meta};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keyfleet_litestream");
const ROW: &str = "position";
const ROW_VERSION: u8 = 1;

/// Writes the row of a transaction.
///
/// # Errors
/// redb's.
pub(crate) fn write(txn: &WriteTransaction, meta: Meta) -> Result<(), redb::Error> {
    assert!(meta.linked <= meta.commit, "a linked commit was made: {meta:?}");
    let mut row = [0; 33];
    row[0] = ROW_VERSION;
    for (at, number) in [meta.term.0, meta.commit.0, meta.linked.0, meta.time_ms].into_iter().enumerate() {
        row[1 + at * 8..9 + at * 8].copy_from_slice(&number.to_be_bytes());
    }
    txn.open_table(TABLE)?.insert(ROW, row.as_slice())?;
    Ok(())
}

/// Reads the newest row; `None` in a file that was never written through this library.
///
/// # Errors
/// redb's; [`io::ErrorKind::InvalidData`] for a row that is malformed or of another version.
pub(crate) fn read(database: &impl ReadableDatabase) -> Result<Option<Meta>, redb::Error> {
    let txn = database.begin_read()?;
    let table = match txn.open_table(TABLE) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(row) = table.get(ROW)? else { return Ok(None) };
    let row = row.value();
    if row.len() != 33 || row[0] != ROW_VERSION {
        return Err(malformed(format!("the position row has version {:?} and {} bytes", row.first(), row.len())));
    }
    let meta = Meta {
        term: Term(row_number(row, 0)),
        commit: CommitNo(row_number(row, 1)),
        linked: CommitNo(row_number(row, 2)),
        time_ms: row_number(row, 3),
    };
    if meta.linked > meta.commit {
        return Err(malformed(format!("the position row links commit {} before it was made", meta.linked)));
    }
    Ok(Some(meta))
}

/// Reads the number at place `at` of a row of 33 bytes: one for the version, then eight for each number.
fn row_number(row: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(row[1 + at * 8..9 + at * 8].try_into().expect("eight bytes"))
}

fn malformed(text: String) -> redb::Error {
    redb::Error::Io(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Position file of a database, `<file>-litestream`: the last position that is known to be acknowledged. A witness,
/// never the truth; without it a start only becomes more careful.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionFile {
    /// Last position that is known to be acknowledged and included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Last commit of that position.
    #[serde(default)]
    pub commit: CommitNo,
    /// Opening that was about to leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<SavedIntent>,
    /// Wish to go on from this older state, of the restore that made the file. It stands until a segment is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adoption>,
    /// Reason for which a floor was overridden when this file was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<String>,
}

/// Wish of a person to go on from an older state of the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adoption {
    /// Reason, for people.
    pub reason: String,
    /// End of the replica when the wish was made. Whoever went on from there since is not overruled.
    pub over: Position,
}

/// [`Intent`] as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedIntent {
    seq: Seq,
    nonce: String,
    after_term: Term,
    after_commit: CommitNo,
}

impl From<Intent> for SavedIntent {
    fn from(intent: Intent) -> Self {
        Self {
            seq: intent.seq,
            nonce: hex::encode(intent.nonce),
            after_term: intent.after_term,
            after_commit: intent.after_commit,
        }
    }
}

impl PositionFile {
    /// Returns the path of a database's position file.
    #[must_use]
    pub fn path(file: &Path) -> PathBuf {
        beside(file, "-litestream")
    }

    /// Reads the position file of a database; the default when it is missing or cannot be read.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let Ok(text) = fs::read(Self::path(file)) else { return Self::default() };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %Self::path(file).display(), "the position file beside the database cannot be read: the start goes on without it");
            Self::default()
        })
    }

    /// Replaces the position file, durably.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        // Writers of one file take turns here, since all of them use the one name beside it.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let path = Self::path(file);
        let next = beside(&path, ".next");
        let mut out = fs::File::create(&next)?;
        out.write_all(&serde_json::to_vec_pretty(self)?)?;
        out.sync_data()?;
        fs::rename(&next, &path)?;
        sync_folder(file)
    }

    /// Returns the facts that a start needs about a local file whose newest row is `meta`.
    #[must_use]
    pub(crate) fn local(&self, meta: Option<Meta>) -> Local {
        let intent = self.intent.as_ref().and_then(|intent| {
            let mut nonce = [0; 16];
            hex::decode_to_slice(&intent.nonce, &mut nonce).ok()?;
            Some(Intent { seq: intent.seq, nonce, after_term: intent.after_term, after_commit: intent.after_commit })
        });
        Local {
            meta,
            acknowledged: self.position.map(|position| Acknowledged { position, commit: self.commit }),
            intent,
            adopts_over: self.adopt.as_ref().map(|adopt| adopt.over),
        }
    }
}

/// Returns `file` with `suffix` appended to its name.
#[must_use]
pub(crate) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a rename or a new name in `file`'s folder durable.
///
/// # Errors
/// The file system's.
pub(crate) fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}
