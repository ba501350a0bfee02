//! Before the node's first start on an empty volume: its state file comes back from the replica, or nothing does.
//!
//! Fails closed: where either key store names a floor there must be a replica at or above it, and without an answer of the
//! bucket or of the API server nobody knows whether there is one.

use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use kube::Client;
use tokio::sync::watch;

use super::assemble::{AssembleError, RESTORED, STATE, floor_of, options, secret_store};
use super::erase::Ending;
use crate::apiserver::ApiServer;
use crate::apiserver::status::{Problems, StatusWriter};
use crate::config::Config;
use crate::keystores::KeyStoreError;
use crate::keystores::volume::VolumeStore;
use crate::store::replica::bucket_reason;
use keyfleet_litestream::bucket::{Bucket, RetryPolicy};
use keyfleet_litestream::restore::{self, Options};

/// Why nothing was restored that should have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RestoreError {
    /// A key store does not say whether there is a floor.
    #[error("a key store does not say whether this node has a replica, so the node does not start yet: {0}")]
    KeyStore(#[from] KeyStoreError),
    /// The configuration does not name a replica.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The replica.
    #[error("the volume is empty, and the state file was not restored: {0}")]
    Restore(#[from] restore::RestoreError),
    /// The volume.
    #[error("the volume: {0}")]
    Io(#[from] std::io::Error),
    /// The API server's address.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
}

/// Restores, if there is something to restore.
///
/// # Errors
/// When there should have been and it was not.
pub(crate) async fn run(config: &Config) -> Result<(), RestoreError> {
    let client = if config.file.second_home.is_none() { Some(Client::try_default().await?) } else { None };
    run_with(config, client).await
}

/// As [`run`], with this API server. What goes wrong is also told in the node's `KmsNode`: a pod that never gets beyond its
/// init container would tell nobody else.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_with(config: &Config, client: Option<Client>) -> Result<(), RestoreError> {
    if Ending::begun(config.data())?.is_some() {
        // What was destroyed does not come back.
        return Ok(());
    }
    let server = client.map(|client| ApiServer::new(client, &config.file));
    let restored = try_restore(config, server.as_ref()).await;
    if let (Err(error), Some(server)) = (&restored, server) {
        let problems = Problems::default();
        problems.set(ProblemAbout::Replication, error.reason(), &error.to_string());
        let (speaker, seen) = (watch::Sender::new(None), watch::Sender::new(None));
        let writer = StatusWriter {
            server,
            key_encryption_id: config.active_key().to_owned(),
            problems,
            speaker: speaker.subscribe(),
            seen: seen.subscribe(),
        };
        if let Err(error) = writer.write_once().await {
            tracing::warn!(%error, "the KmsNode does not say what is wrong");
        }
    }
    restored
}

impl RestoreError {
    fn reason(&self) -> Reason {
        match self {
            Self::Restore(restore::RestoreError::Bucket(error)) => bucket_reason(error.kind),
            Self::Assemble(error) => error.concerns().1,
            _ => Reason::ReplicaUnavailable,
        }
    }
}

async fn try_restore(config: &Config, server: Option<&ApiServer>) -> Result<(), RestoreError> {
    let state = config.data().join(STATE);
    let Some(replication) = &config.file.replication else {
        tracing::info!("nothing is replicated, so nothing is restored");
        return Ok(());
    };
    if state.exists() {
        tracing::info!("the state file is there");
        return Ok(());
    }
    let ring = match config.key_ring(|name| std::env::var(name).ok()) {
        Ok(ring) => ring,
        Err(error) => {
            // The node itself says what is missing, and restores once it has come.
            tracing::warn!(%error, "not restored here");
            return Ok(());
        }
    };
    let secret = secret_store(config, server)?;
    let volume = VolumeStore::open(config.data().join("seal"))?;
    let floors = [floor_of(&volume).await?, floor_of(&*secret).await?];
    let floor = floors.into_iter().flatten().max_by_key(|position| position.seq);
    let names = options(config, replication, &ring)?;
    // There is nothing else to go on with: as patiently as it may be.
    let bucket = Bucket::connect(names.location.clone(), RetryPolicy::default()).await;
    let how = Options { floor, ..Options::default() };
    // Before the file: a file without the mark would be taken for one that the node wrote itself.
    let mark = config.data().join(RESTORED);
    std::fs::write(&mark, [])?;
    std::fs::File::open(config.data())?.sync_all()?;
    match restore::restore(&bucket, &names.replica, &names.keys, &state, &how).await {
        Ok(restored) => {
            tracing::info!(position = %restored.position, objects = restored.objects, "the state file was restored");
            Ok(())
        }
        Err(restore::RestoreError::NoReplica) if floor.is_none() => {
            std::fs::remove_file(&mark)?;
            tracing::info!("there is no replica and none has ever been: a new node");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
