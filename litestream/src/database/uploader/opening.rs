//! Opening of a term: at a start, and again after a chain that was closed.

use std::time::Duration;

use rand::rngs::StdRng;

use super::{Uploader, step};
use crate::chain::{ChainError, check_floor};
use crate::database::error::OpenError;
use crate::database::options::Options;
use crate::database::shared::Phase;
use crate::discover::{DiscoverError, discover};
use crate::layout;
use crate::meta::PositionFile;
use crate::position::{Digest, Head, Term};
use crate::start::{Intent, Local, Meta, StaleReason, includes};
use crate::term::{Event, Settings, TermState};

/// Error of opening a term. The uploader tries again.
#[derive(Debug, thiserror::Error)]
enum ReopenError {
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("the replica is gone, although the local file was replicated: look for the right bucket and prefix")]
    Gone,
    #[error("the local file is another replica's: {0}; look for the right file, bucket and prefix")]
    Other(StaleReason),
    #[error("a term could not be prepared: {0}")]
    Prepare(Box<OpenError>),
    #[error("the replica is older than the local file: it was rolled back, or is another one ({0})")]
    Older(StaleReason),
}

impl Uploader {
    /// Opens a new term once the file is proven to be the newest state. `None` when the database is closing, or another
    /// writer took over.
    ///
    /// `local` has the facts about the file from a start without the replica; `None` when this process held the last
    /// term, so that the file's line is the term's own.
    pub(super) async fn reopen(&mut self, local: Option<Local>) -> Option<TermState> {
        let mut failures = 0;
        loop {
            if self.shared.is_closing() {
                return None;
            }
            match self.try_reopen(local).await {
                Ok(term) => return term,
                Err(error) => {
                    failures += 1;
                    match &error {
                        ReopenError::Discover(DiscoverError::Bucket(error)) => self.record_failure(failures, error),
                        error => self.refuse(error.to_string()),
                    }
                    self.pause(failures).await;
                }
            }
        }
    }

    async fn try_reopen(&mut self, local: Option<Local>) -> Result<Option<TermState>, ReopenError> {
        loop {
            let found = discover(&self.bucket, &self.options.replica).await?;
            if let Some(head) = found.head {
                self.check_known(head).await?;
            }
            if let Some((head, reason)) = taken_over(local, found.head, self.shared.status().term)? {
                tracing::error!(%reason, "the local file is not the newest state: nothing more is acknowledged");
                self.shared.update(|status| status.phase = Phase::Fenced { seq: head.position.seq });
                return Ok(None);
            }
            let file = self.shared.position_file(&self.options.path);
            let term = prepare(&self.options, found.head, found.seen_ms, file, None, &mut self.rng)
                .map_err(|error| ReopenError::Prepare(Box::new(error)))?;
            match self.make_opening(term).await {
                Opening::Made(term) => return Ok(Some(*term)),
                // The next look shows if it was another writer.
                Opening::Lost => {}
                Opening::Closing => return Ok(None),
            }
        }
    }

    /// Makes the opening of a term, with as many tries as it takes.
    async fn make_opening(&mut self, mut term: TermState) -> Opening {
        let mut failures = 0;
        loop {
            match step(&self.bucket, &mut term, &mut self.rng).await {
                Ok(Some(Event::Opened(_))) => {
                    self.shared.update(|status| status.trouble = None);
                    return Opening::Made(Box::new(term));
                }
                Ok(Some(Event::Lost)) => return Opening::Lost,
                Ok(Some(Event::Overwritten)) => {
                    failures += 1;
                    self.refuse(OpenError::ConditionalWritesMissing(self.bucket.location().to_string()).to_string());
                    self.pause(failures).await;
                    if self.shared.is_closing() {
                        return Opening::Closing;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    failures += 1;
                    self.record_failure(failures, &error);
                    self.pause(failures).await;
                    if self.shared.is_closing() {
                        return Opening::Closing;
                    }
                }
            }
        }
    }

    /// Checks that the replica still holds the newest position that it is known to have acknowledged.
    async fn check_known(&self, head: Head) -> Result<(), ReopenError> {
        let durable = self.shared.status().durable.map(|(position, _)| position);
        let floor = self.options.floor.filter(|_| self.options.override_floor.is_none());
        let Some(known) = floor.into_iter().chain(durable).max_by_key(|position| position.seq) else { return Ok(()) };
        let object = self.bucket.get(&layout::sequence(known.seq)).await.map_err(DiscoverError::from)?;
        Ok(check_floor(head.position, known, object.as_deref().map(Digest::of))?)
    }
}

/// Outcome of making an opening.
enum Opening {
    /// Term that is ours.
    Made(Box<TermState>),
    /// Number that another object has.
    Lost,
    /// Close of the database meanwhile.
    Closing,
}

/// Compares the head with the local file, or, where this process held `held` as its last term, with that. Returns the head
/// and the reason when another writer took over.
fn taken_over(
    local: Option<Local>,
    head: Option<Head>,
    held: Term,
) -> Result<Option<(Head, StaleReason)>, ReopenError> {
    match (local, head) {
        (None, None) => Err(ReopenError::Gone),
        (Some(Local { meta: Some(Meta { term, .. }), .. }), None) if term > Term(0) => Err(ReopenError::Gone),
        (Some(_), None) => Ok(None),
        (Some(local), Some(head)) => match includes(local, head) {
            Ok(()) => Ok(None),
            Err(reason @ StaleReason::OtherDatabase { .. }) => Err(ReopenError::Other(reason)),
            Err(reason @ StaleReason::NewerTerm { .. }) => Err(ReopenError::Older(reason)),
            Err(reason) => Ok(Some((head, reason))),
        },
        (None, Some(head)) if head.position.term == held => Ok(None),
        (None, Some(head)) => Ok(Some((head, StaleReason::OlderTerm { local: held, replica: head.position.term }))),
    }
}

/// Builds the opening, and saves its intent beside the file before it leaves.
pub(in crate::database) fn prepare(
    options: &Options,
    head: Option<Head>,
    seen_ms: u64,
    mut file: PositionFile,
    overridden: Option<&str>,
    rng: &mut StdRng,
) -> Result<TermState, OpenError> {
    let settings = Settings {
        replica: options.replica.clone(),
        idle_grace_ms: millis(options.idle_grace),
        segment_bytes: options.segment_bytes,
    };
    if let (Some(adopt), Some(head)) = (&mut file.adopt, head) {
        // From here on it is this opening that is to follow.
        adopt.over = head.position;
    }
    let by = serde_json::json!({
        "pid": std::process::id(),
        "host": std::env::var("HOSTNAME").unwrap_or_default(),
        "overridden": overridden,
        "adopted": file.adopt.as_ref().map(|adopt| adopt.reason.as_str()),
    });
    let term = TermState::open(settings, head, &options.keys, seen_ms, by.to_string().as_bytes(), rng)?;
    if file.database.is_some_and(|noted| noted != term.database()) {
        // A note about another history says nothing about this one.
        file = PositionFile { overridden: file.overridden, ..PositionFile::default() };
    }
    (file.database, file.replica) = (Some(term.database()), Some(options.replica.to_string()));
    if let Some((seq, nonce)) = term.intent() {
        let (after_term, after_commit) =
            head.map_or_else(Default::default, |head| (head.position.term, head.last_commit));
        file.intent = Some(Intent { seq, nonce, after_term, after_commit }.into());
        file.write(&options.path)?;
    }
    Ok(term)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
