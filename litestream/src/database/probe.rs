//! Measure of the bucket's lag, by its acknowledgements and by its answers.

use super::error::ProbeError;
use super::shared::Shared;
use crate::bucket::Bucket;
use crate::clock::now_ms;
use crate::layout;
use crate::position::{CommitNo, Digest, Position};

/// Distance between the local state and the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Newest acknowledged position; `None` when nothing was acknowledged in this process.
    pub position: Option<Position>,
    /// Number of commits that the bucket does not have.
    pub lag_commits: u64,
    /// Age of the oldest of them, in milliseconds.
    pub lag_ms: u64,
}

/// Measures the lag, and reads the durable position's object back from the bucket.
pub(super) async fn probe(shared: &Shared, bucket: &Bucket) -> Result<Probe, ProbeError> {
    let probe = lag(shared);
    if let Some(position) = probe.position {
        let object = bucket.get(&layout::sequence(position.seq)).await?;
        if object.is_none_or(|object| Digest::of(&object) != position.hash) {
            return Err(ProbeError::Mismatch(position));
        }
    }
    Ok(probe)
}

/// Reads the durable position's object back with one request: for callers that must not wait.
pub(super) async fn confirm(shared: &Shared, bucket: &Bucket) -> Result<Option<Position>, ProbeError> {
    let Some(position) = lag(shared).position else { return Ok(None) };
    let object = bucket.get_once(&layout::sequence(position.seq), None).await?;
    if object.is_none_or(|(object, _)| Digest::of(&object) != position.hash) {
        return Err(ProbeError::Mismatch(position));
    }
    Ok(Some(position))
}

/// Measures the lag by what the bucket acknowledged. Sends nothing.
pub(super) fn lag(shared: &Shared) -> Probe {
    let status = shared.status();
    let durable_commit = status.durable.map_or(CommitNo(0), |(_, commit)| commit);
    let lag_commits = status.committed.0.saturating_sub(durable_commit.0);
    let lag_ms = match shared.unacknowledged_ms() {
        Some(oldest_ms) if lag_commits > 0 => now_ms().saturating_sub(oldest_ms),
        _ => 0,
    };
    Probe { position: status.durable.map(|(position, _)| position), lag_commits, lag_ms }
}
