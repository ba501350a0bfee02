//! Queries from inside a pod: DNS, HTTP, the token. They block, since a scenario makes one at a time.

use std::fs;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Returns the addresses of a name, sorted, one per line.
pub(crate) fn resolve(name: &str) -> Result<String> {
    let found = (name, 0).to_socket_addrs().with_context(|| format!("resolving {name}"))?;
    let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses.join("\n"))
}

/// Fetches a URL and returns the body. A status other than 2xx is an error with the body in it.
pub(crate) fn fetch(url: &str, authority: &Path, token: Option<&Path>, post: Option<&str>) -> Result<String> {
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .proxy(None);
    if url.starts_with("https:") {
        let pem = fs::read(authority).with_context(|| format!("reading {}", authority.display()))?;
        let roots = RootCerts::new_with_certs(&[Certificate::from_pem(&pem)?]);
        config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
    }
    let agent = config.build().new_agent();
    let shown = token.map(|file| self::token(file).map(|token| format!("Bearer {token}"))).transpose()?;
    let answer = match post {
        Some(json) => with_header(agent.post(url).content_type("application/json"), shown).send(json),
        None => with_header(agent.get(url), shown).call(),
    };
    let mut answer = answer.with_context(|| format!("fetching {url}"))?;
    let body = answer.body_mut().read_to_string()?;
    if !answer.status().is_success() {
        bail!("{url} answers {}: {body}", answer.status());
    }
    Ok(body)
}

fn with_header<B>(request: ureq::RequestBuilder<B>, authorization: Option<String>) -> ureq::RequestBuilder<B> {
    match authorization {
        Some(value) => request.header("authorization", value),
        None => request,
    }
}

/// Reads the token in a file.
pub(crate) fn token(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(text.trim().to_owned())
}
