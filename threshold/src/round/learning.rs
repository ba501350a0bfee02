//! Input from peers: what a participant takes up, and what it still has to fetch.

use std::collections::BTreeSet;

use rand_core::CryptoRng;

use super::message::SignedMessage;
use super::outputs::{Blob, Outputs, Want};
use super::participant::Participant;
use super::state::{Attempt, Verdict, by_plan};
use super::transcript::{MessageError, Transcript};
use crate::identifiers::{Digest, EpochNumber, NodeIndex};
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
                let heard = self.learn_all(&[message], rng, &mut out);
                if out.keep.is_empty() && out.say.is_empty() && !out.commit {
                    heard.into_iter().collect::<Result<(), _>>()?;
                }
            }
            Blob::Vector(vector) => self.learn_vector(vector, rng, &mut out),
        }
        Ok(out)
    }

    /// Takes up messages that arrived together: the bundles of a round are checked at once, and it goes on once.
    ///
    /// Adds the effects to `out`. Returns for each message whether it was heard: a contradiction is not, and is remembered as
    /// evidence all the same.
    pub(crate) fn learn_all(
        &mut self,
        messages: &[&SignedMessage],
        rng: &mut impl CryptoRng,
        out: &mut Outputs,
    ) -> Vec<Result<(), MessageError>> {
        let plans = messages.iter().filter_map(|message| by_plan(&self.state.attempts, &message.plan));
        let numbers: BTreeSet<_> = plans.filter(|number| self.transcripts.contains_key(number)).collect();
        let rounds = numbers.iter().filter_map(|number| self.transcripts.get(number));
        let proven: BTreeSet<_> = rounds.flat_map(|transcript| transcript.prove_together(messages)).collect();
        let heard = messages.iter().map(|message| self.hear(message, &proven, out)).collect();
        for number in numbers {
            self.advance(number, rng, out);
        }
        heard
    }

    /// Hears a message in its round, or keeps it for the time when that is known.
    fn hear(
        &mut self,
        message: &SignedMessage,
        proven: &BTreeSet<Digest>,
        out: &mut Outputs,
    ) -> Result<(), MessageError> {
        let Some(number) = by_plan(&self.state.attempts, &message.plan) else {
            self.early.keep(message);
            return Ok(());
        };
        let transcript = self.transcripts.get_mut(&number).ok_or(MessageError::OtherPlan)?;
        let was_stored = transcript.stores(&message.digest());
        let heard = transcript.hear_proven(message, proven);
        // Only what this call verified: a digest does not cover the signature.
        if !was_stored && transcript.stores(&message.digest()) {
            out.keep.push(Blob::Message(message.clone()));
        }
        heard
    }

    /// Takes a vector up in every round that reshares it, and as that of its epoch where this node computes none.
    pub(super) fn learn_vector(&mut self, vector: &VerificationVector, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let digest = vector.digest();
        let named = |attempt: &Attempt| attempt.certificate().is_some_and(|certificate| certificate.vector == digest);
        let lacks = self.state.attempts.iter().filter(|(_, attempt)| named(attempt) && self.lacks_vector(attempt));
        for number in lacks.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.state.attempts.entry(number).and_modify(|attempt| attempt.vector = Some(vector.clone()));
            out.commit = true;
        }
        for number in self.waiting_for(Transcript::lacks_source) {
            if !self.transcripts.get_mut(&number).is_some_and(|round| round.learn_source(vector.clone())) {
                continue;
            }
            if let Some(attempt) = self.state.attempts.get_mut(&number) {
                attempt.source = Some(vector.clone());
                out.commit = true;
            }
            self.advance(number, rng, out);
        }
    }

    /// Takes up the messages of a round that came before they could be judged.
    pub(super) fn hear_early(&mut self, number: EpochNumber, rng: &mut impl CryptoRng, out: &mut Outputs) {
        let Some(plan) = self.transcripts.get(&number).map(|transcript| *transcript.plan_digest()) else { return };
        let early = self.early.take(&plan);
        // Somebody's fault is in the transcript.
        let _ = self.learn_all(&early.iter().collect::<Vec<_>>(), rng, out);
    }

    /// Takes the peers that have to be read again from their first word: what they said about a plan before it was accepted here
    /// was more than is kept.
    pub fn take_rereads(&mut self) -> BTreeSet<NodeIndex> {
        self.early.take_rereads()
    }

    fn waiting_for(&self, waits: impl Fn(&Transcript) -> bool) -> Vec<EpochNumber> {
        self.transcripts.iter().filter(|(_, transcript)| waits(transcript)).map(|(number, _)| *number).collect()
    }

    /// Lists what has to be fetched before open rounds can go on, and the bundles that made the kept epochs; the newest round first.
    #[must_use]
    pub fn wants(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        for (number, attempt) in self.state.attempts.iter().rev() {
            let Some(transcript) = self.transcripts.get(number) else { continue };
            let digests = match &attempt.verdict {
                None => self.wanted_by_open(attempt, transcript),
                Some(Verdict::Active(certificate)) => {
                    let kept = self.kept_bundles(*number, attempt).into_iter();
                    let kept = kept.filter(|digest| transcript.bundle(digest).is_none());
                    kept.chain(self.lacks_vector(attempt).then_some(certificate.vector)).collect()
                }
                Some(Verdict::Failed) => continue,
            };
            wants.extend(digests.into_iter().map(|digest| Want { number: *number, digest }));
        }
        wants
    }

    /// Tells whether only others can tell the vector of a certified epoch: a node that is no receiver of it computes none, and judges
    /// by it what they prove to hold.
    fn lacks_vector(&self, attempt: &Attempt) -> bool {
        attempt.vector.is_none() && !attempt.retired && attempt.plan.receiver(self.state.index).is_none()
    }

    fn wanted_by_open(&self, attempt: &Attempt, transcript: &Transcript) -> BTreeSet<Digest> {
        let mut digests = BTreeSet::new();
        if attempt.plan.receiver(self.state.index).is_none() && attempt.plan.dealer(self.state.index).is_none() {
            return digests;
        }
        if let (true, Some(source)) = (transcript.lacks_source(), attempt.plan.source()) {
            digests.insert(source.vector);
        }
        if let Some(dealers) = &attempt.dealers {
            digests.extend(dealers.iter().map(|(_, d)| d).filter(|d| transcript.bundle(d).is_none()));
        }
        if let Some(frozen) = &attempt.frozen {
            digests.extend(transcript.missing_evidence(&frozen.dealers, &frozen.responses));
        }
        digests
    }

    /// Returns the vector of an epoch, if this node knows it, for peers that lack a reshare's source.
    #[must_use]
    pub fn vector(&self, digest: &Digest) -> Option<&VerificationVector> {
        self.state.vectors().find(|vector| vector.digest() == *digest)
    }

    /// Takes up a round: its transcript, with what this node has said and knows already.
    pub(super) fn open_transcript(&mut self, number: EpochNumber) {
        let Some(attempt) = self.state.attempts.get(&number) else { return };
        if attempt.verdict == Some(Verdict::Failed) || attempt.retired {
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
        self.open_wants(number);
    }

    /// Tells the transcript which messages the record names, or a list of a certified epoch: those it takes up whoever sent how
    /// much.
    pub(super) fn open_wants(&mut self, number: EpochNumber) {
        self.propose_recorded(number);
        let Some(attempt) = self.state.attempts.get(&number) else { return };
        let kept = self.kept_bundles(number, attempt);
        if let Some(transcript) = self.transcripts.get_mut(&number) {
            transcript.want(kept.into_iter());
            transcript.want(attempt.dealers.iter().flat_map(|list| list.iter().map(|(_, digest)| digest)));
            let responses = attempt.frozen.iter().flat_map(|frozen| frozen.responses.iter());
            transcript.want(responses.map(|(_, digest)| digest));
        }
    }
}
