//! Kept epochs: what a participant takes from peers that show them, and how it comes to its share of each.
//!
//! A shown epoch whose certificate verifies is taken up whatever this node remembers of numbers, first plans and prekeys: the key
//! itself signed it. In it the node says `Holds` and, once the bundles add up to the certified vector, `Late`; nothing else.

use std::collections::BTreeSet;

use rand_core::CryptoRng;

use super::catch_up::{CatchUpError, CertifiedSharing, catch_up};
use super::complaint::Complaint;
use super::message::{Body, SignedMessage};
use super::outputs::{Notice, Outputs};
use super::participant::{Participant, members};
use super::proposals::Proposer;
use super::shown::{ShownEpoch, ShownError};
use super::state::{Attempt, SecretName, Verdict};
use super::steps::Round;
use crate::curve::{G2, SecretScalar};
use crate::identifiers::{Digest, EpochNumber, NodeIndex};
use crate::plan::{FrozenDigests, ValidPlan};
use crate::polynomial::VerificationVector;
use crate::purpose::Certificate;

/// Newer kept epochs beside which an older one is not taken up: more than a fleet keeps.
const NEWER_KEPT_MAX: usize = 32;
/// Refusals after which nothing that a peer shows is looked at: each check costs a pairing, and an honest peer is never refused.
const REFUSED_MAX: usize = 16;
impl Participant {
    /// Takes up a kept epoch as the peer `from` shows it. The caller knows that it was this peer.
    ///
    /// # Errors
    /// When it is not taken up; see [`ShownError`] for who is at fault. Nothing has changed then.
    pub fn show(
        &mut self,
        from: NodeIndex,
        shown: &ShownEpoch,
        rng: &mut impl CryptoRng,
    ) -> Result<Outputs, ShownError> {
        let mut out = Outputs::default();
        self.take_shown(from, shown, rng, &mut out)?;
        Ok(out)
    }

    /// Takes up what peers showed before this node knew the cluster's key.
    pub(super) fn take_waiting(&mut self, rng: &mut impl CryptoRng, out: &mut Outputs) {
        for (from, waiting) in std::mem::take(&mut self.shown.waiting) {
            for shown in waiting.into_values() {
                // A peer whose epoch does not verify has shown nothing.
                let _ = self.take_shown(from, &shown, rng, out);
            }
        }
    }

    fn take_shown(
        &mut self,
        from: NodeIndex,
        shown: &ShownEpoch,
        rng: &mut impl CryptoRng,
        out: &mut Outputs,
    ) -> Result<(), ShownError> {
        let number = shown.number();
        let known = self.state.attempts.get(&number);
        if known.is_some_and(|attempt| attempt.retired) {
            return Ok(());
        }
        let is_failed = known.is_some_and(|attempt| attempt.verdict == Some(Verdict::Failed));
        if is_failed || self.state.failed.contains(number) {
            return Err(ShownError::Failed(number));
        }
        if known.and_then(Attempt::certificate) != Some(&shown.certificate) {
            let kept = |attempt: &&Attempt| attempt.certificate().is_some() && !attempt.retired;
            if self.state.attempts.range(number..).map(|(_, attempt)| attempt).filter(kept).count() > NEWER_KEPT_MAX {
                return Err(ShownError::TooOld(number));
            }
            let Some(key) = self.cluster_key() else {
                self.shown.wait(from, shown);
                return Ok(());
            };
            let refused = self.shown.refused.entry(from).or_default();
            if *refused >= REFUSED_MAX {
                return Err(ShownError::BadCertificate(number));
            }
            let plan = shown.verify(self.state.cluster, &key).inspect_err(|_| *refused += 1)?;
            let heard = self.hear_certificate(&shown.certificate);
            if heard.commit {
                out.extend(heard);
                return Ok(());
            }
            self.take_certified(plan, shown.certificate, key, rng, out)?;
        }
        if self.state.attempts.get(&number).is_some_and(|attempt| self.seeks_share(attempt)) {
            self.shown.propose(number, Proposer::Peer(from), &shown.qualified);
            self.open_wants(number);
            self.advance(number, rng, out);
        }
        self.invariant_state_is_sound();
        Ok(())
    }

    /// Returns the cluster's key as this node knows it: once it has verified a certificate, that of its memory; before, the one of
    /// the newest plan that it accepted, which it would deal on and hold shares of.
    fn cluster_key(&self) -> Option<G2> {
        let of_plan = |attempt: &Attempt| {
            let prepared = attempt.vector.as_ref().map(VerificationVector::constant);
            attempt.plan.expected_public_key().or(prepared)
        };
        let attempts = self.state.attempts.values().rev();
        let accepted = attempts.filter(|attempt| attempt.verdict != Some(Verdict::Failed)).find_map(of_plan);
        self.state.public_key.or(accepted)
    }

    /// Makes a certified plan an active epoch of this node, in place of whatever it knew under the number.
    fn take_certified(
        &mut self,
        plan: ValidPlan,
        certificate: Certificate,
        key: G2,
        rng: &mut impl CryptoRng,
        out: &mut Outputs,
    ) -> Result<(), ShownError> {
        let number = plan.number;
        if let Some(known) = self.state.attempts.get(&number) {
            let same_plan = known.plan.digest() == certificate.plan;
            let other_vector = known.vector.as_ref().is_some_and(|vector| vector.digest() != certificate.vector);
            if known.certificate().is_some() || (same_plan && other_vector) {
                return Err(ShownError::OtherVector(number));
            }
            if !same_plan {
                self.fail(number, out);
                self.state.attempts.remove(&number);
            }
        }
        if !self.state.attempts.contains_key(&number) {
            let missed = number.0.saturating_sub(self.state.highest.0) > 1;
            self.state.highest = self.state.highest.max(number);
            for (index, identity) in members(&plan) {
                self.state.pins.entry(index).or_insert(identity);
            }
            for receiver in &plan.receivers {
                let Some(prekey) = receiver.prekey else { continue };
                let accepted = self.state.accepted_prekeys.entry(receiver.index).or_insert(prekey);
                if accepted.number < prekey.number {
                    *accepted = prekey;
                }
            }
            self.note_reach(&plan, missed);
            self.replace_lost_prekey(&plan, rng, out);
            self.state.attempts.insert(number, Attempt::new(plan, false));
            self.open_transcript(number);
        }
        if let Some(attempt) = self.state.attempts.get_mut(&number) {
            attempt.verdict = Some(Verdict::Active(certificate));
        }
        self.state.public_key = Some(key);
        out.commit = true;
        self.settle_below(number, out);
        self.tend_prekeys(rng, out);
        self.hear_early(number, rng, out);
        Ok(())
    }

    /// Returns the digests of the bundles that made a certified epoch; before that is known, of all that may have.
    ///
    /// They are wanted after the share is held, too, until the epoch retires: peers that were away ask for them, and a node
    /// restored from its replica has lost them.
    pub(super) fn kept_bundles(&self, number: EpochNumber, attempt: &Attempt) -> BTreeSet<Digest> {
        if attempt.retired || attempt.plan.receiver(self.state.index).is_none() {
            return BTreeSet::new();
        }
        let open = self.shown.open_lists(number).map(|(_, list)| list).filter(|_| self.seeks_share(attempt));
        attempt.qualified.iter().chain(open).flat_map(|list| list.iter().map(|(_, digest)| digest)).collect()
    }

    /// Proposes the list that the record of a certified epoch names, where it was read.
    pub(super) fn propose_recorded(&mut self, number: EpochNumber) {
        let Some(attempt) = self.state.attempts.get(&number) else { return };
        let Some(frozen) = attempt.frozen.as_ref().filter(|_| attempt.certificate().is_some()) else { return };
        if let Some(list) = frozen.qualified_bundles() {
            self.shown.propose(number, Proposer::Record, &list);
        }
    }

    /// Returns true for a receiver that lacks its share of a kept epoch, and has its prekey or did not try to open the share yet.
    fn seeks_share(&self, attempt: &Attempt) -> bool {
        let receives = attempt.plan.receiver(self.state.index).is_some();
        let is_kept = attempt.certificate().is_some() && !attempt.retired;
        receives && is_kept && !attempt.holds_share && (!attempt.unable || self.own_prekey(&attempt.plan).is_some())
    }

    /// Catches up on a certified epoch: tries each list whose bundles are there, until one gives the share.
    pub(super) fn catch_up(&mut self, round: &mut Round<'_>, out: &mut Outputs) {
        let Some(certificate) = round.attempt.certificate().copied().filter(|_| self.seeks_share(round.attempt)) else {
            return;
        };
        if let Some(own) = round.attempt.qualified.clone().filter(|_| !round.attempt.unable) {
            self.shown.propose(round.number, Proposer::Record, &own);
        }
        let lists: Vec<_> = self.shown.open_lists(round.number).map(|(_, list)| list.clone()).collect();
        for list in lists {
            if !self.seeks_share(round.attempt) {
                return;
            }
            let plan = round.attempt.plan.clone();
            match catch_up(&plan, &certificate, &list, |digest| round.transcript.bundle(digest)) {
                Ok(sharing) => {
                    let share = self.open_sharing(&plan, &sharing);
                    round.attempt.vector = Some(sharing.combined().vector.clone());
                    let _ = self.shown.tried(round.number, &list);
                    self.take_share(round, list, share, out);
                }
                Err(CatchUpError::Missing) => {}
                Err(_) => {
                    let proposers = self.shown.tried(round.number, &list);
                    out.notices.extend(proposers.into_iter().map(|proposer| match proposer {
                        Proposer::Record => Notice::RecordContradictsMessages(round.number),
                        Proposer::Peer(peer) => Notice::FalseList(round.number, peer),
                    }));
                }
            }
        }
    }

    /// Opens this node's share, or finds whom to complain about.
    fn open_sharing(&self, plan: &ValidPlan, sharing: &CertifiedSharing<'_>) -> Opened {
        let secret = self.own_prekey(plan);
        match secret.map(|secret| sharing.share(plan, self.state.index, secret)) {
            Some(Ok(share)) => Opened::Share(share),
            _ => Opened::Nothing(self.complaints_about(plan, sharing.bundles()).unwrap_or_default()),
        }
    }

    /// Holds the share that a list gave. A list that gives none may be one of several that add up: its dealer may have signed two
    /// bundles with the same commitments.
    fn take_share(&mut self, round: &mut Round<'_>, list: FrozenDigests, opened: Opened, out: &mut Outputs) {
        let attempt = &mut *round.attempt;
        out.commit = true;
        match opened {
            Opened::Share(share) => {
                attempt.qualified = Some(list);
                (attempt.holds_share, attempt.unable) = (true, false);
                self.secrets.shares.insert(round.number, Box::new(share));
                out.create.push(SecretName::Share(round.number));
                self.shown.settle(round.number);
            }
            Opened::Nothing(complaints) => {
                attempt.qualified.get_or_insert(list);
                if !attempt.unable {
                    attempt.unable = true;
                    out.notices.push(Notice::Unable(round.number));
                }
                let said =
                    |complaint: &Complaint| attempt.outbox.iter().any(|message| accuses(message, complaint.dealer));
                let complaints: Vec<_> = complaints.into_iter().filter(|complaint| !said(complaint)).collect();
                if !complaints.is_empty() {
                    self.say(round, Body::Late(complaints), out);
                }
            }
        }
    }
}

/// Tells whether a late complaint about `dealer` was said: one proves everything.
fn accuses(message: &SignedMessage, dealer: NodeIndex) -> bool {
    matches!(&message.body, Body::Late(complaints) if complaints.iter().any(|complaint| complaint.dealer == dealer))
}

/// Findings of a receiver in the bundles of a certified epoch.
enum Opened {
    Share(SecretScalar),
    /// No share, and what proves the dealers guilty that sealed bad ones.
    Nothing(Vec<Complaint>),
}
