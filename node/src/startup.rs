//! From a configuration to the parts of a node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::node_config::S3_CA_FOLDER;
use keyfleet_crds::cluster::Replication;
use keyfleet_crds::cluster::storage::S3;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_litestream::authorities::{Authorities, AuthoritiesError};
use keyfleet_litestream::bucket::{ErrorKind, Location, RetryPolicy};
use keyfleet_litestream::database::{OpenError, Options};
use keyfleet_litestream::discover::DiscoverError;
use keyfleet_litestream::format::ReplicaName;
use keyfleet_litestream::restore::RestoreError;
use keyfleet_litestream::start::Permissions;
use keyfleet_litestream::{Database, Position, keys};

use crate::config::{Config, KeyError};
use crate::keystores::volume::VolumeStore;
use crate::keystores::{KeyStore, KeyStoreError};
use crate::round::Parts;
use crate::seal::KeyRing;
use crate::store::bundles::BundleFile;
use crate::store::{Backing, StoreError};

/// A round's commit waits so long for the bucket before it is tried again.
pub(crate) const ACKNOWLEDGE: Duration = Duration::from_secs(10);

/// A node that starts while the bucket says nothing at all serves from its volume after a minute and a half; one whose bucket
/// refuses connections does at once.
const RETRY: RetryPolicy = RetryPolicy {
    attempt_timeout: Duration::from_secs(30),
    read_attempts: 3,
    backoff_min: Duration::from_millis(100),
    backoff_max: Duration::from_secs(10),
};

/// The state file, in the state folder.
pub(crate) const STATE: &str = "state.redb";
/// Beside it while it was restored and the node has not yet noted that it must abstain.
pub(crate) const RESTORED: &str = "restored";

/// Why the parts are not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// A key-encryption key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key store.
    #[error(transparent)]
    KeyStore(#[from] KeyStoreError),
    /// A file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The replica's name or key does not fit its format.
    #[error("replication: {0}")]
    Replica(String),
    /// Who may sign the bucket's certificate is not known.
    #[error("replication: {0}")]
    Authorities(#[from] AuthoritiesMissing),
    /// The volume.
    #[error("the volume: {0}")]
    Io(#[from] std::io::Error),
    /// The replicated file was not opened.
    #[error("replication: {0}")]
    Open(#[from] OpenError),
}

impl AssembleError {
    /// What it concerns, and the condition reason.
    #[must_use]
    pub fn concerns(&self) -> (ProblemAbout, Reason) {
        match self {
            Self::Key(fault) => (ProblemAbout::KeyEncryption, fault.reason()),
            Self::KeyStore(_) | Self::Store(_) | Self::Io(_) => (ProblemAbout::Seal, Reason::Starting),
            Self::Replica(_) => (ProblemAbout::Replication, Reason::NotConfigured),
            Self::Authorities(_) => (ProblemAbout::Replication, Reason::AuthoritiesMissing),
            Self::Open(fault) => (ProblemAbout::Replication, open_reason(fault)),
        }
    }
}

/// The condition reason of what a bucket answers.
pub(crate) fn bucket_reason(kind: ErrorKind) -> Reason {
    match kind {
        ErrorKind::NoBucket => Reason::BucketMissing,
        ErrorKind::Denied | ErrorKind::Credentials | ErrorKind::ClockSkew => Reason::CredentialsRefused,
        _ => Reason::ReplicaUnavailable,
    }
}

fn open_reason(fault: &OpenError) -> Reason {
    match fault {
        OpenError::Discover(DiscoverError::Bucket(error)) | OpenError::Restore(RestoreError::Bucket(error)) => {
            bucket_reason(error.kind)
        }
        OpenError::Key(_) => Reason::KeyEncryptionKeyWrong,
        _ => Reason::ReplicaUnavailable,
    }
}

/// Opens what a configuration names. `secret` is the key store in the API server.
///
/// # Errors
/// What is missing, and what to do.
pub async fn assemble(config: &Config, secret: Arc<dyn KeyStore>) -> Result<Parts, AssembleError> {
    let ring = config.key_ring(|name| std::env::var(name).ok())?;
    let volume: Arc<dyn KeyStore> = Arc::new(VolumeStore::open(config.data().join("seal"))?);
    let state = config.data().join(STATE);
    let backing = match &config.file.replication {
        None => Backing::local(&state)?,
        Some(replication) => {
            let floor = highest_floor(&*volume, &*secret).await?;
            let mut options = options(config, replication, &ring)?;
            options.floor = floor;
            // Only where neither key store has a floor may there be no replica yet.
            options.permissions = Permissions { new_replica: floor.is_none(), unproven: true, contradicted: true };
            let database = Database::open(options).await?;
            let mark = config.data().join(RESTORED);
            let restored = database.started().restored.is_some() || mark.exists();
            if restored {
                std::fs::write(&mark, [])?;
            }
            Backing::Replicated { database, timeout: ACKNOWLEDGE, restored }
        }
    };
    let bundles = BundleFile::open(&config.data().join("bundles.redb"))?;
    Ok(Parts { backing, bundles, volume, secret, ring })
}

pub(crate) fn options(config: &Config, replication: &Replication, ring: &KeyRing) -> Result<Options, AssembleError> {
    let name = ReplicaName::new(format!("{}/{}", config.cluster, config.index));
    let name = name.map_err(|error| AssembleError::Replica(error.to_string()))?;
    let location = location(&replication.s3, &format!("{}/{}", config.cluster, config.index))?;
    let keys = ring.keys().map(|key| keys::KeyEncryptionKey::new(key.id(), *key.expose()));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|error| AssembleError::Replica(error.to_string()))?;
    let keys = keys::KeyRing { key_encryption_keys: keys, ..keys::KeyRing::default() };
    Ok(Options { retry: RETRY, ..Options::new(config.data().join(STATE), name, location, Arc::new(keys)) })
}

/// A folder of the bucket, below the prefix that the cluster names. Credentials are the environment's.
///
/// # Errors
/// When the ConfigMap of authorities is named and not there, or does not hold certificates.
pub(crate) fn location(s3: &S3, folder: &str) -> Result<Location, AuthoritiesMissing> {
    let prefix = s3.prefix.iter().map(String::as_str).chain((!folder.is_empty()).then_some(folder));
    Ok(Location {
        bucket: s3.bucket.clone(),
        prefix: prefix.collect::<Vec<_>>().join("/"),
        region: Some(s3.region.clone()),
        endpoint: s3.endpoint.clone(),
        force_path_style: Some(s3.force_path_style),
        credentials: None,
        authorities: s3.ca_config_map.as_ref().map(|name| authorities(Path::new(S3_CA_FOLDER), name)).transpose()?,
    })
}

/// The certificates that a ConfigMap holds, as it is mounted.
fn authorities(folder: &Path, config_map: &str) -> Result<Authorities, AuthoritiesMissing> {
    Authorities::read(&folder.join("ca.crt"))
        .map_err(|error| AuthoritiesMissing { config_map: config_map.to_owned(), error })
}

/// `spec.replication.s3.caConfigMap` names what cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "spec.replication.s3.caConfigMap: the ConfigMap {config_map} must hold the certificates that the bucket's server may be \
     signed by, as PEM under the key ca.crt. {error}"
)]
pub struct AuthoritiesMissing {
    /// Its name.
    pub config_map: String,
    /// What is wrong.
    pub error: AuthoritiesError,
}

/// The floor that a key store names.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn floor(key_store: &dyn KeyStore) -> Result<Option<Position>, KeyStoreError> {
    let entries = key_store.read().await?;
    let text = entries.get("floor").map(|bytes| String::from_utf8_lossy(bytes));
    let position = text
        .map(|text| text.parse().map_err(|_| KeyStoreError::new(key_store.kind(), format!("`{text}` is no floor"))));
    position.transpose()
}

/// The higher of the two key stores' floors. A Secret that cannot be read leaves the volume's.
async fn highest_floor(volume: &dyn KeyStore, secret: &dyn KeyStore) -> Result<Option<Position>, KeyStoreError> {
    let volume = floor(volume).await?;
    let secret = match floor(secret).await {
        Ok(secret) => secret,
        Err(fault) => {
            tracing::warn!(%fault, "the floor is the volume's alone");
            None
        }
    };
    Ok([volume, secret].into_iter().flatten().max_by_key(|position| position.seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_are_missing_or_none_say_which_config_map_and_which_key() {
        let folder = tempfile::tempdir().unwrap();
        let missing = authorities(folder.path(), "our-ca").expect_err("there is no file").to_string();
        assert!(missing.contains("ConfigMap our-ca") && missing.contains("key ca.crt"), "{missing}");
        std::fs::write(folder.path().join("ca.crt"), "not a certificate").unwrap();
        let wrong = authorities(folder.path(), "our-ca").expect_err("there is no certificate").to_string();
        assert!(wrong.contains("ConfigMap our-ca") && wrong.contains("no certificate"), "{wrong}");
    }
}
