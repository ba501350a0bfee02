//! Opening of a database: look at the file and at the bucket, decide, restore where need be, open a term, start the two
//! workers.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::Database;
use super::check::{self, Checked};
use super::error::OpenError;
use super::options::Options;
use super::shared::{Phase, Shared};
use super::store::{Expected, Store};
use super::uploader::{Start, Uploader, prepare, step};
use super::writer::Writer;
use crate::bucket::Bucket;
use crate::chain::check_floor;
use crate::discover::{DiscoverError, Found, discover};
use crate::layout;
use crate::meta::PositionFile;
use crate::position::{CommitNo, Digest, Head, Position, Term};
use crate::restore::{self, RestoreError, Restored};
use crate::start::{Decision, Local, Meta, Replica, StaleReason, StartError, decide, is_at_floor};
use crate::term::{Event, TermState};

/// Result of a start: what it found and did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Started {
    /// Restore that the start made.
    pub restored: Option<Restored>,
    /// Path to which a stale local file was moved, and the reason.
    pub set_aside: Option<(PathBuf, String)>,
    /// Term that was opened; `None` while the replica has not answered.
    pub term: Option<Term>,
    /// Position of the opening.
    pub opening: Option<Position>,
}

/// Opens a database: compares file and bucket, restores where need be, opens a term and starts the workers.
pub(super) async fn open(options: Options) -> Result<Database, OpenError> {
    options.location.check()?;
    let bucket = Bucket::connect(options.location.clone(), options.retry).await;
    let mut rng: rand::rngs::StdRng = rand::make_rng();
    let mut started = Started::default();
    // A term that was lost to another writer means another look, and another restore.
    let (store, origin, commit) = loop {
        let (local, found, decision) = match look(&options, &bucket).await? {
            Look::Decided(local, found, decision) => (local, found, decision),
            Look::Broken(local, error) => break refused(&options, local, &error)?,
        };
        let (head, seen_ms, expected) = match decision {
            Decision::Refuse(error) => return Err(error.into()),
            Decision::KeepUnproven => {
                let local = local.expect("only a local file is kept");
                break alone(&options, local, Start::Unproven(local))?;
            }
            Decision::KeepContradicted(error) => {
                break refused(&options, local.expect("only a local file is kept"), &error.to_string())?;
            }
            Decision::Create if !options.create => return Err(OpenError::NoFile(options.path)),
            Decision::Create => {
                let found = found.expect("decided on what was found");
                (found.head, found.seen_ms, Expected::Nothing)
            }
            Decision::Keep | Decision::Adopt => {
                let (found, local) = (found.expect("decided on what was found"), local.expect("kept"));
                if decision == Decision::Adopt {
                    adoptable(&options, local)?;
                }
                (found.head, found.seen_ms, Expected::local(local))
            }
            Decision::SetAside(reason) => restore_newest(&options, &bucket, Some(reason), &mut started).await?,
            Decision::Restore => restore_newest(&options, &bucket, None, &mut started).await?,
        };
        if let (Decision::Keep, Some(floor), Some(head), None) =
            (decision, options.floor, head, &options.override_floor)
        {
            let object = bucket.get(&layout::sequence(floor.seq)).await.map_err(DiscoverError::from)?;
            let checked = check_floor(head.position, floor, object.as_deref().map(Digest::of));
            match (checked, local.filter(|local| options.permissions.contradicted && is_at_floor(*local, Some(floor))))
            {
                (Ok(()), _) => {}
                (Err(error), Some(local)) => break refused(&options, local, &error.to_string())?,
                (Err(error), None) => return Err(error.into()),
            }
        }
        // Before anything is sent: what leaves is the file that was looked at.
        let store = Store::open(&options, &expected)?;
        match open_term(&options, &bucket, head, seen_ms, &mut rng).await {
            Ok(Some((term, position))) => {
                started.term = Some(position.term);
                started.opening = Some(position);
                // Numbers never repeat, whatever was set aside.
                let after = local.and_then(|local| local.meta).unwrap_or_default().commit;
                let commit = after.max(head.map(|head| head.last_commit).unwrap_or_default());
                break (store, Start::Opened(Box::new(term)), commit);
            }
            Ok(None) => store.discard()?,
            Err(error) => {
                store.discard()?;
                return Err(error);
            }
        }
        // What this start restored is in the bucket; what was there before is set aside by the next round.
        if started.restored.is_some() {
            std::fs::remove_file(&options.path)?;
        }
    };
    spawn_workers(options, bucket, rng, store, origin, commit, started)
}

/// Opens the local file while the bucket does not answer; the uploader opens the term once it does.
fn alone(options: &Options, local: Local, origin: Start) -> Result<(Store, Start, CommitNo), OpenError> {
    Ok((Store::open(options, &Expected::local(local))?, origin, CommitNo(0)))
}

/// Goes on with a local file although the replica is not what it acknowledged.
fn refused(options: &Options, local: Local, error: &str) -> Result<(Store, Start, CommitNo), OpenError> {
    tracing::error!(error, "the replica is not what it acknowledged: it is not followed, and nothing is acknowledged");
    alone(options, local, Start::Refused(local))
}

/// Checks that the older state that a person wants to go on from is at the floor, or that the floor is overridden too.
fn adoptable(options: &Options, local: Local) -> Result<(), StartError> {
    let state = local.acknowledged.map(|acknowledged| acknowledged.position);
    match (options.floor, state) {
        (Some(floor), Some(state)) if options.override_floor.is_none() && check_floor(state, floor, None).is_err() => {
            Err(StartError::AdoptionBelowFloor { state, floor })
        }
        _ => Ok(()),
    }
}

/// Result of a look at the file and at the bucket.
enum Look {
    /// Decision on the two.
    Decided(Option<Local>, Option<Box<Found>>, Decision),
    /// Bucket whose content does not fit together, and a local file that may go on without it.
    Broken(Local, String),
}

/// Looks at the file and at the bucket, and decides.
async fn look(options: &Options, bucket: &Bucket) -> Result<Look, OpenError> {
    let local = read_local(options)?;
    let (found, replica) = match discover(bucket, &options.replica).await {
        Ok(found) => {
            let replica = found.head.map_or(Replica::Absent, Replica::Present);
            (Some(Box::new(found)), replica)
        }
        Err(DiscoverError::Bucket(error)) if error.kind.is_transient() => {
            tracing::warn!(%error, "the replica does not answer");
            if !options.permissions.unproven || local.is_none() {
                return Err(DiscoverError::Bucket(error).into());
            }
            (None, Replica::Silent)
        }
        Err(DiscoverError::Chain(error)) => {
            let local = local.filter(|local| options.permissions.contradicted && is_at_floor(*local, options.floor));
            return match local {
                Some(local) => Ok(Look::Broken(local, error.to_string())),
                None => Err(DiscoverError::Chain(error).into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let decision = decide(local, replica, options.floor, options.permissions);
    tracing::info!(?decision, path = %options.path.display(), "start");
    Ok(Look::Decided(local, found, decision))
}

/// Opens the local file for a moment, lets redb repair and check it, and reads the facts about it.
fn read_local(options: &Options) -> Result<Option<Local>, OpenError> {
    let path = &options.path;
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
        // redb would make a new database of an empty file.
        Ok(metadata) if metadata.len() == 0 => {
            restore::set_aside(path, "empty")?;
            return Ok(None);
        }
        Ok(_) => {}
    }
    let note = PositionFile::read(path);
    match check::checked(options)? {
        Checked::Whole(row) => {
            if let Some(row) = row.as_ref().filter(|row| row.replica != options.replica) {
                let (expected, found) = (options.replica.clone(), row.replica.clone());
                return Err(OpenError::OtherReplica { path: path.clone(), expected, found });
            }
            Ok(Some(note.local(row.map(|row| row.meta))))
        }
        Checked::Damaged(why) => {
            tracing::error!(why, path = %path.display(), "the local file is damaged");
            Ok(Some(Local::damaged(note.database)))
        }
    }
}

/// Restores the newest state. Moves a stale file aside only once another is ready to take its name. Returns the head, the time
/// at which the number after it was seen to be free, and the file that lies there now.
async fn restore_newest(
    options: &Options,
    bucket: &Bucket,
    stale: Option<StaleReason>,
    started: &mut Started,
) -> Result<(Option<Head>, u64, Expected), OpenError> {
    let how = restore::Options {
        floor: options.floor,
        override_floor: options.override_floor.clone(),
        replace: stale.is_some(),
        ..restore::Options::default()
    };
    loop {
        match restore::restore(bucket, &options.replica, &options.keys, &options.path, &how).await {
            Ok(restored) => {
                if let (Some(reason), Some(aside)) = (stale, &restored.moved_aside) {
                    tracing::warn!(%reason, aside = %aside.display(), "the local file was set aside");
                    started.set_aside = Some((aside.clone(), reason.to_string()));
                }
                let place = (Some(restored.head), restored.seen_ms, Expected::restored(&restored));
                started.restored = Some(restored);
                return Ok(place);
            }
            // Bare openings, one after the other from the first number on: their writers died before a base, and
            // nothing was ever acknowledged. With a segment anywhere, seq would be ahead of term.
            Err(RestoreError::NoSnapshot { head, .. })
                if stale.is_none() && options.floor.is_none() && head.seq.0 == head.term.0 =>
            {
                let found = discover(bucket, &options.replica).await?;
                // Only the very head that had nothing may be followed by a beginning from nothing.
                if found.head.is_some_and(|found| found.position == head) && found.snapshots.is_empty() {
                    tracing::warn!(%head, "the replica was opened, but nothing was ever stored in it");
                    return Ok((found.head, found.seen_ms, Expected::Nothing));
                }
                sleep(options.retry.backoff(1)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens a term after `head`; `None` when another writer was first.
async fn open_term(
    options: &Options,
    bucket: &Bucket,
    head: Option<Head>,
    seen_ms: u64,
    rng: &mut rand::rngs::StdRng,
) -> Result<Option<(TermState, Position)>, OpenError> {
    let note = PositionFile { intent: None, ..PositionFile::read(&options.path) };
    let term = prepare(options, head, seen_ms, note, options.override_floor.as_deref(), rng)?;
    make_opening(options, bucket, term, rng).await
}

/// Makes the opening; `None` when another writer was first.
async fn make_opening(
    options: &Options,
    bucket: &Bucket,
    mut term: TermState,
    rng: &mut rand::rngs::StdRng,
) -> Result<Option<(TermState, Position)>, OpenError> {
    let mut failures = 0;
    let began = Instant::now();
    loop {
        match step(bucket, &mut term, rng).await {
            Ok(Some(Event::Opened(position))) => return Ok(Some((term, position))),
            Ok(Some(Event::Lost)) => {
                tracing::info!("another writer opened a term first");
                return Ok(None);
            }
            Ok(Some(Event::Overwritten)) => {
                return Err(OpenError::ConditionalWritesMissing(bucket.location().to_string()));
            }
            Ok(_) => {}
            Err(error) => {
                failures += 1;
                let retry = options.retry;
                if !error.kind.is_transient() || failures >= retry.read_attempts {
                    return Err(OpenError::Opening(format!("{error} (after {:?})", began.elapsed())));
                }
                sleep(retry.backoff(failures)).await;
            }
        }
    }
}

/// Starts the writer and the uploader. `commit` is the highest number that was ever used, as far as it is known.
fn spawn_workers(
    options: Options,
    bucket: Bucket,
    rng: rand::rngs::StdRng,
    store: Store,
    origin: Start,
    commit: CommitNo,
    started: Started,
) -> Result<Database, OpenError> {
    // A restored file has its own row; the head may name a higher number.
    let own = store.meta();
    let meta = Meta { commit: commit.max(own.commit), ..own };
    let Store { redb, tape, .. } = store;
    let path = options.path.clone();
    let phase = match &origin {
        Start::Opened(_) => Phase::Basing,
        Start::Unproven(_) => Phase::Unproven,
        Start::Refused(_) => Phase::Refused("the replica is not what it was".to_owned()),
    };
    let shared = Arc::new(Shared::new(options.queue_bytes, phase, meta.term, meta.commit));
    let (jobs, inbox) = mpsc::channel(options.mailbox.max(1));
    let writer = Writer::spawn(Arc::clone(&redb), tape, Arc::clone(&shared), meta, &options, inbox)?;
    let uploader =
        Uploader { options, bucket: bucket.clone(), shared: Arc::clone(&shared), jobs: jobs.downgrade(), rng };
    tokio::spawn(uploader.run(origin));
    Ok(Database { redb, writer: Arc::new(writer), jobs, shared, bucket, path, started: Arc::new(started) })
}
