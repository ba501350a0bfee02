//! The transcript of a round: every signed message heard, checked once, and what follows from them.
//!
//! Node, operator and any observer keep the same [`Transcript`] and draw the same conclusions from it; nothing here is
//! secret. It is the whole memory that `epoch verify` needs.
//!
//! ```text
//!  stream ──hear──▶ Transcript ──judge(dealers, responses)──▶ Judgement ──combine──▶ vector, public shares
//! ```

mod late;
mod reading;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::curve::G1;
use crate::identifiers::{Digest, NodeIndex};
use crate::identity::IdentityPublicKey;
use crate::plan::{MEMBERS_MAX, ValidPlan};
use crate::polynomial::VerificationVector;
use crate::purpose::Certificate;
use crate::round::bundle::{VerifiedBundle, possession_holds};
use crate::round::culprit::{Culprit, Offence};
use crate::round::dealing::{Dealing, DealingError};
use crate::round::judged::Judged;
use crate::round::message::{Body, MessageKind, Response, SignedMessage, VerifiedMessage};

use late::LateWords;

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
    /// By who said `Heard` and who responded.
    heards: BTreeMap<(NodeIndex, NodeIndex), Digest>,
    prepared: BTreeMap<NodeIndex, (Digest, Digest)>,
    partials: BTreeMap<NodeIndex, G1>,
    /// Certificates of this round that nodes show; unchecked.
    certificates: Vec<Certificate>,
    late: BTreeMap<NodeIndex, LateWords>,
    holds: BTreeMap<NodeIndex, Digest>,
    wanted: BTreeSet<Digest>,
    heard: BTreeSet<Digest>,
    evidence: BTreeMap<(NodeIndex, MessageKind, Option<NodeIndex>), FirstWord>,
    culprits: BTreeMap<NodeIndex, Culprit>,
    exhibits: Vec<SignedMessage>,
    pub(in crate::round) judged: Judged,
}

/// First message of a kind of its sender.
#[derive(Clone)]
struct FirstWord {
    digest: Digest,
    /// The message, where a second one of its kind proves something together with it.
    bytes: Option<Box<[u8]>>,
}

/// Effect of a message on what its sender said before.
enum Adds {
    Something,
    Nothing,
    Contradiction,
}

impl Adds {
    /// Enters the first value. A different one later contradicts it.
    fn compared<K: Ord, V: PartialEq>(entry: Entry<'_, K, V>, value: V) -> Self {
        match entry {
            Entry::Vacant(free) => {
                free.insert(value);
                Self::Something
            }
            Entry::Occupied(known) if *known.get() == value => Self::Nothing,
            Entry::Occupied(_) => Self::Contradiction,
        }
    }

    /// Enters the first value. Later ones are ignored, and prove nothing.
    fn first<K: Ord, V>(entry: Entry<'_, K, V>, value: V) -> Self {
        match entry {
            Entry::Vacant(free) => {
                free.insert(value);
                Self::Something
            }
            Entry::Occupied(_) => Self::Nothing,
        }
    }
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
            heards: BTreeMap::new(),
            prepared: BTreeMap::new(),
            partials: BTreeMap::new(),
            certificates: Vec::new(),
            late: BTreeMap::new(),
            holds: BTreeMap::new(),
            wanted: BTreeSet::new(),
            heard: BTreeSet::new(),
            evidence: BTreeMap::new(),
            culprits: BTreeMap::new(),
            exhibits: Vec::new(),
            judged: Judged::default(),
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

    /// Takes up a certificate that somebody shows, if it names this round. Whether it verifies is left to whoever uses it.
    pub fn learn_certificate(&mut self, certificate: &Certificate) {
        let (number, plan, cluster) = (self.plan.number, self.digest, self.plan.cluster);
        let names_this_round = (certificate.number, certificate.plan, certificate.cluster) == (number, plan, cluster);
        // Each node shows one.
        if names_this_round && self.certificates.len() < MEMBERS_MAX && !self.certificates.contains(certificate) {
            self.certificates.push(*certificate);
        }
    }

    /// Takes up messages with these digests even from a sender that has said too much already: the record names them.
    ///
    /// Of everyone else two contradicting messages are kept, which is proof enough, so that nobody can fill a memory.
    pub fn want(&mut self, digests: impl Iterator<Item = Digest>) {
        self.wanted.extend(digests);
        self.judge_late();
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
            return Err(self.malformed(message));
        }
        let adds = match &message.body {
            Body::Dealing(dealing) => return self.hear_dealing(message, dealing, proven.contains(&digest)),
            Body::Response(response) => return self.hear_response(sender, digest, response),
            Body::Have { dealer, bundle } => Adds::compared(self.haves.entry((sender, *dealer)), *bundle),
            Body::Prepared { vector, frozen } => Adds::compared(self.prepared.entry(sender), (*vector, *frozen)),
            Body::Heard { receiver, response } => Adds::first(self.heards.entry((sender, *receiver)), *response),
            Body::Partial(partial) => Adds::first(self.partials.entry(sender), *partial),
            Body::Holds { vector } => Adds::first(self.holds.entry(sender), *vector),
            Body::Late(_) if self.hear_late(message) => Adds::Something,
            Body::Late(_) | Body::Erased => Adds::Nothing,
            Body::Malformed(_) => return Err(self.malformed(message)),
        };
        self.note(message, &adds)
    }

    /// Remembers a message as far as it adds something: nobody fills a memory with words that change nothing.
    fn note(&mut self, message: &SignedMessage, adds: &Adds) -> Result<(), MessageError> {
        let (about, convicts) = match &message.body {
            Body::Have { dealer, .. } => (Some(*dealer), true),
            Body::Heard { receiver, .. } => (Some(*receiver), false),
            body => (None, matches!(body, Body::Prepared { .. })),
        };
        let key = (message.sender, message.body.kind(), about);
        match adds {
            Adds::Nothing => Ok(()),
            Adds::Something => {
                self.heard.insert(message.digest());
                self.evidence.entry(key).or_insert_with(|| FirstWord {
                    digest: message.digest(),
                    bytes: convicts.then(|| message.encode().into()),
                });
                Ok(())
            }
            Adds::Contradiction => {
                let first = self.evidence.get(&key).and_then(|first| SignedMessage::decode(first.bytes.as_ref()?).ok());
                let exhibits: Vec<_> = first.iter().chain([message]).collect();
                let evidence = exhibits.iter().map(|exhibit| exhibit.digest()).collect();
                self.blame(message.sender, Offence::Equivocation, evidence, &exhibits);
                Err(MessageError::Contradicts(message.sender))
            }
        }
    }

    /// Counts everything that grows with what is heard.
    #[cfg(test)]
    pub(in crate::round) fn remembered(&self) -> usize {
        self.heard.len() + self.late.len() + self.haves.len() + self.responses.len() + self.evidence.len()
    }

    /// Returns the digest of the first message of this kind that `sender` signed: evidence of what it names.
    #[must_use]
    pub fn said(&self, sender: NodeIndex, kind: MessageKind) -> Option<Digest> {
        self.evidence.get(&(sender, kind, None)).map(|first| first.digest)
    }

    fn hear_dealing(
        &mut self,
        message: &SignedMessage,
        dealing: &Dealing,
        is_proven: bool,
    ) -> Result<(), MessageError> {
        let (dealer, digest) = (message.sender, message.digest());
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
                self.judge_late();
                self.check_source(&digest)
            }
            Err(error) => Err(self.bad_bundle(dealer, digest, error, &[message])),
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
        Err(self.bad_bundle(dealer, *digest, DealingError::NotItsShare, &[]))
    }

    fn bad_bundle(
        &mut self,
        dealer: NodeIndex,
        digest: Digest,
        error: DealingError,
        exhibits: &[&SignedMessage],
    ) -> MessageError {
        self.blame(dealer, Offence::BadBundle(error), vec![digest], exhibits);
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
            Body::Heard { receiver, .. } => self.plan.receiver(*receiver).is_some(),
            body => body.complaints().iter().all(|complaint| self.plan.dealer(complaint.dealer).is_some()),
        }
    }

    fn malformed(&mut self, message: &SignedMessage) -> MessageError {
        self.blame(message.sender, Offence::Malformed, vec![message.digest()], &[message]);
        MessageError::Malformed(message.sender)
    }

    fn equivocated(&mut self, sender: NodeIndex, evidence: Vec<Digest>) -> MessageError {
        self.blame(sender, Offence::Equivocation, evidence, &[]);
        MessageError::Contradicts(sender)
    }

    /// Names a culprit, once. `exhibits` are the messages of its evidence that the transcript stores nowhere else.
    fn blame(&mut self, index: NodeIndex, offence: Offence, evidence: Vec<Digest>, exhibits: &[&SignedMessage]) {
        if let Entry::Vacant(free) = self.culprits.entry(index) {
            free.insert(Culprit { index, offence, evidence });
            self.exhibits.extend(exhibits.iter().map(|exhibit| (*exhibit).clone()));
        }
    }

    /// Takes out the messages that newly prove something and are neither bundles nor responses, two of each culprit at most: to be
    /// kept for whoever asks for the evidence.
    pub(in crate::round) fn take_exhibits(&mut self) -> Vec<SignedMessage> {
        std::mem::take(&mut self.exhibits)
    }
}
