//! The uploader: drives the tenure against the bucket, one request of the sequence at a time.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::shared::{Item, Phase, Shared, SnapshotImage};
use super::writer::Job;
use super::{Options, Probe, ProbeError};
use crate::bucket::{Bucket, BucketError, Created};
use crate::chain::{ChainError, check_floor};
use crate::discover::{DiscoverError, discover};
use crate::format::payload::coalesce;
use crate::format::{Commit, Op, Sealed};
use crate::keyspace;
use crate::meta::Note;
use crate::position::{CommitNo, Digest, Position, Seq};
use crate::start::{Intent, Local, Meta, Why, includes};
use crate::tenure::{Answer, Event, Head, Request, Settings, Tenure};

/// What the uploader begins with.
pub(super) enum Beginning {
    /// A term was opened; its base is due.
    Opened(Box<Tenure>),
    /// The replica did not answer: prove the local file first.
    Unproven(Local),
    /// The replica is not what it was, and says so: the local file goes on without it.
    Refused(Local),
}

pub(super) struct Uploader {
    pub(super) options: Options,
    pub(super) bucket: Bucket,
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: mpsc::WeakSender<Job>,
    pub(super) rng: StdRng,
}

/// Why no term could be opened yet.
#[derive(Debug, thiserror::Error)]
enum ReopenError {
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    #[error(transparent)]
    Below(#[from] ChainError),
    #[error("the replica is gone, although the local file was replicated: look for the right bucket and prefix")]
    Gone,
    #[error("the replica is older than the local file ({0:?}): it was rolled back, or is another one")]
    Older(Why),
}

/// Why a stretch of work ended.
enum End {
    /// The queue overflowed.
    Overflow,
    /// The database is closing.
    Closed,
    /// Another writer took over, or the writer is gone.
    Over,
}

impl Uploader {
    pub(super) async fn run(mut self, beginning: Beginning) {
        let mut tenure = match beginning {
            Beginning::Opened(tenure) => Some(*tenure),
            Beginning::Unproven(local) | Beginning::Refused(local) => self.reopen(Some(local)).await,
        };
        while let Some(current) = tenure.take() {
            match self.hold(current).await {
                End::Overflow => {
                    self.shared.update(|status| {
                        status.phase = Phase::ChainClosed;
                        status.closed_chains += 1;
                    });
                    tracing::warn!("the queue is full: the chain is closed; a new term and a base follow");
                    tenure = self.reopen(None).await;
                }
                End::Closed | End::Over => break,
            }
        }
        let _ = self.shared.write_note(&self.options.path);
    }

    /// From the base of a term until something ends it.
    async fn hold(&mut self, mut tenure: Tenure) -> End {
        self.shared.update(|status| {
            status.term = tenure.term();
            status.phase = Phase::Basing;
        });
        let (reply, answer) = oneshot::channel();
        let Some(jobs) = self.jobs.upgrade() else { return End::Over };
        if jobs.send(Job::Base { term: tenure.term(), reply }).await.is_err() {
            return End::Closed;
        }
        drop(jobs);
        let image = match answer.await {
            Ok(Ok(image)) => image,
            Ok(Err(error)) => {
                tracing::error!(%error, "the base could not be taken: the store failed");
                self.shared.update(|status| status.phase = Phase::Refused(format!("the store failed: {error}")));
                return End::Over;
            }
            Err(_) => return End::Closed,
        };
        let Some((image, frame)) = compress(image).await else { return End::Over };
        tenure.base(frame, image.file_len, image.commit, image.time_ms, &mut self.rng);
        Shipping::new(self, tenure).run().await
    }

    /// Finds out whether the file is still the newest state, and opens a new term if so.
    ///
    /// `local` is what the file said at a start without the replica; none when this process held the last term,
    /// so that the file's line is the term's own.
    async fn reopen(&mut self, local: Option<Local>) -> Option<Tenure> {
        let mut failures = 0;
        loop {
            if self.shared.is_closing() {
                return None;
            }
            match self.try_reopen(local).await {
                Ok(tenure) => return tenure,
                Err(error) => {
                    failures += 1;
                    match &error {
                        ReopenError::Discover(DiscoverError::Bucket(error)) => self.note_trouble(failures, error),
                        error => self.refuse(error.to_string()),
                    }
                    self.pause(failures).await;
                }
            }
        }
    }

    /// What the bucket holds is not what it acknowledged. It is asked again: a person may put it right.
    fn refuse(&self, why: String) {
        if self.shared.status().phase != Phase::Refused(why.clone()) {
            tracing::error!(why, "the replica is not what it was: nothing is acknowledged until it is");
            self.shared.update(|status| status.phase = Phase::Refused(why));
        }
    }

    async fn try_reopen(&mut self, local: Option<Local>) -> Result<Option<Tenure>, ReopenError> {
        loop {
            let found = discover(&self.bucket, &self.options.replica, crate::now_ms).await?;
            if let Some(head) = found.head {
                self.check_known(head).await?;
            }
            let status = self.shared.status();
            let stranger = match (local, found.head) {
                (Some(Local { meta: Some(Meta { term, .. }), .. }), None) if term.0 > 0 => {
                    return Err(ReopenError::Gone);
                }
                (None, None) => return Err(ReopenError::Gone),
                (Some(_), None) => None,
                (Some(local), Some(head)) => match includes(local, head) {
                    Err(why @ Why::NewerTerm { .. }) => return Err(ReopenError::Older(why)),
                    other => other.err().map(|why| (head, format!("{why:?}"))),
                },
                (None, Some(head)) if head.position.term == status.term => None,
                (None, Some(head)) => Some((head, format!("term {} was opened meanwhile", head.position.term))),
            };
            if let Some((head, why)) = stranger {
                tracing::error!(why, "the local file is not the newest state: nothing more is acknowledged");
                self.shared.update(|status| status.phase = Phase::Fenced { seq: head.position.seq });
                return Ok(None);
            }
            let mut tenure = match self.prepare(found.head, found.seen_ms) {
                Ok(tenure) => tenure,
                Err(error) => {
                    self.shared.update(|status| status.phase = Phase::Refused(error));
                    return Ok(None);
                }
            };
            let mut failures = 0;
            loop {
                match step(&self.bucket, &mut tenure, &mut self.rng).await {
                    Ok(Some(Event::Opened(_))) => {
                        self.shared.update(|status| status.trouble = None);
                        return Ok(Some(tenure));
                    }
                    // Look again: the next look says whether it was a stranger.
                    Ok(Some(Event::Lost)) => break,
                    Ok(_) => {}
                    Err(error) => {
                        failures += 1;
                        self.note_trouble(failures, &error);
                        self.pause(failures).await;
                        if self.shared.is_closing() {
                            return Ok(None);
                        }
                    }
                }
            }
        }
    }

    /// Refuses a replica that ends before what it is known to have acknowledged, or has something else there.
    async fn check_known(&self, head: Head) -> Result<(), ReopenError> {
        let durable = self.shared.status().durable.map(|(position, _)| position);
        let floor = self.options.floor.filter(|_| self.options.override_floor.is_none());
        let Some(known) = floor.into_iter().chain(durable).max_by_key(|position| position.seq) else { return Ok(()) };
        let object = self.bucket.get(&keyspace::sequence(known.seq)).await.map_err(DiscoverError::from)?;
        Ok(check_floor(head.position, known, object.as_deref().map(Digest::of))?)
    }

    fn prepare(&mut self, head: Option<Head>, seen_ms: u64) -> Result<Tenure, String> {
        prepare(&self.options, head, seen_ms, self.shared.note(&self.options.path), None, &mut self.rng)
            .map_err(|error| error.to_string())
    }

    fn note_trouble(&self, failures: u32, error: &BucketError) {
        if failures == 1 || failures.is_power_of_two() {
            tracing::warn!(%error, failures, "the bucket does not take what we have");
        }
        self.shared.update(|status| {
            status.trouble = Some((failures, error.kind, error.to_string()));
            match status.errors.iter_mut().find(|(kind, _)| *kind == error.kind) {
                Some((_, count)) => *count += 1,
                None => status.errors.push((error.kind, 1)),
            }
        });
    }

    async fn pause(&self, failures: u32) {
        tokio::select! {
            () = sleep(self.bucket.patience().pause_after(failures)) => {}
            () = self.shared.closed() => {}
        }
    }
}

/// Builds the opening and writes its intent beside the file, before it leaves.
pub(super) fn prepare(
    options: &Options,
    head: Option<Head>,
    seen_ms: u64,
    mut note: Note,
    overridden: Option<&str>,
    rng: &mut StdRng,
) -> Result<Tenure, super::OpenError> {
    let settings = Settings {
        replica: options.replica.clone(),
        idle_grace_ms: millis(options.idle_grace),
        segment_bytes: options.segment_bytes,
    };
    let by = serde_json::json!({
        "pid": std::process::id(),
        "host": std::env::var("HOSTNAME").unwrap_or_default(),
        "overridden": overridden,
    });
    let tenure = Tenure::open(settings, head, &options.keys, seen_ms, by.to_string().as_bytes(), rng)?;
    if let Some((seq, nonce)) = tenure.intent() {
        let (after_term, after_commit) =
            head.map_or_else(Default::default, |head| (head.position.term, head.last_commit));
        note.intent = Some(Intent { seq, nonce, after_term, after_commit }.into());
        note.write(&options.path)?;
    }
    Ok(tenure)
}

/// Makes the tenure's next request and hands it the answer.
///
/// # Errors
/// The failure of the request; the tenure will ask for the same again.
pub(super) async fn step(bucket: &Bucket, tenure: &mut Tenure, rng: &mut StdRng) -> Result<Option<Event>, BucketError> {
    let Some(request) = tenure.request(crate::now_ms(), rng) else { return Ok(None) };
    let answer = match &request {
        Request::Create { key, bytes } => bucket.create(key, bytes).await.map(|created| match created {
            Created::Yes => Answer::Created,
            Created::Exists => Answer::Exists,
        }),
        Request::ReadBack { key } => {
            bucket.get_once(key, None).await.map(|found| Answer::Object(found.map(|(bytes, _)| bytes)))
        }
        Request::ReadBoundary => match bucket.get_once(keyspace::BOUNDARY, None).await {
            Ok(None) => Ok(Answer::Boundary(None)),
            Ok(Some((bytes, _))) => match crate::discover::parse_boundary(&bytes) {
                Ok(boundary) => Ok(Answer::Boundary(Some(boundary))),
                Err(error) => {
                    tracing::error!(%error, "the boundary cannot be read; nothing is acknowledged");
                    Ok(Answer::Unknown)
                }
            },
            Err(error) => Err(error),
        },
    };
    match answer {
        Ok(answer) => Ok(tenure.answer(answer, crate::now_ms())),
        Err(error) => {
            tenure.answer(Answer::Unknown, crate::now_ms());
            Err(error)
        }
    }
}

/// Compresses a copy of the file off the runtime's threads.
async fn compress(mut image: SnapshotImage) -> Option<(SnapshotImage, Vec<u8>)> {
    let done = tokio::task::spawn_blocking(move || {
        let frame = image.compress();
        (image, frame)
    });
    match done.await {
        Ok((image, Ok(frame))) => Some((image, frame)),
        Ok((_, Err(error))) => {
            tracing::error!(%error, "the copy of the file could not be read");
            None
        }
        Err(_) => None,
    }
}

/// After so long without a request the bucket is asked for what it acknowledged last, before anything is added to it.
const DOUBT: Duration = Duration::from_secs(10);

/// Why a request of a held term has no answer.
enum StepError {
    Bucket(BucketError),
    /// What was acknowledged here is not there any more.
    RolledBack(Position),
}

impl From<BucketError> for StepError {
    fn from(error: BucketError) -> Self {
        Self::Bucket(error)
    }
}

/// A held term: base, then segments, with snapshots beside them.
struct Shipping<'u> {
    up: &'u mut Uploader,
    tenure: Tenure,
    /// Sizes of commits on their way, in order.
    sizes: std::collections::VecDeque<(CommitNo, usize, u64)>,
    snapshots: Vec<SnapshotImage>,
    merge: Merge,
    failures: u32,
    last_snapshot: Instant,
    segments: u64,
    asked_for_snapshot: bool,
    snapshot_commit: CommitNo,
    noted: Instant,
    note_due: bool,
    /// When commits were last taken from the queue.
    sent: Instant,
    /// The bucket failed, or was not heard of for long: it may be an older copy of itself by now.
    doubted: bool,
}

impl<'u> Shipping<'u> {
    fn new(up: &'u mut Uploader, tenure: Tenure) -> Self {
        Self {
            up,
            tenure,
            sizes: std::collections::VecDeque::new(),
            snapshots: Vec::new(),
            merge: Merge::default(),
            failures: 0,
            last_snapshot: Instant::now(),
            segments: 0,
            asked_for_snapshot: false,
            snapshot_commit: CommitNo(0),
            noted: Instant::now(),
            note_due: true,
            sent: Instant::now(),
            doubted: false,
        }
    }

    async fn run(mut self) -> End {
        loop {
            if self.up.shared.overflowed() {
                self.tenure.close();
                return End::Overflow;
            }
            self.take();
            if self.tenure.durable().is_some() && self.tenure.is_idle() {
                if self.up.shared.is_closing() {
                    return End::Closed;
                }
                self.wait().await;
                continue;
            }
            match self.step().await {
                Err(StepError::RolledBack(position)) => {
                    self.failures += 1;
                    self.up.refuse(format!(
                        "{position}, which the bucket acknowledged, is not in it any more: it was rolled back, or is another one"
                    ));
                    if self.up.shared.is_closing() {
                        return End::Closed;
                    }
                    self.pause().await;
                }
                Ok(event) => {
                    if event.is_some() && self.failures > 0 {
                        self.failures = 0;
                        self.up.shared.update(|status| status.trouble = None);
                    }
                    if let Some(end) = self.heard(event) {
                        return end;
                    }
                }
                Err(StepError::Bucket(error)) => {
                    self.doubted = true;
                    self.failures += 1;
                    self.up.note_trouble(self.failures, &error);
                    if self.up.shared.is_closing() {
                        // `close` waited as long as its caller wanted; what is left stays local.
                        return End::Closed;
                    }
                    self.pause().await;
                }
            }
        }
    }

    /// The next request. In doubt, what was acknowledged last is read back first: a number that is free in a bucket that was
    /// rolled back would be taken, and leave a gap that no restore gets over.
    async fn step(&mut self) -> Result<Option<Event>, StepError> {
        if let (true, Some((position, _))) = (self.doubted, self.tenure.durable()) {
            let object = self.up.bucket.get_once(&keyspace::sequence(position.seq), None).await?;
            if object.is_none_or(|(object, _)| Digest::of(&object) != position.hash) {
                return Err(StepError::RolledBack(position));
            }
        }
        if std::mem::take(&mut self.doubted) && matches!(self.up.shared.status().phase, Phase::Refused(_)) {
            tracing::info!("the bucket holds again what it acknowledged");
            self.up.shared.update(|status| status.phase = Phase::Shipping);
        }
        Ok(step(&self.up.bucket, &mut self.tenure, &mut self.up.rng).await?)
    }

    /// Moves what is due from the queue into the tenure.
    fn take(&mut self) {
        let (bytes, oldest_ms) = self.up.shared.backlog();
        if oldest_ms.is_none() {
            self.take_all();
            return;
        }
        // The interval bounds how often something is sent: what comes after a pause leaves at once.
        if self.up.shared.is_awaited()
            || self.tenure.durable().is_none()
            || self.sent.elapsed() >= self.up.options.sync_interval
            || bytes >= self.up.options.segment_bytes
            || self.tenure.pending() > 0
        {
            self.take_all();
        }
    }

    fn take_all(&mut self) {
        for item in self.up.shared.drain() {
            match item {
                Item::Commit(commit) => {
                    self.doubted |= self.sent.elapsed() >= DOUBT;
                    self.sent = Instant::now();
                    self.sizes.push_back((commit.number, commit.size(), commit.time_ms));
                    let commit = Commit { ops: coalesce(commit.ops), ..commit };
                    if self.up.options.merge_segments > 1 {
                        self.merge.waiting.push_back(commit.clone());
                    }
                    self.tenure.offer(commit);
                }
                Item::Snapshot(image) => {
                    self.tenure.cut_after(image.commit);
                    self.snapshots.push(image);
                }
            }
        }
        if let Some((position, commit)) = self.tenure.durable()
            && self.tenure.pending() == 0
        {
            self.send_snapshots(position, commit);
        }
    }

    fn heard(&mut self, event: Option<Event>) -> Option<End> {
        match event? {
            Event::Durable { position, commit, .. } => {
                let mut bytes = 0;
                while let Some((_, size, _)) = self.sizes.pop_front_if(|(number, ..)| *number <= commit) {
                    bytes += size;
                }
                self.up.shared.release(bytes, self.sizes.front().map(|(_, _, time_ms)| *time_ms));
                self.segments += 1;
                self.up.shared.update(|status| {
                    status.phase = Phase::Shipping;
                    status.durable = Some((position, commit));
                    status.trouble = None;
                });
                self.note_due = true;
                self.write_note(false);
                self.merge_segments(position, commit);
                self.send_snapshots(position, commit);
                self.ask_for_snapshot(commit);
                None
            }
            Event::Based { position, commit } => {
                self.merge.last = Some(position);
                self.snapshot_commit = commit;
                self.up.shared.update(|status| status.snapshot = Some(position));
                None
            }
            Event::Fenced { seq } => {
                tracing::error!(%seq, "another writer took over: nothing more is acknowledged");
                self.up.shared.update(|status| status.phase = Phase::Fenced { seq });
                Some(End::Over)
            }
            Event::Opened(_) | Event::Lost => None,
        }
    }

    /// At most once a second: the note is a lower bound, and a sync of the disk is not free.
    fn write_note(&mut self, now: bool) {
        if !self.note_due || (!now && self.noted.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.noted = Instant::now();
        self.note_due = false;
        let (shared, path) = (Arc::clone(&self.up.shared), self.up.options.path.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = shared.write_note(&path) {
                tracing::warn!(%error, "the note beside the database could not be written");
            }
        });
    }

    fn ask_for_snapshot(&mut self, commit: CommitNo) {
        let due = self.segments >= self.up.options.snapshot_segments
            || (self.last_snapshot.elapsed() >= self.up.options.snapshot_interval && commit > self.snapshot_commit);
        if !due || self.asked_for_snapshot {
            return;
        }
        if let Some(jobs) = self.up.jobs.upgrade()
            && jobs.try_send(Job::Snapshot { done: None }).is_ok()
        {
            self.asked_for_snapshot = true;
        }
    }

    /// Seals and sends the snapshots that stand for exactly this position. They travel beside the sequence.
    fn send_snapshots(&mut self, position: Position, commit: CommitNo) {
        let (due, later) = std::mem::take(&mut self.snapshots).into_iter().partition(|image| image.commit <= commit);
        self.snapshots = later;
        let due: Vec<SnapshotImage> = due;
        for mut image in due.into_iter().filter(|image| image.commit == commit) {
            self.asked_for_snapshot = false;
            self.last_snapshot = Instant::now();
            self.segments = 0;
            self.snapshot_commit = commit;
            let (sealer, runtime) = (self.tenure.sealer(), tokio::runtime::Handle::current());
            let (bucket, shared) = (self.up.bucket.clone(), Arc::clone(&self.up.shared));
            tokio::task::spawn_blocking(move || {
                let frame = match image.compress() {
                    Ok(frame) => frame,
                    Err(error) => {
                        tracing::error!(%error, "the copy of the file could not be read");
                        return;
                    }
                };
                let mut rng: StdRng = rand::make_rng();
                let sealed = sealer.snapshot(frame, image.file_len, position, commit, image.time_ms, &mut rng);
                let key = keyspace::snapshot(position.seq, position.hash);
                if runtime.block_on(send_beside(&bucket, &shared, &key, &sealed)) {
                    shared.update(|status| status.snapshot = Some(position));
                    if let Some(done) = image.done.take() {
                        let _ = done.send(());
                    }
                }
            });
        }
    }

    /// Collects what was shipped, and sends it once more as one object when there is enough of it: a restore then
    /// needs one GET where it needed many.
    fn merge_segments(&mut self, position: Position, commit: CommitNo) {
        let options = &self.up.options;
        if options.merge_segments < 2 {
            return;
        }
        if !self.merge.take(position, commit) {
            return;
        }
        if self.merge.segments < options.merge_segments && self.merge.bytes < options.segment_bytes {
            return;
        }
        let file_len = self.tenure.file_len();
        let Some(run) = self.merge.finish().filter(|run| run.segments > 1) else { return };
        let (sealer, runtime) = (self.tenure.sealer(), tokio::runtime::Handle::current());
        let (bucket, shared) = (self.up.bucket.clone(), Arc::clone(&self.up.shared));
        tokio::task::spawn_blocking(move || {
            let merged = Commit { number: run.last_commit, time_ms: run.time_ms, ops: coalesce(run.ops) };
            let mut rng: StdRng = rand::make_rng();
            let sealed = sealer.merged(run.first, run.prev, position, run.first_commit, &merged, file_len, &mut rng);
            let key = keyspace::merged(run.first, position.seq, position.hash);
            runtime.block_on(send_beside(&bucket, &shared, &key, &sealed));
        });
    }

    /// Until something is due.
    async fn wait(&mut self) {
        let (_, oldest_ms) = self.up.shared.backlog();
        let note_at = self.note_due.then(|| self.noted + Duration::from_secs(1));
        let sync_at = oldest_ms.map(|_| self.sent + self.up.options.sync_interval);
        let wake_at = [note_at, sync_at].into_iter().flatten().min();
        tokio::select! {
            () = self.up.shared.wake.notified() => {}
            () = async { sleep_until(wake_at.expect("guarded")).await }, if wake_at.is_some() => {}
        }
        self.write_note(false);
    }

    async fn pause(&self) {
        tokio::select! {
            () = sleep(self.up.bucket.patience().pause_after(self.failures)) => {}
            () = self.up.shared.closed() => {}
        }
    }
}

/// Segments that were shipped and may be merged.
#[derive(Default)]
struct Merge {
    /// Commits that are offered and not yet acknowledged.
    waiting: std::collections::VecDeque<Commit>,
    /// The position before the next segment.
    last: Option<Position>,
    run: Option<Run>,
    segments: u64,
    bytes: usize,
}

/// A run of segments.
struct Run {
    first: Seq,
    prev: Digest,
    first_commit: CommitNo,
    last_commit: CommitNo,
    time_ms: u64,
    ops: Vec<Op>,
    segments: u64,
}

impl Merge {
    /// Adds the segment at `position`. False when there is nothing before it to name.
    fn take(&mut self, position: Position, commit: CommitNo) -> bool {
        let Some(before) = self.last.replace(position) else {
            self.waiting.clear();
            return false;
        };
        while let Some(next) = self.waiting.pop_front_if(|next| next.number <= commit) {
            self.bytes += next.size();
            let run = self.run.get_or_insert_with(|| Run {
                first: position.seq,
                prev: before.hash,
                first_commit: next.number,
                last_commit: next.number,
                time_ms: 0,
                ops: Vec::new(),
                segments: 0,
            });
            (run.last_commit, run.time_ms) = (next.number, next.time_ms.max(run.time_ms));
            run.ops.extend(next.ops);
        }
        self.segments += 1;
        true
    }

    fn finish(&mut self) -> Option<Run> {
        let segments = std::mem::take(&mut self.segments);
        self.bytes = 0;
        self.run.take().map(|run| Run { segments, ..run })
    }
}

/// PUTs what travels beside the sequence, as patiently as a read. One that fails is not missed: the next will do.
async fn send_beside(bucket: &Bucket, shared: &Shared, key: &str, sealed: &Sealed) -> bool {
    for failures in 1..=bucket.patience().reads {
        match bucket.create(key, &sealed.bytes).await {
            Ok(_) => return true,
            Err(error) if error.kind.is_transient() && !shared.is_closing() => {
                sleep(bucket.patience().pause_after(failures)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "{key} could not be stored");
                return false;
            }
        }
    }
    false
}

/// Reads the durable position's object back.
pub(super) async fn probe(shared: &Shared, bucket: &Bucket) -> Result<Probe, ProbeError> {
    let probe = lag(shared);
    if let Some(position) = probe.position {
        let object = bucket.get(&keyspace::sequence(position.seq)).await?;
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
        Some(oldest_ms) if lag_commits > 0 => crate::now_ms().saturating_sub(oldest_ms),
        _ => 0,
    };
    Probe { position: status.durable.map(|(position, _)| position), lag_commits, lag_ms }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
