//! The Secret `<node>-seal`. The operator makes it, empty; the node reads and replaces it, and can do nothing else there.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use keyfleet_crds::names;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};

use super::ApiServer;
use crate::keystores::decision::StoreKind;
use crate::keystores::secret::SealClient;
use crate::keystores::{Entries, KeyStoreError};

/// Timeout of one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The Secret.
pub(crate) struct SealSecret {
    secrets: Api<Secret>,
    name: String,
    /// As it was read last: a replacement keeps its labels.
    last: Mutex<Option<Secret>>,
}

impl SealSecret {
    /// The seal of this node.
    #[must_use]
    pub(crate) fn new(server: &ApiServer) -> Self {
        Self {
            secrets: Api::namespaced(server.client.clone(), &server.namespace),
            name: names::seal_secret(&server.cluster, server.index),
            last: Mutex::new(None),
        }
    }

    /// Deletes it. One that is gone is as good.
    ///
    /// # Errors
    /// When the API server does not answer or says no.
    pub(crate) async fn delete(&self) -> Result<(), KeyStoreError> {
        let parameters = DeleteParams::default();
        let deleted = tokio::time::timeout(PATIENCE, self.secrets.delete(&self.name, &parameters)).await;
        match deleted.map_err(|_| self.error("the API server does not answer"))? {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()).map_err(|error| self.error(&error.to_string())),
        }
    }

    async fn read(&self) -> Result<Secret, KeyStoreError> {
        let read = tokio::time::timeout(PATIENCE, self.secrets.get(&self.name)).await;
        read.map_err(|_| self.error("the API server does not answer"))?.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 => {
                self.error("it is not there; the operator makes it together with the node's pod")
            }
            _ => self.error(&error.to_string()),
        })
    }

    fn error(&self, what: &str) -> KeyStoreError {
        KeyStoreError::new(StoreKind::Secret, format!("{}: {what}", self.name))
    }

    fn remember(&self, secret: Secret) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
    }
}

#[async_trait]
impl SealClient for SealSecret {
    async fn get(&self) -> Result<(String, Entries), KeyStoreError> {
        let secret = self.read().await?;
        let entries = secret.data.iter().flatten().map(|(name, bytes)| (name.clone(), bytes.0.clone())).collect();
        let version = secret.resource_version().unwrap_or_default();
        self.remember(secret);
        Ok((version, entries))
    }

    async fn put(&self, version: &str, data: Entries) -> Result<bool, KeyStoreError> {
        let known = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(mut secret) = known.filter(|known| known.resource_version().as_deref() == Some(version)) else {
            // Somebody read it meanwhile: as good as a conflict, the caller reads again.
            return Ok(false);
        };
        secret.data = Some(data.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect());
        let parameters = PostParams::default();
        let put = self.secrets.replace(&self.name, &parameters, &secret);
        match tokio::time::timeout(PATIENCE, put).await {
            Err(_) => Err(self.error("the API server does not answer")),
            Ok(Ok(secret)) => {
                self.remember(secret);
                Ok(true)
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(false),
            Ok(Err(error)) => Err(self.error(&error.to_string())),
        }
    }
}
