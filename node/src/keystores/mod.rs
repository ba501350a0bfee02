//! Key material in two key stores, written and destroyed together.
//!
//! [`KeyStores`] keeps a folder on the volume and a Secret in the API server alike: a key counts as durable when both hold it.
//! [`decision`] says what a start makes of two key stores that differ, [`inventory`] how the state file names what is alive.

pub mod decision;
pub mod inventory;
pub mod secret;
pub mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use crate::seal::wrap::WrapError;
use crate::seal::{KeyEncryptionKey, KeyMaterial, KeyName, KeyRing};
use crate::secret_rng::secret_rng;
use decision::{Decision, Finding, Seen, StoreKind};
use inventory::KeyInventory;

/// The entry that holds the floor: not a key, and public.
const FLOOR: &str = "floor";

/// Entries of a key store: names and bytes.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// A place for entries. Changes are durable when they return; doing one twice does no harm.
#[async_trait]
pub trait KeyStore: Send + Sync {
    fn kind(&self) -> StoreKind;

    /// Everything in it.
    ///
    /// # Errors
    /// When it does not answer.
    async fn read(&self) -> Result<Entries, KeyStoreError>;

    /// Puts entries, then removes others.
    ///
    /// # Errors
    /// When it does not answer; then nothing is known of the change.
    async fn change(&self, put: &Entries, remove: &BTreeSet<String>) -> Result<(), KeyStoreError>;

    /// Returns true when somebody else was seen writing here since the last call.
    fn take_conflicted(&self) -> bool {
        false
    }
}

/// Error of one key store: it does not answer, or refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key_store}: {what}")]
pub struct KeyStoreError {
    pub key_store: StoreKind,
    /// Answer of the API server, or error of the disk.
    pub what: String,
}

impl KeyStoreError {
    /// Makes the error of one key store.
    #[must_use]
    pub fn new(key_store: StoreKind, what: String) -> Self {
        Self { key_store, what }
    }
}

/// Why the key stores cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyStoresError {
    /// A key store does not answer.
    #[error(transparent)]
    KeyStore(#[from] KeyStoreError),
    /// An entry stays closed.
    #[error("{key_store}: {error}")]
    Wrap {
        key_store: StoreKind,
        /// Why.
        error: WrapError,
    },
    /// The key stores hold different identities, say.
    #[error("{0}")]
    Finding(Finding),
}

/// Both key stores as they were read; [`Found::settle`] makes them alike.
pub struct Found {
    key_stores: [Arc<dyn KeyStore>; 2],
    ring: KeyRing,
    volume: BTreeMap<KeyName, KeyMaterial>,
    secret: Option<BTreeMap<KeyName, KeyMaterial>>,
    floors: [Option<String>; 2],
    wrapped_under: BTreeSet<String>,
}

/// The keys of a running node, and the two places where they live.
pub struct KeyStores {
    key_stores: [Arc<dyn KeyStore>; 2],
    ring: KeyRing,
    keys: BTreeMap<KeyName, KeyMaterial>,
    united: bool,
    /// Ids of the key-encryption keys that wraps named when they were read last, and of those written since.
    wrapped_under: BTreeSet<String>,
}

impl Found {
    fn key(&self, name: &KeyName, key_store: StoreKind) -> Option<&KeyMaterial> {
        match key_store {
            StoreKind::Volume => self.volume.get(name),
            StoreKind::Secret => self.secret.as_ref()?.get(name),
        }
    }

    /// Reads both key stores. The Secret may be out of reach; the volume may not.
    ///
    /// # Errors
    /// When the volume cannot be read or an entry of either key store stays closed.
    pub async fn read(
        volume: Arc<dyn KeyStore>,
        secret: Arc<dyn KeyStore>,
        ring: KeyRing,
    ) -> Result<Self, KeyStoresError> {
        let mut wrapped_under = BTreeSet::new();
        let (volume_keys, volume_floor) =
            unwrap_all(StoreKind::Volume, volume.read().await?, &ring, &mut wrapped_under)?;
        let (secret_keys, secret_floor) = match secret.read().await {
            Ok(entries) => {
                let (keys, floor) = unwrap_all(StoreKind::Secret, entries, &ring, &mut wrapped_under)?;
                (Some(keys), floor)
            }
            Err(error) => {
                tracing::warn!(%error, "starting from the volume alone");
                (None, None)
            }
        };
        let floors = [volume_floor, secret_floor];
        Ok(Self { key_stores: [volume, secret], ring, volume: volume_keys, secret: secret_keys, floors, wrapped_under })
    }

    /// The floors as each key store names them.
    #[must_use]
    pub fn floors(&self) -> [Option<&str>; 2] {
        [self.floors[0].as_deref(), self.floors[1].as_deref()]
    }

    /// The data key of the node's own rows, with which the inventory is opened. A key that only one key store holds counts.
    #[must_use]
    pub fn node_keys(&self) -> Vec<&KeyMaterial> {
        let secret = self.secret.as_ref().and_then(|keys| keys.get(&KeyName::Node));
        self.volume.get(&KeyName::Node).into_iter().chain(secret).collect()
    }

    /// Makes both key stores hold what the inventory names, and nothing that it buried.
    ///
    /// # Errors
    /// When a key store does not take the change, or a person must look.
    pub async fn settle(self, inventory: Option<&KeyInventory>) -> Result<(KeyStores, Vec<Finding>), KeyStoresError> {
        let decision = decision::decide(inventory, &seen(&self.volume), self.secret.as_ref().map(seen).as_ref());
        if let Some(conflict) = decision.findings.iter().find(|finding| matches!(finding, Finding::Conflict(_))) {
            return Err(KeyStoresError::Finding(conflict.clone()));
        }
        let kept = decision.keep.iter();
        let keys: BTreeMap<_, _> =
            kept.filter_map(|(name, key_store)| Some((*name, self.key(name, *key_store)?.clone()))).collect();
        let united = self.secret.is_some();
        let key_stores =
            KeyStores { key_stores: self.key_stores, ring: self.ring, keys, united, wrapped_under: self.wrapped_under };
        key_stores.repair(&decision).await?;
        Ok((key_stores, decision.findings))
    }
}

impl KeyStores {
    /// A live key.
    #[must_use]
    pub fn key(&self, name: KeyName) -> Option<&KeyMaterial> {
        self.keys.get(&name)
    }

    /// The names of all keys that the key stores hold.
    pub fn names(&self) -> impl Iterator<Item = KeyName> + '_ {
        self.keys.keys().copied()
    }

    /// Returns true once both key stores were seen alike since the start. Until then the node says nothing in rounds.
    #[must_use]
    pub fn is_united(&self) -> bool {
        self.united
    }

    /// Ids of the key-encryption keys without which an entry of either key store would stay closed, and of the one that wraps.
    pub fn needed_ids(&self) -> impl Iterator<Item = &str> {
        self.wrapped_under.iter().map(String::as_str).chain([self.ring.writing_id()])
    }

    /// The ids of all key-encryption keys that there are.
    pub fn configured_ids(&self) -> impl Iterator<Item = &str> {
        self.ring.keys().map(KeyEncryptionKey::id)
    }

    /// Returns cluster and index of the node.
    #[must_use]
    pub fn owner(&self) -> (keyfleet_threshold::identifiers::ClusterId, keyfleet_threshold::identifiers::NodeIndex) {
        self.ring.owner()
    }

    /// Makes keys durable: confirmed by both key stores when this returns.
    ///
    /// # Errors
    /// When a key store does not confirm. The keys may be in one key store then; creating them again is the way on.
    pub async fn create(&mut self, keys: Vec<(KeyName, KeyMaterial)>) -> Result<(), KeyStoresError> {
        if keys.is_empty() {
            return Ok(());
        }
        let wrap =
            |(name, key): &(KeyName, KeyMaterial)| (name.to_string(), self.ring.wrap(*name, key, &mut secret_rng()));
        let put = keys.iter().map(wrap).collect();
        for key_store in &self.key_stores {
            key_store.change(&put, &BTreeSet::new()).await?;
        }
        self.keys.extend(keys);
        Ok(())
    }

    /// Destroys keys in both key stores.
    ///
    /// # Errors
    /// When a key store does not confirm; destroying them again is the way on.
    pub async fn destroy(&mut self, names: &BTreeSet<KeyName>) -> Result<(), KeyStoresError> {
        if names.is_empty() {
            return Ok(());
        }
        let remove = names.iter().map(ToString::to_string).collect();
        for key_store in &self.key_stores {
            key_store.change(&Entries::new(), &remove).await?;
        }
        self.keys.retain(|name, _| !names.contains(name));
        Ok(())
    }

    /// Raises the floor in both key stores.
    ///
    /// # Errors
    /// When a key store does not confirm.
    pub async fn raise_floor(&self, floor: &str) -> Result<(), KeyStoresError> {
        let put = Entries::from([(FLOOR.to_owned(), floor.as_bytes().to_vec())]);
        for key_store in &self.key_stores {
            key_store.change(&put, &BTreeSet::new()).await?;
        }
        Ok(())
    }

    /// Compares both key stores with the inventory again and makes them alike: every few minutes, after a conflict, and before the
    /// first round message of a start in an outage.
    ///
    /// # Errors
    /// When a key store does not answer.
    pub async fn compare(&mut self, inventory: &KeyInventory) -> Result<Vec<Finding>, KeyStoresError> {
        let mut wrapped_under = BTreeSet::new();
        let (volume, _) =
            unwrap_all(StoreKind::Volume, self.key_stores[0].read().await?, &self.ring, &mut wrapped_under)?;
        let (secret, _) =
            unwrap_all(StoreKind::Secret, self.key_stores[1].read().await?, &self.ring, &mut wrapped_under)?;
        self.wrapped_under = wrapped_under;
        // What this process holds counts as well: it was in both key stores once.
        let mut pool = self.keys.clone();
        for (name, key) in volume.iter().chain(&secret) {
            let named = inventory.live.get(name) == Some(&key.fingerprint(*name));
            if named || !pool.contains_key(name) {
                pool.insert(*name, key.clone());
            }
        }
        let decision = decision::decide(Some(inventory), &seen(&volume), Some(&seen(&secret)));
        self.keys = pool;
        self.repair(&decision).await?;
        let buried: BTreeSet<_> = decision.destroy.iter().map(|(_, name)| *name).collect();
        self.keys.retain(|name, _| !buried.contains(name));
        let lost = decision.findings.iter().find_map(|finding| match finding {
            Finding::SealKeysLost(names) => Some(names.clone()),
            _ => None,
        });
        let held: Vec<_> =
            lost.iter().flatten().filter_map(|name| Some((*name, self.keys.get(name)?.clone()))).collect();
        self.create(held).await?;
        self.united = true;
        Ok(decision.findings)
    }

    /// Returns true when somebody else was seen writing in a key store since the last call: then [`KeyStores::compare`] is due.
    #[must_use]
    pub fn take_conflicted(&self) -> bool {
        self.key_stores.iter().any(|key_store| key_store.take_conflicted())
    }

    async fn repair(&self, decision: &Decision) -> Result<(), KeyStoresError> {
        for key_store in &self.key_stores {
            let kind = key_store.kind();
            let put: Entries = of_store(&decision.copy, kind).filter_map(|name| self.wrapped(name)).collect();
            let remove: BTreeSet<_> = of_store(&decision.destroy, kind).map(|name| name.to_string()).collect();
            if !put.is_empty() || !remove.is_empty() {
                key_store.change(&put, &remove).await?;
            }
        }
        Ok(())
    }

    fn wrapped(&self, name: KeyName) -> Option<(String, Vec<u8>)> {
        let key = self.keys.get(&name)?;
        Some((name.to_string(), self.ring.wrap(name, key, &mut secret_rng())))
    }
}

/// Returns the names that a list has for one key store.
fn of_store(list: &BTreeSet<(StoreKind, KeyName)>, kind: StoreKind) -> impl Iterator<Item = KeyName> {
    list.iter().filter(move |(key_store, _)| *key_store == kind).map(|(_, name)| *name)
}

fn seen(keys: &BTreeMap<KeyName, KeyMaterial>) -> Seen {
    keys.iter().map(|(name, key)| (*name, key.fingerprint(*name))).collect()
}

fn unwrap_all(
    key_store: StoreKind,
    entries: Entries,
    ring: &KeyRing,
    wrapped_under: &mut BTreeSet<String>,
) -> Result<(BTreeMap<KeyName, KeyMaterial>, Option<String>), KeyStoresError> {
    let (mut keys, mut floor) = (BTreeMap::new(), None);
    for (entry, bytes) in entries {
        if entry == FLOOR {
            floor = String::from_utf8(bytes).ok();
        } else if let Ok(name) = entry.parse::<KeyName>() {
            let key = ring.unwrap(name, &bytes).map_err(|error| KeyStoresError::Wrap { key_store, error })?;
            wrapped_under.extend(KeyRing::id_of(&bytes).map(str::to_owned));
            keys.insert(name, key);
        }
    }
    Ok((keys, floor))
}
