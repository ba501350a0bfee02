//! Persistent state: everything of the protocol that a node must not forget, with the reason for each field.
//!
//! Secrets are not in it: it names them ([`PersistentState::live_secrets`]), and the node seals each on its
//! own, so that destroying one key destroys one secret and no copy of this state brings it back.

use std::collections::{BTreeMap, BTreeSet};

use crate::curve::G2;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, PrekeyNumber};
use crate::identity::IdentityPublicKey;
use crate::plan::{Frozen, FrozenDigests, Plan, ValidPlan};
use crate::polynomial::VerificationVector;
use crate::prekey::SignedPrekey;
use crate::purpose::Certificate;

use super::failed::FailedNumbers;
use super::message::{MessageKind, SignedMessage};

/// Version of the encoding. The first belonged to the first version of plans, and is refused.
const VERSION: u16 = 2;

/// Persistent state of one node. Commit it whole whenever [`super::Outputs::commit`] says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PersistentState {
    /// The node's cluster: plans of another are refused.
    pub cluster: ClusterId,
    /// The node's index: decides its role in a plan.
    pub index: NodeIndex,
    /// The highest number ever accepted: a number at or below it is never accepted again, so no attempt can be replayed.
    pub highest: EpochNumber,
    /// The public key once a certificate was verified under it: it never changes, and Genesis is refused from then on.
    pub public_key: Option<G2>,
    /// The newest epoch that serves and whose share this node holds.
    pub active: Option<EpochNumber>,
    /// The identity pinned to each index: a changed one is refused.
    pub pins: BTreeMap<NodeIndex, IdentityPublicKey>,
    /// The newest prekey accepted per receiver, in any plan: nothing is sealed to an older one, whose secret somebody may have
    /// stolen long ago.
    pub accepted_prekeys: BTreeMap<NodeIndex, SignedPrekey>,
    /// The number of the next prekey: numbers are never given twice.
    pub next_prekey: PrekeyNumber,
    /// Own prekeys whose secrets are alive. The newest is shown; older ones open what is not opened yet.
    pub prekeys: BTreeMap<PrekeyNumber, SignedPrekey>,
    /// Reach of each of them into the past: the oldest epoch of which it may open a bundle, or a bundle that was dealt on it. Zero
    /// where plans may have named it that this node never saw; absent where none did.
    pub prekey_reach: BTreeMap<PrekeyNumber, EpochNumber>,
    /// Plans at or below this block, not seen before, are followed without a word before they are certified: set when the node was
    /// restored from a replica, which may have forgotten what it said in them.
    pub abstain_through: Option<Block>,
    /// Every attempt that is under way or kept, and the newest retired ones.
    pub attempts: BTreeMap<EpochNumber, Attempt>,
    /// Two valid certificates of one number over different vectors: proof that the API server showed two records. Nothing is retired
    /// by a node that has it, since some honest nodes may need what others would erase.
    pub contradicted: Option<[Certificate; 2]>,
    /// Numbers of attempts that the record called failed and that are listed no more.
    pub failed: FailedNumbers,
}

/// Persistent state of one attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// The first plan seen under the number; any other is refused.
    pub plan: ValidPlan,
    /// The source's vector, against which bundles and late bundles are judged.
    pub source: Option<VerificationVector>,
    /// True if this node signs nothing that it may have signed otherwise before it was restored.
    pub abstain: bool,
    /// The first frozen dealers seen; any other are refused.
    pub dealers: Option<FrozenDigests>,
    /// The first full set of frozen fields seen; any other is refused.
    pub frozen: Option<Frozen>,
    /// The qualified dealers with their bundles' digests, once these bundles are known to add up to `vector`: shown to whoever was away.
    pub qualified: Option<FrozenDigests>,
    /// The one vector that this node computed, and signs.
    pub vector: Option<VerificationVector>,
    /// True if the node holds the share (sealed on its own, under this number).
    pub holds_share: bool,
    /// Active or Failed, once: the node never acts on the other.
    pub verdict: Option<Verdict>,
    /// True if the node cannot obtain its share: what was sealed to it is bad, or its prekey is gone.
    pub unable: bool,
    /// True once the epoch was retired: its share is destroyed and never taken again.
    pub retired: bool,
    /// True once nothing of this node opens any bundle of the retired epoch any more, nor of an attempt that was dealt on it.
    pub erased: bool,
    /// When this node first knew the durable activation, in milliseconds since the Unix epoch.
    pub active_since_ms: Option<u64>,
    /// Messages signed in this attempt, in order: sent again, byte for byte, after a restart.
    pub outbox: Vec<SignedMessage>,
}

/// End of an attempt for this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// With this certificate.
    Active(Certificate),
    /// Without one.
    Failed,
}

/// Names a secret that the node seals on its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SecretName {
    /// The secret of an own prekey.
    Prekey(PrekeyNumber),
    /// The seed of an own dealing.
    DealerSeed(EpochNumber),
    /// The share of an epoch.
    Share(EpochNumber),
}

impl PersistentState {
    /// Returns the state of a node that has never taken part.
    #[must_use]
    pub fn new(cluster: ClusterId, index: NodeIndex) -> Self {
        Self {
            cluster,
            index,
            highest: EpochNumber(0),
            public_key: None,
            active: None,
            pins: BTreeMap::new(),
            accepted_prekeys: BTreeMap::new(),
            next_prekey: PrekeyNumber(1),
            prekeys: BTreeMap::new(),
            prekey_reach: BTreeMap::new(),
            abstain_through: None,
            attempts: BTreeMap::new(),
            contradicted: None,
            failed: FailedNumbers::default(),
        }
    }

    /// Lists every secret that this state expects to be alive. A start destroys all others.
    #[must_use]
    pub fn live_secrets(&self) -> BTreeSet<SecretName> {
        let mut live: BTreeSet<_> = self.prekeys.keys().copied().map(SecretName::Prekey).collect();
        for (number, attempt) in &self.attempts {
            if attempt.holds_share {
                live.insert(SecretName::Share(*number));
            }
            if attempt.verdict.is_none() && attempt.has_dealt(self.index) {
                live.insert(SecretName::DealerSeed(*number));
            }
        }
        live
    }

    /// Checks what holds of every state: numbers rise, and frozen fields agree. Asserted before a commit, demanded after a load.
    pub(super) fn is_sound(&self) -> bool {
        self.attempts.keys().all(|number| *number <= self.highest)
            && self.active.is_none_or(|active| active <= self.highest)
            && self.prekeys.keys().all(|number| *number < self.next_prekey)
            && self.prekey_reach.keys().all(|number| self.prekeys.contains_key(number))
            && self.attempts.values().all(Attempt::is_sound)
    }

    /// Returns the prekey that the node shows: its newest.
    #[must_use]
    pub fn shown_prekey(&self) -> Option<&SignedPrekey> {
        self.prekeys.last_key_value().map(|(_, prekey)| prekey)
    }

    /// Returns the certificate of the newest epoch known to be active, whether or not this node holds a share of it.
    #[must_use]
    pub fn newest_certified(&self) -> Option<&Certificate> {
        self.attempts.values().rev().find_map(Attempt::certificate)
    }

    /// Returns the vectors that this node knows: of its epochs, and of those that its rounds reshare.
    pub fn vectors(&self) -> impl Iterator<Item = &VerificationVector> {
        self.attempts.values().flat_map(|attempt| attempt.vector.iter().chain(&attempt.source))
    }

    /// Returns the canonical bytes. They hold no secret, yet belong under the node's seal like everything else in its file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u16(VERSION).raw(&self.cluster.0).index(self.index).epoch(self.highest);
        out.option(self.public_key.as_ref(), |out, key| {
            out.raw(&key.encode());
        });
        out.option(self.active.as_ref(), |out, number| {
            out.epoch(*number);
        });
        let pins: Vec<_> = self.pins.iter().collect();
        out.list(&pins, |out, (index, identity)| {
            out.index(**index).raw(&identity.0);
        });
        let accepted: Vec<_> = self.accepted_prekeys.iter().collect();
        out.list(&accepted, |out, (index, prekey)| {
            out.index(**index);
            prekey.write(out);
        });
        out.u64(self.next_prekey.0);
        let prekeys: Vec<_> = self.prekeys.values().collect();
        out.list(&prekeys, |out, prekey| prekey.write(out));
        let reach: Vec<_> = self.prekey_reach.iter().collect();
        out.list(&reach, |out, (prekey, oldest)| {
            out.u64(prekey.0).epoch(**oldest);
        });
        out.option(self.abstain_through.as_ref(), |out, block| {
            out.u64(block.0);
        });
        let attempts: Vec<_> = self.attempts.values().collect();
        out.list(&attempts, |out, attempt| attempt.write(out));
        out.option(self.contradicted.as_ref(), |out, certificates| {
            certificates.iter().for_each(|certificate| certificate.write(out));
        });
        self.failed.write(&mut out);
        out.finish()
    }

    /// Decodes what [`PersistentState::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not exactly one state of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, |reader| {
            if reader.u16("state version")? != VERSION {
                return Err(DecodeError::Invalid { field: "state version" });
            }
            Ok(Self {
                cluster: reader.cluster()?,
                index: reader.index("index")?,
                highest: reader.epoch("highest")?,
                public_key: reader.option("public key", |reader| reader.g2("public key"))?,
                active: reader.option("active", |reader| reader.epoch("active"))?,
                pins: reader
                    .list("pins", |reader| Ok((reader.index("pin")?, IdentityPublicKey(reader.array("pin")?))))?
                    .into_iter()
                    .collect(),
                accepted_prekeys: reader
                    .list("accepted prekeys", |reader| Ok((reader.index("node")?, SignedPrekey::read(reader)?)))?
                    .into_iter()
                    .collect(),
                next_prekey: reader.prekey_number()?,
                prekeys: reader
                    .list("prekeys", SignedPrekey::read)?
                    .into_iter()
                    .map(|prekey| (prekey.number, prekey))
                    .collect(),
                prekey_reach: reader
                    .list("prekey reach", |reader| Ok((reader.prekey_number()?, reader.epoch("prekey reach")?)))?
                    .into_iter()
                    .collect(),
                abstain_through: reader.option("abstain", |reader| reader.block("abstain"))?,
                attempts: reader
                    .list("attempts", Attempt::read)?
                    .into_iter()
                    .map(|attempt| (attempt.plan.number, attempt))
                    .collect(),
                contradicted: reader
                    .option("contradiction", |reader| Ok([Certificate::read(reader)?, Certificate::read(reader)?]))?,
                failed: FailedNumbers::read(reader)?,
            })
        })
    }
}

impl Attempt {
    pub(super) fn new(plan: ValidPlan, abstain: bool) -> Self {
        Self {
            plan,
            source: None,
            abstain,
            dealers: None,
            frozen: None,
            qualified: None,
            vector: None,
            holds_share: false,
            verdict: None,
            unable: false,
            retired: false,
            erased: false,
            active_since_ms: None,
            outbox: Vec::new(),
        }
    }

    /// Returns the certificate, once the attempt became an active epoch.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        match &self.verdict {
            Some(Verdict::Active(certificate)) => Some(certificate),
            _ => None,
        }
    }

    /// Returns true if the attempt has neither succeeded nor failed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.verdict.is_none()
    }

    fn is_sound(&self) -> bool {
        let frozen_dealers = self.frozen.as_ref().map(|frozen| &frozen.dealers);
        let failed = self.verdict == Some(Verdict::Failed);
        (frozen_dealers.is_none() || frozen_dealers == self.dealers.as_ref())
            && (self.qualified.is_none() || self.vector.is_some())
            && !(self.holds_share && (failed || self.retired || self.vector.is_none()))
            && (self.retired || !self.erased)
    }

    /// Returns true if the outbox holds a message of this kind.
    pub(super) fn has_said(&self, kind: MessageKind) -> bool {
        self.outbox.iter().any(|message| message.body.kind() == kind)
    }

    fn has_dealt(&self, index: NodeIndex) -> bool {
        self.plan.dealer(index).is_some() && self.has_said(MessageKind::Dealing)
    }

    fn write(&self, out: &mut Writer) {
        self.plan.write(out);
        out.option(self.source.as_ref(), |out, vector| vector.write(out));
        out.u8(self.abstain.into());
        out.option(self.dealers.as_ref(), |out, dealers| dealers.write(out));
        out.option(self.frozen.as_ref(), |out, frozen| frozen.write(out));
        out.option(self.qualified.as_ref(), |out, qualified| qualified.write(out));
        out.option(self.vector.as_ref(), |out, vector| vector.write(out));
        out.u8(self.holds_share.into());
        match &self.verdict {
            None => {
                out.u8(0);
            }
            Some(Verdict::Failed) => {
                out.u8(1);
            }
            Some(Verdict::Active(certificate)) => {
                out.u8(2);
                certificate.write(out);
            }
        }
        out.u8(self.unable.into()).u8(self.retired.into()).u8(self.erased.into());
        out.option(self.active_since_ms.as_ref(), |out, since_ms| {
            out.u64(*since_ms);
        });
        out.list(&self.outbox, |out, message| message.write(out));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            plan: Plan::read(reader)?.validate().map_err(|_| DecodeError::Invalid { field: "plan" })?,
            source: reader.option("source", VerificationVector::read)?,
            abstain: reader.bool("abstain")?,
            dealers: reader.option("dealers", |reader| FrozenDigests::read(reader, "dealers"))?,
            frozen: reader.option("frozen", Frozen::read)?,
            qualified: reader.option("qualified", |reader| FrozenDigests::read(reader, "qualified"))?,
            vector: reader.option("vector", VerificationVector::read)?,
            holds_share: reader.bool("holds share")?,
            verdict: match reader.u8("verdict")? {
                0 => None,
                1 => Some(Verdict::Failed),
                2 => Some(Verdict::Active(Certificate::read(reader)?)),
                _ => return Err(DecodeError::Invalid { field: "verdict" }),
            },
            unable: reader.bool("unable")?,
            retired: reader.bool("retired")?,
            erased: reader.bool("erased")?,
            active_since_ms: reader.option("active since", |reader| reader.u64("active since"))?,
            outbox: reader.list("outbox", SignedMessage::read)?,
        })
    }
}

/// Finds the attempt with this plan digest.
pub(super) fn by_plan(attempts: &BTreeMap<EpochNumber, Attempt>, plan: &Digest) -> Option<EpochNumber> {
    // Newest first: messages of the round under way are by far the most frequent.
    attempts.iter().rev().find(|(_, attempt)| attempt.plan.digest() == *plan).map(|(number, _)| *number)
}
