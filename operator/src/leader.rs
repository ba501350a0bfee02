//! Leader election by a Lease: only the holder writes.
//!
//! `decide` is pure; every write is an update with the resourceVersion read, so that of two candidates who saw the same
//! expired lease one gets a 409 and knows that it lost. Expiry is judged by how long *this* process has seen the lease
//! unchanged, never by comparing clocks of two machines. A holder that cannot renew in time ends its process: somebody else
//! may hold the lease by then. Even so two operators at once do no harm (see [`keyfleet_planner`]); the lease saves work.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

/// Lifetime of a lease after its last renewal.
const LEASE: Duration = Duration::from_secs(15);
/// Longest time that a holder goes on without a renewal: less than [`LEASE`], so that it has stopped before another begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Wait between two renewals, and between two looks of other candidates.
const RETRY: Duration = Duration::from_secs(2);

/// The lease, as a candidate sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen<'a> {
    /// Holder of the lease. `None` while nobody holds it or no lease exists.
    pub holder: Option<&'a str>,
    /// True while the Lease object exists.
    pub exists: bool,
    /// Time for which this process has seen the lease unchanged.
    pub unchanged_for: Duration,
    /// Lifetime after the last renewal.
    pub lasts: Duration,
}

/// Next write of a candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LeaseAction {
    /// POST the lease: it does not exist.
    Create,
    /// Update it: one holds it already, and says so again.
    Renew,
    /// Update it: nobody does, or the holder has let it expire.
    Take,
    /// Look again later.
    Wait,
}

/// Decides, from what was seen.
fn decide(seen: Seen<'_>, me: &str) -> LeaseAction {
    match seen.holder {
        _ if !seen.exists => LeaseAction::Create,
        Some(holder) if holder == me => LeaseAction::Renew,
        None => LeaseAction::Take,
        Some(_) if seen.unchanged_for >= seen.lasts => LeaseAction::Take,
        Some(_) => LeaseAction::Wait,
    }
}

/// Why leadership ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LostLeaseError {
    /// Somebody else holds the lease.
    #[error("the lease is held by {0}")]
    Taken(String),
    /// The lease could not be renewed in time.
    #[error("the lease could not be renewed within {seconds} s: {0}", seconds = RENEW_DEADLINE.as_secs())]
    NotRenewed(kube::Error),
}

/// A candidate.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    me: String,
    last: Option<(String, tokio::time::Instant)>,
}

impl Candidate {
    /// A candidate for the Lease `name` in `namespace`. `me` must differ between processes: the pod's name and a random
    /// part.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, me: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), name: name.into(), me, last: None }
    }

    /// Returns when the lease is held.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease could not be read or taken; trying again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the lease until it is lost. The process must end then.
    pub async fn hold(&mut self) -> LostLeaseError {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            let deadline = renewed + RENEW_DEADLINE;
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(true)) => renewed = tokio::time::Instant::now(),
                Ok(Ok(false)) => {
                    let holder = self.leases.get(&self.name).await.ok().and_then(|lease| lease.spec);
                    return LostLeaseError::Taken(holder.and_then(|spec| spec.holder_identity).unwrap_or_default());
                }
                Ok(Err(error)) if tokio::time::Instant::now() >= deadline => return LostLeaseError::NotRenewed(error),
                Ok(Err(error)) => tracing::warn!(%error, "the lease was not renewed; trying again"),
                Err(_) => {
                    let error = kube::Error::Service("no answer in time".into());
                    return LostLeaseError::NotRenewed(error);
                }
            }
        }
    }

    /// Gives the lease up, so that the next holder need not wait for it to expire.
    pub async fn release(&mut self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.name).await else { return };
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.me)) {
            spec.holder_identity = None;
            // A refusal means that it was lost before: either way it is not ours any more.
            let _ = self.leases.replace(&self.name, &PostParams::default(), &lease).await;
        }
    }

    /// Looks once and writes at most once. Returns true when the lease is held afterwards.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let lease = self.leases.get_opt(&self.name).await?;
        let version = lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone()).unwrap_or_default();
        let now = tokio::time::Instant::now();
        let since = match &self.last {
            Some((seen, since)) if *seen == version => *since,
            _ => now,
        };
        self.last = Some((version, since));
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let lasts = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let seen = Seen {
            holder: spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty()),
            exists: lease.is_some(),
            unchanged_for: now - since,
            lasts: lasts.map_or(LEASE, Duration::from_secs),
        };
        let action = decide(seen, &self.me);
        let written = match action {
            LeaseAction::Wait => return Ok(false),
            LeaseAction::Create => self.leases.create(&PostParams::default(), &self.lease(None, action)).await,
            LeaseAction::Renew | LeaseAction::Take => {
                let body = self.lease(lease.as_ref(), action);
                self.leases.replace(&self.name, &PostParams::default(), &body).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lease(&self, before: Option<&Lease>, action: LeaseAction) -> Lease {
        let now = Some(MicroTime(jiff::Timestamp::now()));
        let mut lease = before.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if action != LeaseAction::Renew {
            spec.acquire_time.clone_from(&now);
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |times| times.saturating_add(1)));
        }
        spec.holder_identity = Some(self.me.clone());
        spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
        spec.renew_time = now;
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease with a version, as the API server keeps it.
    #[derive(Clone, Default)]
    struct Server {
        version: u64,
        holder: Option<&'static str>,
    }

    #[derive(Clone, Copy, Default)]
    struct Process {
        read: Option<(u64, Option<&'static str>)>,
        seen_since: (u64, u64),
        holds_until: u64,
    }

    const LASTS: u64 = 15;
    const DEADLINE: u64 = 10;

    impl Process {
        fn look(&mut self, server: &Server, now: u64) {
            if self.seen_since.0 != server.version {
                self.seen_since = (server.version, now);
            }
            self.read = Some((server.version, server.holder));
        }

        fn write(&mut self, me: &'static str, server: &mut Server, now: u64) {
            let Some((version, holder)) = self.read.take() else { return };
            let seen = Seen {
                holder,
                exists: version > 0,
                unchanged_for: Duration::from_secs(now - self.seen_since.1),
                lasts: Duration::from_secs(LASTS),
            };
            let writes = decide(seen, me) != LeaseAction::Wait;
            if writes && server.version == version {
                *server = Server { version: version + 1, holder: Some(me) };
                self.holds_until = now + DEADLINE;
            } else if writes {
                self.holds_until = 0;
            }
        }
    }

    /// Every order of looking, writing and waiting of two candidates: never do both hold the lease at once.
    #[test]
    fn two_candidates_never_lead_at_once_whatever_the_order() {
        fn explore(server: &Server, processes: [Process; 2], now: u64, depth: usize, tried: &mut u64) {
            let leading = processes.iter().filter(|process| process.holds_until > now).count();
            assert!(leading <= 1, "both lead at {now}");
            *tried += 1;
            if depth == 0 {
                return;
            }
            for (who, me) in [(0, "a"), (1, "b")] {
                let mut looked = processes;
                looked[who].look(server, now);
                explore(server, looked, now, depth - 1, tried);
                let (mut wrote, mut after) = (processes, server.clone());
                wrote[who].write(me, &mut after, now);
                explore(&after, wrote, now, depth - 1, tried);
            }
            explore(server, processes, now + 8, depth - 1, tried);
        }
        let mut tried = 0;
        explore(&Server::default(), [Process::default(); 2], 0, 8, &mut tried);
        assert!(tried > 100_000, "only {tried} orders were tried");
    }

    /// A lease is taken only from nobody or from one who let it expire.
    #[test]
    fn a_lease_is_taken_only_when_free_or_expired() {
        let seen = |holder, unchanged_for| Seen {
            holder,
            exists: true,
            unchanged_for: Duration::from_secs(unchanged_for),
            lasts: LEASE,
        };
        assert_eq!(decide(Seen { exists: false, ..seen(None, 0) }, "me"), LeaseAction::Create);
        assert_eq!(decide(seen(Some("me"), 0), "me"), LeaseAction::Renew);
        assert_eq!(decide(seen(None, 0), "me"), LeaseAction::Take);
        assert_eq!(decide(seen(Some("you"), 14), "me"), LeaseAction::Wait);
        assert_eq!(decide(seen(Some("you"), 15), "me"), LeaseAction::Take);
    }
}
