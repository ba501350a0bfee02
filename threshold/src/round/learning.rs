//! Input from peers: what a participant takes up, and what it still has to fetch.

use rand_core::CryptoRng;

use super::message::MessageKind;
use super::outputs::{Blob, Outputs, Want};
use super::participant::Participant;
use super::state::{Verdict, by_plan};
use super::transcript::{MessageError, Transcript};
use crate::identifiers::{Digest, EpochNumber};
use crate::polynomial::VerificationVector;

impl Participant {
    /// Takes up an item that a peer, or one's own file, holds. A message that comes before its plan, or before the vector that its
    /// round reshares, is heard once that is here: whoever feeds it lets no peer speak in another's name.
    ///
    /// # Errors
    /// When it is not taken up; see [`MessageError`] for who is at fault.
    pub fn learn(&mut self, blob: &Blob, rng: &mut impl CryptoRng) -> Result<Outputs, MessageError> {
        let mut out = Outputs::default();
        match blob {
            Blob::Message(message) => {
                let Some(number) = by_plan(&self.state.attempts, &message.plan) else {
                    self.early.keep(message);
                    return Ok(out);
                };
                let transcript = self.transcripts.get_mut(&number).ok_or(MessageError::OtherPlan)?;
                let was_stored = transcript.stores(&message.digest());
                let heard = transcript.hear(message);
                if heard == Err(MessageError::SourceUnknown) {
                    self.early.keep(message);
                }
                // Only what this call verified: a digest does not cover the signature.
                if !was_stored && transcript.stores(&message.digest()) {
                    out.keep.push(blob.clone());
                }
                // A contradiction is remembered as evidence; the round goes on with what was kept.
                self.advance(number, rng, &mut out);
                if out.keep.is_empty() && out.say.is_empty() && !out.commit {
                    heard?;
                }
            }
            Blob::Prekeys(set) => {
                let digest = set.digest();
                for number in self.waiting_for(|transcript| transcript.missing_prekeys().contains(&digest)) {
                    let transcript = self.transcripts.get_mut(&number).ok_or(MessageError::UnknownSet)?;
                    transcript.learn_prekeys(set)?;
                    out.keep = vec![blob.clone()];
                    self.advance(number, rng, &mut out);
                }
            }
            Blob::Vector(vector) => self.learn_vector(vector, rng, &mut out),
        }
        Ok(out)
    }

    /// Takes a vector up in every round that reshares it.
    pub(super) fn learn_vector(&mut self, vector: &VerificationVector, rng: &mut impl CryptoRng, out: &mut Outputs) {
        for number in self.waiting_for(Transcript::lacks_source) {
            if !self.transcripts.get_mut(&number).is_some_and(|round| round.learn_source(vector.clone())) {
                continue;
            }
            if let Some(attempt) = self.state.attempts.get_mut(&number) {
                attempt.source = Some(vector.clone());
                out.commit = true;
            }
            self.advance(number, rng, out);
            self.hear_early(number, rng, out);
        }
    }

    /// Takes up the messages of a round that came before they could be judged.
    pub(super) fn hear_early(&mut self, number: EpochNumber, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let Some(plan) = self.transcripts.get(&number).map(|transcript| *transcript.plan_digest()) else { return };
        for message in self.early.take(&plan) {
            // Somebody's fault is in the transcript.
            if let Ok(outputs) = self.learn(&Blob::Message(message), rng) {
                out.extend(outputs);
            }
        }
    }

    fn waiting_for(&self, waits: impl Fn(&Transcript) -> bool) -> Vec<EpochNumber> {
        self.transcripts.iter().filter(|(_, transcript)| waits(transcript)).map(|(number, _)| *number).collect()
    }

    /// Lists what has to be fetched before open rounds, or the share of an active epoch, can go on. The evidence of an epoch is
    /// wanted after the share is computed, too, until the epoch is erased: peers that were away ask for it, and a node restored
    /// from its replica has lost it. A receiver that said `Unable` and knows the vector wants nothing more.
    #[must_use]
    pub fn wants(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        for (number, attempt) in &self.state.attempts {
            let Some(transcript) = self.transcripts.get(number) else { continue };
            let deals = attempt.is_open() && attempt.plan.slot_of(self.state.index).is_some();
            let given_up = attempt.vector.is_some() && attempt.has_said(MessageKind::Unable);
            let receives = attempt.plan.receiver(self.state.index).is_some() && !given_up && !attempt.erased;
            if attempt.verdict == Some(Verdict::Failed) || !(receives || deals) {
                continue;
            }
            let mut digests = Vec::new();
            if let (true, Some(source)) = (transcript.lacks_source(), attempt.plan.source()) {
                digests.push(source.vector);
            }
            if deals && attempt.dealers.is_none() && !attempt.has_said(MessageKind::Dealing) {
                digests.extend(transcript.missing_prekeys());
            }
            if let Some(dealers) = &attempt.dealers {
                digests.extend(dealers.iter().map(|(_, d)| d).filter(|d| transcript.bundle(d).is_none()));
            }
            if let Some(frozen) = &attempt.frozen {
                digests.extend(transcript.missing_evidence(&frozen.dealers, &frozen.responses));
            }
            digests.sort_unstable();
            digests.dedup();
            wants.extend(digests.into_iter().map(|digest| Want { number: *number, digest }));
        }
        wants
    }

    /// Returns the vector of an epoch, if this node knows it, for peers that lack a reshare's source.
    #[must_use]
    pub fn vector(&self, digest: &Digest) -> Option<&VerificationVector> {
        self.state.vectors().find(|vector| vector.digest() == *digest)
    }

    /// Takes up a round: its transcript, with what this node has said and knows already.
    pub(super) fn open_transcript(&mut self, number: EpochNumber) {
        let Some(attempt) = self.state.attempts.get(&number) else { return };
        if attempt.verdict == Some(Verdict::Failed) || attempt.erased {
            return;
        }
        let known = || {
            let source = attempt.plan.source()?;
            self.state.attempts.get(&source.number)?.vector.clone()
        };
        let source = attempt.source.clone().or_else(known);
        let mut transcript = Transcript::new(attempt.plan.clone(), source);
        for message in &attempt.outbox {
            // One's own words were checked when they were said.
            let _ = transcript.hear(message);
        }
        self.transcripts.insert(number, transcript);
        if let Some(attempt) = self.state.attempts.get_mut(&number) {
            attempt.source = self.transcripts.get(&number).and_then(|transcript| transcript.source().cloned());
        }
        for offer in self.state.offers.values() {
            if let Some(transcript) = self.transcripts.get_mut(&number) {
                // Most offers are not the one that the plan names.
                let _ = transcript.learn_prekeys(offer);
            }
        }
        self.open_wants(number);
    }

    /// Tells the transcript which messages the record names: those it takes up whoever sent how much.
    pub(super) fn open_wants(&mut self, number: EpochNumber) {
        if let (Some(attempt), Some(transcript)) = (self.state.attempts.get(&number), self.transcripts.get_mut(&number))
        {
            transcript.want(attempt.dealers.iter().flat_map(|list| list.iter().map(|(_, digest)| digest)));
            let responses = attempt.frozen.iter().flat_map(|frozen| frozen.responses.iter());
            transcript.want(responses.map(|(_, digest)| digest));
        }
    }
}
