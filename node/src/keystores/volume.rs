//! The key store on the volume: the folder `seal/`, one file per entry, each durable before its name is.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Entries, KeyStore, KeyStoreError, StoreKind};

/// The folder.
#[derive(Clone, Debug)]
pub struct VolumeStore {
    folder: PathBuf,
    kind: StoreKind,
}

impl VolumeStore {
    /// Opens or makes the folder, readable by its owner alone.
    ///
    /// # Errors
    /// When it cannot be made, or others may read it.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, KeyStoreError> {
        Self::open_as(StoreKind::Volume, folder)
    }

    /// A folder in the place of the Secret: for development outside Kubernetes, where there is none.
    ///
    /// # Errors
    /// As [`VolumeStore::open`].
    pub fn open_as(kind: StoreKind, folder: impl Into<PathBuf>) -> Result<Self, KeyStoreError> {
        let folder = folder.into();
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => sync_folder(folder.parent().unwrap_or(&folder)).map_err(|error| failed(kind, &folder, &error))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(kind, &folder, &error)),
        }
        let mode = fs::metadata(&folder).map_err(|error| failed(kind, &folder, &error))?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            let what = format!("{} has mode {mode:o}: others may read it; chmod it to 0700", folder.display());
            return Err(KeyStoreError::new(kind, what));
        }
        Ok(Self { folder, kind })
    }

    fn read_all(&self) -> io::Result<Entries> {
        let mut entries = Entries::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let Ok(name) = file.file_name().into_string() else { continue };
            // A name that begins with a dot is a write that was interrupted.
            if !name.starts_with('.') {
                entries.insert(name, fs::read(file.path())?);
            }
        }
        Ok(entries)
    }

    fn change_all(&self, put: &Entries, remove: &BTreeSet<String>) -> io::Result<()> {
        for (name, bytes) in put {
            let (temporary, path) = (self.folder.join(format!(".{name}")), self.folder.join(name));
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
        }
        sync_folder(&self.folder)?;
        for name in remove {
            match wipe(&self.folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        if remove.is_empty() { Ok(()) } else { sync_folder(&self.folder) }
    }
}

#[async_trait]
impl KeyStore for VolumeStore {
    fn kind(&self) -> StoreKind {
        self.kind
    }

    async fn read(&self) -> Result<Entries, KeyStoreError> {
        let key_store = self.clone();
        blocking(move || key_store.read_all()).await
    }

    async fn change(&self, put: &Entries, remove: &BTreeSet<String>) -> Result<(), KeyStoreError> {
        let (key_store, put, remove) = (self.clone(), put.clone(), remove.clone());
        blocking(move || key_store.change_all(&put, &remove)).await
    }
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, KeyStoreError> {
    let done = tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| KeyStoreError::new(StoreKind::Volume, error.to_string()))
}

fn failed(kind: StoreKind, folder: &Path, error: &io::Error) -> KeyStoreError {
    KeyStoreError::new(kind, format!("{}: {error}", folder.display()))
}

/// Overwrites, then unlinks. What a disk below keeps of it is wrapped, and unreadable without the key-encryption key.
fn wipe(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    io::copy(&mut io::repeat(0).take(length), &mut file)?;
    file.sync_all()?;
    fs::remove_file(path)
}

/// Writes a file so that it is durable before its name is.
///
/// # Errors
/// The volume's.
pub(crate) fn durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Wipes every file in a folder and in those below it, and removes all but the file `kept` in itself. Done again it does no
/// harm.
///
/// # Errors
/// The volume's.
pub(crate) fn wipe_folder(folder: &Path, kept: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // The filesystem's own folder is not the node's.
        if entry.file_name() == kept || entry.file_name() == "lost+found" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            wipe_folder(&entry.path(), "")?;
            fs::remove_dir(entry.path())?;
        } else {
            wipe(&entry.path())?;
        }
    }
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interrupted_write_is_not_seen_and_a_removed_entry_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let key_store = VolumeStore::open(folder.path().join("seal")).unwrap();
        let put = Entries::from([("node".to_owned(), vec![1, 2]), ("data-1".to_owned(), vec![3])]);
        key_store.change(&put, &BTreeSet::new()).await.unwrap();
        fs::write(folder.path().join("seal/.data-2"), [9]).unwrap();
        assert_eq!(key_store.read().await.unwrap(), put, "half a write was read");
        let gone = BTreeSet::from(["data-1".to_owned(), "data-7".to_owned()]);
        key_store.change(&Entries::new(), &gone).await.unwrap();
        assert_eq!(key_store.read().await.unwrap().keys().collect::<Vec<_>>(), ["node"]);
    }

    /// seed: 003-40, 003-58
    #[test]
    fn a_folder_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let seal = folder.path().join("seal");
        fs::create_dir(&seal).unwrap();
        fs::set_permissions(&seal, fs::Permissions::from_mode(0o755)).unwrap();
        let error = VolumeStore::open(&seal).unwrap_err().to_string();
        assert!(error.contains("chmod"), "the refusal does not say what to do: {error}");
    }
}
