//! The key store in the API server: the data of the Secret `<node>-seal`.
//!
//! The node's ServiceAccount may read, update and delete this one Secret. A change reads it, replaces it under the
//! resourceVersion that was read, and on a conflict reads again; a conflict means that somebody else writes it, so the
//! key stores are compared afterwards.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::{Entries, KeyStore, KeyStoreError, StoreKind};

/// Number of tries of a change that meets conflicts.
const TRIES: u32 = 8;

/// The two requests that this key store makes.
#[async_trait]
pub trait SealClient: Send + Sync {
    /// The Secret's resourceVersion and data.
    ///
    /// # Errors
    /// When the API server does not answer or says no.
    async fn get(&self) -> Result<(String, Entries), KeyStoreError>;

    /// Replaces the data, if the resourceVersion is still this one. `Ok(false)`: it is not (409).
    ///
    /// # Errors
    /// When the API server does not answer or says no.
    async fn put(&self, version: &str, data: Entries) -> Result<bool, KeyStoreError>;
}

#[derive(Debug)]
pub struct SecretStore<C> {
    client: C,
    conflicted: AtomicBool,
}

impl<C: SealClient> SecretStore<C> {
    /// The key store behind a client.
    pub fn new(client: C) -> Self {
        Self { client, conflicted: AtomicBool::new(false) }
    }
}

#[async_trait]
impl<C: SealClient> KeyStore for SecretStore<C> {
    fn kind(&self) -> StoreKind {
        StoreKind::Secret
    }

    async fn read(&self) -> Result<Entries, KeyStoreError> {
        Ok(self.client.get().await?.1)
    }

    async fn change(&self, put: &Entries, remove: &BTreeSet<String>) -> Result<(), KeyStoreError> {
        for _ in 0..TRIES {
            let (version, mut data) = self.client.get().await?;
            let before = data.clone();
            data.extend(put.iter().map(|(name, bytes)| (name.clone(), bytes.clone())));
            data.retain(|name, _| !remove.contains(name));
            if data == before || self.client.put(&version, data).await? {
                return Ok(());
            }
            self.conflicted.store(true, Ordering::Release);
        }
        Err(KeyStoreError::new(
            StoreKind::Secret,
            format!("{TRIES} conflicts in a row: something else keeps writing the seal Secret; find it and stop it"),
        ))
    }

    fn take_conflicted(&self) -> bool {
        self.conflicted.swap(false, Ordering::AcqRel)
    }
}
