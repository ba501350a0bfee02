//! Reading the chain from one snapshot to the target.

use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::image::Image;
use super::{Options, RestoreError, Restored, Target};
use crate::bucket::{Bucket, BucketError};
use crate::chain::{ChainCursor, ChainError, Place, check_floor, expect_database};
use crate::discover::{Found, read_lowest_needed};
use crate::format::Commit;
use crate::format::header::ReplicaName;
use crate::keys::KeyRing;
use crate::layout;
use crate::position::{Digest, Head, Position, Seq};

/// Replica to restore from, as one look found it, and the options of the restore.
pub(super) struct Source<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) replica: &'a ReplicaName,
    pub(super) keys: &'a KeyRing,
    pub(super) found: &'a Found,
    pub(super) head: Head,
    pub(super) options: &'a Options,
}

/// Rebuilds `file` from one snapshot, object by object, up to the target.
pub(super) async fn follow(
    source: &Source<'_>,
    (seq, hash): (Seq, Digest),
    file: &Path,
) -> Result<Restored, RestoreError> {
    let Source { bucket, replica, keys, found, head, options } = *source;
    let place = Place::Snapshot(seq);
    let key = layout::snapshot(seq, hash);
    let object = bucket.get(&key).await?.ok_or(ChainError::Missing { place })?;
    let (mut cursor, image) = ChainCursor::from_snapshot(replica, keys, (seq, hash), &object)?;
    expect_database(place, head.database, cursor.database())?;
    let mut bytes = object.len() as u64;
    drop(object);
    let mut image_file = Image::create(file, &image, cursor.file_len()).await?;
    drop(image);
    if seq == head.position.seq && hash != head.position.hash {
        return Err(
            ChainError::BrokenLink { place: Place::Sequence(seq), expected: hash, found: head.position.hash }.into()
        );
    }

    let last = last_number(options.target, head)?;
    let steps = plan(seq, last, &found.merged, options.target);
    let total = steps.len() as u64 + 1;
    options.report(1, total);
    let mut objects = stream::iter(steps.into_iter().map(|step| async move {
        let got = bucket.get(&step.key()).await?;
        Ok::<_, BucketError>((step, got))
    }))
    .buffered(options.parallelism.max(1));
    let mut done = 1;
    let mut partial = None;
    let mut collected = false;
    let mut floor_seen = options.floor.filter(|floor| floor.seq == seq).map(|_| hash);
    while let Some((step, object)) = objects.try_next().await? {
        let Some(object) = object else {
            collected = matches!(options.target, Target::Time(_)) && was_collected(bucket, step).await?;
            if collected {
                break;
            }
            return Err(ChainError::Missing { place: step.place() }.into());
        };
        bytes += object.len() as u64;
        let before = (cursor.state(), cursor.last_commit(), cursor.time_ms());
        let read = match step {
            Step::One(_) => cursor.read_next(&object),
            Step::Merged(_, last, hash) => cursor.read_merged(last, hash, &object),
        };
        let commits = match read {
            // The base and all after it are newer than what is asked for.
            Err(ChainError::BaseMissing { since_ms, .. }) if is_before(options.target, since_ms) => break,
            read => read?,
        };
        if options.floor.is_some_and(|floor| floor.seq == cursor.link().0) {
            floor_seen = Some(cursor.link().1);
        }
        done += 1;
        options.report(done, total);
        if let Target::Time(time_ms) = options.target {
            let due: Vec<Commit> = commits.iter().take_while(|commit| commit.time_ms <= time_ms).cloned().collect();
            let cut = due.len() < commits.len();
            if cut {
                let (commit, time) = due.last().map_or((before.1, before.2), |last| (last.number, last.time_ms));
                partial = Some((before.0, commit, time));
            }
            image_file.apply(&due)?;
            if cut || cursor.opened_ms().is_some_and(|opened_ms| is_before(options.target, opened_ms)) {
                break;
            }
        } else {
            image_file.apply(&commits)?;
        }
    }
    drop(objects);
    if let Some(floor) = options.floor
        && floor_seen.is_none()
        && floor.seq < seq
        && let Some(object) = bucket.get(&layout::sequence(floor.seq)).await?
    {
        floor_seen = Some(Digest::of(&object));
    }
    if collected {
        let state = cursor.state();
        tracing::warn!(%state, "retention collected what came after this point: it is the newest that is kept of that time");
    }
    let (position, commit, time_ms) = partial.unwrap_or((cursor.state(), cursor.last_commit(), cursor.time_ms()));
    let overridden = overridden(options, position, floor_seen)?;
    let file_len = image_file.finish((partial.is_none()).then(|| cursor.file_len()))?;
    Ok(Restored {
        database: head.database,
        position,
        commit,
        time_ms,
        file_len,
        snapshot: key,
        objects: done,
        bytes,
        skipped: Vec::new(),
        overridden,
        moved_aside: None,
        collected,
        head,
        seen_ms: found.seen_ms,
    })
}

/// Returns true for a target that lies before `time_ms`.
fn is_before(target: Target, time_ms: u64) -> bool {
    matches!(target, Target::Time(asked_ms) if asked_ms < time_ms)
}

/// Returns true when retention took the object that is missing: then what is before it is a single restore point that a level
/// keeps. Whatever else is missing is a gap.
async fn was_collected(bucket: &Bucket, step: Step) -> Result<bool, RestoreError> {
    let (Step::One(seq) | Step::Merged(seq, ..)) = step;
    Ok(read_lowest_needed(bucket).await?.is_some_and(|(lowest_needed, _)| seq < lowest_needed))
}

/// Returns the number of the last object to read for a target.
fn last_number(target: Target, head: Head) -> Result<Seq, RestoreError> {
    match target {
        Target::Seq(target) if target > head.position.seq => Err(RestoreError::Ahead { target, head: head.position }),
        Target::Seq(target) => Ok(target),
        Target::Newest | Target::Time(_) => Ok(head.position.seq),
    }
}

/// Checks the state reached against the floor. Returns the reason of an override that was needed.
fn overridden(options: &Options, reached: Position, seen: Option<Digest>) -> Result<Option<String>, ChainError> {
    let Some(floor) = options.floor else { return Ok(None) };
    match (check_floor(reached, floor, seen), &options.override_floor) {
        (Ok(()), _) => Ok(None),
        (Err(error), Some(reason)) => Ok(Some(format!("{reason} ({error})"))),
        (Err(error), None) => Err(error),
    }
}

/// Object to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    One(Seq),
    Merged(Seq, Seq, Digest),
}

impl Step {
    fn key(self) -> String {
        match self {
            Self::One(seq) => layout::sequence(seq),
            Self::Merged(first, last, hash) => layout::merged(first, last, hash),
        }
    }

    fn place(self) -> Place {
        match self {
            Self::One(seq) => Place::Sequence(seq),
            Self::Merged(first, last, _) => Place::Merged(first, last),
        }
    }
}

/// Plans the fewest reads from `after` to `last`. A merged segment has one time for all its commits, so a restore to
/// a time reads single segments.
fn plan(after: Seq, last: Seq, merged: &[(Seq, Seq, Digest)], target: Target) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = after;
    while at < last {
        let longest = merged
            .iter()
            // A key whose numbers fall names no run: following it would go round in a circle.
            .filter(|(first, end, _)| *first == at.next() && first <= end && *end <= last)
            .filter(|_| !matches!(target, Target::Time(_)))
            .max_by_key(|(_, end, _)| *end);
        match longest {
            Some((first, end, hash)) => {
                steps.push(Step::Merged(*first, *end, *hash));
                at = *end;
            }
            None => {
                at = at.next();
                steps.push(Step::One(at));
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A restore to a time takes no merged segments.
    #[test]
    fn a_plan_takes_the_longest_merged_segments_that_fit() {
        let hash = Digest::of(b"m");
        let merged = [(Seq(3), Seq(5), hash), (Seq(3), Seq(8), hash), (Seq(9), Seq(20), hash)];
        let newest = plan(Seq(2), Seq(10), &merged, Target::Newest);
        assert_eq!(newest, [Step::Merged(Seq(3), Seq(8), hash), Step::One(Seq(9)), Step::One(Seq(10))]);
        assert_eq!(plan(Seq(2), Seq(10), &merged, Target::Time(1)).len(), 8);
        assert!(plan(Seq(2), Seq(2), &merged, Target::Newest).is_empty());
        let falling = [(Seq(3), Seq(1), hash)];
        assert_eq!(plan(Seq(2), Seq(3), &falling, Target::Newest), [Step::One(Seq(3))]);
    }
}
