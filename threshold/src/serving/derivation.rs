//! Derivation of an identity's key, encrypted on its way (vetKD; Cerulli, Connolly, Neven, Preiss and Shoup 2023/616).
//!
//! The caller sends a one-time transport key T = t·g1. Node i answers (r·g1, r·g2, r·T + s_i·Q): anyone checks that against
//! the node's public share without decrypting it, any t such answers combine into one of the same form under the cluster's
//! key, and only the caller, who knows t, takes r·T off. A gateway that combines learns nothing.

use std::collections::BTreeMap;

use rand_core::CryptoRng;

use super::ibe::{DerivedKey, Identity, OpenError};
use crate::curve::{G1, G2, Scalar, SecretScalar, pairings_cancel};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::NodeIndex;
use crate::polynomial::{VerificationVector, lagrange_at_zero};

/// The caller's one-time secret.
pub struct TransportKey(SecretScalar);

impl TransportKey {
    /// A fresh key: one per request.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self(SecretScalar::random(rng))
    }

    /// The public half, which the request carries.
    #[must_use]
    pub fn public(&self) -> G1 {
        G1::generator().times_secret(&self.0)
    }
}

/// A key encrypted to a transport key: of one node's share, or combined. 192 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EncryptedKey {
    c1: G1,
    c2: G2,
    c3: G1,
}

/// Error of combining answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{valid} valid answers, {needed} are needed (wrong ones from: {culprits:?})")]
pub struct TooFewAnswers {
    /// Number of valid answers.
    pub valid: usize,
    /// The threshold.
    pub needed: usize,
    /// Nodes whose answer does not verify.
    pub culprits: Vec<NodeIndex>,
}

impl EncryptedKey {
    /// A node's answer: its share of the key of `identity`, encrypted to `transport`.
    #[must_use]
    pub fn derive(identity: Identity<'_>, transport: &G1, share: &SecretScalar, rng: &mut impl CryptoRng) -> Self {
        let r = SecretScalar::random(rng);
        Self {
            c1: G1::generator().times_secret(&r),
            c2: G2::of_secret(&r),
            c3: transport.times_secret(&r).plus(&identity.point().times_secret(share)),
        }
    }

    /// Verifies that this is the key of `identity` under `public` (a node's public share, or the cluster's key), encrypted to
    /// `transport`: e(c1, g2) = e(g1, c2) and e(c3, g2) = e(T, c2)·e(Q, public).
    #[must_use]
    pub fn verify(&self, identity: Identity<'_>, transport: &G1, public: &G2) -> bool {
        let minus_one = -Scalar::one();
        pairings_cancel(&[(self.c1, G2::generator()), (G1::generator().times(&minus_one), self.c2)])
            && pairings_cancel(&[
                (self.c3, G2::generator()),
                (transport.times(&minus_one), self.c2),
                (identity.point().times(&minus_one), *public),
            ])
    }

    /// Combines answers: optimistically the first t, and one by one only if that fails.
    ///
    /// # Errors
    /// When fewer than t answers are valid; the culprits are named.
    pub fn combine(
        identity: Identity<'_>,
        transport: &G1,
        vector: &VerificationVector,
        answers: &BTreeMap<NodeIndex, Self>,
    ) -> Result<(Self, Vec<NodeIndex>), TooFewAnswers> {
        let needed = vector.threshold().count();
        if answers.len() >= needed {
            let combined = Self::interpolate(answers, needed);
            if combined.verify(identity, transport, &vector.constant()) {
                return Ok((combined, Vec::new()));
            }
        }
        let wrong =
            |(index, answer): &(&NodeIndex, &Self)| !answer.verify(identity, transport, &vector.public_share(**index));
        let culprits: Vec<_> = answers.iter().filter(wrong).map(|(index, _)| *index).collect();
        let good: BTreeMap<_, _> =
            answers.iter().filter(|(i, _)| !culprits.contains(i)).map(|(i, answer)| (*i, *answer)).collect();
        if good.len() < needed {
            return Err(TooFewAnswers { valid: good.len(), needed, culprits });
        }
        Ok((Self::interpolate(&good, needed), culprits))
    }

    fn interpolate(answers: &BTreeMap<NodeIndex, Self>, needed: usize) -> Self {
        let (indices, answers): (Vec<_>, Vec<_>) = answers.iter().take(needed).map(|(i, a)| (*i, *a)).unzip();
        let lambda = lagrange_at_zero(&indices);
        Self {
            c1: G1::sum_of_products(&answers.iter().map(|a| a.c1).collect::<Vec<_>>(), &lambda),
            c2: G2::sum_of_products(&answers.iter().map(|a| a.c2).collect::<Vec<_>>(), &lambda),
            c3: G1::sum_of_products(&answers.iter().map(|a| a.c3).collect::<Vec<_>>(), &lambda),
        }
    }

    /// Takes the encryption off a combined key and checks what is left.
    ///
    /// # Errors
    /// When the result is not the identity's key.
    pub fn open(
        &self,
        identity: Identity<'_>,
        transport: &TransportKey,
        public_key: &G2,
    ) -> Result<DerivedKey, OpenError> {
        let mask = self.c1.times_secret(&transport.0).times(&-Scalar::one());
        DerivedKey::verify(self.c3.plus(&mask), &identity.point(), public_key).ok_or(OpenError)
    }

    /// c1 (48 bytes), c2 (96), c3 (48).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&self.c1.encode()).raw(&self.c2.encode()).raw(&self.c3.encode());
        out.finish()
    }

    /// Decodes what [`EncryptedKey::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not exactly three valid points.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, |reader| Ok(Self { c1: reader.g1("c1")?, c2: reader.g2("c2")?, c3: reader.g1("c3")? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identifiers::Threshold;
    use crate::polynomial::Polynomial;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn a_gateway_combines_what_it_cannot_read_and_names_who_lied() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let polynomial = Polynomial::random(SecretScalar::random(&mut rng), Threshold(3), &mut rng);
        let (vector, identity) = (polynomial.vector(), Identity(b"tenant/7"));
        let transport = TransportKey::random(&mut rng);
        let mut answers = BTreeMap::new();
        for i in 1..6 {
            let index = NodeIndex::new(i).unwrap();
            let answer = EncryptedKey::derive(identity, &transport.public(), &polynomial.share_of(index), &mut rng);
            let answer = EncryptedKey::decode(&answer.encode()).unwrap();
            assert!(answer.verify(identity, &transport.public(), &vector.public_share(index)));
            assert!(!answer.verify(Identity(b"tenant/8"), &transport.public(), &vector.public_share(index)));
            answers.insert(index, answer);
        }
        let liar = NodeIndex::new(2).unwrap();
        let other = TransportKey::random(&mut rng);
        answers.insert(liar, EncryptedKey::derive(identity, &other.public(), &polynomial.share_of(liar), &mut rng));
        let (combined, culprits) = EncryptedKey::combine(identity, &transport.public(), &vector, &answers).unwrap();
        assert_eq!(culprits, [liar], "an answer under another transport key is named");
        let key = combined.open(identity, &transport, &vector.constant()).unwrap();
        let expected = identity.point().times_secret(polynomial.constant());
        assert_eq!(*key.expose(), expected.encode(), "the key is the cluster's signature over the identity");
        assert!(combined.open(identity, &other, &vector.constant()).is_err(), "only the caller opens it");
        answers.retain(|index, _| index.value() <= 3);
        let fault = EncryptedKey::combine(identity, &transport.public(), &vector, &answers).unwrap_err();
        assert_eq!((fault.valid, fault.needed, fault.culprits), (2, 3, vec![liar]));
    }
}
