//! Reading a transcript: its plan, the messages that were heard, and what they prove.

use std::collections::{BTreeMap, BTreeSet};

use super::Transcript;
use crate::curve::{G1, G2};
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::frozen::dealers_digest;
use crate::plan::{FrozenDigests, ValidPlan};
use crate::polynomial::VerificationVector;
use crate::purpose::{Certificate, Purpose};
use crate::round::bundle::VerifiedBundle;
use crate::round::culprit::Culprit;
use crate::round::message::{Body, Response, digest_of};

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

    /// Returns the response of `receiver` that has this digest, where it is known. One without complaints to these frozen dealers
    /// follows from who gives it to whom: nobody needs its bytes, so that whoever withholds them stops nothing.
    #[must_use]
    pub fn known_response(&self, receiver: NodeIndex, digest: &Digest, dealers: &FrozenDigests) -> Option<Response> {
        if let Some((_, response)) = self.responses.get(digest).filter(|(sender, _)| *sender == receiver) {
            return Some(response.clone());
        }
        let dealers = dealers_digest(&self.digest, dealers);
        let plain = |unopened| Response { dealers, unopened, complaints: Vec::new() };
        let is_named =
            |response: &Response| digest_of(&self.digest, receiver, &Body::Response(response.clone())) == *digest;
        [false, true].map(plain).into_iter().find(is_named)
    }

    /// Iterates over `Heard`s: who said it, who responded, and the response's digest.
    pub fn heards(&self) -> impl Iterator<Item = (NodeIndex, NodeIndex, Digest)> {
        self.heards.iter().map(|((hearer, receiver), digest)| (*hearer, *receiver, *digest))
    }

    /// Returns the one response of each receiver that is known to have given exactly one to these frozen dealers, with its digest.
    /// Whoever gave two has none.
    pub(crate) fn single_responses(&self, dealers: &FrozenDigests) -> BTreeMap<NodeIndex, (Digest, &Response)> {
        let dealers = dealers_digest(&self.digest, dealers);
        let mut single = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for (receiver, digest, response) in self.responses() {
            if single.insert(receiver, (digest, response)).is_some() {
                twice.insert(receiver);
            }
        }
        single.retain(|receiver, (_, response)| response.dealers == dealers && !twice.contains(receiver));
        single
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

    /// Tells whether a bundle or a response with this digest was taken up.
    pub(in crate::round) fn stores(&self, digest: &Digest) -> bool {
        self.bundles.contains_key(digest) || self.responses.contains_key(digest)
    }

    /// Returns the certificate of this round that somebody shows, if it certifies this vector.
    #[must_use]
    pub fn shown_certificate(&self, vector: &VerificationVector) -> Option<Certificate> {
        let shown = self.certificates.iter().filter(|shown| shown.vector == vector.digest());
        shown.copied().find(|shown| shown.verify(&vector.constant()))
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
