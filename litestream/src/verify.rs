//! Inspection of a replica: a list of its objects, and the verification of all of them.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use crate::bucket::{Bucket, BucketError};
use crate::chain::{ChainCursor, ChainError, Place};
use crate::discover::{DiscoverError, discover};
use crate::format::header::{self, Header, Kind, ReplicaName};
use crate::keys::KeyRing;
use crate::layout;
use crate::position::{CommitNo, Digest, Position, Seq, Term};
use crate::restore::Progress;

/// Object, by its clear part.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Key under the prefix.
    pub key: String,
    /// Kind, in words: opening, segment, snapshot or merged segment.
    pub kind: String,
    /// Term of the object.
    pub term: Term,
    /// First number covered.
    pub first_seq: Seq,
    /// Last number covered.
    pub seq: Seq,
    /// First commit.
    pub first_commit: CommitNo,
    /// Last commit.
    pub last_commit: CommitNo,
    /// Time of the last commit, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Size in the bucket, in bytes.
    pub size: u64,
    /// Names of the keys that open it.
    pub keys: Vec<String>,
}

/// Lists a folder with the clear part of every object. Leaves out files that are not objects of a replica.
///
/// # Errors
/// Error of the bucket.
pub async fn list(bucket: &Bucket, folder: &str) -> Result<Vec<Listed>, BucketError> {
    let entries = bucket.list(folder, None).await?;
    let listed: Vec<Option<Listed>> = stream::iter(entries)
        .map(|entry| async move {
            let start = bucket.get_start(&entry.key, header::MAX_LEN).await?.unwrap_or_default();
            let Ok((header, _)) = Header::decode(&start) else { return Ok(None) };
            Ok::<_, BucketError>(Some(Listed {
                key: entry.key,
                kind: header.kind.to_string(),
                term: header.term,
                first_seq: header.first_seq,
                seq: header.seq,
                first_commit: header.first_commit,
                last_commit: header.last_commit,
                time_ms: header.time_ms,
                size: entry.size,
                keys: header.wraps.iter().map(|wrap| wrap.key_id.clone()).collect(),
            }))
        })
        .buffered(16)
        .try_collect()
        .await?;
    Ok(listed.into_iter().flatten().collect())
}

/// Result of a verification.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    /// End of the chain; `None` where it is broken.
    pub position: Option<Position>,
    /// Number of objects read and found whole.
    pub objects: u64,
    /// Number of bytes read.
    pub bytes: u64,
    /// Terms passed.
    pub terms: Vec<Term>,
    /// Findings, for people: each names an object and what is wrong with it. Empty when all is whole.
    pub findings: Vec<String>,
    /// Remarks, for people: odd, and harmless.
    pub remarks: Vec<String>,
}

/// Reads and checks every object: each snapshot opens, each object of the sequence follows the one before it, from the
/// oldest snapshot to the head. Reads up to `parallelism` objects at once.
///
/// # Errors
/// Error of the bucket; [`DiscoverError::NoReplica`] when there is provably none. A fault of the content is a finding, not an
/// error.
pub async fn verify(
    bucket: &Bucket,
    replica: &ReplicaName,
    keys: &KeyRing,
    parallelism: usize,
    progress: Option<&Progress>,
) -> Result<Verified, DiscoverError> {
    let mut verified = Verified::default();
    let found = match discover(bucket, replica).await {
        Ok(found) => found,
        Err(DiscoverError::Chain(error)) => {
            verified.findings.push(error.to_string());
            return Ok(verified);
        }
        Err(error) => return Err(error),
    };
    let Some(head) = found.head else { return Err(DiscoverError::NoReplica) };
    let anchored: Vec<(Seq, Digest)> =
        found.snapshots.iter().copied().filter(|(seq, _)| found.lowest_needed.is_none_or(|b| *seq >= b)).collect();
    let Some((first, _)) = anchored.first().copied() else {
        verified
            .findings
            .push(format!("the sequence ends at {}, and no snapshot is there to begin with", head.position));
        return Ok(verified);
    };
    let total = found.snapshots.len() as u64 + (head.position.seq.0 - first.0);
    let mut report = Report { progress, done: 0, total };

    for (seq, hash) in found.snapshots.iter().copied().filter(|at| !anchored.contains(at)) {
        open_snapshot(bucket, replica, keys, (seq, hash), &mut verified).await?;
        report.one_done();
    }
    let mut cursor = open_snapshot(bucket, replica, keys, anchored[0], &mut verified).await?;
    report.one_done();
    let numbers = first.0 + 1..=head.position.seq.0;
    let mut objects = stream::iter(numbers.map(Seq))
        .map(|seq| async move { Ok::<_, BucketError>((seq, bucket.get(&layout::sequence(seq)).await?)) })
        .buffered(parallelism.max(1));
    while let Some((seq, object)) = objects.try_next().await? {
        report.one_done();
        let place = Place::Sequence(seq);
        let Some(object) = object else {
            verified.findings.push(ChainError::Missing { place }.to_string());
            cursor = None;
            continue;
        };
        verified.bytes += object.len() as u64;
        let digest = Digest::of(&object);
        let mut whole = false;
        if let Some(current) = &mut cursor {
            match current.read_next(&object) {
                Ok(_) => whole = true,
                Err(error) => {
                    verified.findings.push(error.to_string());
                    cursor = None;
                }
            }
        } else if let Err(error) = Header::decode(&object) {
            verified.findings.push(format!("{place}: {error}"));
        }
        verified.objects += u64::from(whole);
        if whole
            && let Ok((header, _)) = Header::decode(&object)
            && header.kind == Kind::Opening
        {
            verified.terms.push(header.term);
        }
        for at in anchored.iter().copied().filter(|(covered, _)| *covered == seq) {
            if at.1 != digest {
                verified
                    .remarks
                    .push(format!("the snapshot that covers seq {seq} is of another history; retention collects it"));
                continue;
            }
            // From here on its own term can be followed, whatever happened before.
            if let Some(fresh) = open_snapshot(bucket, replica, keys, at, &mut verified).await? {
                cursor = Some(fresh);
            }
            report.one_done();
        }
    }
    verified.position = cursor.map(|cursor| cursor.state());
    Ok(verified)
}

/// Count of the objects done, told to the observer.
struct Report<'p> {
    progress: Option<&'p Progress>,
    done: u64,
    total: u64,
}

impl Report<'_> {
    fn one_done(&mut self) {
        self.done += 1;
        if let Some(progress) = self.progress {
            progress(self.done, self.total);
        }
    }
}

/// Reads a snapshot and begins a chain with it. An error of its content becomes a finding.
async fn open_snapshot<'k>(
    bucket: &Bucket,
    replica: &ReplicaName,
    keys: &'k KeyRing,
    at: (Seq, Digest),
    verified: &mut Verified,
) -> Result<Option<ChainCursor<'k>>, BucketError> {
    let place = Place::Snapshot(at.0);
    let Some(object) = bucket.get(&layout::snapshot(at.0, at.1)).await? else {
        verified.findings.push(ChainError::Missing { place }.to_string());
        return Ok(None);
    };
    verified.bytes += object.len() as u64;
    match ChainCursor::from_snapshot(replica, keys, at, &object) {
        Ok((cursor, frame)) => {
            let mut sink = std::io::sink();
            if let Err(error) = zstd::stream::copy_decode(&frame[..], &mut sink) {
                verified.findings.push(format!("{place}: {error}"));
                return Ok(None);
            }
            verified.objects += 1;
            Ok(Some(cursor))
        }
        Err(error) => {
            verified.findings.push(error.to_string());
            Ok(None)
        }
    }
}
