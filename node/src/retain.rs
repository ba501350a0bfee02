//! The retention job: deletes what no replica of a cluster's nodes needs any more, under an identity of its own. Nodes
//! cannot delete, so that one bad node destroys no other's replica; this job has no key, so that it can open none.
//!
//! It finds replicas by the bucket, not by the API server, of which it has no token: whatever lies under the cluster's id is
//! swept, a removed node's replica too. What a replica keeps is decided by [`keyfleet_litestream::retention`].

use keyfleet_crds::retention_config::RetentionConfig;
use keyfleet_litestream::bucket::{Bucket, BucketError, ErrorKind, Location, RetryPolicy};
use keyfleet_litestream::retention::{self, Rules, SweepError};

use crate::store::replica::{CaConfigMapError, location};

/// Life of a restore's pin, in milliseconds: nodes cannot delete their own.
const PIN_EXPIRY_MS: u64 = 6 * HOUR_MS;
const HOUR_MS: u64 = 3_600_000;

/// Result of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Retained {
    /// Replicas that were swept.
    pub(crate) replicas: usize,
    /// Objects that were deleted, all their versions included.
    pub(crate) deleted: usize,
}

/// Why a run did not do all of its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RetainError {
    /// The bucket's certificate authorities are not known.
    #[error(transparent)]
    CaConfigMap(#[from] CaConfigMapError),
    /// The bucket, before any replica was looked at.
    #[error("nothing was deleted: {error}{}", advice(.error))]
    Bucket {
        /// Answer of the bucket.
        error: BucketError,
    },
    /// Some replicas; the others were swept.
    #[error("{} of {all} replicas were not swept: {}", .errors.len(), .errors.join("; "))]
    Replicas {
        /// Number of all replicas.
        all: usize,
        /// Each node's index and what went wrong.
        errors: Vec<String>,
    },
}

/// Sweeps every replica once. One that fails keeps no other from being swept.
///
/// # Errors
/// [`RetainError`]. What was deleted until then is needed by no restore.
pub(crate) async fn run(config: &RetentionConfig) -> Result<Retained, RetainError> {
    let folder = location(&config.s3, &config.cluster_id.to_string())?;
    run_at(&folder, config.grace_hours).await
}

/// As [`run`], for the replicas in one folder of the bucket.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_at(folder: &Location, grace_hours: u32) -> Result<Retained, RetainError> {
    let bucket = Bucket::connect(folder.clone(), RetryPolicy::default()).await;
    let mut nodes: Vec<u32> = bucket
        .folders()
        .await
        .map_err(|error| RetainError::Bucket { error })?
        .iter()
        .filter_map(|name| name.parse().ok().filter(|index: &u32| index.to_string() == *name))
        .collect();
    nodes.sort_unstable();
    if nodes.is_empty() {
        tracing::info!(place = %folder, "there is no replica yet, so nothing is deleted");
    }
    let (mut retained, mut errors) = (Retained::default(), Vec::new());
    for node in &nodes {
        let own = Location { prefix: format!("{}/{node}", folder.prefix), ..folder.clone() };
        let bucket = Bucket::connect(own, RetryPolicy::default()).await;
        match retention::run(&bucket, &rules(grace_hours), crate::clock::now_ms(), false).await {
            Ok(swept) => {
                let boundary = swept.lowest_needed.map(|boundary| boundary.0);
                let (deleted, kept) = (swept.deleted.len(), swept.kept.len());
                tracing::info!(node, deleted, kept, boundary, unusable = ?swept.unusable, "swept");
                retained.replicas += 1;
                retained.deleted += deleted;
            }
            Err(error) => {
                tracing::error!(node, %error, "not swept");
                let advice = match &error {
                    SweepError::Bucket(error) => advice(error),
                    _ => "",
                };
                errors.push(format!("node {node}: {error}{advice}"));
            }
        }
    }
    if errors.is_empty() { Ok(retained) } else { Err(RetainError::Replicas { all: nodes.len(), errors }) }
}

/// Nothing older than what the newest snapshots need is wanted: a node comes back as of its newest acknowledged commit, and
/// its floor refuses anything older. The grace is for restores under way and for people.
fn rules(grace_hours: u32) -> Rules {
    Rules {
        window_ms: 0,
        levels: Vec::new(),
        keep_at_least: 2,
        grace_ms: u64::from(grace_hours) * HOUR_MS,
        pin_expiry_ms: PIN_EXPIRY_MS,
    }
}

fn advice(error: &BucketError) -> &'static str {
    match error.kind {
        ErrorKind::Denied => {
            ". The credentials of spec.replication.retention must be allowed to list objects and their versions, to get, to \
             put the object `boundary`, and to delete objects and their versions"
        }
        ErrorKind::Credentials => {
            ". Make the Secret that spec.replication.retention.credentialsSecret names, with accessKeyId and secretAccessKey, \
             or let serviceAccountAnnotations name an identity of the cloud's"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object stays for the grace, and two restore points stay for ever.
    #[test]
    fn the_grace_and_two_restore_points_are_kept() {
        let rules = rules(72);
        assert_eq!((rules.grace_ms, rules.keep_at_least), (72 * HOUR_MS, 2));
        // A writer that was idle for longer than this looks at the boundary before it acknowledges.
        assert!(self::rules(1).grace_ms > 300_000, "the grace is no longer than a writer's idle grace");
    }
}
