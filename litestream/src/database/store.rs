//! Local file, opened for writing through the recorder. From here on it is locked.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;

use super::error::OpenError;
use super::options::Options;
use crate::meta::{self, Row};
use crate::position::{CommitNo, DatabaseId, Term};
use crate::recorder::{Recorder, Tape};
use crate::restore::Restored;
use crate::start::{Local, Meta};

/// Database that is open, and the tape of what it writes.
pub(super) struct Store {
    pub(super) redb: Arc<redb::Database>,
    pub(super) tape: Tape,
    row: Option<Row>,
    path: PathBuf,
    is_new: bool,
}

/// File that a start has looked at. Whatever else lies there when it is opened was changed meanwhile.
pub(super) enum Expected {
    /// No file: a database is made.
    Nothing,
    /// File that stands at this place; `None` where it was never replicated.
    At(Option<(DatabaseId, Term, CommitNo)>),
}

impl Expected {
    pub(super) fn local(local: Local) -> Self {
        Self::At(local.meta.map(|meta| (meta.database, meta.term, meta.commit)))
    }

    pub(super) fn restored(restored: &Restored) -> Self {
        Self::At(Some((restored.database, restored.position.term, restored.commit)))
    }
}

impl Store {
    /// Opens the file that was looked at. A file that is gone is no empty database: redb would make one of it.
    ///
    /// # Errors
    /// [`OpenError::Changed`] when another file lies there, or none; errors of redb and of the disk.
    pub(super) fn open(options: &Options, expected: &Expected) -> Result<Self, OpenError> {
        let path = &options.path;
        let is_new = matches!(expected, Expected::Nothing);
        let file = File::options().read(true).write(true).create_new(is_new).open(path);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::NotFound if !is_new => OpenError::Changed(path.clone()),
            ErrorKind::AlreadyExists => OpenError::Changed(path.clone()),
            _ => error.into(),
        })?;
        if !is_new && file.metadata()?.len() == 0 {
            return Err(OpenError::Changed(path.clone()));
        }
        let (recorder, tape) = Recorder::new(FileBackend::new(file).map_err(|error| storage_error(path, error))?);
        let redb = redb::Builder::new()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(recorder)
            .map_err(|error| storage_error(path, error))?;
        tape.set_limit(options.queue_bytes);
        let row = meta::read(&redb).map_err(|error| storage_error(path, error))?;
        let found = row.as_ref().map(|Row { meta, .. }| (meta.database, meta.term, meta.commit));
        if matches!(expected, Expected::At(expected) if *expected != found) {
            return Err(OpenError::Changed(path.clone()));
        }
        Ok(Self { redb: Arc::new(redb), tape, row, path: path.clone(), is_new })
    }

    /// Returns the newest row; the default in a file that was never replicated.
    pub(super) fn meta(&self) -> Meta {
        self.row.as_ref().map(|row| row.meta).unwrap_or_default()
    }

    /// Closes the file again. One that was made here goes: it holds nothing.
    pub(super) fn discard(self) -> std::io::Result<()> {
        let Self { redb, tape, path, is_new, .. } = self;
        drop((redb, tape));
        if is_new { std::fs::remove_file(path) } else { Ok(()) }
    }
}

pub(super) fn storage_error(path: &Path, error: impl Into<redb::Error>) -> OpenError {
    OpenError::Storage { path: path.to_owned(), error: error.into() }
}
