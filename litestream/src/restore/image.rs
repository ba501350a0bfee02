//! File that a restore builds, and the check that it passes before it gets its name.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::{RestoreError, Restored};
use crate::format::{Commit, Op};
use crate::meta::{self, Row};

/// Scratch file while it is built.
pub(super) struct Image {
    file: File,
}

impl Image {
    /// Creates the file from a zstd frame that decompresses to `file_len` bytes.
    pub(super) async fn create(path: &Path, frame: &[u8], file_len: u64) -> Result<Self, RestoreError> {
        let file = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // While it is held, no other restore takes the file for one that a killed process left.
        file.lock()?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        zstd::stream::copy_decode(frame, &mut out)?;
        out.flush()?;
        drop(out);
        if file.metadata()?.len() != file_len {
            return Err(RestoreError::Length { expected: file_len, found: file.metadata()?.len() });
        }
        tokio::task::yield_now().await;
        Ok(Self { file })
    }

    /// Writes the operations of commits into the file.
    pub(super) fn apply(&mut self, commits: &[Commit]) -> io::Result<()> {
        for op in commits.iter().flat_map(|commit| &commit.ops) {
            match op {
                Op::SetLen(len) => self.file.set_len(*len)?,
                Op::Write(offset, bytes) => self.file.write_all_at(bytes, *offset)?,
            }
        }
        Ok(())
    }

    /// Makes the file durable. Returns its length in bytes, which must be the expected one where that is given.
    pub(super) fn finish(self, expected: Option<u64>) -> Result<u64, RestoreError> {
        self.file.sync_all()?;
        let found = self.file.metadata()?.len();
        match expected {
            Some(expected) if expected != found => Err(RestoreError::Length { expected, found }),
            _ => Ok(found),
        }
    }
}

/// Lets redb check the whole file, and compares the file's own row with the end of the chain.
pub(crate) fn check_file(path: &Path, restored: &Restored) -> Result<(), RestoreError> {
    if fs::metadata(path)?.len() == 0 {
        // redb would make a new database of it.
        return Err(RestoreError::Length { expected: restored.file_len, found: 0 });
    }
    let mut database = redb::Builder::new().open(path).map_err(integrity)?;
    if !database.check_integrity().map_err(integrity)? {
        return Err(RestoreError::Integrity("redb found it necessary to repair the file".into()));
    }
    let found = meta::read(&database).map_err(integrity)?;
    match found {
        Some(Row { meta, .. })
            if (meta.database, meta.term, meta.commit)
                == (restored.database, restored.position.term, restored.commit) =>
        {
            Ok(())
        }
        found => Err(RestoreError::Integrity(format!(
            "the chain of database {} ends with term {}, commit {}, the file says {:?}",
            restored.database,
            restored.position.term,
            restored.commit,
            found.map(|row| row.meta)
        ))),
    }
}

fn integrity(error: impl std::error::Error) -> RestoreError {
    RestoreError::Integrity(error.to_string())
}
