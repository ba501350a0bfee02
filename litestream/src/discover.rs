//! Finding out what is in the bucket. Listings are hints, reads by key are proof.

use crate::bucket::{Bucket, BucketError};
use crate::chain::{ChainError, Place};
use crate::format::error::ObjectError;
use crate::format::header::{Header, Kind, ReplicaName};
use crate::layout;
use crate::position::{Digest, Head, Position, Seq};

/// What a look at the bucket found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The newest object of the sequence; none when there is provably no replica.
    pub head: Option<Head>,
    /// Snapshots listed, in ascending order of the number they cover.
    pub snapshots: Vec<(Seq, Digest)>,
    /// Merged segments listed: first, last, digest.
    pub merged: Vec<(Seq, Seq, Digest)>,
    /// Lowest number that may still be needed.
    pub lowest_needed: Option<Seq>,
    /// When the number after the head was seen to be free, in milliseconds since the Unix epoch.
    pub seen_ms: u64,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// The bucket does not answer, or says no.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// What is there does not fit together.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The boundary object is not one.
    #[error("the boundary object is malformed: expected one decimal number, found `{0}`")]
    LowestNeeded(String),
}

/// Looks for the head: from the highest number that a listing or the boundary names, upwards by key until one
/// is free. "No replica" is the answer only when the boundary and the first number were asked for by key, both
/// folders were listed, and none has anything.
///
/// # Errors
/// [`DiscoverError`]; a bucket that does not exist is an error, not an absent replica.
pub async fn discover(bucket: &Bucket, replica: &ReplicaName, now_ms: fn() -> u64) -> Result<Found, DiscoverError> {
    loop {
        let lowest_needed = read_lowest_needed(bucket).await?.map(|(lowest_needed, _)| lowest_needed);
        let after = lowest_needed.map(layout::sequence);
        let listed = bucket.list(layout::SEQUENCE, after.as_deref()).await?;
        let listed = lowest_needed.max(listed.iter().filter_map(|entry| layout::parse_sequence(&entry.key)).max());
        let head = climb(bucket, replica, listed, now_ms).await?;
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
            continue;
        }
        let mut merged: Vec<_> =
            bucket.list(layout::MERGED, None).await?.iter().filter_map(|e| layout::parse_merged(&e.key)).collect();
        merged.sort_unstable_by_key(|(first, last, hash)| (*first, *last, hash.0));
        let (head, seen_ms) = head.unzip();
        return Ok(Found { head, snapshots, merged, lowest_needed, seen_ms: seen_ms.unwrap_or_else(now_ms) });
    }
}

/// From `known` (which a listing or the boundary names) upwards by key to the last number in use, and when the
/// one after it was seen to be free.
async fn climb(
    bucket: &Bucket,
    replica: &ReplicaName,
    known: Option<Seq>,
    now_ms: fn() -> u64,
) -> Result<Option<(Head, u64)>, DiscoverError> {
    let mut seq = known.unwrap_or(Seq(1));
    let Some(mut object) = bucket.get(&layout::sequence(seq)).await? else {
        return match known {
            Some(seq) => Err(ChainError::Missing { place: Place::Sequence(seq) }.into()),
            None => Ok(None),
        };
    };
    loop {
        let seen_ms = now_ms();
        match bucket.get(&layout::sequence(seq.next())).await? {
            Some(next) => (object, seq) = (next, seq.next()),
            None => return Ok(Some((read_head(replica, seq, &object)?, seen_ms))),
        }
    }
}

/// Reads the boundary and its ETag.
///
/// # Errors
/// [`DiscoverError`].
pub async fn read_lowest_needed(bucket: &Bucket) -> Result<Option<(Seq, Option<String>)>, DiscoverError> {
    let Some((bytes, etag)) = bucket.get_tagged(layout::LOWEST_NEEDED, None).await? else { return Ok(None) };
    Ok(Some((parse_lowest_needed(&bytes)?, etag)))
}

/// Reads the content of a boundary object: one decimal number and a line feed.
///
/// # Errors
/// [`DiscoverError::LowestNeeded`].
pub fn parse_lowest_needed(bytes: &[u8]) -> Result<Seq, DiscoverError> {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end().parse().map(Seq).map_err(|_| DiscoverError::LowestNeeded(text.chars().take(40).collect()))
}

/// Reads the clear part of the newest object. Its seal is checked by whoever uses its content.
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
        position: Position { term: header.term, seq, hash: Digest::of(object) },
        is_opening: header.kind == Kind::Opening,
        nonce: header.nonce,
        last_commit: header.last_commit,
        time_ms: header.time_ms,
    })
}
