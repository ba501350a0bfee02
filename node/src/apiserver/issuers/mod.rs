//! The keys that callers' tokens are signed with: the API server's own, and those of configured issuers, found through
//! their discovery documents over HTTPS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::jwk::JwkSet;
use keyfleet_crds::cluster::Access;
use keyfleet_crds::cluster::access::KUBERNETES_ISSUER;
use keyfleet_crds::node_config::ISSUERS_FOLDER;
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::serving::{FetchedKeys, IssuerError, KeySource};

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of a document, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// Fetches keys.
pub(crate) struct Issuers {
    client: Client,
    access: watch::Receiver<Arc<Access>>,
    /// Folder where the authorities of issuers are mounted.
    folder: PathBuf,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuers {
    /// The issuers that the rules name, beside the API server.
    #[must_use]
    pub(crate) fn new(client: Client, access: watch::Receiver<Arc<Access>>) -> Self {
        Self { client, access, folder: ISSUERS_FOLDER.into() }
    }

    /// Fetches the API server's own keys, with the pod's token and authorities.
    async fn of_kubernetes(&self) -> Result<FetchedKeys, IssuerError> {
        let discovery: Discovery = self.get("/.well-known/openid-configuration").await?;
        let keys: JwkSet = self.get("/openid/v1/jwks").await?;
        Ok(FetchedKeys { issuer: discovery.issuer, keys })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, IssuerError> {
        let url = format!("API server{path}");
        let request = http::Request::get(path).body(Vec::new()).expect("the path is a constant");
        let text = match tokio::time::timeout(REQUEST_TIMEOUT, self.client.request_text(request)).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => return Err(IssuerError::Unreachable { url, problem: error.to_string() }),
            Err(_) => return Err(IssuerError::Unreachable { url, problem: "no answer in time".to_owned() }),
        };
        read(&url, &text)
    }
}

#[async_trait]
impl KeySource for Issuers {
    async fn fetch(&self, name: &str) -> Result<FetchedKeys, IssuerError> {
        if name == KUBERNETES_ISSUER {
            return self.of_kubernetes().await;
        }
        let issuer = self.access.borrow().issuers.iter().find(|issuer| issuer.name == name).cloned();
        let issuer = issuer.ok_or_else(|| IssuerError::NotConfigured(name.to_owned()))?;
        let ca = issuer.ca_config_map.is_some().then(|| self.folder.join(name).join("ca.crt"));
        let url = issuer.url.clone();
        let fetched = tokio::task::spawn_blocking(move || discover(&issuer.url, ca.as_deref())).await;
        fetched.map_err(|error| IssuerError::Unreachable { url, problem: error.to_string() })?
    }
}

/// Fetches an issuer's keys by its discovery document (OpenID Connect Discovery 1.0, section 4). Blocks.
fn discover(issuer: &str, ca: Option<&Path>) -> Result<FetchedKeys, IssuerError> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = ca {
        tls = tls.root_certs(RootCerts::Specific(Arc::new(authorities(path)?)));
    }
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(REQUEST_TIMEOUT))
        .https_only(true)
        .tls_config(tls.build())
        .build()
        .new_agent();
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let discovery: Discovery = get(&agent, &url)?;
    // Section 4.3: or one issuer could speak for another.
    if discovery.issuer != issuer {
        return Err(IssuerError::OtherIssuer { url, found: discovery.issuer, expected: issuer.to_owned() });
    }
    Ok(FetchedKeys { keys: get(&agent, &discovery.jwks_uri)?, issuer: discovery.issuer })
}

fn authorities(path: &Path) -> Result<Vec<Certificate<'static>>, IssuerError> {
    let unusable = |problem| IssuerError::Authorities { path: path.to_owned(), problem };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let certificates = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() { Err(unusable("no certificate in PEM".to_owned())) } else { Ok(certificates) }
}

fn get<T: DeserializeOwned>(agent: &ureq::Agent, url: &str) -> Result<T, IssuerError> {
    let text = agent
        .get(url)
        .call()
        .and_then(|mut answer| answer.body_mut().with_config().limit(DOCUMENT_BYTES_MAX).read_to_string());
    let text = text.map_err(|error| IssuerError::Unreachable { url: url.to_owned(), problem: error.to_string() })?;
    read(url, &text)
}

fn read<T: DeserializeOwned>(url: &str, text: &str) -> Result<T, IssuerError> {
    serde_json::from_str(text)
        .map_err(|error| IssuerError::Document { url: url.to_owned(), problem: error.to_string() })
}

#[cfg(test)]
mod tests;
