//! The transcript of a round: every signed message heard, checked once, and what follows from them.
//!
//! Node, operator and any observer keep the same [`Transcript`] and draw the same conclusions from it; nothing here is
//! secret. It is the whole memory that `epoch verify` needs.
//!
//! ```text
//!  stream ──hear──▶ Transcript ──judge(dealers, responses)──▶ Judgement ──combine──▶ vector, public shares
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::culprit::{Culprit, Offence};
use super::dealing::{Dealing, DealingError};
use super::message::{Body, MessageKind, Response, SignedMessage, VerifiedMessage};
use crate::curve::{G1, G2};
use crate::identifiers::{Digest, NodeIndex};
use crate::identity::IdentityPublicKey;
use crate::plan::ValidPlan;
use crate::polynomial::VerificationVector;
use crate::prekey::{PrekeySet, SignedPrekeySet};
use crate::purpose::Purpose;

/// Checked messages of one round. Collects; never forgets; never blames without evidence.
#[derive(Clone)]
pub struct Transcript {
    plan: ValidPlan,
    digest: Digest,
    source: Option<VerificationVector>,
    prekeys: BTreeMap<NodeIndex, PrekeySet>,
    bundles: BTreeMap<Digest, (NodeIndex, Dealing)>,
    haves: BTreeMap<(NodeIndex, NodeIndex), Digest>,
    responses: BTreeMap<Digest, (NodeIndex, Response)>,
    prepared: BTreeMap<NodeIndex, (Digest, Digest)>,
    partials: BTreeMap<NodeIndex, G1>,
    unable: BTreeMap<NodeIndex, Vec<NodeIndex>>,
    holds: BTreeMap<NodeIndex, Digest>,
    erased: Vec<NodeIndex>,
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
    /// A reshare's source vector is needed before bundles can be judged.
    #[error("the source vector is not known yet")]
    SourceUnknown,
    /// A prekey set that the plan does not name.
    #[error("the plan does not name this prekey set")]
    UnknownSet,
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
            prekeys: BTreeMap::new(),
            bundles: BTreeMap::new(),
            haves: BTreeMap::new(),
            responses: BTreeMap::new(),
            prepared: BTreeMap::new(),
            partials: BTreeMap::new(),
            unable: BTreeMap::new(),
            holds: BTreeMap::new(),
            erased: Vec::new(),
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
        if wanted {
            self.source = Some(vector);
        }
        wanted
    }

    /// Takes up a prekey set that the plan names.
    ///
    /// # Errors
    /// When the plan names no such set, it has too few slots, or its node did not sign it.
    pub fn learn_prekeys(&mut self, signed: &SignedPrekeySet) -> Result<(), MessageError> {
        let digest = signed.digest();
        let named = self.plan.receivers.iter().find(|receiver| receiver.prekey_digest == digest);
        let receiver = named.ok_or(MessageError::UnknownSet)?;
        if self.prekeys.contains_key(&receiver.index) {
            return Ok(());
        }
        let set = signed.verify(&receiver.identity).ok_or(MessageError::Forged(receiver.index))?;
        let fits = set.cluster == self.plan.cluster
            && set.node == receiver.index
            && set.number == receiver.prekey_set
            && set.slots.len() >= self.plan.dealers.len();
        if !fits {
            return Err(MessageError::UnknownSet);
        }
        self.prekeys.insert(receiver.index, set.clone());
        Ok(())
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
        self.hear_if(message, |identity| message.is_signed_by(identity))
    }

    /// Takes up a message whose signature was verified before, if the plan gives its sender the key that it was verified under.
    ///
    /// # Errors
    /// As [`Transcript::hear`].
    pub fn hear_verified(&mut self, verified: &VerifiedMessage) -> Result<(), MessageError> {
        self.hear_if(verified.message(), |identity| verified.signer() == identity)
    }

    /// Takes up a message if its signature `verifies` under the key that the plan gives its sender.
    fn hear_if(
        &mut self,
        message: &SignedMessage,
        verifies: impl FnOnce(&IdentityPublicKey) -> bool,
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
        let first = match &message.body {
            Body::Dealing(dealing) => return self.hear_dealing(sender, digest, dealing),
            Body::Have { dealer, bundle } => self.haves.entry((sender, *dealer)).or_insert(*bundle) == bundle,
            Body::Response(response) => return self.hear_response(sender, digest, response),
            Body::Prepared { vector, frozen } => {
                *self.prepared.entry(sender).or_insert((*vector, *frozen)) == (*vector, *frozen)
            }
            Body::Partial(partial) => self.partials.entry(sender).or_insert(*partial) == partial,
            Body::Unable { dealers } => {
                self.unable.insert(sender, dealers.clone());
                true
            }
            Body::Holds { vector } => self.holds.entry(sender).or_insert(*vector) == vector,
            Body::Erased => {
                if !self.erased.contains(&sender) {
                    self.erased.push(sender);
                }
                true
            }
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

    fn hear_dealing(&mut self, dealer: NodeIndex, digest: Digest, dealing: &Dealing) -> Result<(), MessageError> {
        if self.plan.source().is_some() && self.source.is_none() {
            return Err(MessageError::SourceUnknown);
        }
        if let Err(fault) = dealing.check(&self.plan, dealer, self.source.as_ref()) {
            self.blame(dealer, Offence::BadBundle(fault), vec![digest]);
            return Err(MessageError::BadBundle(dealer, fault));
        }
        let known = self.bundles.values().filter(|(from, _)| *from == dealer).count();
        if known >= 2 && !self.wanted.contains(&digest) {
            return Err(MessageError::Contradicts(dealer));
        }
        let other = self.bundle_of(dealer).map(|(other, _)| other);
        // A second bundle is kept all the same: if it is the one that was frozen, it is the one that counts.
        self.bundles.insert(digest, (dealer, dealing.clone()));
        self.heard.insert(digest);
        match other {
            Some(other) => Err(self.equivocated(dealer, vec![other, digest])),
            None => Ok(()),
        }
    }

    fn hear_response(&mut self, sender: NodeIndex, digest: Digest, response: &Response) -> Result<(), MessageError> {
        let known = self.responses.values().filter(|(from, _)| *from == sender).count();
        if known >= 2 && !self.wanted.contains(&digest) {
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

    /// Returns the identity of a sender that may send this: dealers deal, receivers send everything else.
    fn identity_for(&self, sender: NodeIndex, body: &Body) -> Option<IdentityPublicKey> {
        match body {
            Body::Dealing(_) => self.plan.slot_of(sender).map(|slot| self.plan.dealers[slot].identity),
            _ => self.plan.receiver(sender).map(|receiver| receiver.identity),
        }
    }

    fn equivocated(&mut self, sender: NodeIndex, evidence: Vec<Digest>) -> MessageError {
        self.blame(sender, Offence::Equivocation, evidence);
        MessageError::Contradicts(sender)
    }

    fn blame(&mut self, index: NodeIndex, offence: Offence, evidence: Vec<Digest>) {
        self.culprits.entry(index).or_insert(Culprit { index, offence, evidence });
    }

    /// Returns the round's plan.
    #[must_use]
    pub fn plan(&self) -> &ValidPlan {
        &self.plan
    }

    /// Returns the plan's digest.
    #[must_use]
    pub fn plan_digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the source vector of a reshare, once known.
    #[must_use]
    pub fn source(&self) -> Option<&VerificationVector> {
        self.source.as_ref()
    }

    /// Returns true if a reshare still lacks its source vector.
    #[must_use]
    pub fn lacks_source(&self) -> bool {
        self.plan.source().is_some() && self.source.is_none()
    }

    /// Returns the prekey sets of the plan's receivers, as far as known.
    #[must_use]
    pub fn prekeys(&self) -> &BTreeMap<NodeIndex, PrekeySet> {
        &self.prekeys
    }

    /// Lists the receivers' prekey sets that are not known yet, by digest.
    #[must_use]
    pub fn missing_prekeys(&self) -> Vec<Digest> {
        let missing = self.plan.receivers.iter().filter(|receiver| !self.prekeys.contains_key(&receiver.index));
        missing.map(|receiver| receiver.prekey_digest).collect()
    }

    /// Returns the first bundle heard of `dealer`, with its digest.
    #[must_use]
    pub fn bundle_of(&self, dealer: NodeIndex) -> Option<(Digest, &Dealing)> {
        self.bundles.iter().find(|(_, (from, _))| *from == dealer).map(|(digest, (_, dealing))| (*digest, dealing))
    }

    /// Returns the bundle with this digest.
    #[must_use]
    pub fn bundle(&self, digest: &Digest) -> Option<&Dealing> {
        self.bundles.get(digest).map(|(_, dealing)| dealing)
    }

    /// Iterates over all bundles heard: dealer and digest.
    pub fn bundles(&self) -> impl Iterator<Item = (NodeIndex, Digest)> {
        self.bundles.iter().map(|(digest, (dealer, _))| (*dealer, *digest))
    }

    /// Iterates over `Have`s: receiver, dealer and the bundle's digest.
    pub fn haves(&self) -> impl Iterator<Item = (NodeIndex, NodeIndex, Digest)> {
        self.haves.iter().map(|((receiver, dealer), digest)| (*receiver, *dealer, *digest))
    }

    /// Returns the response of `receiver`, with its digest.
    #[must_use]
    pub fn response_of(&self, receiver: NodeIndex) -> Option<(Digest, &Response)> {
        self.responses.iter().find(|(_, (from, _))| *from == receiver).map(|(digest, (_, r))| (*digest, r))
    }

    /// Returns the response with this digest and who gave it.
    #[must_use]
    pub fn response(&self, digest: &Digest) -> Option<(NodeIndex, &Response)> {
        self.responses.get(digest).map(|(sender, response)| (*sender, response))
    }

    /// Iterates over all responses heard.
    pub fn responses(&self) -> impl Iterator<Item = (NodeIndex, Digest, &Response)> {
        self.responses.iter().map(|(digest, (sender, response))| (*sender, *digest, response))
    }

    /// Returns the prepared receivers, with the vector and frozen digests that each named.
    #[must_use]
    pub fn prepared(&self) -> &BTreeMap<NodeIndex, (Digest, Digest)> {
        &self.prepared
    }

    /// Partial signatures over the certificate, unverified.
    #[must_use]
    pub fn partials(&self) -> &BTreeMap<NodeIndex, G1> {
        &self.partials
    }

    /// Returns the receivers that cannot obtain their share, with the dealers that each names.
    #[must_use]
    pub fn unable(&self) -> &BTreeMap<NodeIndex, Vec<NodeIndex>> {
        &self.unable
    }

    /// Returns the receivers that hold their share after activation, with the vector's digest.
    #[must_use]
    pub fn holds(&self) -> &BTreeMap<NodeIndex, Digest> {
        &self.holds
    }

    /// Returns the receivers that have erased their secrets of this epoch.
    #[must_use]
    pub fn erased(&self) -> &[NodeIndex] {
        &self.erased
    }

    /// Iterates over the nodes that are provably at fault so far.
    pub fn culprits(&self) -> impl Iterator<Item = &Culprit> {
        self.culprits.values()
    }

    /// Tells whether a bundle or a response with this digest was taken up.
    pub(super) fn stores(&self, digest: &Digest) -> bool {
        self.bundles.contains_key(digest) || self.responses.contains_key(digest)
    }

    /// Returns the purpose that the certificate of this round signs.
    #[must_use]
    pub fn certificate_purpose(&self, vector: &Digest) -> Purpose {
        Purpose::certificate(self.plan.cluster, &self.digest, vector, self.plan.number)
    }

    /// Returns the public share of each receiver under `vector`.
    #[must_use]
    pub fn public_shares(&self, vector: &VerificationVector) -> BTreeMap<NodeIndex, G2> {
        self.plan.receivers.iter().map(|r| (r.index, vector.public_share(r.index))).collect()
    }
}
