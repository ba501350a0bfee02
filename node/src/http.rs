//! `/health`, `/ready`, `/status`, `/metrics`: for kubelet, people and Prometheus. Nothing secret, no token.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, serve};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::round::{Epochs, Published};

/// Data that the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    /// Reason why the node does not start, in words that a person can act on.
    pub(crate) trouble: watch::Receiver<Option<String>>,
    /// The running node, once it runs.
    pub(crate) node: watch::Receiver<Option<Running>>,
    /// Where tests had it die.
    #[cfg(feature = "danger-faults")]
    pub(crate) died: Vec<String>,
}

/// Data of a running node.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) identity: String,
    pub(crate) published: watch::Receiver<Arc<Published>>,
    pub(crate) served: watch::Receiver<Arc<Epochs>>,
}

impl Running {
    fn newest_served(&self) -> Option<u64> {
        self.served.borrow().newest().map(|(number, _)| number.0)
    }

    /// Holds the newest active epoch that it has heard of, whatever the replica and the API server do. Where there has
    /// never been one: what it offers is durable, so it can take part.
    #[must_use]
    pub(crate) fn is_ready(&self) -> bool {
        let published = self.published.borrow();
        let served = self.served.borrow();
        let waits_for_first = served.newest().is_none()
            && published.state.as_ref().is_some_and(|state| state.newest_certified().is_none());
        served.are_current(&published) || waits_for_first
    }
}

/// Serves the pages until the process ends.
///
/// # Errors
/// The listener's.
pub(crate) async fn run(listener: TcpListener, pages: Pages) -> std::io::Result<()> {
    serve(listener, router(pages)).await
}

/// The pages as a router.
pub(crate) fn router(pages: Pages) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(pages)
}

/// seed: 003-47
async fn health(State(pages): State<Pages>) -> Json<Value> {
    let node = pages.node.borrow().clone();
    let epoch = node.as_ref().and_then(Running::newest_served);
    // A node that waits for its key-encryption key is healthy: a restart would not bring the key.
    Json(json!({ "status": "ok", "hasActiveKey": epoch.is_some(), "lastReshare": epoch }))
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    let node = pages.node.borrow().clone();
    match (node, pages.trouble.borrow().clone()) {
        (Some(node), _) if node.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
        (Some(_), None) => (StatusCode::SERVICE_UNAVAILABLE, "no share of the newest active epoch\n".to_owned()),
        (_, Some(trouble)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
        (None, None) => (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
    }
}

async fn status(State(pages): State<Pages>) -> Json<Value> {
    let node = pages.node.borrow().clone();
    let rounds = node.as_ref().and_then(|node| {
        let state = node.published.borrow().state.clone()?;
        Some(json!({
            "cluster": state.cluster.to_string(),
            "index": state.index.value(),
            "highestNumber": state.highest.0,
            "publicKey": state.public_key.map(|key| hex::encode(key.encode())),
            "epochs": state.attempts.iter().map(|(number, attempt)| json!({
                "number": number.0,
                "active": attempt.certificate().is_some(),
                "open": attempt.is_open(),
                "holdsShare": attempt.holds_share,
                "erased": attempt.erased,
            })).collect::<Vec<_>>(),
        }))
    });
    #[cfg_attr(not(feature = "danger-faults"), expect(unused_mut, reason = "only images for tests add to it"))]
    let mut page = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "trouble": *pages.trouble.borrow(),
        "identity": node.as_ref().map(|node| node.identity.clone()),
        "ready": node.as_ref().is_some_and(Running::is_ready),
        "activeEpoch": node.as_ref().and_then(Running::newest_served),
        "rounds": rounds,
    });
    #[cfg(feature = "danger-faults")]
    {
        page["danger"] = json!({ "died": pages.died });
    }
    Json(page)
}

/// Name, help and value of a metric.
type GaugeOf = (&'static str, &'static str, fn(&Running) -> Option<u64>);

/// The node's own metrics; each is 0 before the node runs.
const GAUGES: [GaugeOf; 3] = [
    ("ready", "1 while the node holds the newest active epoch it has heard of", |node| Some(node.is_ready().into())),
    ("active_epoch", "Number of the newest epoch that is served; 0: none", Running::newest_served),
    ("highest_number", "Highest attempt number accepted", |node| {
        Some(node.published.borrow().state.as_ref()?.highest.0)
    }),
];

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let node = pages.node.borrow().clone();
    let mut registry = Registry::with_prefix("keyfleet_node");
    for (name, help, value) in GAUGES {
        let gauge = Gauge::<i64>::default();
        let value = node.as_ref().and_then(value).unwrap_or(0);
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode(&mut text, &registry);
    let code = if encoded.is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (code, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_node_without_its_key_is_alive_not_ready_and_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trouble, node) =
            (watch::Sender::new(Some("KeyEncryptionKeyMissing: …".to_owned())), watch::Sender::new(None));
        let pages = Pages {
            trouble: trouble.subscribe(),
            node: node.subscribe(),
            #[cfg(feature = "danger-faults")]
            died: Vec::new(),
        };
        let server = tokio::spawn(run(listener, pages));
        assert!(get(address, "/health").await.starts_with("HTTP/1.1 200"), "it would be restarted for nothing");
        let ready = get(address, "/ready").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("KeyEncryptionKeyMissing"), "{ready}");
        assert!(get(address, "/status").await.contains("KeyEncryptionKeyMissing"), "the status does not say why");
        assert!(get(address, "/metrics").await.contains("keyfleet_node_ready 0"), "a metric is missing");
        server.abort();
    }
}
