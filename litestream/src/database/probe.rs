//! How far the bucket is behind, by what it acknowledged and by what it answers.

use super::error::ProbeError;
use super::shared::Shared;
use crate::bucket::Bucket;
use crate::clock::now_ms;
use crate::layout;
use crate::position::{CommitNo, Digest, Position};

/// What [`Database::probe`] measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The position whose object was read back; none when nothing was ever acknowledged.
    pub position: Option<Position>,
    /// Commits that the bucket does not have.
    pub lag_commits: u64,
    /// Age of the oldest of them, in milliseconds.
    pub lag_ms: u64,
}

/// Reads the durable position's object back.
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

/// What is not acknowledged yet. Every acknowledgement is the bucket's.
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
