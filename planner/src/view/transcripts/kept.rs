//! Kept epochs as nodes show them: certificates that the fleet's key signed, and the vectors that they name. Pure.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_crds::convert;
use keyfleet_crds::values::PublicKey;
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::plan::Plan;
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::purpose::Certificate;
use keyfleet_threshold::round::ShownEpoch;

/// Most epochs that are kept of one node: far more than a fleet keeps.
const SHOWN_MAX: usize = 64;

/// An epoch that a node shows.
#[derive(Clone)]
pub(super) struct Shown {
    certificate: Certificate,
    threshold: usize,
    /// The key that the plan of a reshare keeps.
    expected: Option<G2>,
    /// The key under which the certificate verified, or the one under which it did not.
    verdict: Option<(PublicKey, bool)>,
}

/// Epochs that one node shows, by number.
#[derive(Default)]
pub(super) struct ShownEpochs(BTreeMap<u64, Shown>);

/// Vectors by their digests, fetched because certificates name them.
#[derive(Default)]
pub(super) struct Vectors {
    wanted: BTreeSet<Digest>,
    known: BTreeMap<Digest, VerificationVector>,
}

impl Shown {
    /// Reads an epoch. Where the fleet's key is known the certificate is checked first: points of a plan are costly to read.
    pub(super) fn read(shown: &ShownEpoch, key: Option<PublicKey>) -> Option<Self> {
        let certificate = shown.certificate;
        let verdict = key.map(|key| (key, convert::point(&key).is_ok_and(|point| certificate.verify(&point))));
        verdict.is_none_or(|(_, good)| good).then_some(())?;
        // Its digest is the certified one: what the fleet's nodes did not validate, its key did not sign.
        let plan = Plan::decode(&shown.plan).ok()?;
        let is_its_own = plan.number == certificate.number && plan.cluster == certificate.cluster;
        let (threshold, expected) = (plan.threshold.count(), plan.expected_public_key());
        is_its_own.then_some(Self { certificate, threshold, expected, verdict })
    }
}

impl ShownEpochs {
    /// Returns what is known of an epoch with exactly this certificate.
    pub(super) fn same(&self, certificate: &Certificate) -> Option<&Shown> {
        self.0.get(&certificate.number.0).filter(|known| known.certificate == *certificate)
    }

    pub(super) fn insert(&mut self, shown: Shown) {
        self.0.insert(shown.certificate.number.0, shown);
        if self.0.len() > SHOWN_MAX {
            self.0.pop_first();
        }
    }

    /// Verifies what was not verified yet: under `key`, or before there is one under whatever key plan or vector name.
    pub(super) fn judge(&mut self, key: Option<PublicKey>, vectors: &Vectors) {
        for shown in self.0.values_mut() {
            let own = || {
                let constant = vectors.known.get(&shown.certificate.vector).map(VerificationVector::constant);
                shown.expected.or(constant)
            };
            let Some(point) = key.map_or_else(own, |key| convert::point(&key).ok()) else { continue };
            let under = convert::public_key(&point);
            if shown.verdict.is_none_or(|(before, _)| before != under) {
                shown.verdict = Some((under, shown.certificate.verify(&point)));
            }
        }
    }

    /// Iterates over the epochs whose certificates verified: their certificates and thresholds, ascending.
    pub(super) fn certified(&self) -> impl DoubleEndedIterator<Item = (&Certificate, usize)> {
        let good = self.0.values().filter(|shown| shown.verdict.is_some_and(|(_, good)| good));
        good.map(|shown| (&shown.certificate, shown.threshold))
    }

    /// Iterates over the vectors that certificates name and that are of use: of certified epochs, and of those that cannot be
    /// judged without.
    pub(super) fn vectors(&self) -> impl Iterator<Item = Digest> {
        let of_use = self.0.values().filter(|shown| shown.verdict.is_none_or(|(_, good)| good));
        of_use.map(|shown| shown.certificate.vector)
    }
}

impl Vectors {
    /// Keeps exactly these vectors, and wants those of them that are not known.
    pub(super) fn want(&mut self, named: BTreeSet<Digest>) {
        self.known.retain(|digest, _| named.contains(digest));
        self.wanted = named.into_iter().filter(|digest| !self.known.contains_key(digest)).collect();
    }

    /// Returns the digests to be fetched.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Digest> {
        self.wanted.iter().copied()
    }

    /// Takes a vector that is wanted.
    pub(super) fn learn(&mut self, vector: &VerificationVector) {
        let digest = vector.digest();
        if self.wanted.remove(&digest) {
            self.known.insert(digest, vector.clone());
        }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<&VerificationVector> {
        self.known.get(digest)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &VerificationVector> {
        self.known.values()
    }
}
