//! The few requests to the API server that bringing a cluster up takes. Scenarios use a real client.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::layout::Layout;
use crate::pki::Pki;

/// A client of one cluster's API server with one component's rights.
pub struct Api {
    agent: ureq::Agent,
    server: String,
}

impl Api {
    /// A client that is known to the server as `component` (a name of [`Pki::pair`]).
    ///
    /// # Errors
    /// The component's certificate cannot be read.
    pub fn new(layout: &Layout, component: &str, server: &str) -> Result<Self> {
        let pki = Pki::of(layout);
        let pair = pki.pair(component);
        let certificate = Certificate::from_pem(&fs::read(&pair.certificate)?)?;
        let authority = Certificate::from_pem(&fs::read(pki.authority())?)?;
        let key = PrivateKey::from_pem(&fs::read(&pair.key)?)?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[authority]))
            .client_cert(Some(ClientCert::new_with_certs(&[certificate], key)))
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(Duration::from_secs(5)))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Ok(Self { agent: config.new_agent(), server: server.to_owned() })
    }

    /// True once the server says that it serves.
    pub fn is_ready(&self) -> bool {
        self.agent.get(format!("{}/readyz", self.server)).call().is_ok_and(|answer| answer.status() == 200)
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn get(&self, path: &str) -> Result<Value> {
        let answer = self.agent.get(format!("{}{path}", self.server)).call();
        Self::accepted(path, answer)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let answer = self
            .agent
            .post(format!("{}{path}", self.server))
            .content_type("application/json")
            .send(object.to_string().as_bytes());
        Self::accepted(path, answer)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn delete(&self, path: &str) -> Result<Value> {
        let answer = self.agent.delete(format!("{}{path}", self.server)).call();
        Self::accepted(path, answer)
    }

    fn accepted(
        path: &str,
        answer: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value> {
        let mut answer = answer.with_context(|| format!("asking the API server for {path}"))?;
        let body = answer.body_mut().read_to_string()?;
        if !answer.status().is_success() {
            bail!("the API server answers {} to {path}: {body}", answer.status());
        }
        serde_json::from_str(&body).with_context(|| format!("reading the API server's answer to {path}"))
    }
}
