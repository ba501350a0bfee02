//! From a configuration to the parts of a node.

use std::sync::Arc;
use std::time::Duration;

use keyfleet_crds::cluster::Replication;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_litestream::bucket::RetryPolicy;
use keyfleet_litestream::database::{OpenError, Options};
use keyfleet_litestream::discover::DiscoverError;
use keyfleet_litestream::format::ReplicaName;
use keyfleet_litestream::restore::RestoreError;
use keyfleet_litestream::start::Permissions;
use keyfleet_litestream::{Database, Position, keys};

use super::recover::Parts;
use crate::apiserver::ApiServer;
use crate::apiserver::seal::SealSecret;
use crate::config::{Config, KeyError};
use crate::keystores::decision::StoreKind;
use crate::keystores::secret::SecretStore;
use crate::keystores::volume::VolumeStore;
use crate::keystores::{KeyStore, KeyStoreError};
use crate::seal::KeyRing;
use crate::store::backing::ACKNOWLEDGE;
use crate::store::bundles::BundleFile;
use crate::store::replica::{CaConfigMapError, bucket_reason, location};
use crate::store::{Backing, StoreError};

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
pub(crate) enum AssembleError {
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
    /// The bucket's certificate authorities are not known.
    #[error("replication: {0}")]
    CaConfigMap(#[from] CaConfigMapError),
    /// The volume.
    #[error("the volume: {0}")]
    Io(#[from] std::io::Error),
    /// Neither the API server nor a folder in its place.
    #[error(
        "no API server was found, and secondHome is not set; run the node in a pod, or set secondHome for development"
    )]
    Nowhere,
    /// The replicated file was not opened.
    #[error("replication: {0}")]
    Open(#[from] OpenError),
}

impl AssembleError {
    /// Returns the thing that the problem is about, and the condition reason.
    #[must_use]
    pub(crate) fn concerns(&self) -> (ProblemAbout, Reason) {
        match self {
            Self::Key(error) => (ProblemAbout::KeyEncryption, error.reason()),
            Self::KeyStore(_) | Self::Store(_) | Self::Io(_) | Self::Nowhere => (ProblemAbout::Seal, Reason::Starting),
            Self::Replica(_) => (ProblemAbout::Replication, Reason::NotConfigured),
            Self::CaConfigMap(_) => (ProblemAbout::Replication, Reason::AuthoritiesMissing),
            Self::Open(error) => (ProblemAbout::Replication, open_reason(error)),
        }
    }
}

fn open_reason(error: &OpenError) -> Reason {
    match error {
        OpenError::Discover(DiscoverError::Bucket(error)) | OpenError::Restore(RestoreError::Bucket(error)) => {
            bucket_reason(error.kind)
        }
        OpenError::Key(_) => Reason::KeyEncryptionKeyWrong,
        _ => Reason::ReplicaUnavailable,
    }
}

/// Returns the key store beside the volume: the Secret, or the folder in its place.
///
/// # Errors
/// When there is neither, or the folder cannot be used.
pub(crate) fn secret_store(config: &Config, server: Option<&ApiServer>) -> Result<Arc<dyn KeyStore>, AssembleError> {
    match (&config.file.second_home, server) {
        (Some(folder), _) => Ok(Arc::new(VolumeStore::open_as(StoreKind::Secret, folder.clone())?)),
        (None, Some(server)) => Ok(Arc::new(SecretStore::new(SealSecret::new(server)))),
        (None, None) => Err(AssembleError::Nowhere),
    }
}

/// Opens what a configuration names. `secret` is the key store in the API server.
///
/// # Errors
/// Names the missing thing, and says what to do.
pub(crate) async fn assemble(config: &Config, secret: Arc<dyn KeyStore>) -> Result<Parts, AssembleError> {
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

/// The floor that a key store names.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn floor_of(key_store: &dyn KeyStore) -> Result<Option<Position>, KeyStoreError> {
    let entries = key_store.read().await?;
    let text = entries.get("floor").map(|bytes| String::from_utf8_lossy(bytes));
    let position = text.map(|text| {
        text.parse().map_err(|_| {
            KeyStoreError::new(
                key_store.kind(),
                format!("`{text}` is not a position; restore the entry `floor` from a backup"),
            )
        })
    });
    position.transpose()
}

/// The higher of the two key stores' floors. A Secret that cannot be read leaves the volume's.
async fn highest_floor(volume: &dyn KeyStore, secret: &dyn KeyStore) -> Result<Option<Position>, KeyStoreError> {
    let volume = floor_of(volume).await?;
    let secret = match floor_of(secret).await {
        Ok(secret) => secret,
        Err(error) => {
            tracing::warn!(%error, "the floor is the volume's alone");
            None
        }
    };
    Ok([volume, secret].into_iter().flatten().max_by_key(|position| position.seq))
}
