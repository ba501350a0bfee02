//! Metrics, and the HTTP endpoints `/health`, `/ready` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct KindError {
    kind: String,
    error: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfCluster {
    namespace: String,
    cluster: String,
}

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Kind, Histogram>,
    failures: Family<KindError, Counter>,
    writes: Family<Kind, Counter>,
    blocks: Family<OfCluster, Gauge<u64, AtomicU64>>,
    leading: AtomicBool,
}

/// Measures one reconcile that ends well.
pub(crate) struct Timer {
    histogram: Histogram,
    since: Instant,
}

impl Timer {
    pub(crate) fn done(self) {
        self.histogram.observe(self.since.elapsed().as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyfleet_operator");
        let reconciles =
            Family::<Kind, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14)));
        let (failures, writes, blocks) = (Family::default(), Family::default(), Family::default());
        registry.register("reconcile_seconds", "Time of reconciles that ended well", reconciles.clone());
        registry.register("reconcile_failures", "Reconciles that failed, by error", Family::clone(&failures));
        registry.register("writes", "Reconciles' writes to the API server", Family::clone(&writes));
        registry.register("block_height", "The newest believed block", Family::clone(&blocks));
        Self { registry, reconciles, failures, writes, blocks, leading: AtomicBool::new(false) }
    }
}

impl Metrics {
    pub(crate) fn reconcile(&self, kind: &str) -> Timer {
        let histogram = self.reconciles.get_or_create(&Kind { kind: kind.into() }).clone();
        Timer { histogram, since: Instant::now() }
    }

    pub(crate) fn failed(&self, kind: &str, error: &'static str) {
        self.failures.get_or_create(&KindError { kind: kind.into(), error }).inc();
    }

    pub(crate) fn wrote(&self, kind: &str) {
        self.writes.get_or_create(&Kind { kind: kind.into() }).inc();
    }

    pub(crate) fn block(&self, namespace: &str, cluster: &str, height: u64) {
        let of = OfCluster { namespace: namespace.into(), cluster: cluster.into() };
        self.blocks.get_or_create(&of).set(height);
    }

    /// Says whether this process leads, for `/ready` and people.
    pub fn set_leading(&self, leading: bool) {
        self.leading.store(leading, Ordering::Relaxed);
    }

    /// All metrics in OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// The endpoints. A candidate that waits for the lease is as ready as one that leads.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/health", get(async || StatusCode::OK))
            .route("/ready", get(ready))
            .route("/metrics", get(async |State(metrics): State<Arc<Self>>| metrics.text()))
            .with_state(self)
    }
}

async fn ready(State(metrics): State<Arc<Metrics>>) -> &'static str {
    if metrics.leading.load(Ordering::Relaxed) { "leading" } else { "waiting for the lease" }
}
