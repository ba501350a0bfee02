//! The second file: what peers say and can say again, by digest. Not replicated, not sealed: all of it is public and signed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::prekey::SignedPrekeySet;
use keyfleet_threshold::round::{Blob, SignedMessage};
use redb::{ReadableDatabase as _, TableDefinition};

use super::{StoreError, redb_error};

const BLOBS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("blobs");

/// Kinds of rows: their first byte.
const MESSAGE: u8 = 1;
const PREKEYS: u8 = 2;
const VECTOR: u8 = 3;

/// The file.
#[derive(Clone)]
pub struct BundleFile(Arc<redb::Database>);

impl BundleFile {
    /// Opens or creates it.
    ///
    /// # Errors
    /// redb's.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = redb::Database::create(path).map_err(redb_error)?;
        let txn = file.begin_write().map_err(redb_error)?;
        txn.open_table(BLOBS).map_err(redb_error)?;
        txn.commit().map_err(redb_error)?;
        Ok(Self(Arc::new(file)))
    }

    /// Keeps blobs; durable when this returns.
    ///
    /// # Errors
    /// redb's.
    pub async fn keep(&self, blobs: &[Blob]) -> Result<(), StoreError> {
        if blobs.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = blobs.iter().map(|blob| (blob.digest(), encode(blob))).collect();
        self.change(move |table| {
            for (digest, bytes) in &rows {
                table.insert(&digest.0, bytes.as_slice())?;
            }
            Ok(())
        })
        .await
    }

    /// Drops what is no longer needed: messages by the plan that they name, prekey sets by their digest.
    ///
    /// # Errors
    /// redb's.
    pub async fn retain(&self, plans: BTreeSet<Digest>, sets: BTreeSet<Digest>) -> Result<(), StoreError> {
        self.change(move |table| table.retain(|digest, bytes| is_kept(digest, bytes, &plans, &sets))).await
    }

    /// Returns the blob of a digest. A row whose content has another digest counts as missing: the disk, not a peer, is at fault.
    ///
    /// # Errors
    /// redb's.
    pub fn get(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let txn = self.0.begin_read().map_err(redb_error)?;
        let table = txn.open_table(BLOBS).map_err(redb_error)?;
        let row = table.get(&digest.0).map_err(redb_error)?;
        Ok(row.and_then(|bytes| decode(bytes.value())).filter(|blob| blob.digest() == *digest))
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static [u8; 32], &'static [u8]>) -> Result<(), redb::StorageError>
        + Send
        + 'static,
    ) -> Result<(), StoreError> {
        let file = self.0.clone();
        let committed = tokio::task::spawn_blocking(move || {
            let mut txn = file.begin_write().map_err(redb_error)?;
            // Peers choose the contents: with one sync a crafted page could pass for a commit (redb's design notes).
            txn.set_two_phase_commit(true);
            change(&mut txn.open_table(BLOBS).map_err(redb_error)?).map_err(redb_error)?;
            txn.commit().map_err(redb_error)
        });
        committed.await.map_err(|_| StoreError::Stopped)?
    }
}

fn is_kept(digest: &[u8; 32], bytes: &[u8], plans: &BTreeSet<Digest>, sets: &BTreeSet<Digest>) -> bool {
    match bytes.split_first() {
        Some((&MESSAGE, bytes)) => SignedMessage::plan_named_by(bytes).is_some_and(|plan| plans.contains(&plan)),
        Some((&PREKEYS, _)) => sets.contains(&Digest(*digest)),
        Some((&VECTOR, _)) => true,
        _ => false,
    }
}

/// Kind (1 byte), then the canonical bytes: as a peer receives it.
#[must_use]
pub fn encode(blob: &Blob) -> Vec<u8> {
    let (kind, bytes) = match blob {
        Blob::Message(message) => (MESSAGE, message.encode()),
        Blob::Prekeys(set) => (PREKEYS, set.encode()),
        Blob::Vector(vector) => (VECTOR, vector.encode()),
    };
    [&[kind], bytes.as_slice()].concat()
}

/// Decodes what [`encode`] wrote; nothing is checked but the form.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Blob> {
    let (kind, bytes) = bytes.split_first()?;
    match *kind {
        MESSAGE => SignedMessage::decode(bytes).ok().map(Blob::Message),
        PREKEYS => SignedPrekeySet::decode(bytes).ok().map(Blob::Prekeys),
        VECTOR => VerificationVector::decode(bytes).ok().map(Blob::Vector),
        _ => None,
    }
}
