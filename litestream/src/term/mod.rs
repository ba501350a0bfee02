//! A term: one writer's tenure, as a state machine without IO, clock or ambient randomness.
//!
//! ```text
//! Opening ──created──▶ Proving ──exists──▶ NeedsBase ──base()──▶ Basing ──created──▶ Shipping ──▶ Shipping …
//!    │ exists, and not ours                                                 │ exists, and not ours
//!    ▼                                                                      ▼
//!  Lost (restore, try again)                                              Fenced (acknowledges nothing more)
//! ```
//!
//! The caller asks [`TermState::request`] what to do, does it, and tells [`TermState::answer`] what happened. At most
//! one request on the sequence is in flight. Each method of [`TermState`] names the rule that it keeps.
//!
//! `exchange` has a term's requests and answers, `sealer` makes its objects, `in_flight` is one of them on its way.

mod exchange;
mod in_flight;
mod sealer;

use std::collections::VecDeque;
use std::sync::Arc;

use rand::CryptoRng;

use crate::format::header::{Header, Kind};
use crate::format::payload::{Commit, Op, encode_commits};
use crate::format::seal;
use crate::keys::{KeyError, KeyRing, TermKey};
use crate::layout;
use crate::position::{CommitNo, DatabaseId, Digest, Head, Position, Seq, Term};

pub use exchange::{Answer, Event, Request, Settings};
use in_flight::{InFlight, Outcome, Step};
pub use sealer::Sealer;

/// Farthest, in milliseconds, that an object's time may lie ahead of the server's: its answers have whole seconds, and clocks
/// differ a little.
const AHEAD_MS: u64 = 2_000;

/// State of one writer's term.
#[derive(Debug)]
pub struct TermState {
    settings: Settings,
    sealer: Sealer,
    state: State,
    /// Newest object that is proven ours; before the opening, the head that was found, under the new term's number.
    head: Position,
    last_commit: CommitNo,
    time_ms: u64,
    file_len: u64,
    proven_ms: u64,
    /// Time of the last request or answer, by the server's clock.
    now_ms: u64,
    /// True once a segment has followed the base: commits may be acknowledged.
    confirmed: bool,
    /// Number of the commit to be offered next: after the base the one after its commit, then one more each time.
    next_offer: CommitNo,
    pending: VecDeque<Commit>,
    cuts: VecDeque<CommitNo>,
}

#[derive(Debug)]
enum State {
    Opening(InFlight),
    /// The opening is ours; it is sent once more, and must be refused.
    Proving(InFlight),
    NeedsBase,
    Basing(InFlight),
    Shipping(Option<InFlight>),
    /// Lost, fenced or closed.
    Over,
}

impl TermState {
    /// Prepares the opening of the term after `head`'s, at the number after `head`'s; without a head, of a replica's
    /// first term, and names its database.
    ///
    /// The opening is a PUT with `If-None-Match: *` and names the head's digest: a compare-and-swap on exactly the state held.
    /// `seen_ms` is the time at which that number was seen to be free, by the server's clock, in milliseconds since the Unix
    /// epoch.
    ///
    /// `note` is sealed into the opening for people: who opened, and why.
    ///
    /// # Errors
    /// [`KeyError::NothingWraps`] when the ring has no key to wrap the term's key with.
    pub fn open(
        settings: Settings,
        head: Option<Head>,
        keys: &KeyRing,
        seen_ms: u64,
        note: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Self, KeyError> {
        let (before, last_commit, head_time) = head
            .map_or((Position { term: Term(0), seq: Seq(0), hash: Digest::NONE }, CommitNo(0), 0), |head| {
                (head.position, head.last_commit, head.time_ms)
            });
        let term = Term(before.term.0 + 1);
        let key = TermKey::generate(rng);
        let wraps = keys.wrap(&key, settings.replica.as_str(), term, rng)?;
        let time_ms = head_time.clamp(seen_ms, seen_ms.saturating_add(AHEAD_MS));
        let database = head.map_or_else(|| DatabaseId::generate(rng), |head| head.database);
        let sealer = Sealer { replica: settings.replica.clone(), database, key: Arc::new(key), wraps: wraps.into() };
        let header = Header {
            first_commit: last_commit,
            last_commit,
            time_ms,
            prev: before.hash,
            wraps: sealer.wraps.to_vec(),
            ..sealer.header(Kind::Opening, term, before.seq.next())
        };
        let sealed = seal::seal(&sealer.key, header, note, rng);
        let in_flight = InFlight::new(layout::sequence(before.seq.next()), sealed);
        Ok(Self {
            settings,
            sealer,
            state: State::Opening(in_flight),
            head: Position { term, ..before },
            last_commit,
            time_ms,
            file_len: 0,
            proven_ms: seen_ms,
            now_ms: seen_ms,
            confirmed: false,
            next_offer: CommitNo(0),
            pending: VecDeque::new(),
            cuts: VecDeque::new(),
        })
    }

    /// Returns the term's number. The term is held from [`Event::Opened`] on.
    #[must_use]
    pub fn number(&self) -> Term {
        self.head.term
    }

    /// Returns the database whose history the term goes on with; a new one where the replica begins.
    #[must_use]
    pub fn database(&self) -> DatabaseId {
        self.sealer.database
    }

    /// Returns number and nonce of the opening that is under way. The caller saves them before it leaves, so that a
    /// start after a crash does not take our own opening for a stranger's.
    #[must_use]
    pub fn intent(&self) -> Option<(Seq, [u8; 16])> {
        let State::Opening(in_flight) = &self.state else { return None };
        let (header, _) = Header::decode(&in_flight.object.bytes).expect("own header decodes");
        Some((header.seq, header.nonce))
    }

    /// Returns true while the caller owes a base.
    #[must_use]
    pub fn needs_base(&self) -> bool {
        matches!(self.state, State::NeedsBase)
    }

    /// Returns true when nothing is in flight and no commit waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Shipping(None)) && self.pending.is_empty()
    }

    /// Returns the number of commits that wait for a segment.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Returns the position and the commit up to which everything is proven to be in the bucket; `None` before the
    /// first segment, and once the term is over.
    ///
    /// The base alone proves nothing, since it lies outside the sequence: a new owner that looked before it arrived opens the
    /// next number without it. Only the compare-and-swap of a segment tells which of the two was first.
    #[must_use]
    pub fn durable(&self) -> Option<(Position, CommitNo)> {
        (self.confirmed && matches!(self.state, State::Shipping(_))).then_some((self.head, self.last_commit))
    }

    /// Takes the base: the file as it was after `commit`, as one zstd frame; `file_len` is its length in bytes before
    /// compression, `time_ms` the commit's time in milliseconds since the Unix epoch. No segment leaves before the base is in the
    /// bucket.
    ///
    /// # Panics
    /// Panics when no base is needed.
    pub fn base(&mut self, image: Vec<u8>, file_len: u64, commit: CommitNo, time_ms: u64, rng: &mut impl CryptoRng) {
        assert!(self.needs_base(), "a base is supplied once, after the opening");
        self.file_len = file_len;
        self.next_offer = commit.next();
        let time_ms = self.placed(time_ms, self.time_ms);
        let sealed = self.sealer.snapshot(image, file_len, self.head, commit, time_ms, rng);
        self.state = State::Basing(InFlight::new(layout::snapshot(self.head.seq, self.head.hash), sealed));
    }

    /// Returns the time of the newest object, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Returns the time that an object claims for what was done at `time_ms`, as this machine's clock had it, after something
    /// of `before_ms`. It does not fall, and never lies ahead of the server's clock: a commit that leaves now was made before
    /// now. One time from the future would stand in the way of every later one, and of retention.
    fn placed(&self, time_ms: u64, before_ms: u64) -> u64 {
        time_ms.max(before_ms).min(self.now_ms.saturating_add(AHEAD_MS))
    }

    /// Returns the sealer of this term's snapshots and merged segments.
    #[must_use]
    pub fn sealer(&self) -> Sealer {
        self.sealer.clone()
    }

    /// Returns the length in bytes of the database file after the newest segment.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Queues a commit that redb has made durable.
    ///
    /// # Panics
    /// Panics when the number is not the one after the last: a gap in the chain could never be restored.
    pub fn offer(&mut self, commit: Commit) {
        assert_eq!(commit.number, self.next_offer, "numbers of commits rise by one, from the base's on");
        self.next_offer = commit.number.next();
        self.pending.push_back(commit);
    }

    /// Ends the segment that takes `commit` right after it, so that a snapshot can stand for its position.
    pub fn cut_after(&mut self, commit: CommitNo) {
        self.cuts.push_back(commit);
    }

    /// Returns the request to make now; `None` while there is nothing to do or the caller owes a base. `now_ms` is the time by
    /// the server's clock, or any that is not ahead of it, in milliseconds since the Unix epoch.
    ///
    /// Asking again before answering gives the same request with the same bytes: a failed or unanswered PUT is repeated so, and
    /// [`TermState::answer`] recognises our own object should the first one have arrived.
    pub fn request(&mut self, now_ms: u64, rng: &mut impl CryptoRng) -> Option<Request> {
        self.now_ms = now_ms;
        if matches!(self.state, State::Shipping(None)) && !self.pending.is_empty() {
            self.state = State::Shipping(Some(self.next_segment(rng)));
        }
        match &mut self.state {
            State::Opening(in_flight)
            | State::Proving(in_flight)
            | State::Basing(in_flight)
            | State::Shipping(Some(in_flight)) => {
                in_flight.sent_ms.get_or_insert(now_ms);
                Some(in_flight.request())
            }
            State::NeedsBase | State::Shipping(None) | State::Over => None,
        }
    }

    /// Seals the commits that wait into the segment after the head, as many of them as fit.
    fn next_segment(&mut self, rng: &mut impl CryptoRng) -> InFlight {
        let mut commits = self.take_commits();
        let mut time_ms = self.time_ms;
        for commit in &mut commits {
            time_ms = self.placed(commit.time_ms, time_ms);
            commit.time_ms = time_ms;
        }
        let (first, last) = (&commits[0], &commits[commits.len() - 1]);
        assert_eq!(first.number, self.last_commit.next(), "a segment carries on where the object before it ended");
        for op in commits.iter().flat_map(|commit| &commit.ops) {
            self.file_len = match op {
                Op::SetLen(len) => *len,
                Op::Write(offset, bytes) => self.file_len.max(offset + bytes.len() as u64),
            };
        }
        let seq = self.head.seq.next();
        let header = Header {
            first_commit: first.number,
            last_commit: last.number,
            time_ms,
            prev: self.head.hash,
            file_len: self.file_len,
            ..self.sealer.header(Kind::Segment, self.head.term, seq)
        };
        let sealed = seal::seal(&self.sealer.key, header, &encode_commits(&commits), rng);
        InFlight::new(layout::sequence(seq), sealed)
    }

    /// Takes commits from the queue until a segment is full, or ends with one that [`TermState::cut_after`] named.
    fn take_commits(&mut self) -> Vec<Commit> {
        let mut size = 0;
        let mut commits = Vec::new();
        while let Some(next) = self.pending.front()
            && (commits.is_empty() || size + next.size() <= self.settings.segment_bytes)
        {
            size += next.size();
            let next = self.pending.pop_front().expect("just seen");
            let number = next.number;
            commits.push(next);
            while self.cuts.front().is_some_and(|cut| *cut < number) {
                self.cuts.pop_front();
            }
            if self.cuts.front() == Some(&number) {
                self.cuts.pop_front();
                break;
            }
        }
        commits
    }

    /// Takes the answer to the last request, and the time now: that of the answer by the server's clock, or any that is not
    /// behind it, in milliseconds since the Unix epoch. A writer's own clock may have stood still since the request.
    ///
    /// An object that exists already is read back: our own bytes, with our own nonce, are a success whose answer was lost; any
    /// other object ends the term. A writer that proved its place longer ago than the idle grace reads the lowest needed number
    /// before it acknowledges: a successor may have used its number, and retention may have deleted that object since.
    pub fn answer(&mut self, answer: Answer, now_ms: u64) -> Option<Event> {
        self.now_ms = now_ms;
        if matches!(self.state, State::Proving(_)) {
            return self.take_proof(&answer);
        }
        let idle = now_ms.saturating_sub(self.proven_ms) > self.settings.idle_grace_ms;
        let own_seq = self.head.seq.next();
        let in_flight = match &mut self.state {
            State::Opening(in_flight) | State::Basing(in_flight) | State::Shipping(Some(in_flight)) => in_flight,
            State::Proving(_) | State::NeedsBase | State::Shipping(None) | State::Over => return None,
        };
        // A snapshot is named by our own opening's digest: nobody can have overtaken it.
        let check = (idle || in_flight.must_check) && in_flight.object.key.starts_with(layout::SEQUENCE);
        let outcome = match (in_flight.step, answer) {
            (Step::Put, Answer::Exists) => {
                (in_flight.step, in_flight.was_refused) = (Step::ReadBack, true);
                None
            }
            // It was there and is gone: deleted by retention, or never ours.
            (Step::ReadBack, Answer::Object(None)) => {
                (in_flight.step, in_flight.must_check) = (Step::Put, true);
                None
            }
            (Step::ReadBack, Answer::Object(Some(found))) if found[..] != in_flight.object.bytes[..] => {
                Some(Outcome::Foreign)
            }
            (Step::Put, Answer::Created) | (Step::ReadBack, Answer::Object(Some(_))) if check => {
                in_flight.step = Step::ReadLowestNeeded;
                None
            }
            (Step::Put, Answer::Created) | (Step::ReadBack, Answer::Object(Some(_))) => Some(Outcome::Ours),
            // At and above the lowest needed number nothing was ever deleted, so an object created there is the first.
            (Step::ReadLowestNeeded, Answer::LowestNeeded(Some(lowest_needed))) if lowest_needed > own_seq => {
                Some(Outcome::Foreign)
            }
            (Step::ReadLowestNeeded, Answer::LowestNeeded(_)) => Some(Outcome::Ours),
            _ => None,
        };
        match outcome? {
            Outcome::Ours => self.object_created(),
            Outcome::Foreign => {
                let lost = matches!(std::mem::replace(&mut self.state, State::Over), State::Opening(_));
                self.pending.clear();
                Some(if lost { Event::Lost } else { Event::Fenced { seq: own_seq } })
            }
        }
    }

    /// Takes the answer to an opening that was sent once more. Everything rests on the condition of a PUT, and some stores read it
    /// and take the object all the same.
    fn take_proof(&mut self, answer: &Answer) -> Option<Event> {
        match answer {
            Answer::Exists => {
                self.state = State::NeedsBase;
                Some(Event::Opened(self.head))
            }
            Answer::Created => Some(Event::Overwritten),
            Answer::Unknown | Answer::Object(_) | Answer::LowestNeeded(_) => None,
        }
    }

    /// Gives up the term: the queue overflowed, or the process ends.
    pub fn close(&mut self) {
        self.state = State::Over;
        self.pending.clear();
    }

    /// Goes on from an object that is proven to be in the bucket.
    fn object_created(&mut self) -> Option<Event> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Opening(in_flight) => {
                self.proven_ms = in_flight.sent_ms.expect("only what was sent is answered");
                let hash = in_flight.object.digest;
                self.head = Position { term: self.head.term, seq: self.head.seq.next(), hash };
                if in_flight.was_refused {
                    self.state = State::NeedsBase;
                    return Some(Event::Opened(self.head));
                }
                self.state = State::Proving(InFlight { step: Step::Put, ..in_flight });
                None
            }
            State::Basing(InFlight { object, .. }) => {
                self.last_commit = object.last_commit;
                self.time_ms = object.time_ms;
                self.state = State::Shipping(None);
                Some(Event::Based { position: self.head, commit: self.last_commit })
            }
            State::Shipping(Some(InFlight { object, sent_ms, .. })) => {
                self.proven_ms = sent_ms.expect("only what was sent is answered");
                self.confirmed = true;
                assert_eq!(object.key, layout::sequence(self.head.seq.next()), "numbers of the sequence rise by one");
                assert!(object.last_commit > self.last_commit, "an acknowledgement never goes back");
                self.head = Position { term: self.head.term, seq: self.head.seq.next(), hash: object.digest };
                self.last_commit = object.last_commit;
                self.time_ms = object.time_ms;
                self.state = State::Shipping(None);
                Some(Event::Durable { position: self.head, commit: self.last_commit, bytes: object.bytes.len() })
            }
            State::Proving(_) | State::NeedsBase | State::Shipping(None) | State::Over => {
                unreachable!("only an object in flight is answered")
            }
        }
    }
}
