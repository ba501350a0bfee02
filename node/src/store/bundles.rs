//! The second file: what peers say and can say again, by digest. Not replicated, not sealed: all of it is public and signed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::round::{Blob, SignedMessage};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{StoreError, redb_error};

const BLOBS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("blobs");

/// First byte of a row. Rows of the first version of plans begin with 1, 2 or 3: they count as missing.
const MESSAGE: u8 = 4;

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

    /// Keeps the messages among the blobs; durable when this returns. The state file has the vectors. What is kept is never
    /// replaced, unless it cannot be read: a digest does not cover the signature.
    ///
    /// # Errors
    /// redb's.
    pub async fn keep(&self, blobs: &[Blob]) -> Result<(), StoreError> {
        if blobs.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = blobs.iter().filter_map(|blob| Some((blob.digest(), encode(blob)?))).collect();
        self.change(move |table| {
            for (digest, bytes) in &rows {
                let is_kept = table.get(&digest.0)?.is_some_and(|row| content(row.value(), digest).is_some());
                if !is_kept {
                    table.insert(&digest.0, bytes.as_slice())?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Drops all but the messages of these plans.
    ///
    /// # Errors
    /// redb's.
    pub async fn retain(&self, plans: BTreeSet<Digest>) -> Result<(), StoreError> {
        self.change(move |table| table.retain(|_, bytes| is_kept(bytes, &plans))).await
    }

    /// Returns the canonical bytes of the message that is kept under a digest, as they were kept: nothing in them is read.
    ///
    /// # Errors
    /// redb's.
    pub fn bytes(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let txn = self.0.begin_read().map_err(redb_error)?;
        let table = txn.open_table(BLOBS).map_err(redb_error)?;
        let row = table.get(&digest.0).map_err(redb_error)?;
        Ok(row.and_then(|row| row.value().strip_prefix(&[MESSAGE]).map(<[u8]>::to_vec)))
    }

    /// Returns the blob of a digest. A row whose content has another digest counts as missing: the disk, not a peer, is at fault.
    ///
    /// # Errors
    /// redb's.
    pub fn get(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let txn = self.0.begin_read().map_err(redb_error)?;
        let table = txn.open_table(BLOBS).map_err(redb_error)?;
        let row = table.get(&digest.0).map_err(redb_error)?;
        Ok(row.and_then(|row| content(row.value(), digest)))
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

fn is_kept(row: &[u8], plans: &BTreeSet<Digest>) -> bool {
    let message = row.strip_prefix(&[MESSAGE]);
    message.and_then(SignedMessage::plan_named_by).is_some_and(|plan| plans.contains(&plan))
}

/// First byte, then the message's canonical bytes.
fn encode(blob: &Blob) -> Option<Vec<u8>> {
    let Blob::Message(message) = blob else { return None };
    Some([&[MESSAGE], message.encode().as_slice()].concat())
}

/// Returns what a row keeps under its digest.
fn content(row: &[u8], digest: &Digest) -> Option<Blob> {
    decode(row).filter(|blob| blob.digest() == *digest)
}

/// Decodes what [`encode`] wrote; nothing is checked but the form.
fn decode(row: &[u8]) -> Option<Blob> {
    SignedMessage::decode(row.strip_prefix(&[MESSAGE])?).ok().map(Blob::Message)
}

#[cfg(test)]
mod tests {
    use keyfleet_threshold::identifiers::NodeIndex;
    use keyfleet_threshold::identity::IdentitySecretKey;
    use keyfleet_threshold::round::Body;

    use super::*;

    fn message(plan: u8) -> SignedMessage {
        let (index, identity) = (NodeIndex::new(1).unwrap(), IdentitySecretKey::from_seed(&[1; 32]));
        SignedMessage::sign(Digest([plan; 32]), index, Body::Erased, &identity)
    }

    /// Somebody may hand out a message again under a signature that is not its author's.
    #[tokio::test]
    async fn what_is_kept_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = BundleFile::open(&folder.path().join("bundles.redb")).unwrap();
        let good = message(1);
        let forged =
            SignedMessage::sign(good.plan, good.sender, good.body.clone(), &IdentitySecretKey::from_seed(&[2; 32]));
        assert_eq!(forged.digest(), good.digest());
        file.keep(&[Blob::Message(good.clone())]).await.unwrap();
        file.keep(&[Blob::Message(forged)]).await.unwrap();
        let kept = Some(Blob::Message(good.clone()));
        assert_eq!(file.get(&good.digest()).unwrap(), kept, "the good copy was replaced");
        let digest = good.digest();
        file.change(move |table| table.insert(&digest.0, [MESSAGE, 0].as_slice()).map(|_| ())).await.unwrap();
        file.keep(&[Blob::Message(good.clone())]).await.unwrap();
        assert_eq!(file.get(&good.digest()).unwrap(), kept, "a row that cannot be read keeps the good copy out");
    }

    /// Signed bytes that do not decode convict their sender: after a restart, too, others get them as they came.
    #[tokio::test]
    async fn a_malformed_message_survives_a_restart_as_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundles.redb");
        let honest = message(1).encode();
        let bytes = [&honest[..honest.len() - 64], &[0], &honest[honest.len() - 64..]].concat();
        let malformed = Blob::Message(SignedMessage::decode(&bytes).unwrap());
        BundleFile::open(&path).unwrap().keep(std::slice::from_ref(&malformed)).await.unwrap();
        let kept = BundleFile::open(&path).unwrap().get(&malformed.digest()).unwrap();
        assert_eq!(kept, Some(malformed));
        let Some(Blob::Message(kept)) = kept else { panic!("it is a message") };
        assert!(matches!(kept.body, Body::Malformed(_)), "it was read as something else");
        assert_eq!(kept.encode(), bytes, "others get other bytes than were signed");
    }

    #[tokio::test]
    async fn messages_live_with_their_plan_and_old_rows_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let file = BundleFile::open(&folder.path().join("bundles.redb")).unwrap();
        let (kept, dropped, old) = (message(1), message(2), message(3));
        file.keep(&[Blob::Message(kept.clone()), Blob::Message(dropped.clone())]).await.unwrap();
        let row = [&[1], old.encode().as_slice()].concat();
        let digest = old.digest();
        file.change(move |table| table.insert(&digest.0, row.as_slice()).map(|_| ())).await.unwrap();
        assert_eq!(file.get(&old.digest()).unwrap(), None, "a row of the first version was read");
        assert_eq!(file.get(&dropped.digest()).unwrap(), Some(Blob::Message(dropped.clone())));
        file.retain([Digest([1; 32]), Digest([3; 32])].into()).await.unwrap();
        assert_eq!(file.get(&kept.digest()).unwrap(), Some(Blob::Message(kept)));
        assert_eq!(file.get(&dropped.digest()).unwrap(), None, "a message outlived its plan");
        file.change(move |table| {
            assert!(table.get(&digest.0)?.is_none(), "a row of the first version was kept");
            Ok(())
        })
        .await
        .unwrap();
    }
}
