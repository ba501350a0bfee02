//! Place of a restored file: the file that is there, the scratch file beside it, and the name that it gets.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::RestoreError;
use crate::meta::{self, PositionFile};

/// Lock of the file that a restore replaces: redb's own, so that nobody has it open, and nobody opens it.
pub(super) struct Held {
    file: fs::File,
}

impl Held {
    /// Takes the lock; `None` where there is no file.
    pub(super) fn take(path: &Path) -> Result<Option<Self>, RestoreError> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(fs::TryLockError::WouldBlock) => Err(RestoreError::InUse(path.into())),
            Err(fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Gives owner and mode of the file to the one that takes its place.
    pub(super) fn pass_on(&self, to: &Path) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        // Where the right to give a file away is missing, it stays ours.
        if let Err(error) = chown(to, Some(metadata.uid()), Some(metadata.gid())) {
            tracing::debug!(%error, "the owner of the file is not passed on");
        }
        fs::set_permissions(to, metadata.permissions())
    }
}

/// Scratch file beside a database. Deleted unless it gets the database's name.
pub(super) struct Scratch(Option<PathBuf>);

impl Scratch {
    /// Chooses a name beside `file`, and clears away what restores of it left that were killed.
    ///
    /// # Errors
    /// Error of the file system.
    pub(super) fn beside(file: &Path) -> io::Result<Self> {
        clear_scratch(file)?;
        let random = hex::encode(rand::random::<[u8; 6]>());
        Ok(Self(Some(meta::beside(file, &format!("{SCRATCH}{random}")))))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.as_deref().expect("it has its own name until the end")
    }

    /// Gives the file the name of the database, durably.
    ///
    /// # Errors
    /// Error of the file system.
    pub(super) fn take_name(mut self, file: &Path) -> io::Result<()> {
        fs::rename(self.path(), file)?;
        self.0 = None;
        meta::sync_folder(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Part of a scratch file's name between the database's name and random digits.
const SCRATCH: &str = ".restoring-";

/// Deletes the scratch files of restores of `path` that were killed. Those of restores that run are locked.
fn clear_scratch(path: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let prefix = format!("{}{SCRATCH}", name.to_string_lossy());
    for entry in entries {
        let entry = entry?;
        let is_scratch = entry
            .file_name()
            .to_string_lossy()
            .strip_prefix(&prefix)
            .is_some_and(|random| random.len() == 12 && random.chars().all(|digit| digit.is_ascii_hexdigit()));
        if is_scratch && fs::File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            tracing::info!(path = %entry.path().display(), "a restore that was killed left this: it is deleted");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Moves a file out of the way without deleting it, to `<file>.<why>-<time>-<random>`. Returns the new path.
///
/// # Errors
/// Error of the file system.
pub(crate) fn set_aside(path: &Path, why: &str) -> io::Result<PathBuf> {
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
