//! Volume that a caller's pod has mounted: one projected volume with the fleet's public facts, the namespace, and a token for
//! each node. With it nothing is asked of the API server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyfleet_api::wire::{FleetRecord, KMS_PORT, RecordError, record};

use crate::{Client, Direct, Fleet, FleetError, Patience, TokenFiles};

/// Where callers' pods mount the volume unless they choose otherwise.
pub const MOUNT_PATH: &str = "/var/run/secrets/keyfleet.dev";
/// The file with the namespace of the fleet, below the mount.
pub const NAMESPACE_FILE: &str = "namespace";
/// The folder with a token for each node, `<index>`, below the mount.
pub const TOKENS_FOLDER: &str = "tokens";

fn read_text(folder: &Path, name: &str) -> Result<String, MountedError> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).map_err(|source| MountedError::File { path, source })
}

/// A mounted volume, read.
#[derive(Clone, PartialEq, Debug)]
pub struct Mounted {
    /// The fleet's public facts: `client.json` of the ConfigMap `<cluster>-record`.
    pub record: FleetRecord,
    /// The fleet's namespace. A ConfigMap is mounted from the pod's own.
    pub namespace: String,
    /// The tokens. The kubelet renews them in place, and they are read at every use.
    pub tokens: TokenFiles,
}

/// Why a mounted volume cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountedError {
    /// A file cannot be read.
    #[error("{path}: {source}; mount the volume that `keyfleet pod-volume` prints", path = path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file `client.json` holds no record.
    #[error("{path}: {source}", path = path.display())]
    Record {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: RecordError,
    },
    /// No client can be made of the record.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

impl Mounted {
    /// Reads a volume that is mounted at `folder`; see [`MOUNT_PATH`].
    ///
    /// # Errors
    /// When a file is missing or no record: the message says which.
    pub fn read(folder: &Path) -> Result<Self, MountedError> {
        let record = FleetRecord::parse(&read_text(folder, record::FILE)?);
        let record = record.map_err(|source| MountedError::Record { path: folder.join(record::FILE), source })?;
        let namespace = read_text(folder, NAMESPACE_FILE)?.trim().to_owned();
        Ok(Self { record, namespace, tokens: TokenFiles(folder.join(TOKENS_FOLDER)) })
    }

    /// A client that reaches the nodes by their host names. Nodes that join later are known to a client made later.
    ///
    /// # Errors
    /// When no client can be made of the record.
    pub fn client(&self, patience: Patience) -> Result<Client, MountedError> {
        let fleet = Fleet::try_from(&self.record)?;
        let dial = Direct::by_host_names(&fleet, &self.record.cluster, &self.namespace, KMS_PORT);
        Ok(Client::new(fleet, Arc::new(dial), Arc::new(self.tokens.clone()), patience))
    }
}
