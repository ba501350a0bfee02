//! Steps of a participant: one per phase, each taken once the participant knows enough, and at most once.
//!
//! Every step first asks whether it is due, so that facts may arrive in any order: a node that was away runs them all at
//! once, a node that restarted finds what it had said in its outbox and goes on after it.

use rand_core::CryptoRng;

use super::bundle::{self, VerifiedBundle};
use super::complaint::Complaint;
use super::dealing::{DealerSeed, Dealing};
use super::judgement::JudgeError;
use super::message::{Body, MessageKind, Response, SignedMessage};
use super::outputs::{Blob, Notice, Outputs};
use super::participant::Participant;
use super::record::Phase;
use super::state::{Attempt, SecretName, Verdict};
use super::transcript::Transcript;
use crate::identifiers::{EpochNumber, NodeIndex};
use crate::plan::frozen::dealers_digest;
use crate::plan::{Origin, ValidPlan};

/// Number of failed attempts that stay listed until one succeeds, so that a record which takes its verdict back is noticed.
const FAILED_LISTED: usize = 4;

impl Participant {
    /// Runs every step of a round that is due.
    pub(super) fn advance(&mut self, number: EpochNumber, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let knew_vector = self.state.attempts.get(&number).is_some_and(|attempt| attempt.vector.is_some());
        let activated = self.in_round(number, |participant, round| {
            participant.deal(round, rng, out);
            participant.witness(round, out);
            participant.verify(round, out);
            participant.acknowledge(round, out);
            participant.prepare(round, out);
            participant.certify(round, out);
            out.keep.extend(round.transcript.take_exhibits().into_iter().map(Blob::Message));
            participant.activate(round, out)
        });
        if activated == Some(true) {
            self.settle_below(number, out);
            self.open_wants(number);
        }
        self.in_round(number, |participant, round| {
            participant.catch_up(round, out);
            participant.hold(round, out);
        });
        self.tend_prekeys(rng, out);
        let vector = self.state.attempts.get(&number).and_then(|attempt| attempt.vector.clone());
        if let Some(vector) = vector.filter(|_| !knew_vector) {
            self.learn_vector(&vector, rng, out);
        }
    }

    /// Takes a round out of the participant's maps while `work` goes on. `None` where it has no transcript.
    fn in_round<T>(&mut self, number: EpochNumber, work: impl FnOnce(&mut Self, &mut Round<'_>) -> T) -> Option<T> {
        // The transcript first: an attempt without one stays in the state.
        let mut transcript = self.transcripts.remove(&number)?;
        let mut attempt = self.state.attempts.remove(&number)?;
        let done = work(self, &mut Round { number, attempt: &mut attempt, transcript: &mut transcript });
        self.state.attempts.insert(number, attempt);
        self.transcripts.insert(number, transcript);
        Some(done)
    }

    /// Deals one bundle, from a seed that is durable before it. Only while the record reads Dealing: a bundle that comes later
    /// counts for nothing and would expose shares.
    fn deal(&mut self, round: &mut Round<'_>, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let me = self.state.index;
        let Round { number, attempt, .. } = round;
        let due = self.records.get(number).is_some_and(|record| record.phase == Phase::Dealing)
            && attempt.is_open()
            && attempt.dealers.is_none()
            && !attempt.abstain
            && !attempt.has_said(MessageKind::Dealing);
        if !due || attempt.plan.dealer(me).is_none() {
            return;
        }
        let constant = match &attempt.plan.origin {
            Origin::Genesis => None,
            Origin::Reshare { source, .. } => {
                // Only an epoch that this node has seen certified, and exactly the one that the plan names.
                let held = self.state.attempts.get(&source.number).and_then(Attempt::certificate);
                if !held.is_some_and(|held| held.plan == source.plan && held.vector == source.vector) {
                    return;
                }
                let Some(share) = self.secrets.shares.get(&source.number) else { return };
                Some(share.duplicate())
            }
        };
        // Taken out until there is a bundle that it is for.
        let known = self.secrets.seeds.remove(number);
        let is_new = known.is_none();
        let seed = known.unwrap_or_else(|| Box::new(DealerSeed::random(rng)));
        let dealing = Dealing::deal(&attempt.plan, me, constant.as_ref(), &seed);
        let message = self.sign(round, Body::Dealing(dealing));
        if let Err(error) = bundle::opens(&seed, &round.attempt.plan, &message.encode()) {
            out.notices.push(Notice::FaultyDealing(round.number, error));
            return;
        }
        self.secrets.seeds.insert(round.number, seed);
        if is_new {
            out.create.push(SecretName::DealerSeed(round.number));
        }
        self.say_signed(round, message, out);
    }

    /// Signs `Have` for the bundles that it has (Freezing). The first of a dealer is the only one it vouches for.
    fn witness(&self, round: &mut Round<'_>, out: &mut Outputs) {
        let attempt = &round.attempt;
        // Read as frozen, whether or not the frozen list was one to keep.
        let is_frozen = self.records.get(&round.number).is_some_and(|record| record.phase != Phase::Dealing);
        let receives = attempt.plan.receiver(self.state.index).is_some();
        if !attempt.is_open() || is_frozen || attempt.dealers.is_some() || attempt.abstain || !receives {
            return;
        }
        let vouched = |dealer: NodeIndex| {
            attempt.outbox.iter().any(|said| matches!(said.body, Body::Have { dealer: d, .. } if d == dealer))
        };
        let fresh: Vec<_> = attempt
            .plan
            .dealers
            .iter()
            .filter(|dealer| !vouched(dealer.index))
            .filter_map(|dealer| round.transcript.bundle_of(dealer.index))
            .map(|bundle| (bundle.dealer(), bundle.digest()))
            .collect();
        for (dealer, bundle) in fresh {
            self.say(round, Body::Have { dealer, bundle }, out);
        }
    }

    /// Verifies: opens its share of every frozen bundle, and complains about those that are bad.
    fn verify(&self, round: &mut Round<'_>, out: &mut Outputs) {
        let me = self.state.index;
        let Round { number, attempt, transcript } = round;
        let Some(dealers) = &attempt.dealers else { return };
        let due = attempt.is_open() && attempt.frozen.is_none() && !attempt.has_said(MessageKind::Response);
        if !due || attempt.abstain || attempt.plan.receiver(me).is_none() {
            return;
        }
        if let Some(dealer) = transcript.foreign_bundle(dealers) {
            out.notices.push(Notice::ForeignBundle(*number, dealer));
            attempt.dealers = None;
            out.commit = true;
            return;
        }
        let bundles = dealers.iter().map(|(_, digest)| transcript.bundle(&digest));
        let Some(bundles) = bundles.collect::<Option<Vec<_>>>().filter(|_| !transcript.lacks_source()) else { return };
        let complaints = self.complaints_about(&attempt.plan, &bundles);
        let response = Response {
            dealers: dealers_digest(transcript.plan_digest(), dealers),
            unopened: complaints.is_none(),
            complaints: complaints.unwrap_or_default(),
        };
        self.say(round, Body::Response(response), out);
    }

    /// Says which responses with complaints this node has heard (Verifying), so that no response is frozen whose author shows it to
    /// nobody who would hand it on. Of a receiver that gave two it says nothing more.
    fn acknowledge(&self, round: &mut Round<'_>, out: &mut Outputs) {
        let Round { attempt, transcript, .. } = round;
        let Some(dealers) = attempt.dealers.as_ref().filter(|_| attempt.is_open() && attempt.frozen.is_none()) else {
            return;
        };
        let receives = attempt.plan.receiver(self.state.index).is_some();
        if !receives || attempt.abstain || transcript.foreign_bundle(dealers).is_some() {
            return;
        }
        let said = |receiver: NodeIndex| {
            attempt.outbox.iter().any(|said| matches!(said.body, Body::Heard { receiver: r, .. } if r == receiver))
        };
        let heard = transcript.single_responses(dealers).into_iter();
        let heard = heard.filter(|(receiver, (_, response))| !response.complaints.is_empty() && !said(*receiver));
        let heard: Vec<_> = heard.map(|(receiver, (digest, _))| (receiver, digest)).collect();
        for (receiver, response) in heard {
            self.say(round, Body::Heard { receiver, response }, out);
        }
    }

    /// Opens this node's share of every bundle. Returns a complaint about each bad one; `None` where the node itself cannot open,
    /// or cannot prove what it found.
    pub(super) fn complaints_about(&self, plan: &ValidPlan, bundles: &[&VerifiedBundle]) -> Option<Vec<Complaint>> {
        let secret = self.own_prekey(plan)?;
        let Err(bad) = VerifiedBundle::open_all(bundles, plan, self.state.index, secret) else {
            return Some(Vec::new());
        };
        let accused = bundles.iter().filter(|bundle| bad.contains(&bundle.dealer()));
        accused.map(|bundle| bundle.complain(plan, self.state.index, secret)).collect()
    }

    /// Prepares: computes the vector from the frozen fields alone, then the share. Whoever was away until the certificate was
    /// there catches up instead.
    fn prepare(&mut self, round: &mut Round<'_>, out: &mut Outputs) {
        let me = self.state.index;
        let Round { number, attempt, transcript } = round;
        let Some(frozen) = attempt.frozen.as_ref().filter(|_| attempt.is_open() && attempt.vector.is_none()) else {
            return;
        };
        let judgement = match transcript.judge(&frozen.dealers, &frozen.responses) {
            Ok(judgement) => judgement,
            Err(JudgeError::Missing(_)) => return,
            Err(JudgeError::ForeignBundle(dealer)) => {
                out.notices.push(Notice::ForeignBundle(*number, dealer));
                (attempt.dealers, attempt.frozen) = (None, None);
                out.commit = true;
                return;
            }
        };
        if judgement.frozen != *frozen {
            out.notices.push(Notice::RecordContradictsMessages(*number));
            attempt.frozen = None;
            out.commit = true;
            return;
        }
        let combined = match judgement.combine(transcript) {
            Ok(combined) => combined,
            Err(fault) => {
                out.notices.push(Notice::NoSharing(*number, fault));
                return;
            }
        };
        let (vector_digest, frozen_digest) = (combined.vector.digest(), frozen.digest(transcript.plan_digest()));
        attempt.vector = Some(combined.vector.clone());
        attempt.qualified = frozen.qualified_bundles();
        out.commit = true;
        if attempt.plan.receiver(me).is_none() {
            return;
        }
        let qualified = frozen.qualified.iter().filter_map(|dealer| transcript.bundle(&frozen.dealers.get(*dealer)?));
        let qualified: Vec<_> = qualified.collect();
        let shares = self
            .own_prekey(&attempt.plan)
            .map_or(Err(Vec::new()), |secret| VerifiedBundle::open_all(&qualified, &attempt.plan, me, secret));
        let Ok(shares) = shares else {
            // What was sealed to this node is bad, and its response has said so; or its prekey is gone.
            attempt.unable = true;
            out.notices.push(Notice::Unable(*number));
            return;
        };
        self.secrets.shares.insert(*number, Box::new(combined.share(me, &shares)));
        attempt.holds_share = true;
        out.create.push(SecretName::Share(*number));
        if !attempt.abstain {
            self.say(round, Body::Prepared { vector: vector_digest, frozen: frozen_digest }, out);
        }
    }

    /// Certifies: signs with the new share, once the record asks and enough receivers named the same vector and fields.
    fn certify(&self, round: &mut Round<'_>, out: &mut Outputs) {
        let Round { number, attempt, transcript } = round;
        let asked = self.records.get(number).is_some_and(|record| record.phase == Phase::Certifying);
        if !asked || !attempt.is_open() || attempt.abstain || attempt.has_said(MessageKind::Partial) {
            return;
        }
        let (Some(vector), Some(frozen), Some(share)) =
            (&attempt.vector, &attempt.frozen, self.secrets.shares.get(number))
        else {
            return;
        };
        let agreed = (vector.digest(), frozen.digest(transcript.plan_digest()));
        if transcript.prepared().values().filter(|named| **named == agreed).count() < attempt.plan.holders_needed() {
            return;
        }
        let partial = transcript.certificate_purpose(&agreed.0).point().times_secret(share);
        self.say(round, Body::Partial(partial), out);
    }

    /// Activates the epoch on its certificate, once.
    fn activate(&mut self, round: &mut Round<'_>, out: &mut Outputs) -> bool {
        let Round { number, attempt, .. } = round;
        let Some(certificate) = self.records.get(number).and_then(|record| record.certificate) else { return false };
        if !attempt.is_open() {
            return false;
        }
        let Some(public_key) = self.key_of(attempt, &certificate) else {
            out.notices.push(Notice::BadCertificate(*number));
            return false;
        };
        assert!(attempt.verdict.is_none(), "epoch {number}: a verdict is written once");
        attempt.verdict = Some(Verdict::Active(certificate));
        self.state.public_key = Some(public_key);
        out.commit = true;
        true
    }

    /// Signs `Holds` for the share of an active epoch, and moves the active pointer.
    fn hold(&mut self, round: &mut Round<'_>, out: &mut Outputs) {
        let Round { number, attempt, .. } = round;
        let Some(certificate) = attempt.certificate() else { return };
        if !attempt.holds_share || attempt.has_said(MessageKind::Holds) || attempt.retired {
            return;
        }
        let vector = certificate.vector;
        self.state.active = self.state.active.max(Some(*number));
        self.say(round, Body::Holds { vector }, out);
    }

    /// Settles what lies below an activated `number`: open attempts fail, and all dealer seeds up to it are destroyed.
    pub(super) fn settle_below(&mut self, number: EpochNumber, out: &mut Outputs) {
        // What is still open counts as failed from now on and is no word of the record: peers may show it certified all the same.
        self.forget_failed_below(number);
        let open: Vec<_> =
            self.state.attempts.range(..number).filter(|(_, attempt)| attempt.is_open()).map(|(n, _)| *n).collect();
        for failed in open {
            self.fail(failed, out);
        }
        let seeds: Vec<_> = self.secrets.seeds.range(..=number).map(|(number, _)| *number).collect();
        for seed in seeds {
            self.secrets.seeds.remove(&seed);
            out.destroy.push(SecretName::DealerSeed(seed));
        }
        self.state.attempts.retain(|n, attempt| *n >= number || attempt.verdict != Some(Verdict::Failed));
        self.forget_retired();
        let attempts = &self.state.attempts;
        self.transcripts.retain(|n, _| attempts.contains_key(n));
        self.records.retain(|n, _| attempts.contains_key(n));
        self.shown.retain(|n| attempts.get(n).is_some_and(|attempt| !attempt.retired));
    }

    /// Fails an attempt: destroys its share and seed. Its prekeys protect nothing that lives: they go with the next that is made.
    pub(super) fn fail(&mut self, number: EpochNumber, out: &mut Outputs) {
        let Some(attempt) = self.state.attempts.get_mut(&number).filter(|attempt| attempt.is_open()) else { return };
        attempt.verdict = Some(Verdict::Failed);
        attempt.holds_share = false;
        attempt.outbox.clear();
        out.commit = true;
        if self.secrets.shares.remove(&number).is_some() {
            out.destroy.push(SecretName::Share(number));
        }
        if self.secrets.seeds.remove(&number).is_some() {
            out.destroy.push(SecretName::DealerSeed(number));
        }
        self.transcripts.remove(&number);
        self.records.remove(&number);
    }

    /// Lists only the newest failed attempts, each with its plan; of the others the number remains.
    pub(super) fn forget_old_failed(&mut self) {
        let failed = self.state.attempts.iter().filter(|(_, attempt)| attempt.verdict == Some(Verdict::Failed));
        let oldest_listed = failed.rev().nth(FAILED_LISTED - 1).map(|(number, _)| *number);
        self.forget_failed_below(oldest_listed.unwrap_or(EpochNumber(0)));
    }

    fn forget_failed_below(&mut self, number: EpochNumber) {
        let old = self.state.attempts.range(..number).filter(|(_, attempt)| attempt.verdict == Some(Verdict::Failed));
        for failed in old.map(|(failed, _)| *failed).collect::<Vec<_>>() {
            self.state.attempts.remove(&failed);
            self.state.failed.insert(failed);
        }
    }

    /// Signs a message, puts it into the outbox and takes it into its own transcript.
    pub(super) fn say(&self, round: &mut Round<'_>, body: Body, out: &mut Outputs) {
        self.say_signed(round, self.sign(round, body), out);
    }

    fn sign(&self, round: &Round<'_>, body: Body) -> SignedMessage {
        SignedMessage::sign(*round.transcript.plan_digest(), self.state.index, body, &self.identity)
    }

    fn say_signed(&self, round: &mut Round<'_>, message: SignedMessage, out: &mut Outputs) {
        // One's own words contradict nothing: each step speaks once.
        let _ = round.transcript.hear(&message);
        if matches!(message.body, Body::Dealing(_) | Body::Response(_)) {
            out.keep.push(Blob::Message(message.clone()));
        }
        round.attempt.outbox.push(message.clone());
        out.say.push(message);
        out.commit = true;
    }
}

/// Round that a step works on, taken out of the participant's maps meanwhile.
pub(super) struct Round<'a> {
    pub(super) number: EpochNumber,
    pub(super) attempt: &'a mut Attempt,
    pub(super) transcript: &'a mut Transcript,
}
