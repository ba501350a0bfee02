//! Retention: the decision on what is no longer needed, and its deletion.
//!
//! Runs under an identity of its own, with the right to delete and without any key. [`plan`] decides from names,
//! times and rules; [`run`] carries it out in an order that needs no clocks to be safe against restores:
//! the lowest needed number is raised, then the pins are read, then the objects below the number *of before this run*
//! are deleted.
//!
//! The number stands until its grace is over, however often runs come: raised anew by every run, it would never be
//! old enough for anything to be deleted. The bucket holds it as the object `boundary`.

pub mod plan;

use serde::Serialize;

use crate::bucket::{Bucket, BucketError, Created, Entry, ErrorKind};
use crate::chain::{ChainError, Place};
use crate::discover::{DiscoverError, read_lowest_needed};
use crate::format::header::{self, Header};
use crate::layout;
use crate::position::{Digest, Seq};

pub use plan::{Level, Rules};

/// Result of a run: what it did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Lowest needed number after the run.
    #[serde(rename = "boundary")]
    pub lowest_needed: Option<Seq>,
    /// Restore points kept, by the number that their snapshot covers.
    pub kept: Vec<Seq>,
    /// Keys deleted, with all their versions.
    pub deleted: Vec<String>,
    /// Objects that may not be deleted, as under a legal hold, each with the server's words. They stay; the others go.
    pub held: Vec<String>,
    /// Snapshots that are not restore points, each with the reason.
    pub unusable: Vec<String>,
}

/// Deletes the objects that no kept restore point needs; with `dry_run` only names them. `now_ms` is the time, in
/// milliseconds since the Unix epoch.
///
/// # Errors
/// [`SweepError`]; no kept restore point needs an object that was deleted until then.
pub async fn run(bucket: &Bucket, rules: &Rules, now_ms: u64, dry_run: bool) -> Result<Swept, SweepError> {
    let mut swept = Swept::default();
    let before = read_lowest_needed(bucket).await?;
    let raised_ms = match &before {
        Some(_) => bucket.list(layout::LOWEST_NEEDED, None).await?.first().map_or(now_ms, |entry| entry.stored_ms),
        None => now_ms,
    };
    let snapshots = usable_snapshots(bucket, &mut swept).await?;
    let old = before.as_ref().map(|(lowest_needed, _)| *lowest_needed);
    let settled = now_ms.saturating_sub(raised_ms) >= rules.grace_ms;
    let decision = if old.is_none() || settled {
        plan::decide(&snapshots, old, now_ms, rules)
    } else {
        plan::hold(&snapshots, old, now_ms, rules)
    };
    swept.kept.clone_from(&decision.kept);
    swept.lowest_needed = decision.lowest_needed;

    if let Some(lowest_needed) = decision.lowest_needed.filter(|new| old.is_none_or(|old| *new > old))
        && !dry_run
    {
        assert!(old.is_none_or(|old| lowest_needed > old), "the lowest needed number only rises");
        let etag = before.as_ref().and_then(|(_, etag)| etag.as_deref());
        let text = format!("{lowest_needed}\n");
        if bucket.replace(layout::LOWEST_NEEDED, text.as_bytes(), etag).await? == Created::Exists {
            return Err(SweepError::Overtaken);
        }
    }
    // Only objects below the number of before this run, which stood long enough for restores without a pin to end.
    let Some(old) = old.filter(|_| settled) else { return Ok(swept) };
    let pins = bucket.list(layout::PINS, None).await?;
    let live = pins.iter().filter_map(|entry| layout::parse_pin(&entry.key).map(|pin| (entry, pin)));
    let limit = live
        .filter(|(entry, _)| age_ms(entry, now_ms) < rules.pin_expiry_ms)
        .map(|(_, (_, lowest))| lowest)
        .chain([old])
        .min()
        .expect("the number of before is one of them");

    for folder in [layout::SEQUENCE, layout::SNAPSHOTS, layout::MERGED, layout::PINS] {
        let entries = list_all(bucket, folder).await?;
        let mut keys: Vec<&str> = Vec::new();
        for entry in &entries {
            let goes = match folder {
                layout::SEQUENCE => layout::parse_sequence(&entry.key).is_some_and(|seq| seq < limit),
                layout::SNAPSHOTS => layout::parse_snapshot(&entry.key)
                    .is_some_and(|(seq, _)| seq < limit && !decision.kept.contains(&seq)),
                layout::MERGED => layout::parse_merged(&entry.key).is_some_and(|(first, ..)| first < limit),
                _ => age_ms(entry, now_ms) >= rules.pin_expiry_ms,
            };
            // Every version must be old: one that was written a moment ago belongs to a writer that must notice.
            if goes && age_ms(entry, now_ms) >= rules.grace_ms && !keys.contains(&entry.key.as_str()) {
                keys.push(&entry.key);
            }
        }
        for key in keys {
            let versions: Vec<&Entry> = entries.iter().filter(|entry| entry.key == key).collect();
            if versions.iter().any(|version| age_ms(version, now_ms) < rules.grace_ms) {
                continue;
            }
            if !dry_run && let Some(error) = delete_all(bucket, key, &versions).await? {
                swept.held.push(error.to_string());
                continue;
            }
            swept.deleted.push(key.to_owned());
        }
    }
    match swept.held.first() {
        Some(first) if swept.deleted.is_empty() => Err(SweepError::Held(swept.held.len(), first.clone())),
        _ => Ok(swept),
    }
}

/// Deletes every version of an object. Returns the server's refusal, where it holds one of them.
async fn delete_all(bucket: &Bucket, key: &str, versions: &[&Entry]) -> Result<Option<BucketError>, BucketError> {
    for version in versions {
        match bucket.delete(key, version.version.as_deref()).await {
            Ok(()) => {}
            Err(error) if error.kind == ErrorKind::Denied => return Ok(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Returns the age of an object, in milliseconds, by the server's clock and ours.
fn age_ms(entry: &Entry, now_ms: u64) -> u64 {
    now_ms.saturating_sub(entry.stored_ms)
}

/// Lists every version and marker where the server knows them, every object where it does not. An identity that may not see
/// versions would leave them behind for ever, under markers: that is an error.
async fn list_all(bucket: &Bucket, folder: &str) -> Result<Vec<Entry>, BucketError> {
    match bucket.list_versions(folder).await {
        Ok(entries) if !entries.is_empty() => Ok(entries),
        Err(error) if error.kind == ErrorKind::Denied => Err(error),
        Ok(_) | Err(_) => bucket.list(folder, None).await,
    }
}

/// Finds the snapshots that a restore can begin with: a whole header, under its own key, on the chain that is there.
/// Ascending by the number covered.
async fn usable_snapshots(bucket: &Bucket, swept: &mut Swept) -> Result<Vec<plan::Snapshot>, SweepError> {
    let mut usable = Vec::new();
    for entry in bucket.list(layout::SNAPSHOTS, None).await? {
        let Some((seq, hash)) = layout::parse_snapshot(&entry.key) else { continue };
        let start = bucket.get_start(&entry.key, header::MAX_LEN).await?.unwrap_or_default();
        let header = match Header::decode(&start) {
            Ok((header, _)) if header.seq == seq && header.covers == hash => header,
            Ok((header, _)) => {
                let place = Place::Snapshot(seq);
                let error = ChainError::Misplaced { place, found: header.kind, found_seq: header.seq };
                swept.unusable.push(format!("{}: {error}", entry.key));
                continue;
            }
            Err(error) => {
                swept.unusable.push(format!("{}: {error}", entry.key));
                continue;
            }
        };
        // A writer that was overtaken may have stored a snapshot of a history that is not the replica's.
        match bucket.get(&layout::sequence(seq)).await? {
            Some(object) if Digest::of(&object) != hash => {
                swept.unusable.push(format!("{}: another object has that number", entry.key));
            }
            found => usable.push(plan::Snapshot { seq, time_ms: header.time_ms, anchored: found.is_some() }),
        }
    }
    usable.sort_unstable_by_key(|snapshot| snapshot.seq);
    Ok(usable)
}

/// Error of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// Bucket that does not answer, or refuses.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// Lowest needed number that cannot be read.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// Objects that are due, of which not one may be deleted: an identity without the right, or holds on all of them.
    #[error("not one of {0} objects that are due could be deleted; the first: {1}")]
    Held(usize, String),
    /// Another run that raised the number at the same time.
    #[error("another run is under way: the object `boundary` changed meanwhile")]
    Overtaken,
}
