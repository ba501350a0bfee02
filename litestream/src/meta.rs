//! What a database file says about itself: the row that every transaction writes, and the note beside the file.

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

/// Writes the row of this transaction.
///
/// # Errors
/// redb's.
pub fn write(txn: &WriteTransaction, meta: Meta) -> Result<(), redb::Error> {
    let mut row = [0; 33];
    row[0] = ROW_VERSION;
    for (at, number) in [meta.term.0, meta.commit.0, meta.linked.0, meta.time_ms].into_iter().enumerate() {
        row[1 + at * 8..9 + at * 8].copy_from_slice(&number.to_be_bytes());
    }
    txn.open_table(TABLE)?.insert(ROW, row.as_slice())?;
    Ok(())
}

/// Reads the newest row; none in a file that was never written through this library.
///
/// # Errors
/// redb's; [`io::ErrorKind::InvalidData`] for a row of another version.
pub fn read(database: &impl ReadableDatabase) -> Result<Option<Meta>, redb::Error> {
    let txn = database.begin_read()?;
    let table = match txn.open_table(TABLE) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(row) = table.get(ROW)? else { return Ok(None) };
    let row = row.value();
    if row.len() != 33 || row[0] != ROW_VERSION {
        let text = format!("the position row has version {:?} and {} bytes", row.first(), row.len());
        return Err(redb::Error::Io(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    let number = |at: usize| u64::from_be_bytes(row[1 + at * 8..9 + at * 8].try_into().expect("eight bytes"));
    Ok(Some(Meta {
        term: Term(number(0)),
        commit: CommitNo(number(1)),
        linked: CommitNo(number(2)),
        time_ms: number(3),
    }))
}

/// The note beside a database file, `<file>-litestream`: what is known beyond the file's own content. It is a
/// witness, never the truth; without it a start only becomes more careful.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionFile {
    /// Last position known to be acknowledged and included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Its last commit.
    #[serde(default)]
    pub commit: CommitNo,
    /// An opening that was about to leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<SavedIntent>,
    /// A floor that was overridden on purpose when this file was restored, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<String>,
}

/// See [`Intent`].
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
    /// The note's place.
    #[must_use]
    pub fn path(file: &Path) -> PathBuf {
        beside(file, "-litestream")
    }

    /// Reads the note of a file; the default when there is none or it cannot be understood.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let Ok(text) = fs::read(Self::path(file)) else { return Self::default() };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %Self::path(file).display(), "the note beside the database is unreadable");
            Self::default()
        })
    }

    /// Replaces the note, durably.
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

    /// What a start needs to know of a local file.
    #[must_use]
    pub fn local(&self, meta: Option<Meta>) -> Local {
        let intent = self.intent.as_ref().and_then(|intent| {
            let mut nonce = [0; 16];
            hex::decode_to_slice(&intent.nonce, &mut nonce).ok()?;
            Some(Intent { seq: intent.seq, nonce, after_term: intent.after_term, after_commit: intent.after_commit })
        });
        Local {
            meta,
            acknowledged: self.position.map(|position| Acknowledged { position, commit: self.commit }),
            intent,
        }
    }
}

/// `file` with something appended to its name.
#[must_use]
pub fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a rename or a new name in `file`'s folder durable.
///
/// # Errors
/// The file system's.
pub fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}
