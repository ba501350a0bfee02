//! The end of a node, for good: with `deletionPolicy: Destroy` it destroys everything secret that it has, and says so.
//!
//! | order | what | a crash after it |
//! |---|---|---|
//! | 1 | the signed statement is on the volume: the point of no return | the next start goes on here, and runs no node |
//! | 2 | the volume's key store is wiped, everything else on the volume is gone | as above |
//! | 3 | the Secret `<node>-seal` is gone | as above |
//! | 4 | `status.node.erased` shows the statement | nothing is left to do |
//!
//! Whoever reads the statement in the API server knows that both key stores are empty. The bucket's copies of the state file
//! are sealed under data keys that were in these key stores alone.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use keyfleet_api::erasure;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::identity::{IdentitySecretKey, Signature};

use crate::apiserver::ApiServer;
use crate::apiserver::seal::SealSecret;
use crate::keystores::KeyStoreError;
use crate::keystores::volume::{durably, wipe_folder};

/// The statement's name on the volume, beside nothing else in the end.
const STATEMENT: &str = "erased";
const RETRY: Duration = Duration::from_secs(2);

/// Why the end of a node is not complete yet.
#[derive(Debug, thiserror::Error)]
enum EraseError {
    #[error("the volume: {0}")]
    Volume(#[from] io::Error),
    #[error(transparent)]
    Secret(#[from] KeyStoreError),
    #[error("this node's KmsNode: {0}")]
    Statement(#[from] kube::Error),
}

/// A node that is to be no more.
pub(crate) struct Ending(Signature);

impl Ending {
    /// The statement of an ending that was begun, from the volume.
    ///
    /// # Errors
    /// When the volume cannot be read.
    pub(crate) fn begun(data: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(data.join(STATEMENT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => {
                let signature = <[u8; 64]>::try_from(read?.as_slice()).map_err(io::Error::other)?;
                Ok(Some(Self(Signature(signature))))
            }
        }
    }

    /// Begins: from here on there is no way back.
    ///
    /// # Errors
    /// When the volume does not take it; then nothing has begun.
    pub(crate) fn begin(data: &Path, owner: (ClusterId, NodeIndex), identity: &IdentitySecretKey) -> io::Result<Self> {
        let statement = erasure::sign(owner.0, owner.1, identity);
        durably(&data.join(STATEMENT), &statement.0)?;
        Ok(Self(statement))
    }

    /// Goes on to the end, as often as something does not answer, or until `stop` resolves.
    pub(crate) async fn go_on(self, data: &Path, server: &ApiServer, stop: impl Future<Output = ()>) {
        let all = async {
            loop {
                match self.once(data, server).await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(%error, "the end of this node is not complete yet; it goes on"),
                }
                tokio::time::sleep(RETRY).await;
            }
            tracing::info!("everything secret of this node is destroyed, and the API server shows its statement");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = all => {}
            () = stop => {}
        }
    }

    async fn once(&self, data: &Path, server: &ApiServer) -> Result<(), EraseError> {
        wipe_folder(data, STATEMENT)?;
        SealSecret::new(server).delete().await?;
        Ok(server.say_erased(self.0).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A restart goes on with an ending that was begun; in the end the statement alone is on the volume.
    #[test]
    fn an_ending_goes_on_and_leaves_the_statement_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let (owner, identity) =
            ((ClusterId([7; 16]), NodeIndex::new(2).unwrap()), IdentitySecretKey::from_seed(&[3; 32]));
        assert!(Ending::begun(data).unwrap().is_none(), "nobody said so");
        std::fs::create_dir_all(data.join("seal")).unwrap();
        for file in ["seal/identity", "seal/.data-1", "state.redb", "bundles.redb", "restored"] {
            std::fs::write(data.join(file), b"secret").unwrap();
        }
        let begun = Ending::begin(data, owner, &identity).unwrap();
        let again = Ending::begun(data).unwrap().expect("a restart knows it");
        assert_eq!(again.0, begun.0);
        wipe_folder(data, STATEMENT).unwrap();
        let left: Vec<_> = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [STATEMENT], "something is left on the volume");
        assert!(erasure::is_signed(owner.0, owner.1, &identity.public(), &again.0));
        std::fs::write(data.join(STATEMENT), b"half").unwrap();
        assert!(Ending::begun(data).is_err(), "a malformed statement is no reason to run a node");
    }
}
