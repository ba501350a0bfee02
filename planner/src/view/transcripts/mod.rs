//! The transcripts of a cluster's rounds: signed messages in, the core's decisions out. Pure.
//!
//! Everything is kept per node, in at most [`NODE_BYTES_MAX`]: a node that talks too much loses its own words and nobody
//! else's. What belongs to rounds that ended is dropped. `kept` holds what nodes show of the epochs that they keep.

mod claims;
mod kept;

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_crds::epoch::Phase;
use keyfleet_crds::values::PublicKey;
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus};
use keyfleet_threshold::coordination::{RoundView, closing, decide};
use keyfleet_threshold::identifiers::{Block, Digest, NodeIndex};
use keyfleet_threshold::plan::ValidPlan;
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::possession::Claims;
use keyfleet_threshold::round::{Blob, MessageKind, RoundRecord, ShownEpoch, Transcript, VerifiedMessage};

use self::kept::{Shown, ShownEpochs, Vectors};
use super::prekeys::{REPORTED_MAX, ReportedPrekey};
use super::{Closing, StreamView};
use crate::key_epoch;
use keyfleet_crds::convert;

/// Bytes of messages that are kept of one node: two dozen rounds of the largest fleet.
pub const NODE_BYTES_MAX: usize = 1 << 20;

/// Seconds that a process listens to a round before it lets a deadline of the round pass: until then what it lacks may be on
/// its way. A process that starts opens its streams within one or two.
const LISTEN_SECONDS: i64 = 5;

/// A round whose record is looked at.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The epoch's plan.
    pub spec: KeyEpochSpec,
    /// The epoch's record.
    pub status: Option<KeyEpochStatus>,
    /// The present block.
    pub block: u64,
    /// The present time.
    pub now: jiff::Timestamp,
    /// True when the present phase outlasted its wall-clock cap.
    pub overdue: bool,
}

impl Watched {
    /// Looks at a round at `block` and `now`. `cap_seconds` is the most wall-clock time that a phase may take.
    #[must_use]
    pub fn new(
        spec: KeyEpochSpec,
        status: Option<KeyEpochStatus>,
        block: u64,
        now: jiff::Timestamp,
        cap_seconds: u32,
    ) -> Self {
        let open = status.as_ref().filter(|status| key_epoch::is_open(Some(status)));
        let since = open.and_then(key_epoch::entered);
        let overdue = since.is_some_and(|since| now.as_second() - since.0.as_second() >= i64::from(cap_seconds));
        Self { spec, status, block, now, overdue }
    }
}

/// Messages of the nodes of one cluster.
#[derive(Default)]
pub struct Transcripts {
    nodes: BTreeMap<u32, NodeState>,
    rounds: BTreeMap<u64, Transcript>,
    /// Plans of the rounds that are looked at, by number.
    plans: BTreeMap<u64, Planned>,
    /// Vectors of the rounds that are looked at, combined from their own messages.
    vectors: BTreeMap<u64, VerificationVector>,
    /// Vectors of the epochs that nodes show.
    shown_vectors: Vectors,
    /// The fleet's key, as it was when the rounds were looked at last.
    key: Option<PublicKey>,
    /// The highest number that was ever looked at. Messages of later rounds may come before their plan.
    looked_at: u64,
    asked_ms: Option<u64>,
}

/// Plan of a round, parsed once: its points are costly to check.
struct Planned {
    spec: KeyEpochSpec,
    plan: ValidPlan,
    /// When this process began to listen to the round.
    since: jiff::Timestamp,
}

/// Reports, proofs and messages of one node.
#[derive(Default)]
struct NodeState {
    connected: bool,
    /// When it was caught up for the first time.
    since_ms: Option<u64>,
    highest: Option<u64>,
    shown: ShownEpochs,
    erased: Option<u64>,
    /// Claims of its stream's newest report.
    claims: Option<Claims>,
    /// Claims of its newest answer when it was asked anew.
    answered: Option<Claims>,
    prekeys: BTreeMap<u32, ReportedPrekey>,
    /// By the number that the node gave and the plan's digest.
    messages: BTreeMap<(u64, Digest), Vec<VerifiedMessage>>,
    bytes: usize,
}

impl Transcripts {
    /// Takes the report that a node's stream began with, or a changed one. Returns true where it says something new.
    pub fn report(&mut self, index: u32, highest: u64, claims: Claims) -> bool {
        let said = self.nodes.entry(index).or_default();
        let new = said.highest.is_none_or(|before| before < highest);
        said.highest = said.highest.max(Some(highest));
        // What it no longer claims, or proves no more, counts no more.
        match &mut said.claims {
            Some(before) => before.renew(claims) || new,
            None => {
                said.claims = Some(claims);
                true
            }
        }
    }

    /// Takes what a node whose stream is open claims when it is asked anew.
    pub fn answer(&mut self, index: u32, claims: Claims) {
        if let Some(said) = self.nodes.get_mut(&index).filter(|said| said.connected) {
            said.answered = Some(claims);
        }
    }

    /// All nodes whose streams are open are being asked anew.
    pub fn ask(&mut self, now_ms: u64) {
        self.asked_ms = Some(now_ms);
    }

    /// Takes an epoch that a node shows in its stream. Returns true for a new one. What another node showed is read and checked
    /// once.
    pub fn show(&mut self, index: u32, shown: &ShownEpoch) -> bool {
        let same = |said: &NodeState| said.shown.same(&shown.certificate).cloned();
        if self.nodes.get(&index).and_then(same).is_some() {
            return false;
        }
        let Some(read) = self.nodes.values().find_map(same).or_else(|| Shown::read(shown, self.key)) else {
            return false;
        };
        self.nodes.entry(index).or_default().shown.insert(read);
        true
    }

    /// Takes the prekeys that a node's newest report passes on, by receiver. Returns true where they changed. Those beyond
    /// [`REPORTED_MAX`] are dropped.
    pub fn report_prekeys(&mut self, index: u32, reported: impl IntoIterator<Item = (u32, ReportedPrekey)>) -> bool {
        let reported: BTreeMap<_, _> = reported.into_iter().take(REPORTED_MAX).collect();
        let said = self.nodes.entry(index).or_default();
        let changed = said.prekeys != reported;
        said.prekeys = reported;
        changed
    }

    /// All that a node had said when its stream was opened is here.
    pub fn caught_up(&mut self, index: u32, now_ms: u64) {
        let said = self.nodes.entry(index).or_default();
        said.connected = true;
        said.since_ms.get_or_insert(now_ms);
    }

    /// A node's stream ended. Its messages stay; what it proved to hold counts no more, since it may be gone for good.
    pub fn disconnect(&mut self, index: u32) {
        if let Some(said) = self.nodes.get_mut(&index) {
            said.connected = false;
            (said.claims, said.answered) = (None, None);
        }
    }

    /// A node was removed, or another identity is pinned: what it said under the old one counts no more.
    pub fn forget(&mut self, index: u32) {
        self.nodes.remove(&index);
    }

    /// A node's own message, verified under its pin. `number` is the attempt that the node says it belongs to. Returns true for
    /// a new one.
    pub fn say(&mut self, index: u32, number: u64, verified: VerifiedMessage) -> bool {
        if verified.message().body.kind() == MessageKind::Erased {
            // Its record may be gone. About its own secrets a node can lie under any number.
            let said = self.nodes.entry(index).or_default();
            let is_new = said.erased < Some(number);
            said.erased = said.erased.max(Some(number));
            return is_new;
        }
        if number <= self.looked_at && !self.rounds.contains_key(&number) {
            return false;
        }
        let said = self.nodes.entry(index).or_default();
        let message = verified.message();
        let (key, digest) = ((number, message.plan), message.digest());
        if said.messages.get(&key).is_some_and(|all| all.iter().any(|one| one.message().digest() == digest)) {
            return false;
        }
        let bytes = message.encode().len();
        while said.bytes + bytes > NODE_BYTES_MAX {
            // The oldest round goes first; a single round that fills everything gets no more.
            let Some(oldest) = said.messages.keys().next().copied().filter(|oldest| *oldest < key) else {
                return false;
            };
            said.drop_round(&oldest);
        }
        said.bytes += bytes;
        if let Some(transcript) = self.rounds.get_mut(&number) {
            let _ = transcript.hear_verified(&verified);
        }
        said.messages.entry(key).or_default().push(verified);
        true
    }

    /// Takes up a blob that was fetched by digest, from any peer. The transcripts verify whose it is.
    pub fn fetched(&mut self, blob: &Blob) {
        match blob {
            Blob::Message(message) => {
                for transcript in self.rounds.values_mut().filter(|one| *one.plan_digest() == message.plan) {
                    // One that does not check is dropped; where that proves a fault, the transcript names it.
                    let _ = transcript.hear(message);
                }
            }
            Blob::Vector(vector) => {
                self.shown_vectors.learn(vector);
                self.learn_source(vector);
            }
        }
    }

    /// Takes a vector up where a round reshares it; whatever was said of that round before is judged now.
    fn learn_source(&mut self, vector: &VerificationVector) {
        for (number, transcript) in &mut self.rounds {
            // A plan takes only the vector whose digest it names.
            if !transcript.lacks_source() || !transcript.learn_source(vector.clone()) {
                continue;
            }
            replay(&self.nodes, *number, transcript);
            if let Some(source) = transcript.plan().source() {
                self.vectors.entry(source.number.0).or_insert_with(|| vector.clone());
            }
        }
    }

    /// Returns the digests that the rounds under way need and that no stream brought, and those of the vectors of shown epochs: to be
    /// fetched from any node.
    #[must_use]
    pub fn wanted(&self, rounds: &[Watched]) -> BTreeSet<Digest> {
        let mut wanted: BTreeSet<_> = self.shown_vectors.wanted().collect();
        for watched in rounds.iter().filter(|watched| key_epoch::is_open(watched.status.as_ref())) {
            let Some(transcript) = self.rounds.get(&watched.spec.number) else { continue };
            let missing =
                |digest: &Digest| transcript.bundle(digest).is_none() && transcript.response(digest).is_none();
            if let Ok(Some(record)) = convert::record_of(transcript.plan(), watched.status.as_ref()) {
                let (dealers, responses) = (record.dealers.unwrap_or_default(), record.responses.unwrap_or_default());
                wanted.extend(transcript.missing_evidence(&dealers, &responses));
            }
            wanted.extend(copied(transcript).into_iter().filter(missing));
        }
        wanted
    }

    /// Returns what the core decides on each record that can still move, and what else follows from the nodes' messages.
    /// Certificates count that verify under `key`; before there is a key, under any.
    pub fn view(&mut self, key: Option<PublicKey>, rounds: &[Watched]) -> StreamView {
        self.judge_shown(key);
        self.take_up(rounds);
        self.pass_certificates_on();
        self.judge_claims(rounds);
        let nodes = || self.nodes.iter();
        let mut view = StreamView {
            connected: nodes().filter(|(_, said)| said.connected).map(|(index, _)| *index).collect(),
            highest: nodes().filter_map(|(index, said)| Some((*index, said.highest?))).collect(),
            certified: nodes()
                .filter_map(|(index, said)| Some((*index, said.shown.certified().next_back()?.0.number.0)))
                .collect(),
            thresholds: nodes()
                .flat_map(|(_, said)| said.shown.certified())
                .map(|(certificate, threshold)| (certificate.number.0, threshold))
                .collect(),
            known_since_ms: nodes().filter_map(|(index, said)| Some((*index, said.since_ms?))).collect(),
            asked_ms: self.asked_ms,
            erased: nodes().filter_map(|(index, said)| Some((*index, said.erased?))).collect(),
            ..StreamView::default()
        };
        for (receiver, prekey) in self.nodes.values().flat_map(|said| &said.prekeys) {
            view.prekeys.entry(*receiver).or_default().insert(*prekey);
        }
        // A report that is read while its stream is being ended may arrive after the disconnection: it counts no more.
        for (index, said) in self.nodes.iter().filter(|(_, said)| said.connected) {
            for claims in said.claims.iter().chain(&said.answered) {
                for proven in claims.proven() {
                    let asked_ms = view.holds.entry(proven.number().0).or_default().entry(*index).or_default();
                    *asked_ms = claims.asked_ms().max(*asked_ms);
                }
            }
            for (number, why) in said.claims.iter().chain(&said.answered).flat_map(Claims::refuted) {
                view.unproven.entry(number.0).or_default().insert(*index, why);
                if let Some(holds) = view.holds.get_mut(&number.0) {
                    holds.remove(index);
                }
            }
        }
        view.holds.retain(|_, holds| !holds.is_empty());
        for watched in rounds {
            let number = watched.spec.number;
            let Some(transcript) = self.rounds.get(&number) else { continue };
            let Ok(Some(record)) = convert::record_of(transcript.plan(), watched.status.as_ref()) else { continue };
            if key_epoch::is_open(watched.status.as_ref()) || key_epoch::serves(watched.status.as_ref()) {
                let listens =
                    self.plans.get(&number).map_or(0, |planned| watched.now.as_second() - planned.since.as_second());
                view.closing.insert(number, closing(watched, transcript, &record, listens >= LISTEN_SECONDS));
            }
        }
        view
    }

    /// Verifies the certificates that nodes show, and wants the vectors that they name.
    fn judge_shown(&mut self, key: Option<PublicKey>) {
        self.key = key;
        let Self { nodes, shown_vectors, .. } = self;
        for said in nodes.values_mut() {
            said.shown.judge(key, shown_vectors);
        }
        shown_vectors.want(nodes.values().flat_map(|said| said.shown.vectors()).collect());
    }

    /// Gives rounds under way the certificates that nodes show of them.
    fn pass_certificates_on(&mut self) {
        for (certificate, _) in self.nodes.values().flat_map(|said| said.shown.certified()) {
            if let Some(transcript) = self.rounds.get_mut(&certificate.number.0) {
                transcript.learn_certificate(certificate);
            }
        }
    }

    /// Keeps exactly the transcripts of these rounds that can still say something, and feeds new ones what was said before.
    fn take_up(&mut self, rounds: &[Watched]) {
        let failed =
            |watched: &&Watched| watched.status.as_ref().and_then(|status| status.phase) == Some(Phase::Failed);
        let mut before = std::mem::take(&mut self.plans);
        for watched in rounds.iter().filter(|watched| !failed(watched)) {
            let known = before.remove(&watched.spec.number).filter(|planned| planned.spec == watched.spec);
            self.plans.extend(known.or_else(|| Planned::of(watched)).map(|planned| (watched.spec.number, planned)));
        }
        let plans = &self.plans;
        let newest = rounds.iter().map(|watched| watched.spec.number).max().unwrap_or(0);
        self.looked_at = self.looked_at.max(newest);
        self.rounds
            .retain(|number, known| plans.get(number).is_some_and(|it| it.plan.digest() == *known.plan_digest()));
        self.vectors.retain(|number, _| plans.contains_key(number));
        for said in self.nodes.values_mut() {
            let of_ended = |key: &&(u64, Digest)| match plans.get(&key.0) {
                Some(planned) => planned.plan.digest() != key.1,
                None => key.0 <= self.looked_at,
            };
            for key in said.messages.keys().filter(of_ended).copied().collect::<Vec<_>>() {
                said.drop_round(&key);
            }
        }
        for (&number, planned) in plans {
            let new = !self.rounds.contains_key(&number);
            let transcript = self.rounds.entry(number).or_insert_with(|| Transcript::new(planned.plan.clone(), None));
            let lacked = transcript.lacks_source();
            if lacked {
                for vector in self.shown_vectors.iter().chain(self.vectors.values()) {
                    transcript.learn_source(vector.clone());
                }
            }
            if new || (lacked && !transcript.lacks_source()) {
                replay(&self.nodes, number, transcript);
            }
        }
        for watched in rounds {
            let Some(transcript) = self.rounds.get_mut(&watched.spec.number) else { continue };
            transcript.want(named(watched).into_iter());
            let number = watched.spec.number;
            if !self.vectors.contains_key(&number)
                && let Ok(Some(record)) = convert::record_of(transcript.plan(), watched.status.as_ref())
                && let Some(vector) = vector_of(transcript, &record)
            {
                self.vectors.insert(number, vector);
            }
        }
    }
}

impl Planned {
    fn of(watched: &Watched) -> Option<Self> {
        let plan = convert::plan_of(&watched.spec).ok()?;
        Some(Self { spec: watched.spec.clone(), plan, since: watched.now })
    }
}

impl NodeState {
    fn drop_round(&mut self, key: &(u64, Digest)) {
        let dropped = self.messages.remove(key).unwrap_or_default();
        self.bytes -= dropped.iter().map(|verified| verified.message().encode().len()).sum::<usize>();
    }
}

fn replay(nodes: &BTreeMap<u32, NodeState>, number: u64, transcript: &mut Transcript) {
    for said in nodes.values() {
        // Messages that do not check are dropped; where that proves a fault, the transcript names it.
        for verified in said.messages.get(&(number, *transcript.plan_digest())).into_iter().flatten() {
            let _ = transcript.hear_verified(verified);
        }
    }
}

/// Judges a round. Before this process has `listened`, no deadline is over: what it did not hear yet may have come in time.
fn closing(watched: &Watched, transcript: &Transcript, record: &RoundRecord, listened: bool) -> Closing {
    let opened = watched.status.as_ref().and_then(|status| status.phase_block).unwrap_or(watched.block);
    let (now, overdue) = if listened { (watched.block, watched.overdue) } else { (opened, false) };
    let view = RoundView { transcript, record, opened: Block(opened), now: Block(now), overdue };
    let open = key_epoch::is_open(watched.status.as_ref());
    // Whoever was at fault in a round that has ended stands in its record.
    let culprits = if open { closing::culprits(&view) } else { Vec::new() };
    Closing { decision: decide(&view), culprits }
}

/// The vector that a round's frozen fields add up to.
fn vector_of(transcript: &Transcript, record: &RoundRecord) -> Option<VerificationVector> {
    let judgement = transcript.judge(record.dealers.as_ref()?, record.responses.as_ref()?).ok()?;
    Some(judgement.combine(transcript).ok()?.vector)
}

/// Returns the digests that a record names.
fn named(watched: &Watched) -> Vec<Digest> {
    let Some(status) = &watched.status else { return Vec::new() };
    let bundles = status.dealers.iter().flatten().map(|dealer| dealer.bundle_digest);
    let responses = status.responses.iter().flatten().map(|response| response.response_digest);
    bundles.chain(responses).map(|digest| Digest(digest.0)).collect()
}

/// Bundles and complaints that enough receivers say they have to be frozen: their author may be out of reach of the operator alone.
fn copied(transcript: &Transcript) -> Vec<Digest> {
    let mut copies: BTreeMap<(NodeIndex, Digest), usize> = BTreeMap::new();
    for (_, author, digest) in transcript.haves().chain(transcript.heards()) {
        *copies.entry((author, digest)).or_default() += 1;
    }
    let needed = transcript.plan().copies_needed();
    copies.into_iter().filter(|(_, copies)| *copies >= needed).map(|((_, digest), _)| digest).collect()
}

#[cfg(test)]
mod tests;
