//! Metrics of a replicated database, for Prometheus. What the bucket holds is asked of the bucket: a durable
//! position is read back before it is reported, at most once for every position.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::database::{Database, Phase, Probe};
use crate::position::Position;

type Labels = Vec<(&'static str, String)>;
type Numbers = Family<Labels, Gauge>;

/// A page of metrics for several databases.
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
        let mut gauge = |name: &str, help: &str| {
            let family = Numbers::default();
            registry.register(name, help, family.clone());
            family
        };
        Self {
            durable_seq: gauge("durable_seq", "Newest sequence number that the bucket acknowledged"),
            durable_term: gauge("durable_term", "Term of the newest acknowledged position"),
            committed: gauge("committed", "Newest local commit"),
            lag_commits: gauge("lag_commits", "Commits that the bucket does not have"),
            lag_ms: gauge("lag_milliseconds", "Age of the oldest commit that the bucket does not have"),
            confirmed: gauge("confirmed", "1 when the durable position was read back from the bucket as written"),
            phase: gauge("phase", "1 for the phase that replication is in"),
            closed_chains: gauge("closed_chains", "Times that a full queue closed the chain"),
            requests: gauge("requests", "Requests to the bucket by operation"),
            bytes: gauge("bytes", "Bytes to and from the bucket"),
            errors: gauge("errors", "Failed requests by kind"),
            last_drill: gauge("last_drill_timestamp_seconds", "When a restore drill last succeeded"),
            registry,
            probed: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Takes the numbers of one database.
    pub async fn collect(&self, database: &Database) {
        let db = database.path().display().to_string();
        let label = |more: &[(&'static str, &str)]| -> Labels {
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            std::iter::once(("db", db.clone())).chain(more).collect()
        };
        let set = |family: &Numbers, labels: Labels, value: u64| {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let status = database.status().borrow().clone();
        let durable = status.durable.map(|(position, _)| position);
        // Nothing new means nothing to ask: an idle database sends no request.
        let known = durable.is_some() && self.probed.lock().is_ok_and(|probed| probed.get(&db).copied() == durable);
        let confirmed = known || self.confirm(database, &db).await;
        set(&self.confirmed, label(&[]), u64::from(confirmed));
        if let Some(position) = durable.filter(|_| confirmed) {
            set(&self.durable_seq, label(&[]), position.seq.0);
            set(&self.durable_term, label(&[]), position.term.0);
        }
        let Probe { lag_commits, lag_ms, .. } = database.lag();
        set(&self.committed, label(&[]), status.committed.0);
        set(&self.lag_commits, label(&[]), lag_commits);
        set(&self.lag_ms, label(&[]), lag_ms);
        set(&self.closed_chains, label(&[]), status.closed_chains);
        for (name, is) in [
            ("unproven", status.phase == Phase::Unproven),
            ("basing", status.phase == Phase::Basing),
            ("shipping", status.phase == Phase::Shipping),
            ("chain-closed", status.phase == Phase::ChainClosed),
            ("fenced", matches!(status.phase, Phase::Fenced { .. })),
            ("refused", matches!(status.phase, Phase::Refused(_))),
        ] {
            set(&self.phase, label(&[("phase", name)]), u64::from(is));
        }
        let traffic = database.bucket().traffic();
        for (operation, count) in
            [("put", &traffic.puts), ("get", &traffic.gets), ("list", &traffic.lists), ("delete", &traffic.deletes)]
        {
            set(&self.requests, label(&[("operation", operation)]), count.load(Ordering::Relaxed));
        }
        for (direction, count) in [("put", &traffic.bytes_put), ("got", &traffic.bytes_got)] {
            set(&self.bytes, label(&[("direction", direction)]), count.load(Ordering::Relaxed));
        }
        for (kind, count) in &status.errors {
            set(&self.errors, label(&[("kind", kind.as_str())]), *count);
        }
    }

    /// Notes a drill that went well.
    pub fn drilled(&self, db: &str, at_ms: u64) {
        let seconds = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
        self.last_drill.get_or_create(&vec![("db", db.to_owned())]).set(seconds);
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        encode(&mut page, &self.registry).expect("a string takes everything");
        page
    }

    async fn confirm(&self, database: &Database, db: &str) -> bool {
        match database.probe().await {
            Ok(Probe { position: Some(position), .. }) => {
                if let Ok(mut probed) = self.probed.lock() {
                    probed.insert(db.to_owned(), position);
                }
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, db, "the durable position could not be confirmed");
                false
            }
        }
    }
}
