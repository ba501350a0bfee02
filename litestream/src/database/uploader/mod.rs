//! Uploader: carries out a term's requests against the bucket, one of the sequence at a time.
//!
//! `opening` finds out whether the local file is still the newest state and opens a term for it, `shipping` holds that term,
//! `progress` knows what of it is due, `merge` collects the segments that are worth sending once more as one object.

mod merge;
mod opening;
mod progress;
mod shipping;

use std::sync::Arc;

use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::options::Options;
use super::shared::{Phase, Shared, SnapshotImage};
use super::writer::Job;
use crate::bucket::{Bucket, BucketError, Created, ErrorKind};
use crate::layout;
use crate::start::Local;
use crate::term::{Answer, Event, Request, TermState};

pub(super) use opening::prepare;
use shipping::Shipping;

/// Start of the uploader, as the opening of the database left it.
pub(super) enum Start {
    /// Term that was opened; its base is due.
    Opened(Box<TermState>),
    /// Silent replica: the local file is proven first.
    Unproven(Local),
    /// Replica that is not what it acknowledged: the local file goes on without it.
    Refused(Local),
}

/// Task that brings commits into the bucket.
pub(super) struct Uploader {
    pub(super) options: Options,
    pub(super) bucket: Bucket,
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: mpsc::WeakSender<Job>,
    pub(super) rng: StdRng,
}

/// End of a term that was held.
enum End {
    /// Overflow of the queue.
    Overflow,
    /// Close of the database.
    Closed,
    /// Takeover by another writer.
    Over,
}

impl Uploader {
    /// Runs until the database is closed or another writer takes over.
    pub(super) async fn run(mut self, start: Start) {
        let mut term = match start {
            Start::Opened(term) => Some(*term),
            Start::Unproven(local) | Start::Refused(local) => self.reopen(Some(local)).await,
        };
        while let Some(current) = term.take() {
            match self.hold(current).await {
                End::Overflow => {
                    self.shared.update(|status| {
                        status.phase = Phase::ChainClosed;
                        status.closed_chains += 1;
                    });
                    tracing::warn!("the queue is full: the chain is closed; a new term and a base follow");
                    term = self.reopen(None).await;
                }
                End::Closed | End::Over => break,
            }
        }
        let _ = self.shared.save_position(&self.options.path);
    }

    /// Holds a term, from its base until it ends.
    async fn hold(&mut self, mut term: TermState) -> End {
        self.shared.update(|status| {
            status.term = term.number();
            status.phase = Phase::Basing;
        });
        let Some((image, frame)) = self.base(&term).await else { return End::Closed };
        term.base(frame, image.file_len, image.commit, image.time_ms, &mut self.rng);
        Shipping::new(self, term).run().await
    }

    /// Takes the base from the writer, with as many tries as it takes: a full disk is emptied some day. `None` when the database is
    /// closing.
    async fn base(&mut self, term: &TermState) -> Option<(SnapshotImage, Vec<u8>)> {
        let mut failures = 0;
        loop {
            let (reply, answer) = oneshot::channel();
            self.jobs
                .upgrade()?
                .send(Job::Base { term: term.number(), database: term.database(), reply })
                .await
                .ok()?;
            let why = match answer.await.ok()? {
                Ok(image) => match compress(image).await {
                    Ok(base) => {
                        self.shared.update(|status| status.trouble = None);
                        return Some(base);
                    }
                    Err(error) => error,
                },
                Err(error) => error.to_string(),
            };
            failures += 1;
            self.record_local_failure(failures, &format!("the file could not be copied as the term's base: {why}"));
            self.pause(failures).await;
            if self.shared.is_closing() {
                return None;
            }
        }
    }

    /// Counts a failure of the local disk, and shows it in the status.
    fn record_local_failure(&self, failures: u32, why: &str) {
        let error = BucketError {
            kind: ErrorKind::LocalDisk,
            operation: "COPY",
            key: self.options.path.display().to_string(),
            what: why.to_owned(),
        };
        self.record_failure(failures, &error);
    }

    /// Reports that the bucket does not hold what it acknowledged. It is read again: a person may put it right.
    fn refuse(&self, why: String) {
        if self.shared.status().phase != Phase::Refused(why.clone()) {
            tracing::error!(why, "the replica is not what it was: nothing is acknowledged until it is");
            self.shared.update(|status| status.phase = Phase::Refused(why));
        }
    }

    /// Counts a failure, and shows it in the status.
    fn record_failure(&self, failures: u32, error: &BucketError) {
        if failures == 1 || failures.is_power_of_two() {
            tracing::warn!(%error, failures, "replication waits; it is tried again, and commits wait");
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
            () = sleep(self.bucket.retry().backoff(failures)) => {}
            () = self.shared.closed() => {}
        }
    }
}

/// Precision of the server's clock, in milliseconds: the `Date` of an answer is rounded down to a second.
const DATE_MS: u64 = 1_000;

/// Makes the term's next request and hands it the answer.
///
/// # Errors
/// Failure of the request. The term asks for the same request again.
pub(super) async fn step(
    bucket: &Bucket,
    term: &mut TermState,
    rng: &mut StdRng,
) -> Result<Option<Event>, BucketError> {
    let Some(request) = term.request(bucket.now_ms(), rng) else { return Ok(None) };
    let answer = match &request {
        Request::Create { key, bytes } => bucket.create(key, bytes).await.map(|created| match created {
            Created::Yes => Answer::Created,
            Created::Exists => Answer::Exists,
        }),
        Request::ReadBack { key } => {
            bucket.get_once(key, None).await.map(|found| Answer::Object(found.map(|(bytes, _)| bytes)))
        }
        Request::ReadLowestNeeded => match bucket.get_once(layout::LOWEST_NEEDED, None).await {
            Ok(None) => Ok(Answer::LowestNeeded(None)),
            Ok(Some((bytes, _))) => match crate::discover::parse_lowest_needed(&bytes) {
                Ok(lowest_needed) => Ok(Answer::LowestNeeded(Some(lowest_needed))),
                Err(error) => Err(BucketError {
                    kind: ErrorKind::Other,
                    operation: "GET",
                    key: format!("{}/{}", bucket.location(), layout::LOWEST_NEEDED),
                    what: format!("{error}; nothing is acknowledged until it can be read"),
                }),
            },
            Err(error) => Err(error),
        },
    };
    let now_ms = bucket.now_ms() + DATE_MS;
    match answer {
        Ok(answer) => Ok(term.answer(answer, now_ms)),
        Err(error) => {
            term.answer(Answer::Unknown, now_ms);
            Err(error)
        }
    }
}

/// Compresses a copy of the file, off the runtime's threads.
///
/// # Errors
/// Reason, for people, why the copy could not be read.
async fn compress(mut image: SnapshotImage) -> Result<(SnapshotImage, Vec<u8>), String> {
    let done = tokio::task::spawn_blocking(move || {
        let frame = image.compress();
        (image, frame)
    });
    match done.await {
        Ok((image, Ok(frame))) => Ok((image, frame)),
        Ok((_, Err(error))) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
