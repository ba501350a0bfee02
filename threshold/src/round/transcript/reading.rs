//! Reading a transcript: its plan, the messages that were heard, and what they prove.

use std::collections::BTreeMap;

use super::Transcript;
use crate::curve::{G1, G2};
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::ValidPlan;
use crate::polynomial::VerificationVector;
use crate::purpose::Purpose;
use crate::round::bundle::VerifiedBundle;
use crate::round::culprit::Culprit;
use crate::round::message::Response;

impl Transcript {
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

    /// Returns the first sound bundle heard of `dealer`: of a genesis, or checked against the source.
    #[must_use]
    pub fn bundle_of(&self, dealer: NodeIndex) -> Option<&VerifiedBundle> {
        self.bundles_of(dealer).find(|bundle| self.is_sound(&bundle.digest()))
    }

    /// Returns the bundle with this digest, whose dealer is the one that signed it.
    #[must_use]
    pub fn bundle(&self, digest: &Digest) -> Option<&VerifiedBundle> {
        self.bundles.get(digest)
    }

    /// Iterates over all bundles heard.
    pub fn bundles(&self) -> impl Iterator<Item = &VerifiedBundle> {
        self.bundles.values()
    }

    /// Tells whether a bundle deals what its dealer has to deal: it may be frozen and qualify.
    #[must_use]
    pub fn is_sound(&self, digest: &Digest) -> bool {
        self.sound.contains(digest)
    }

    pub(super) fn bundles_of(&self, dealer: NodeIndex) -> impl Iterator<Item = &VerifiedBundle> {
        self.bundles.values().filter(move |bundle| bundle.dealer() == dealer)
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

    /// Returns the receivers that hold their share after activation, with the vector's digest.
    #[must_use]
    pub fn holds(&self) -> &BTreeMap<NodeIndex, Digest> {
        &self.holds
    }

    /// Iterates over the nodes that are provably at fault so far.
    pub fn culprits(&self) -> impl Iterator<Item = &Culprit> {
        self.culprits.values()
    }

    /// Tells whether others may ask for the message with this digest: a bundle or a response that was taken up, or one that by itself
    /// proves its sender guilty. Of those there is one per sender.
    pub(in crate::round) fn stores(&self, digest: &Digest) -> bool {
        self.bundles.contains_key(digest)
            || self.responses.contains_key(digest)
            || self.culprits.values().any(|culprit| culprit.evidence == [*digest])
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
