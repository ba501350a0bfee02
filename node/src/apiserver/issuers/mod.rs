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

use crate::serving::{FetchedKeys, KeySource};

/// Timeout of one request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Limit of a document, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// Fetches keys.
pub struct Issuers {
    client: Client,
    access: watch::Receiver<Arc<Access>>,
    /// Where the authorities of issuers are mounted.
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
    pub fn new(client: Client, access: watch::Receiver<Arc<Access>>) -> Self {
        Self { client, access, folder: ISSUERS_FOLDER.into() }
    }

    /// With the pod's own token and authorities, as everything that is asked of the API server.
    async fn of_kubernetes(&self) -> Result<FetchedKeys, String> {
        let get = async |path: &str| {
            let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
            let answer = tokio::time::timeout(PATIENCE, self.client.request_text(request)).await;
            answer.map_err(|_| "the API server does not answer".to_owned())?.map_err(|error| error.to_string())
        };
        let discovery: Discovery = read(&get("/.well-known/openid-configuration").await?)?;
        let keys: JwkSet = read(&get("/openid/v1/jwks").await?)?;
        Ok(FetchedKeys { issuer: discovery.issuer, keys })
    }
}

#[async_trait]
impl KeySource for Issuers {
    async fn fetch(&self, name: &str) -> Result<FetchedKeys, String> {
        if name == KUBERNETES_ISSUER {
            return self.of_kubernetes().await;
        }
        let issuer = self.access.borrow().issuers.iter().find(|issuer| issuer.name == name).cloned();
        let issuer = issuer.ok_or("no such issuer is configured")?;
        let ca = issuer.ca_config_map.is_some().then(|| self.folder.join(name).join("ca.crt"));
        let fetched = tokio::task::spawn_blocking(move || discover(&issuer.url, ca.as_deref())).await;
        fetched.map_err(|error| error.to_string())?
    }
}

/// Fetches an issuer's keys by its discovery document (OpenID Connect Discovery 1.0, section 4). Blocks.
fn discover(url: &str, ca: Option<&Path>) -> Result<FetchedKeys, String> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = ca {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let certificates = ureq::tls::parse_pem(&text).filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        let certificates: Vec<Certificate<'static>> = certificates.collect();
        if certificates.is_empty() {
            return Err(format!("{} holds no certificate in PEM", path.display()));
        }
        tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates)));
    }
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .https_only(true)
        .tls_config(tls.build())
        .build()
        .new_agent();
    let get = |url: &str| -> Result<String, String> {
        let mut answer = agent.get(url).call().map_err(|error| format!("{url}: {error}"))?;
        let body = answer.body_mut().with_config().limit(DOCUMENT_BYTES_MAX).read_to_string();
        body.map_err(|error| format!("{url}: {error}"))
    };
    let document = format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
    let discovery: Discovery = read(&get(&document)?)?;
    // Section 4.3: or one issuer could speak for another.
    if discovery.issuer != url {
        return Err(format!("{document} is of issuer {:?}, not of {url:?}", discovery.issuer));
    }
    Ok(FetchedKeys { issuer: discovery.issuer, keys: read(&get(&discovery.jwks_uri)?)? })
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("not the document that is wanted: {error}"))
}

#[cfg(test)]
mod tests;
