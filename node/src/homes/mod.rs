//! Key material in two homes, written and destroyed together.
//!
//! [`Homes`] keeps a folder on the volume and a Secret in the API server alike: a key counts as durable when both hold it.
//! [`decision`] says what a start makes of two homes that differ, [`ledger`] how the state file names what is alive.

pub mod decision;
pub mod ledger;
pub mod secret;
pub mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use crate::seal::wrap::WrapError;
use crate::seal::{KeyEncryptionKey, KeyMaterial, KeyName, KeyRing};
use decision::{Decision, Finding, HomeKind, Seen};
use ledger::Ledger;

/// The entry that holds the floor: not a key, and public.
const FLOOR: &str = "floor";

/// What a home holds: names and bytes.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// A place for entries. Changes are durable when they return; doing one twice does no harm.
#[async_trait]
pub trait Home: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> HomeKind;

    /// Everything in it.
    ///
    /// # Errors
    /// When it does not answer.
    async fn read(&self) -> Result<Entries, HomeError>;

    /// Puts entries, then removes others.
    ///
    /// # Errors
    /// When it does not answer; then nothing is known of the change.
    async fn change(&self, put: &Entries, remove: &BTreeSet<String>) -> Result<(), HomeError>;

    /// Whether somebody else was seen writing here since the last call.
    fn take_conflicted(&self) -> bool {
        false
    }
}

/// A home does not answer, or says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{home}: {what}")]
pub struct HomeError {
    /// Which one.
    pub home: HomeKind,
    /// What it said.
    pub what: String,
}

impl HomeError {
    /// A fault of `home`.
    #[must_use]
    pub fn new(home: HomeKind, what: String) -> Self {
        Self { home, what }
    }
}

/// Why the homes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HomesError {
    /// A home does not answer.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// An entry stays closed.
    #[error("{home}: {fault}")]
    Wrap {
        /// Where it is.
        home: HomeKind,
        /// Why.
        fault: WrapError,
    },
    /// The homes hold different identities, say.
    #[error("{0}")]
    Finding(Finding),
}

/// What both homes held when they were read; [`Found::settle`] makes them alike.
pub struct Found {
    homes: [Arc<dyn Home>; 2],
    ring: KeyRing,
    volume: BTreeMap<KeyName, KeyMaterial>,
    secret: Option<BTreeMap<KeyName, KeyMaterial>>,
    floors: [Option<String>; 2],
    wrapped_under: BTreeSet<String>,
}

/// The keys of a running node, and the two places where they live.
pub struct Homes {
    homes: [Arc<dyn Home>; 2],
    ring: KeyRing,
    keys: BTreeMap<KeyName, KeyMaterial>,
    united: bool,
    /// Ids of the key-encryption keys that wraps named when they were read last, and of those written since.
    wrapped_under: BTreeSet<String>,
}

impl Found {
    /// Reads both homes. The Secret may be out of reach; the volume may not.
    ///
    /// # Errors
    /// When the volume cannot be read or an entry of either home stays closed.
    pub async fn read(volume: Arc<dyn Home>, secret: Arc<dyn Home>, ring: KeyRing) -> Result<Self, HomesError> {
        let mut wrapped_under = BTreeSet::new();
        let (volume_keys, volume_floor) =
            unwrap_all(HomeKind::Volume, volume.read().await?, &ring, &mut wrapped_under)?;
        let (secret_keys, secret_floor) = match secret.read().await {
            Ok(entries) => {
                let (keys, floor) = unwrap_all(HomeKind::Secret, entries, &ring, &mut wrapped_under)?;
                (Some(keys), floor)
            }
            Err(fault) => {
                tracing::warn!(%fault, "starting from the volume alone");
                (None, None)
            }
        };
        let floors = [volume_floor, secret_floor];
        Ok(Self { homes: [volume, secret], ring, volume: volume_keys, secret: secret_keys, floors, wrapped_under })
    }

    /// The floors as each home names them.
    #[must_use]
    pub fn floors(&self) -> [Option<&str>; 2] {
        [self.floors[0].as_deref(), self.floors[1].as_deref()]
    }

    /// The data key of the node's own rows, with which the ledger is opened. A key that only one home holds counts.
    #[must_use]
    pub fn node_keys(&self) -> Vec<&KeyMaterial> {
        let secret = self.secret.as_ref().and_then(|keys| keys.get(&KeyName::Node));
        self.volume.get(&KeyName::Node).into_iter().chain(secret).collect()
    }

    /// Makes both homes hold what the ledger names, and nothing that it buried.
    ///
    /// # Errors
    /// When a home does not take the change, or a person must look.
    pub async fn settle(self, ledger: Option<&Ledger>) -> Result<(Homes, Vec<Finding>), HomesError> {
        let decision = decision::decide(ledger, &seen(&self.volume), self.secret.as_ref().map(seen).as_ref());
        if let Some(conflict) = decision.findings.iter().find(|finding| matches!(finding, Finding::Conflict(_))) {
            return Err(HomesError::Finding(conflict.clone()));
        }
        let of = |name: &KeyName, home: &HomeKind| match home {
            HomeKind::Volume => self.volume.get(name),
            HomeKind::Secret => self.secret.as_ref().and_then(|keys| keys.get(name)),
        };
        let keys: BTreeMap<_, _> =
            decision.keep.iter().filter_map(|(name, home)| Some((*name, of(name, home)?.clone()))).collect();
        let united = self.secret.is_some();
        let homes = Homes { homes: self.homes, ring: self.ring, keys, united, wrapped_under: self.wrapped_under };
        homes.repair(&decision).await?;
        Ok((homes, decision.findings))
    }
}

impl Homes {
    /// A live key.
    #[must_use]
    pub fn key(&self, name: KeyName) -> Option<&KeyMaterial> {
        self.keys.get(&name)
    }

    /// The names of all keys that the homes hold.
    pub fn names(&self) -> impl Iterator<Item = KeyName> + '_ {
        self.keys.keys().copied()
    }

    /// Whether both homes were seen alike since the start. Until then the node says nothing in rounds.
    #[must_use]
    pub fn is_united(&self) -> bool {
        self.united
    }

    /// Ids of the key-encryption keys without which an entry of either home would stay closed, and of the one that wraps.
    pub fn needed_ids(&self) -> impl Iterator<Item = &str> {
        self.wrapped_under.iter().map(String::as_str).chain([self.ring.writing_id()])
    }

    /// The ids of all key-encryption keys that there are.
    pub fn configured_ids(&self) -> impl Iterator<Item = &str> {
        self.ring.keys().map(KeyEncryptionKey::id)
    }

    /// Whose homes these are.
    #[must_use]
    pub fn owner(&self) -> (keyfleet_threshold::identifiers::ClusterId, keyfleet_threshold::identifiers::NodeIndex) {
        self.ring.owner()
    }

    /// Makes keys durable: confirmed by both homes when this returns.
    ///
    /// # Errors
    /// When a home does not confirm. The keys may be in one home then; creating them again is the way on.
    pub async fn create(&mut self, keys: Vec<(KeyName, KeyMaterial)>) -> Result<(), HomesError> {
        if keys.is_empty() {
            return Ok(());
        }
        let wrap =
            |(name, key): &(KeyName, KeyMaterial)| (name.to_string(), self.ring.wrap(*name, key, &mut rand::rng()));
        let put = keys.iter().map(wrap).collect();
        for home in &self.homes {
            home.change(&put, &BTreeSet::new()).await?;
        }
        self.keys.extend(keys);
        Ok(())
    }

    /// Destroys keys in both homes.
    ///
    /// # Errors
    /// When a home does not confirm; destroying them again is the way on.
    pub async fn destroy(&mut self, names: &BTreeSet<KeyName>) -> Result<(), HomesError> {
        if names.is_empty() {
            return Ok(());
        }
        let remove = names.iter().map(ToString::to_string).collect();
        for home in &self.homes {
            home.change(&Entries::new(), &remove).await?;
        }
        self.keys.retain(|name, _| !names.contains(name));
        Ok(())
    }

    /// Raises the floor in both homes.
    ///
    /// # Errors
    /// When a home does not confirm.
    pub async fn raise_floor(&self, floor: &str) -> Result<(), HomesError> {
        let put = Entries::from([(FLOOR.to_owned(), floor.as_bytes().to_vec())]);
        for home in &self.homes {
            home.change(&put, &BTreeSet::new()).await?;
        }
        Ok(())
    }

    /// Compares both homes with the ledger again and makes them alike: every few minutes, after a conflict, and before the
    /// first round message of a start in an outage.
    ///
    /// # Errors
    /// When a home does not answer.
    pub async fn compare(&mut self, ledger: &Ledger) -> Result<Vec<Finding>, HomesError> {
        let mut wrapped_under = BTreeSet::new();
        let (volume, _) = unwrap_all(HomeKind::Volume, self.homes[0].read().await?, &self.ring, &mut wrapped_under)?;
        let (secret, _) = unwrap_all(HomeKind::Secret, self.homes[1].read().await?, &self.ring, &mut wrapped_under)?;
        self.wrapped_under = wrapped_under;
        // What this process holds counts as well: it was in both homes once.
        let mut pool = self.keys.clone();
        for (name, key) in volume.iter().chain(&secret) {
            let named = ledger.live.get(name) == Some(&key.fingerprint(*name));
            if named || !pool.contains_key(name) {
                pool.insert(*name, key.clone());
            }
        }
        let decision = decision::decide(Some(ledger), &seen(&volume), Some(&seen(&secret)));
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

    /// Whether somebody else was seen writing in a home since the last call: then [`Homes::compare`] is due.
    #[must_use]
    pub fn take_conflicted(&self) -> bool {
        self.homes.iter().any(|home| home.take_conflicted())
    }

    async fn repair(&self, decision: &Decision) -> Result<(), HomesError> {
        for home in &self.homes {
            let kind = home.kind();
            let mine = |list: &BTreeSet<(HomeKind, KeyName)>| -> Vec<KeyName> {
                list.iter().filter(|(home, _)| *home == kind).map(|(_, name)| *name).collect()
            };
            let wrap = |name: KeyName| {
                let key = self.keys.get(&name)?;
                Some((name.to_string(), self.ring.wrap(name, key, &mut rand::rng())))
            };
            let put: Entries = mine(&decision.copy).into_iter().filter_map(wrap).collect();
            let remove: BTreeSet<_> = mine(&decision.destroy).iter().map(ToString::to_string).collect();
            if !put.is_empty() || !remove.is_empty() {
                home.change(&put, &remove).await?;
            }
        }
        Ok(())
    }
}

fn seen(keys: &BTreeMap<KeyName, KeyMaterial>) -> Seen {
    keys.iter().map(|(name, key)| (*name, key.fingerprint(*name))).collect()
}

fn unwrap_all(
    home: HomeKind,
    entries: Entries,
    ring: &KeyRing,
    wrapped_under: &mut BTreeSet<String>,
) -> Result<(BTreeMap<KeyName, KeyMaterial>, Option<String>), HomesError> {
    let (mut keys, mut floor) = (BTreeMap::new(), None);
    for (entry, bytes) in entries {
        if entry == FLOOR {
            floor = String::from_utf8(bytes).ok();
        } else if let Ok(name) = entry.parse::<KeyName>() {
            let key = ring.unwrap(name, &bytes).map_err(|fault| HomesError::Wrap { home, fault })?;
            wrapped_under.extend(KeyRing::id_of(&bytes).map(str::to_owned));
            keys.insert(name, key);
        }
    }
    Ok((keys, floor))
}
