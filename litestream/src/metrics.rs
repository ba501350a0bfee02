//! Metrics of a replicated database, for Prometheus. A durable position is read back from the bucket before it is
//! reported, once for every position. A bucket that is silent keeps no page waiting: that is when metrics are needed.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::database::{Database, Phase, Probe};
use crate::position::Position;

/// Time for which a page waits for the bucket.
const PATIENCE: Duration = Duration::from_secs(2);

type Labels = Vec<(&'static str, String)>;
type Numbers = Family<Labels, Gauge>;

/// Page of metrics for several databases.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    durable_seq: Numbers,
    durable_term: Numbers,
    committed: Numbers,
    lag_commits: Numbers,
    lag_ms: Numbers,
    confirmed: Numbers,
    phase: Numbers,
    closed_chains: Numbers,
    requests: Numbers,
    bytes: Numbers,
    errors: Numbers,
    last_drill: Numbers,
    probed: Mutex<std::collections::HashMap<String, Position>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyfleet_litestream");
        Self {
            durable_seq: gauge(&mut registry, "durable_seq", "Newest sequence number that the bucket acknowledged"),
            durable_term: gauge(&mut registry, "durable_term", "Term of the newest acknowledged position"),
            committed: gauge(&mut registry, "committed", "Newest local commit"),
            lag_commits: gauge(&mut registry, "lag_commits", "Commits that the bucket does not have"),
            lag_ms: gauge(&mut registry, "lag_milliseconds", "Age of the oldest commit that the bucket does not have"),
            confirmed: gauge(
                &mut registry,
                "confirmed",
                "1 when the durable position was read back from the bucket as written",
            ),
            phase: gauge(&mut registry, "phase", "1 for the phase that replication is in"),
            closed_chains: gauge(&mut registry, "closed_chains", "Times that a full queue closed the chain"),
            requests: gauge(&mut registry, "requests", "Requests to the bucket by operation"),
            bytes: gauge(&mut registry, "bytes", "Bytes to and from the bucket"),
            errors: gauge(&mut registry, "errors", "Failed requests by kind"),
            last_drill: gauge(&mut registry, "last_drill_timestamp_seconds", "When a restore drill last succeeded"),
            registry,
            probed: Mutex::default(),
        }
    }
}

/// Registers a family of gauges.
fn gauge(registry: &mut Registry, name: &str, help: &str) -> Numbers {
    let family = Numbers::default();
    registry.register(name, help, family.clone());
    family
}

impl Metrics {
    /// Takes the numbers of one database. Reads its durable position back from the bucket where that is a new one.
    pub async fn collect(&self, database: &Database) {
        let db = database.path().display().to_string();
        let status = database.status().borrow().clone();
        let durable = status.durable.map(|(position, _)| position);
        // An idle database has no new position, and sends no request.
        let known = durable.is_some() && self.probed.lock().is_ok_and(|probed| probed.get(&db).copied() == durable);
        let confirmed = known || self.confirm(database, &db).await;
        set(&self.confirmed, &labels(&db, None), u64::from(confirmed));
        if let Some(position) = durable.filter(|_| confirmed) {
            set(&self.durable_seq, &labels(&db, None), position.seq.0);
            set(&self.durable_term, &labels(&db, None), position.term.0);
        }
        let Probe { lag_commits, lag_ms, .. } = database.lag();
        set(&self.committed, &labels(&db, None), status.committed.0);
        set(&self.lag_commits, &labels(&db, None), lag_commits);
        set(&self.lag_ms, &labels(&db, None), lag_ms);
        set(&self.closed_chains, &labels(&db, None), status.closed_chains);
        for (name, is) in [
            ("unproven", status.phase == Phase::Unproven),
            ("basing", status.phase == Phase::Basing),
            ("shipping", status.phase == Phase::Shipping),
            ("chain-closed", status.phase == Phase::ChainClosed),
            ("fenced", matches!(status.phase, Phase::Fenced { .. })),
            ("refused", matches!(status.phase, Phase::Refused(_))),
        ] {
            set(&self.phase, &labels(&db, Some(("phase", name))), u64::from(is));
        }
        let traffic = database.bucket().traffic();
        for (operation, count) in
            [("put", &traffic.puts), ("get", &traffic.gets), ("list", &traffic.lists), ("delete", &traffic.deletes)]
        {
            set(&self.requests, &labels(&db, Some(("operation", operation))), count.load(Ordering::Relaxed));
        }
        for (direction, count) in [("put", &traffic.bytes_put), ("got", &traffic.bytes_got)] {
            set(&self.bytes, &labels(&db, Some(("direction", direction))), count.load(Ordering::Relaxed));
        }
        for (kind, count) in &status.errors {
            set(&self.errors, &labels(&db, Some(("kind", kind.as_str()))), *count);
        }
    }

    /// Records a drill that succeeded at `at_ms`, in milliseconds since the Unix epoch.
    pub fn drilled(&self, db: &str, at_ms: u64) {
        let seconds = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
        self.last_drill.get_or_create(&vec![("db", db.to_owned())]).set(seconds);
    }

    /// Returns the page, in OpenMetrics' text format.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        encode(&mut page, &self.registry).expect("a string takes everything");
        page
    }

    /// Reads the durable position back. Returns true when the bucket holds it as it was written.
    async fn confirm(&self, database: &Database, db: &str) -> bool {
        let asked = tokio::time::timeout(PATIENCE, database.confirm()).await;
        match asked.unwrap_or(Ok(None)) {
            Ok(Some(position)) => {
                if let Ok(mut probed) = self.probed.lock() {
                    probed.insert(db.to_owned(), position);
                }
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, db, "the durable position could not be confirmed");
                false
            }
        }
    }
}

/// Returns the labels of one number: the database, and one more where there are several numbers of a kind.
fn labels(db: &str, more: Option<(&'static str, &str)>) -> Labels {
    let more = more.map(|(name, value)| (name, value.to_owned()));
    std::iter::once(("db", db.to_owned())).chain(more).collect()
}

fn set(family: &Numbers, labels: &Labels, value: u64) {
    family.get_or_create(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}
