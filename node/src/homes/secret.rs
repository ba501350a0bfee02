//! The home in the API server: the data of the Secret `<node>-seal`.
//!
//! The node's ServiceAccount may read, update and delete this one Secret. A change reads it, replaces it under the
//! resourceVersion that was read, and on a conflict reads again; a conflict means that somebody else writes it, so the
//! homes are compared afterwards.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::{Entries, Home, HomeError, HomeKind};

/// How often a change is tried again after a conflict.
const TRIES: u32 = 8;

/// The two requests that this home makes.
#[async_trait]
pub trait SealClient: Send + Sync {
    /// The Secret's resourceVersion and data.
    ///
    /// # Errors
    /// When the API server does not answer or says no.
    async fn get(&self) -> Result<(String, Entries), HomeError>;

    /// Replaces the data, if the resourceVersion is still this one. `Ok(false)`: it is not (409).
    ///
    /// # Errors
    /// When the API server does not answer or says no.
    async fn put(&self, version: &str, data: Entries) -> Result<bool, HomeError>;
}

/// The home.
#[derive(Debug)]
pub struct SecretHome<C> {
    client: C,
    conflicted: AtomicBool,
}

impl<C: SealClient> SecretHome<C> {
    /// The home behind a client.
    pub fn new(client: C) -> Self {
        Self { client, conflicted: AtomicBool::new(false) }
    }
}

#[async_trait]
impl<C: SealClient> Home for SecretHome<C> {
    fn kind(&self) -> HomeKind {
        HomeKind::Secret
    }

    async fn read(&self) -> Result<Entries, HomeError> {
        Ok(self.client.get().await?.1)
    }

    async fn change(&self, put: &Entries, remove: &BTreeSet<String>) -> Result<(), HomeError> {
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
        Err(HomeError::new(
            HomeKind::Secret,
            format!("{TRIES} conflicts in a row: something else keeps writing the seal Secret; find it and stop it"),
        ))
    }

    fn take_conflicted(&self) -> bool {
        self.conflicted.swap(false, Ordering::AcqRel)
    }
}
