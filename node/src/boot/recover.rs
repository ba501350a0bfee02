//! A start: from two key stores and a state file to a participant that remembers.

use std::sync::Arc;

use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_threshold::identifiers::EpochNumber;
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::round::{Participant, RestoreError, SecretName};
use zeroize::Zeroizing;

use crate::keystores::decision::Finding;
use crate::keystores::inventory::KeyInventory;
use crate::keystores::{Found, KeyStore, KeyStores, KeyStoresError};
use crate::round::{Persister, Started};
use crate::seal::{KeyMaterial, KeyName, KeyRing};
use crate::secret_rng::secret_rng;
use crate::store::bundles::BundleFile;
use crate::store::{Backing, Outbox, Store, StoreError};

/// Parts of a node.
pub struct Parts {
    /// The state file.
    pub backing: Backing,
    /// The second file.
    pub bundles: BundleFile,
    /// The folder `seal/`.
    pub volume: Arc<dyn KeyStore>,
    /// The Secret `<node>-seal`.
    pub secret: Arc<dyn KeyStore>,
    /// The key-encryption keys.
    pub ring: KeyRing,
}

/// Why a node does not start. Nothing was made anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key stores.
    #[error(transparent)]
    KeyStores(#[from] KeyStoresError),
    /// The stored state is not one.
    #[error(transparent)]
    State(#[from] RestoreError),
    /// The disk is at fault: two rows that were written together do not fit together.
    #[error(
        "the state file contradicts itself: the participant's state used epoch {used}, its inventory of keys ends at {highest}; \
        restore the volume from a backup, or replace this node"
    )]
    Contradiction {
        /// Highest epoch number of the participant's state.
        used: EpochNumber,
        /// Highest epoch number of the inventory.
        highest: EpochNumber,
    },
    /// Neither key store has a key without which the node is not itself.
    #[error(
        "SealKeysLost: the state file is here, but `{0}` is in neither key store; restore the seal Secret or the volume's \
        seal folder from a backup, or replace this node"
    )]
    KeyLost(KeyName),
    /// A first start must know that no older identity is in the Secret.
    #[error("the seal Secret cannot be read, and there is no state file yet: waiting for the API server")]
    SecretOutOfReach,
}

impl StartError {
    /// Returns the thing that the problem is about, and the condition reason.
    #[must_use]
    pub fn concerns(&self) -> (ProblemAbout, Reason) {
        match self {
            Self::KeyLost(_) => (ProblemAbout::Seal, Reason::SealKeysLost),
            Self::KeyStores(KeyStoresError::Wrap { .. }) => {
                (ProblemAbout::KeyEncryption, Reason::KeyEncryptionKeyWrong)
            }
            Self::Store(StoreError::Replica(_)) => (ProblemAbout::Replication, Reason::ReplicaUnavailable),
            Self::KeyStores(KeyStoresError::Finding(finding)) => (ProblemAbout::Seal, finding.reason()),
            _ => (ProblemAbout::Seal, Reason::Starting),
        }
    }
}

/// Starts a node.
///
/// # Errors
/// [`StartError`] says what to do.
pub async fn start(parts: Parts) -> Result<Started, StartError> {
    let (cluster, index) = parts.ring.owner();
    let store = Store::open(parts.backing, cluster, index).await?;
    let found = Found::read(parts.volume, parts.secret, parts.ring).await?;
    let inventory = read_inventory(&store, &found)?;
    let (mut key_stores, mut findings) = found.settle(inventory.as_ref()).await?;
    if inventory.is_none() {
        if !key_stores.is_united() {
            return Err(StartError::SecretOutOfReach);
        }
        make_first_keys(&mut key_stores).await?;
    }
    let identity = own_key(&key_stores, KeyName::Identity)?;
    let node_key = own_key(&key_stores, KeyName::Node)?;
    let identity = IdentitySecretKey::from_seed(identity.expose());
    let public = identity.public();
    let (participant, outputs) = match (store.participant(&node_key)?, &inventory) {
        (Some(state), Some(inventory)) => {
            let (secrets, lost) = read_secrets(&store, &key_stores, inventory)?;
            if !lost.is_empty() {
                findings.push(Finding::SealKeysLost(lost));
            }
            let restored = Participant::restore(identity, &state, secrets)?;
            check_covered(inventory, &restored.0)?;
            restored
        }
        _ => Participant::new(cluster, index, identity, &mut secret_rng()),
    };
    for finding in &findings {
        tracing::warn!(%finding, "found at the start");
    }
    let restored = store.backing().was_restored();
    let outbox = if restored { None } else { store.outbox()? };
    let outbox = outbox.unwrap_or_else(Outbox::begin);
    let persister = Persister::new(key_stores, store, parts.bundles, inventory, outbox, node_key);
    persister.serve(&participant);
    Ok(Started { participant, identity: public, persister, outputs, findings, restored })
}

fn own_key(key_stores: &KeyStores, name: KeyName) -> Result<KeyMaterial, StartError> {
    key_stores.key(name).cloned().ok_or(StartError::KeyLost(name))
}

/// Checks after the load that the inventory covers the state: the counterpart of `KeyInventory::invariant_covers`.
fn check_covered(inventory: &KeyInventory, participant: &Participant) -> Result<(), StartError> {
    let state = participant.state();
    if inventory.covers(state) {
        return Ok(());
    }
    Err(StartError::Contradiction { used: state.highest, highest: EpochNumber(inventory.highest_epoch) })
}

fn read_inventory(store: &Store, found: &Found) -> Result<Option<KeyInventory>, StartError> {
    if !store.has_inventory()? {
        return Ok(None);
    }
    let mut refused = None;
    for key in found.node_keys() {
        match store.inventory(key) {
            Ok(inventory) => return Ok(inventory),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.map_or(StartError::KeyLost(KeyName::Node), StartError::Store))
}

/// Identity and node key: in both key stores before anyone is shown the one, or a row is sealed under the other.
async fn make_first_keys(key_stores: &mut KeyStores) -> Result<(), KeyStoresError> {
    let keys = [KeyName::Identity, KeyName::Node].map(|name| {
        let known = key_stores.key(name).cloned();
        (name, known.unwrap_or_else(|| KeyMaterial::random(&mut secret_rng())))
    });
    key_stores.create(keys.to_vec()).await
}

type Secrets = Vec<(SecretName, Zeroizing<[u8; 32]>)>;

/// Returns the secrets that the inventory names, and the names of those whose row or key is gone.
fn read_secrets(
    store: &Store,
    key_stores: &KeyStores,
    inventory: &KeyInventory,
) -> Result<(Secrets, Vec<KeyName>), StoreError> {
    // A list that grows leaves copies of what it held behind, which nothing wipes.
    let (mut secrets, mut lost) = (Vec::with_capacity(inventory.live.len()), Vec::new());
    for name in inventory.live.keys() {
        let Some(key) = key_stores.key(*name) else { continue };
        let secret = match name {
            KeyName::Identity | KeyName::Node => continue,
            KeyName::Prekey(number) => (SecretName::Prekey(*number), Some(Zeroizing::new(*key.expose()))),
            KeyName::DealerSeed(number) => (SecretName::DealerSeed(*number), Some(Zeroizing::new(*key.expose()))),
            KeyName::Data(number) => (SecretName::Share(*number), store.share(*number, key)?),
        };
        match secret {
            (secret, Some(bytes)) => secrets.push((secret, bytes)),
            (_, None) => lost.push(*name),
        }
    }
    Ok((secrets, lost))
}
