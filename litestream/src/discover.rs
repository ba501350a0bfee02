//! Discovery of what is in the bucket. Listings are hints, reads by key are proof.

use crate::bucket::{Bucket, BucketError};
use crate::chain::{ChainError, Place};
use crate::format::error::ObjectError;
use crate::format::header::{Header, Kind, ReplicaName};
use crate::layout;
use crate::position::{Digest, Head, Position, Seq};

/// Content of the bucket, as one look found it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Newest object of the sequence; `None` when there is provably no replica.
    pub head: Option<Head>,
    /// Snapshots listed, in ascending order of the number they cover.
    pub snapshots: Vec<(Seq, Digest)>,
    /// Merged segments listed: first, last, digest.
    pub merged: Vec<(Seq, Seq, Digest)>,
    /// Lowest number that may still be needed, as retention recorded it.
    pub lowest_needed: Option<Seq>,
    /// Time at which the number after the head was seen to be free, by the server's clock, in milliseconds since the Unix
    /// epoch.
    pub seen_ms: u64,
}

/// Error of a look at the bucket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// Bucket that does not answer, or refuses.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// Content that does not fit together.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Proven absence of a replica, where one is needed.
    #[error("there is no replica")]
    NoReplica,
    /// Malformed object `boundary`.
    #[error(
        "the object `boundary`, which names the lowest number still needed, is malformed: expected one decimal number, \
         found `{0}`"
    )]
    LowestNeeded(String),
}

/// Looks for the head: from the highest number that a listing or the object `boundary` names, upwards by key until
/// one is free. Answers that there is no replica only when `boundary` and the first number were read by key, both
/// folders were listed, and all of them are empty.
///
/// # Errors
/// [`DiscoverError`]; a bucket that does not exist is an error, not an absent replica.
pub async fn discover(bucket: &Bucket, replica: &ReplicaName) -> Result<Found, DiscoverError> {
    loop {
        let lowest_needed = read_lowest_needed(bucket).await?.map(|(lowest_needed, _)| lowest_needed);
        let after = lowest_needed.map(layout::sequence);
        let listed = bucket.list(layout::SEQUENCE, after.as_deref()).await?;
        let listed = lowest_needed.max(listed.iter().filter_map(|entry| layout::parse_sequence(&entry.key)).max());
        let head = find_head(bucket, replica, listed).await?;
        // After the head: a base that a segment follows is in this listing, or somebody took it away.
        let mut snapshots: Vec<_> = bucket
            .list(layout::SNAPSHOTS, None)
            .await?
            .iter()
            .filter_map(|entry| layout::parse_snapshot(&entry.key))
            .collect();
        snapshots.sort_unstable_by_key(|(seq, hash)| (*seq, hash.0));
        if let Some((newest, _)) = snapshots.last()
            && head.is_none_or(|(head, _)| head.position.seq < *newest)
        {
            // Either the replica grew while we looked, or its end is missing.
            if bucket.get_start(&layout::sequence(*newest), 1).await?.is_none() {
                return Err(ChainError::Missing { place: Place::Sequence(*newest) }.into());
            }
            tokio::time::sleep(bucket.retry().backoff(1)).await;
            continue;
        }
        let mut merged: Vec<_> =
            bucket.list(layout::MERGED, None).await?.iter().filter_map(|e| layout::parse_merged(&e.key)).collect();
        merged.sort_unstable_by_key(|(first, last, hash)| (*first, *last, hash.0));
        let (head, seen_ms) = head.unzip();
        return Ok(Found {
            head,
            snapshots,
            merged,
            lowest_needed,
            seen_ms: seen_ms.unwrap_or_else(|| bucket.now_ms()),
        });
    }
}

/// Reads upwards by key from `known`, which a listing or `boundary` names, to the last number in use. Returns that
/// object, and the time at which the number after it was seen to be free.
async fn find_head(
    bucket: &Bucket,
    replica: &ReplicaName,
    known: Option<Seq>,
) -> Result<Option<(Head, u64)>, DiscoverError> {
    let mut seq = known.unwrap_or(Seq(1));
    let Some(mut object) = bucket.get(&layout::sequence(seq)).await? else {
        return match known {
            Some(seq) => Err(ChainError::Missing { place: Place::Sequence(seq) }.into()),
            None => Ok(None),
        };
    };
    loop {
        let seen_ms = bucket.now_ms();
        match bucket.get(&layout::sequence(seq.next())).await? {
            Some(next) => (object, seq) = (next, seq.next()),
            None => return Ok(Some((read_head(replica, seq, &object)?, seen_ms))),
        }
    }
}

/// Reads the lowest needed number, and the ETag of the object that holds it.
///
/// # Errors
/// [`DiscoverError`].
pub(crate) async fn read_lowest_needed(bucket: &Bucket) -> Result<Option<(Seq, Option<String>)>, DiscoverError> {
    let Some((bytes, etag)) = bucket.get_tagged(layout::LOWEST_NEEDED, None).await? else { return Ok(None) };
    Ok(Some((parse_lowest_needed(&bytes)?, etag)))
}

/// Reads the content of the object `boundary`: one decimal number and a line feed.
///
/// # Errors
/// [`DiscoverError::LowestNeeded`].
pub(crate) fn parse_lowest_needed(bytes: &[u8]) -> Result<Seq, DiscoverError> {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end().parse().map(Seq).map_err(|_| DiscoverError::LowestNeeded(text.chars().take(40).collect()))
}

/// Reads the clear part of the newest object. Callers that use its content check its seal.
fn read_head(replica: &ReplicaName, seq: Seq, object: &[u8]) -> Result<Head, ChainError> {
    let place = Place::Sequence(seq);
    let (header, len) = Header::decode(object).map_err(|error| ChainError::Object { place, error })?;
    if header.replica != *replica {
        return Err(ChainError::Foreign { place, expected: replica.clone(), found: header.replica });
    }
    if header.seq != seq || !matches!(header.kind, Kind::Opening | Kind::Segment) {
        return Err(ChainError::Misplaced { place, found: header.kind, found_seq: header.seq });
    }
    if object.len() < len + 16 {
        let error = ObjectError::Truncated { have: object.len(), need: len + 16 };
        return Err(ChainError::Object { place, error });
    }
    Ok(Head {
        database: header.database,
        position: Position { term: header.term, seq, hash: Digest::of(object) },
        is_opening: header.kind == Kind::Opening,
        nonce: header.nonce,
        last_commit: header.last_commit,
        time_ms: header.time_ms,
    })
}
