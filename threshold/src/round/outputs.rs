//! Answers of a participant: outputs to carry out, wants to fetch, notices for a person, and reasons to refuse.

use super::dealing::FaultyDealing;
use super::judgement::CombineError;
use super::message::SignedMessage;
use super::state::SecretName;
use crate::encoding::DecodeError;
use crate::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex, PrekeyNumber};
use crate::plan::PlanError;
use crate::polynomial::VerificationVector;
use crate::prekey::SignedPrekey;

/// Effects of an input. Carry them out from top to bottom.
#[must_use]
#[derive(Default, Debug)]
pub struct Outputs {
    /// First: make these secrets durable ([`super::Participant::expose`]).
    pub create: Vec<SecretName>,
    /// Then: keep these in the content-addressed file, which needs no replica.
    pub keep: Vec<Blob>,
    /// Then: commit [`super::Participant::state`], if set. Until that is durable, nothing below may happen.
    pub commit: bool,
    /// Then: let these be read by peers and operator.
    pub say: Vec<SignedMessage>,
    /// Last: destroy these secrets, in every key store.
    pub destroy: Vec<SecretName>,
    /// Notices for a person.
    pub notices: Vec<Notice>,
}

impl Outputs {
    /// Adds the effects of a later input. Both are then carried out as one: names of secrets are never used again, so what the
    /// later one destroys needs not be created.
    pub fn extend(&mut self, later: Self) {
        let Self { create, keep, commit, say, destroy, notices } = later;
        self.create.extend(create);
        self.keep.extend(keep);
        self.commit |= commit;
        self.say.extend(say);
        self.destroy.extend(destroy);
        self.notices.extend(notices);
    }
}

/// Content-addressed item that nodes fetch from each other.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "blobs are moved once and kept behind their digest")]
pub enum Blob {
    /// A signed message of a round.
    Message(SignedMessage),
    /// The verification vector of an epoch.
    Vector(VerificationVector),
}

impl Blob {
    /// Returns the digest under which peers fetch the blob.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Message(message) => message.digest(),
            Self::Vector(vector) => vector.digest(),
        }
    }
}

/// Item that has to be fetched before a round can go on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Want {
    /// The round that waits.
    pub number: EpochNumber,
    /// The digest of the blob.
    pub digest: Digest,
}

/// Notice for a person; the round goes on as well as it can.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Notice {
    /// The bundle that this node computed is wrong. Nothing was said.
    #[error("epoch {0}: {1}")]
    FaultyDealing(EpochNumber, FaultyDealing),
    /// The record freezes a bundle under a dealer that did not sign it. Whoever wrote the record is at fault.
    #[error(
        "epoch {0}: the record freezes a bundle under {1} that is not its own; this node says nothing more in this round"
    )]
    ForeignBundle(EpochNumber, NodeIndex),
    /// The record's qualified dealers do not follow from its other fields. The operator is at fault.
    #[error("epoch {0}: the record's qualified dealers contradict the signed messages")]
    RecordContradictsMessages(EpochNumber),
    /// The frozen fields give no sharing.
    #[error("epoch {0}: {1}")]
    NoSharing(EpochNumber, CombineError),
    /// The record's frozen fields contradict what this node has seen, and nothing but the certificate was taken of it. Whoever wrote
    /// the record is at fault.
    #[error(transparent)]
    Contradicted(Contradiction),
    /// The record's certificate does not verify, or certifies something else. The operator is at fault.
    #[error("epoch {0}: the record's certificate does not verify")]
    BadCertificate(EpochNumber),
    /// The bundles that a peer lists do not make the certified epoch. The peer is at fault.
    #[error("epoch {0}: the bundles that node {1} shows do not make the certified epoch; nothing was taken from it")]
    FalseList(EpochNumber, NodeIndex),
    /// Two certificates of one number are valid. The API server showed two records.
    #[error("epoch {0}: two certificates over different vectors are valid; this node retires nothing any more")]
    RecordContradicted(EpochNumber),
    /// This node cannot obtain its share.
    #[error("epoch {0}: this node cannot obtain its share; it holds one again after the next reshare")]
    Unable(EpochNumber),
}

/// Reason to refuse a plan. Unless noted otherwise the operator is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The plan is malformed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Another cluster's.
    #[error("the plan is of cluster {0}")]
    OtherCluster(ClusterId),
    /// The number was used, or is below one that was.
    #[error("number {number} is not above {highest}, the highest seen")]
    NumberNotAbove {
        /// The plan's number.
        number: EpochNumber,
        /// The highest number accepted so far.
        highest: EpochNumber,
    },
    /// Another plan was accepted under this number.
    #[error("another plan is known under number {0}")]
    OtherPlan(EpochNumber),
    /// The cluster has a key.
    #[error("genesis is refused: this node has verified a certificate of the cluster's key")]
    GenesisRefused,
    /// The plan would keep another key than the cluster's.
    #[error("the plan names another public key than the cluster's")]
    PublicKey,
    /// The plan names another identity under a pinned index.
    #[error("the plan names another identity key for {0} than the pinned one")]
    Identity(NodeIndex),
    /// The plan deals on an epoch whose secrets this node destroyed: what is sealed in such a round would bring it back.
    #[error("the plan deals on epoch {0}, which this node has retired")]
    SourceRetired(EpochNumber),
    /// The plan names an older prekey than one that was accepted.
    #[error("the plan names prekey {named} for {receiver}, older than {}, the newest that was accepted", .accepted.number)]
    Prekey {
        /// Index of the receiver.
        receiver: NodeIndex,
        /// Number of the prekey in the plan.
        named: PrekeyNumber,
        /// The newest prekey that was accepted, whole: a plan may name it.
        accepted: Box<SignedPrekey>,
    },
}

/// Contradiction between the record and what this node has seen or done. The node does not act on the record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Contradiction {
    /// The number is not known to this node.
    #[error("no plan was accepted under number {0}")]
    Unknown(EpochNumber),
    /// A frozen field changed, or cannot belong to the plan.
    #[error("epoch {0}: the frozen {1} changed, or cannot be of this plan")]
    Frozen(EpochNumber, &'static str),
    /// The list of kept epochs is longer than the fleet's retention allows: it would keep secrets alive that nobody needs.
    #[error(
        "epoch {number}: the record lists {listed} kept epochs, more than the {most} that its retention allows; none is retired"
    )]
    Kept {
        /// Number of the newest epoch, whose record it is.
        number: EpochNumber,
        /// Epochs in the list.
        listed: usize,
        /// The most that it may list.
        most: usize,
    },
    /// The verdict changed.
    #[error("epoch {0}: the record's verdict is not the one that this node acted on")]
    Verdict(EpochNumber),
}

/// Reason to keep an epoch whose retirement was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetireError {
    /// The epoch serves, or is the grace window's.
    #[error("epoch {0} is active or the one before")]
    StillServed(EpochNumber),
    /// Two certificates of one number are valid, so nobody knows which epochs are needed.
    #[error("epoch {0} is kept: the API server's record contradicted itself, and a person has to act")]
    RecordContradicted(EpochNumber),
    /// Too few nodes prove to hold a newer epoch.
    #[error("no epoch newer than {0} is proven to be held by enough nodes")]
    NewerNotProven(EpochNumber),
}

/// Error of restoring a stored state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The bytes are not a state.
    #[error("the stored state: {0}")]
    State(#[from] DecodeError),
    /// The state decodes, but its numbers or frozen fields contradict each other.
    #[error("the stored state contradicts itself: restore it from its replica")]
    Contradiction,
    /// A secret has the wrong length or form.
    #[error("the stored secret {0:?} is malformed")]
    Secret(SecretName),
}
