//! From a configuration to the parts of a node.

use std::sync::Arc;
use std::time::Duration;

use keyfleet_litestream::bucket::Location;
use keyfleet_litestream::database::{OpenError, Options};
use keyfleet_litestream::format::ReplicaName;
use keyfleet_litestream::start::Allow;
use keyfleet_litestream::{Database, Position, keys};

use crate::config::{Config, KeyFault, Replication};
use crate::homes::volume::VolumeHome;
use crate::homes::{Home, HomeFault};
use crate::round::Parts;
use crate::seal::KeyRing;
use crate::store::bundles::BundleFile;
use crate::store::{Backing, StoreFault};

/// Why the parts are not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleFault {
    /// A key-encryption key.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// A home.
    #[error(transparent)]
    Home(#[from] HomeFault),
    /// A file.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The replica's name or key does not fit its format.
    #[error("replication: {0}")]
    Replica(String),
    /// The replicated file was not opened.
    #[error("replication: {0}")]
    Open(#[from] OpenError),
}

/// Opens what a configuration names. `secret` is the home in the API server.
///
/// # Errors
/// What is missing, and what to do.
pub async fn assemble(config: &Config, secret: Arc<dyn Home>) -> Result<Parts, AssembleFault> {
    let ring = config.key_ring(|name| std::env::var(name).ok())?;
    let volume: Arc<dyn Home> = Arc::new(VolumeHome::open(config.data.join("seal"))?);
    let state = config.data.join("state.redb");
    let backing = match &config.replication {
        None => Backing::local(&state)?,
        Some(replication) => {
            let floor = highest_floor(&*volume, &*secret).await?;
            let mut options = options(config, replication, &ring)?;
            options.floor = floor;
            // Only where neither home has a floor may there be no replica yet.
            options.allow = Allow { new_replica: floor.is_none(), unproven: true };
            let timeout = Duration::from_millis(replication.acknowledge_timeout_ms);
            Backing::Replicated { database: Database::open(options).await?, timeout }
        }
    };
    let bundles = BundleFile::open(&config.data.join("bundles.redb"))?;
    Ok(Parts { backing, bundles, volume, secret, ring })
}

fn options(config: &Config, replication: &Replication, ring: &KeyRing) -> Result<Options, AssembleFault> {
    let name = ReplicaName::new(format!("{}/{}", config.cluster, config.index));
    let name = name.map_err(|error| AssembleFault::Replica(error.to_string()))?;
    let location = Location {
        bucket: replication.bucket.clone(),
        prefix: replication.prefix.clone(),
        region: replication.region.clone(),
        endpoint: replication.endpoint.clone(),
        force_path_style: replication.endpoint.is_some().then_some(true),
        credentials: None,
    };
    let keys = ring.keys().map(|key| keys::KeyEncryptionKey::new(key.id(), *key.expose()));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|error| AssembleFault::Replica(error.to_string()))?;
    let keys = keys::KeyRing { key_encryption_keys: keys, ..keys::KeyRing::default() };
    Ok(Options::new(config.data.join("state.redb"), name, location, Arc::new(keys)))
}

/// The higher of the two homes' floors. A Secret that cannot be read leaves the volume's.
async fn highest_floor(volume: &dyn Home, secret: &dyn Home) -> Result<Option<Position>, HomeFault> {
    let of = |entries: crate::homes::Entries| -> Option<Position> {
        std::str::from_utf8(entries.get("floor")?).ok()?.parse().ok()
    };
    let volume = of(volume.read().await?);
    let secret = match secret.read().await {
        Ok(entries) => of(entries),
        Err(fault) => {
            tracing::warn!(%fault, "the floor is the volume's alone");
            None
        }
    };
    Ok([volume, secret].into_iter().flatten().max_by_key(|position| position.seq))
}
