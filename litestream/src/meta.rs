//! Facts about a database file: the row that every transaction writes, and the position file beside it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{ReadableDatabase, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::format::header::ReplicaName;
use crate::position::{CommitNo, DatabaseId, Position, Seq, Term};
use crate::start::{Acknowledged, Intent, Local, Meta};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keyfleet_litestream");
const ROW: &str = "position";
const ROW_VERSION: u8 = 2;
/// Length of the row before the replica's name, in bytes: one for the version, eight for each number, the database.
const ROW_FIXED: usize = 1 + 4 * 8 + 16;

/// Row of a file: where it stands, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) meta: Meta,
    /// Replica that the file belongs to.
    pub(crate) replica: ReplicaName,
}

/// Writes the row of a transaction.
///
/// # Errors
/// redb's.
pub(crate) fn write(txn: &WriteTransaction, meta: Meta, replica: &ReplicaName) -> Result<(), redb::Error> {
    assert!(meta.linked <= meta.commit, "a linked commit was made: {meta:?}");
    let mut row = vec![ROW_VERSION];
    for number in [meta.term.0, meta.commit.0, meta.linked.0, meta.time_ms] {
        row.extend(number.to_be_bytes());
    }
    row.extend(meta.database.0);
    row.extend(replica.as_str().as_bytes());
    txn.open_table(TABLE)?.insert(ROW, row.as_slice())?;
    Ok(())
}

/// Reads the newest row; `None` in a file that was never written through this library.
///
/// # Errors
/// redb's; [`io::ErrorKind::InvalidData`] for a row that is malformed or of another version.
pub(crate) fn read(database: &impl ReadableDatabase) -> Result<Option<Row>, redb::Error> {
    let txn = database.begin_read()?;
    let table = match txn.open_table(TABLE) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(row) = table.get(ROW)? else { return Ok(None) };
    decode(row.value()).map(Some)
}

fn decode(row: &[u8]) -> Result<Row, redb::Error> {
    if row.first() != Some(&ROW_VERSION) || row.len() <= ROW_FIXED {
        let (version, len) = (row.first().copied().unwrap_or(0), row.len());
        return Err(malformed(format!(
            "its position row has version {version} and {len} bytes: this program reads version {ROW_VERSION} alone"
        )));
    }
    let (fixed, name) = row.split_at(ROW_FIXED);
    let number = |at: usize| u64::from_be_bytes(fixed[1 + at * 8..9 + at * 8].try_into().expect("eight bytes"));
    let meta = Meta {
        database: DatabaseId(fixed[33..].try_into().expect("sixteen bytes")),
        term: Term(number(0)),
        commit: CommitNo(number(1)),
        linked: CommitNo(number(2)),
        time_ms: number(3),
    };
    if meta.linked > meta.commit {
        return Err(malformed(format!("its position row links commit {} before it was made", meta.linked)));
    }
    let name = std::str::from_utf8(name).map_err(|_| malformed("its position row names no replica".into()))?;
    let replica = ReplicaName::new(name).map_err(|error| malformed(error.to_string()))?;
    Ok(Row { meta, replica })
}

fn malformed(text: String) -> redb::Error {
    redb::Error::Io(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Position file of a database, `<file>-litestream`: the last position that is known to be acknowledged. A witness,
/// never the truth; without it a start only becomes more careful.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionFile {
    /// Database that the file belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseId>,
    /// Name of its replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
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
        let mut out = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        out.write_all(&serde_json::to_vec_pretty(self)?)?;
        out.sync_data()?;
        fs::rename(&next, &path)?;
        sync_folder(file)
    }

    /// Returns the facts that a start needs about a local file whose newest row is `meta`. What a note says of another database is
    /// nothing about this file.
    #[must_use]
    pub(crate) fn local(&self, meta: Option<Meta>) -> Local {
        let intent = self.intent.as_ref().and_then(|intent| {
            let mut nonce = [0; 16];
            hex::decode_to_slice(&intent.nonce, &mut nonce).ok()?;
            Some(Intent { seq: intent.seq, nonce, after_term: intent.after_term, after_commit: intent.after_commit })
        });
        let is_foreign = self.database.is_some_and(|noted| meta.is_some_and(|meta| meta.database != noted));
        Local {
            meta,
            acknowledged: self
                .position
                .filter(|_| !is_foreign)
                .map(|position| Acknowledged { position, commit: self.commit }),
            intent,
            adopts_over: self.adopt.as_ref().filter(|_| !is_foreign).map(|adopt| adopt.over),
            is_damaged: false,
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
