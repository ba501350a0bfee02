//! The transcript of a round: every signed message heard, checked once, and what follows from them.
//!
//! Node, operator and any observer keep the same [`Transcript`] and draw the same conclusions from it; nothing here is
//! secret. It is the whole memory that `epoch verify` needs.
//!
//! ```text
//!  stream ──hear──▶ Transcript ──judge(dealers, responses)──▶ Judgement ──combine──▶ vector, public shares
//! ```

mod reading;

use std::collections::{BTreeMap, BTreeSet};

use crate::curve::G1;
use crate::identifiers::{Digest, NodeIndex};
use crate::identity::IdentityPublicKey;
use crate::plan::ValidPlan;
use crate::polynomial::VerificationVector;
use crate::round::bundle::{Guilt, VerifiedBundle, possession_holds};
use crate::round::culprit::{Culprit, Offence};
use crate::round::dealing::{Dealing, DealingError};
use crate::round::message::{Body, Complaint, MessageKind, Response, SignedMessage, VerifiedMessage};

/// Different messages of one sender that are kept where one is allowed: two prove that it said two things.
const KEPT_OF_ONE_SENDER: usize = 2;

/// Checked messages of one round. Collects; never forgets; never blames without evidence.
#[derive(Clone)]
pub struct Transcript {
    plan: ValidPlan,
    digest: Digest,
    source: Option<VerificationVector>,
    bundles: BTreeMap<Digest, VerifiedBundle>,
    /// The bundles that deal what their dealer has to deal: all of a genesis; of a reshare those checked against the source.
    sound: BTreeSet<Digest>,
    haves: BTreeMap<(NodeIndex, NodeIndex), Digest>,
    responses: BTreeMap<Digest, (NodeIndex, Response)>,
    prepared: BTreeMap<NodeIndex, (Digest, Digest)>,
    partials: BTreeMap<NodeIndex, G1>,
    /// Complaints after the freeze, one of each sender about each dealer, with the message that carried it.
    late: BTreeMap<(NodeIndex, NodeIndex), (Complaint, Digest)>,
    holds: BTreeMap<NodeIndex, Digest>,
    wanted: BTreeSet<Digest>,
    heard: BTreeSet<Digest>,
    evidence: BTreeMap<(NodeIndex, MessageKind, Option<NodeIndex>), Digest>,
    culprits: BTreeMap<NodeIndex, Culprit>,
}

/// Reason not to take up a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message belongs to another plan.
    #[error("the message belongs to another plan")]
    OtherPlan,
    /// The sender has no part in the round, or not the part that says this.
    #[error("{0} may not say this in this round")]
    NotItsPart(NodeIndex),
    /// The signature is not the pinned identity's. Nobody is to blame: anyone could have made it up.
    #[error("the signature is not that of {0}")]
    Forged(NodeIndex),
    /// The sender already said something else. The sender is at fault.
    #[error("{0} already said something else")]
    Contradicts(NodeIndex),
    /// The bundle is bad for everyone. The dealer is at fault.
    #[error("the bundle of {0}: {1}")]
    BadBundle(NodeIndex, DealingError),
    /// The message is not one of this round: it does not decode, or names nodes that have no such part in the plan. The sender is
    /// at fault.
    #[error("{0} signed what is no message of this round")]
    Malformed(NodeIndex),
}

impl Transcript {
    /// Returns an empty transcript of the round of `plan`. `source` is the vector of a reshare's source, if it is known already.
    #[must_use]
    pub fn new(plan: ValidPlan, source: Option<VerificationVector>) -> Self {
        let digest = plan.digest();
        let mut transcript = Self {
            plan,
            digest,
            source: None,
            bundles: BTreeMap::new(),
            sound: BTreeSet::new(),
            haves: BTreeMap::new(),
            responses: BTreeMap::new(),
            prepared: BTreeMap::new(),
            partials: BTreeMap::new(),
            late: BTreeMap::new(),
            holds: BTreeMap::new(),
            wanted: BTreeSet::new(),
            heard: BTreeSet::new(),
            evidence: BTreeMap::new(),
            culprits: BTreeMap::new(),
        };
        if let Some(source) = source {
            transcript.learn_source(source);
        }
        transcript
    }

    /// Takes up a source vector if it is the one that the plan names and carries the plan's public key.
    pub fn learn_source(&mut self, vector: VerificationVector) -> bool {
        let wanted = self.plan.source().is_some_and(|source| {
            source.vector == vector.digest()
                && source.threshold == vector.threshold()
                && self.plan.expected_public_key() == Some(vector.constant())
        });
        if wanted && self.source.is_none() {
            self.source = Some(vector);
            for digest in self.bundles.keys().copied().collect::<Vec<_>>() {
                // Blame stands in the transcript.
                let _ = self.check_source(&digest);
            }
        }
        wanted
    }

    /// Takes up messages with these digests even from a sender that has said too much already: the record names them.
    ///
    /// Of everyone else two contradicting messages are kept, which is proof enough, so that nobody can fill a memory.
    pub fn want(&mut self, digests: impl Iterator<Item = Digest>) {
        self.wanted.extend(digests);
    }

    /// Checks a message and takes it up. Hearing it again has no effect.
    ///
    /// # Errors
    /// When it is not taken up; where the sender is provably at fault, [`Transcript::culprits`] names it from now on.
    pub fn hear(&mut self, message: &SignedMessage) -> Result<(), MessageError> {
        self.hear_if(message, |identity| message.is_signed_by(identity), &BTreeSet::new())
    }

    /// Takes up a message whose signature was verified before, if the plan gives its sender the key that it was verified under.
    ///
    /// # Errors
    /// As [`Transcript::hear`].
    pub fn hear_verified(&mut self, verified: &VerifiedMessage) -> Result<(), MessageError> {
        self.hear_if(verified.message(), |identity| verified.signer() == identity, &BTreeSet::new())
    }

    /// Hears messages that arrived together. What their bundles prove is checked with one product of pairings; only where that
    /// fails, one by one.
    pub fn hear_all(&mut self, messages: &[&SignedMessage]) -> Vec<Result<(), MessageError>> {
        let proven = self.prove_together(messages);
        messages.iter().map(|message| self.hear_proven(message, &proven)).collect()
    }

    /// Hears a message that arrived with others; `proven` is what [`Transcript::prove_together`] returned for them.
    pub(super) fn hear_proven(
        &mut self,
        message: &SignedMessage,
        proven: &BTreeSet<Digest>,
    ) -> Result<(), MessageError> {
        self.hear_if(message, |identity| message.is_signed_by(identity), proven)
    }

    /// Checks with one product of pairings what the bundles among these messages prove, the first of each dealer that has none
    /// yet. Returns the digests of all of them, or of none. Signatures are left to [`Transcript::hear_proven`].
    pub(super) fn prove_together(&self, messages: &[&SignedMessage]) -> BTreeSet<Digest> {
        let mut dealers = BTreeSet::new();
        let bundles = messages.iter().filter_map(|message| match &message.body {
            Body::Dealing(dealing) if message.plan == self.digest => Some((message.sender, message.digest(), dealing)),
            _ => None,
        });
        let bundles: Vec<_> = bundles
            .filter(|(dealer, digest, _)| self.awaits_bundle(*dealer, digest) && dealers.insert(*dealer))
            .filter(|(.., dealing)| dealing.check_shape(&self.plan).is_ok())
            .collect();
        let hold_together = bundles.len() > 1 && possession_holds(&self.digest, &bundles);
        bundles.iter().filter(|_| hold_together).map(|(_, digest, _)| *digest).collect()
    }

    /// Tells whether a bundle is worth a check ahead: nobody makes others check as many as it likes.
    fn awaits_bundle(&self, dealer: NodeIndex, digest: &Digest) -> bool {
        let is_first = self.bundles_of(dealer).next().is_none() && !self.culprits.contains_key(&dealer);
        self.plan.dealer(dealer).is_some() && !self.heard.contains(digest) && (is_first || self.wanted.contains(digest))
    }

    /// Takes up a message if its signature `verifies` under the key that the plan gives its sender. `proven` holds the digests of
    /// bundles whose proofs of possession were checked already.
    fn hear_if(
        &mut self,
        message: &SignedMessage,
        verifies: impl FnOnce(&IdentityPublicKey) -> bool,
        proven: &BTreeSet<Digest>,
    ) -> Result<(), MessageError> {
        if message.plan != self.digest {
            return Err(MessageError::OtherPlan);
        }
        let (sender, digest) = (message.sender, message.digest());
        if self.heard.contains(&digest) {
            return Ok(());
        }
        let identity = self.identity_for(sender, &message.body).ok_or(MessageError::NotItsPart(sender))?;
        if !verifies(&identity) {
            return Err(MessageError::Forged(sender));
        }
        if !self.names_members_only(&message.body) {
            return Err(self.malformed(sender, digest));
        }
        let first = match &message.body {
            Body::Dealing(dealing) => {
                return self.hear_dealing(sender, digest, dealing, proven.contains(&digest));
            }
            Body::Have { dealer, bundle } => self.haves.entry((sender, *dealer)).or_insert(*bundle) == bundle,
            Body::Response(response) => return self.hear_response(sender, digest, response),
            Body::Prepared { vector, frozen } => {
                *self.prepared.entry(sender).or_insert((*vector, *frozen)) == (*vector, *frozen)
            }
            Body::Partial(partial) => {
                self.partials.entry(sender).or_insert(*partial);
                true
            }
            Body::Late(complaints) => {
                self.hear_late(sender, digest, complaints);
                true
            }
            Body::Holds { vector } => {
                self.holds.entry(sender).or_insert(*vector);
                true
            }
            Body::Erased => true,
            Body::Malformed(_) => return Err(self.malformed(sender, digest)),
        };
        let about = match &message.body {
            Body::Have { dealer, .. } => Some(*dealer),
            _ => None,
        };
        let earlier = *self.evidence.entry((sender, message.body.kind(), about)).or_insert(digest);
        if first {
            self.heard.insert(digest);
            Ok(())
        } else {
            Err(self.equivocated(sender, vec![earlier, digest]))
        }
    }

    /// Returns the digest of the first message of this kind that `sender` signed: evidence of what it names.
    #[must_use]
    pub fn said(&self, sender: NodeIndex, kind: MessageKind) -> Option<Digest> {
        self.evidence.get(&(sender, kind, None)).copied()
    }

    fn hear_dealing(
        &mut self,
        dealer: NodeIndex,
        digest: Digest,
        dealing: &Dealing,
        is_proven: bool,
    ) -> Result<(), MessageError> {
        // Counted before it is checked, which is costly: nobody makes others check as many bundles as it likes.
        let others: Vec<_> = self.bundles_of(dealer).map(VerifiedBundle::digest).collect();
        let is_culprit = self.culprits.contains_key(&dealer);
        if (others.len() >= KEPT_OF_ONE_SENDER || is_culprit) && !self.wanted.contains(&digest) {
            return Err(MessageError::Contradicts(dealer));
        }
        // A second bundle is kept all the same: if it is the one that was frozen, it is the one that counts.
        let heard = match VerifiedBundle::verify(&self.plan, dealer, digest, dealing, is_proven) {
            Ok(bundle) => {
                self.bundles.insert(digest, bundle);
                self.heard.insert(digest);
                self.judge_late_about(&digest);
                self.check_source(&digest)
            }
            Err(error) => Err(self.bad_bundle(dealer, digest, error)),
        };
        match others.first() {
            Some(other) => Err(self.equivocated(dealer, vec![*other, digest])),
            None => heard,
        }
    }

    /// Finds out whether a bundle deals what its dealer has to deal, once the source is known.
    fn check_source(&mut self, digest: &Digest) -> Result<(), MessageError> {
        let Some(bundle) = self.bundles.get(digest) else { return Ok(()) };
        let is_sound = match (&self.plan.source(), &self.source) {
            (None, _) => true,
            (Some(_), Some(source)) => bundle.deals_its_share_of(source),
            (Some(_), None) => return Ok(()),
        };
        if is_sound {
            self.sound.insert(*digest);
            return Ok(());
        }
        let dealer = bundle.dealer();
        Err(self.bad_bundle(dealer, *digest, DealingError::NotItsShare))
    }

    fn bad_bundle(&mut self, dealer: NodeIndex, digest: Digest, error: DealingError) -> MessageError {
        self.blame(dealer, Offence::BadBundle(error), vec![digest]);
        MessageError::BadBundle(dealer, error)
    }

    fn hear_response(&mut self, sender: NodeIndex, digest: Digest, response: &Response) -> Result<(), MessageError> {
        let known = self.responses.values().filter(|(from, _)| *from == sender).count();
        if known >= KEPT_OF_ONE_SENDER && !self.wanted.contains(&digest) {
            return Err(MessageError::Contradicts(sender));
        }
        let other = self.response_of(sender).map(|(other, _)| other);
        self.responses.insert(digest, (sender, response.clone()));
        self.heard.insert(digest);
        match other {
            Some(other) => Err(self.equivocated(sender, vec![other, digest])),
            None => Ok(()),
        }
    }

    fn hear_late(&mut self, sender: NodeIndex, message: Digest, complaints: &[Complaint]) {
        for complaint in complaints {
            let about = (sender, complaint.dealer);
            if self.late.contains_key(&about) {
                continue;
            }
            self.late.insert(about, (*complaint, message));
            self.judge_late_about(&complaint.bundle);
        }
    }

    /// Judges the late complaints about a bundle that is known: each proves its dealer guilty, or its sender.
    fn judge_late_about(&mut self, bundle: &Digest) {
        let Some(bundle) = self.bundles.get(bundle).cloned() else { return };
        let about: Vec<_> =
            self.late.iter().map(|((sender, _), (complaint, message))| (*sender, *complaint, *message)).collect();
        for (sender, complaint, message) in
            about.into_iter().filter(|(_, complaint, _)| complaint.bundle == bundle.digest())
        {
            if complaint.dealer != bundle.dealer() {
                self.blame(sender, Offence::FalseComplaint(complaint.dealer), vec![message, bundle.digest()]);
                continue;
            }
            match bundle.judge(&self.plan, sender, &complaint) {
                Guilt::Dealer => {
                    self.blame(complaint.dealer, Offence::BadShare(sender), vec![bundle.digest(), message]);
                }
                Guilt::Complainer => {
                    self.blame(sender, Offence::FalseComplaint(complaint.dealer), vec![message, bundle.digest()]);
                }
            }
        }
    }

    /// Returns the identity of a sender that may send this: dealers deal, receivers send everything else.
    fn identity_for(&self, sender: NodeIndex, body: &Body) -> Option<IdentityPublicKey> {
        let dealer = || self.plan.dealer(sender).map(|dealer| dealer.identity);
        let receiver = || self.plan.receiver(sender).map(|receiver| receiver.identity);
        match body {
            Body::Dealing(_) => dealer(),
            // It says nothing that only one of the two may say.
            Body::Malformed(_) => receiver().or_else(dealer),
            _ => receiver(),
        }
    }

    /// Tells whether a message speaks of dealers of this plan only.
    fn names_members_only(&self, body: &Body) -> bool {
        match body {
            Body::Have { dealer, .. } => self.plan.dealer(*dealer).is_some(),
            Body::Response(Response { complaints, .. }) | Body::Late(complaints) => {
                complaints.iter().all(|complaint| self.plan.dealer(complaint.dealer).is_some())
            }
            _ => true,
        }
    }

    fn malformed(&mut self, sender: NodeIndex, digest: Digest) -> MessageError {
        self.blame(sender, Offence::Malformed, vec![digest]);
        MessageError::Malformed(sender)
    }

    fn equivocated(&mut self, sender: NodeIndex, evidence: Vec<Digest>) -> MessageError {
        self.blame(sender, Offence::Equivocation, evidence);
        MessageError::Contradicts(sender)
    }

    fn blame(&mut self, index: NodeIndex, offence: Offence, evidence: Vec<Digest>) {
        self.culprits.entry(index).or_insert(Culprit { index, offence, evidence });
    }
}
