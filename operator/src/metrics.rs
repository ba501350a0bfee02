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

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfPhase {
    phase: String,
}

/// Gauges of one cluster.
type PerCluster = Family<OfCluster, Gauge<u64, AtomicU64>>;

/// A cluster as it is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) block: u64,
    pub(crate) active_epoch: u64,
    pub(crate) next_boundary: u64,
    pub(crate) ready: usize,
    pub(crate) connected: usize,
    /// When the retention job last ended well, in seconds since the Unix epoch; 0: never.
    pub(crate) swept: i64,
    pub(crate) sweep_fails: bool,
}

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Kind, Histogram>,
    failures: Family<KindError, Counter>,
    writes: Family<Kind, Counter>,
    blocks: PerCluster,
    active_epochs: PerCluster,
    next_boundaries: PerCluster,
    ready: PerCluster,
    connected: PerCluster,
    swept: PerCluster,
    sweep_fails: PerCluster,
    phases: Family<OfPhase, Histogram>,
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

fn per_cluster(registry: &mut Registry, name: &str, help: &str) -> PerCluster {
    let family = PerCluster::default();
    registry.register(name, help, family.clone());
    family
}

fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyfleet_operator");
        let reconciles =
            Family::<Kind, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14)));
        let (failures, writes) = (Family::default(), Family::default());
        let phases =
            Family::<OfPhase, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.05, 2.0, 14)));
        registry.register("reconcile_seconds", "Time of reconciles that ended well", reconciles.clone());
        registry.register("reconcile_failures", "Reconciles that failed, by error", Family::clone(&failures));
        registry.register("writes", "Reconciles' writes to the API server", Family::clone(&writes));
        registry.register("phase_seconds", "Time that rounds spent in a phase that ended", phases.clone());
        let blocks = per_cluster(&mut registry, "block_height", "The newest believed block");
        let active_epochs = per_cluster(&mut registry, "active_epoch", "The number of the active epoch; 0: none");
        let next_boundaries = per_cluster(&mut registry, "next_boundary", "The block of the next boundary; 0: unknown");
        let ready = per_cluster(&mut registry, "nodes_ready", "Nodes whose pods are ready");
        let connected = per_cluster(&mut registry, "nodes_connected", "Nodes whose stream is open and caught up");
        let swept = per_cluster(
            &mut registry,
            "retention_last_success_timestamp_seconds",
            "When the job that deletes what replicas no longer need last ended well; 0: never, or there is none",
        );
        let sweep_fails =
            per_cluster(&mut registry, "retention_failing", "1: the newest run of that job did not end well");
        let leading = AtomicBool::new(false);
        Self {
            registry,
            reconciles,
            failures,
            writes,
            blocks,
            active_epochs,
            next_boundaries,
            ready,
            connected,
            swept,
            sweep_fails,
            phases,
            leading,
        }
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

    pub(crate) fn cluster(&self, namespace: &str, cluster: &str, now: &Measured) {
        let of = OfCluster { namespace: namespace.into(), cluster: cluster.into() };
        self.blocks.get_or_create(&of).set(now.block);
        self.active_epochs.get_or_create(&of).set(now.active_epoch);
        self.next_boundaries.get_or_create(&of).set(now.next_boundary);
        self.ready.get_or_create(&of).set(count(now.ready));
        self.connected.get_or_create(&of).set(count(now.connected));
        self.swept.get_or_create(&of).set(u64::try_from(now.swept).unwrap_or(0));
        self.sweep_fails.get_or_create(&of).set(u64::from(now.sweep_fails));
    }

    pub(crate) fn forget(&self, namespace: &str, cluster: &str) {
        let of = OfCluster { namespace: namespace.into(), cluster: cluster.into() };
        for family in [
            &self.blocks,
            &self.active_epochs,
            &self.next_boundaries,
            &self.ready,
            &self.connected,
            &self.swept,
            &self.sweep_fails,
        ] {
            family.remove(&of);
        }
    }

    pub(crate) fn phase(&self, phase: &str, seconds: f64) {
        self.phases.get_or_create(&OfPhase { phase: phase.into() }).observe(seconds);
    }

    /// Notes that this process leads, or does not, for `/ready` and people.
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
