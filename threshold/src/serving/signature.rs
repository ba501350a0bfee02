//! Threshold BLS signatures in G1 (Boldyreva 2003): each node multiplies the hashed message with its share; any t partials
//! interpolate to the signature of the key that nobody holds.

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::curve::{G1, G2, Scalar, SecretScalar, pairings_cancel};
use crate::encoding::Writer;
use crate::identifiers::{Digest, NodeIndex};
use crate::polynomial::{VerificationVector, lagrange_at_zero};
use crate::purpose::{Purpose, verifies};

/// The partial signature of one node.
#[must_use]
pub fn sign(purpose: &Purpose, share: &SecretScalar) -> G1 {
    purpose.point().times_secret(share)
}

/// Error of combining partial signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{valid} valid partial signatures, {needed} are needed (wrong ones from: {culprits:?})")]
pub struct TooFewPartials {
    /// Number of valid partials.
    pub valid: usize,
    /// The threshold.
    pub needed: usize,
    /// Nodes whose partial does not verify.
    pub culprits: Vec<NodeIndex>,
}

/// A signature under the cluster's public key, with the nodes whose partials were wrong, if it came to checking them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Combined {
    /// The signature: verified.
    pub signature: G1,
    /// Nodes whose partial does not verify. Empty also when the combined signature verified at once.
    pub culprits: Vec<NodeIndex>,
}

/// Combines partial signatures over `point` and verifies the result under the vector's public key.
///
/// Optimistic: the first t are combined unchecked, and only if the result is wrong is each partial checked.
///
/// # Errors
/// When fewer than t partials are valid; the culprits are named.
pub fn combine(
    point: &G1,
    vector: &VerificationVector,
    partials: &BTreeMap<NodeIndex, G1>,
) -> Result<Combined, TooFewPartials> {
    let needed = vector.threshold().count();
    let culprits = if partials.len() >= needed {
        let signature = interpolate(partials, needed);
        if verifies(&vector.constant(), point, &signature) {
            return Ok(Combined { signature, culprits: Vec::new() });
        }
        culprits(point, vector, partials)
    } else {
        culprits(point, vector, partials)
    };
    let good: BTreeMap<_, _> =
        partials.iter().filter(|(index, _)| !culprits.contains(index)).map(|(i, p)| (*i, *p)).collect();
    if good.len() < needed {
        return Err(TooFewPartials { valid: good.len(), needed, culprits });
    }
    let signature = interpolate(&good, needed);
    Ok(Combined { signature, culprits })
}

/// `Σ λ_i · partial_i` over the first `needed` partials.
fn interpolate(partials: &BTreeMap<NodeIndex, G1>, needed: usize) -> G1 {
    let (indices, points): (Vec<_>, Vec<_>) = partials.iter().take(needed).map(|(i, p)| (*i, *p)).unzip();
    G1::sum_of_products(&points, &lagrange_at_zero(&indices))
}

/// Finds the nodes whose partial over `point` is not that of their share: two pairings when all are good, a handful more for
/// each culprit.
#[must_use]
pub fn culprits(point: &G1, vector: &VerificationVector, partials: &BTreeMap<NodeIndex, G1>) -> Vec<NodeIndex> {
    let claims: Vec<_> =
        partials.iter().map(|(index, partial)| (*index, vector.public_share(*index), *partial)).collect();
    let mut found = Vec::new();
    bisect(point, &claims, &mut found);
    found
}

fn bisect(point: &G1, claims: &[(NodeIndex, G2, G1)], found: &mut Vec<NodeIndex>) {
    if claims.is_empty() || all_hold(point, claims) {
        return;
    }
    if let [(index, ..)] = claims {
        found.push(*index);
        return;
    }
    let (low, high) = claims.split_at(claims.len() / 2);
    bisect(point, low, found);
    bisect(point, high, found);
}

/// e(Σ w_i·σ_i, g2) = e(point, Σ w_i·X_i) for weights of 128 bits (Bellare, Garay and Rabin 1998).
///
/// The weights are hashed from the claims themselves: whoever chooses a partial changes them, so errors cannot be made to
/// cancel, and the answer is the same for everyone.
fn all_hold(point: &G1, claims: &[(NodeIndex, G2, G1)]) -> bool {
    let mut transcript = Writer::default();
    transcript.raw(&point.encode());
    for (index, public, partial) in claims {
        transcript.index(*index).raw(&public.encode()).raw(&partial.encode());
    }
    let mut rng = ChaCha20Rng::from_seed(Digest::of("KEYFLEET-V1-BATCH", &[&transcript.finish()]).0);
    let weights: Vec<_> = claims
        .iter()
        .map(|_| {
            let (low, high) = (Scalar::from_u64(rng.next_u64()), Scalar::from_u64(rng.next_u64()));
            low + high * Scalar::from_u64(1 << 32) * Scalar::from_u64(1 << 32)
        })
        .collect();
    let partials: Vec<_> = claims.iter().map(|(_, _, partial)| *partial).collect();
    let publics: Vec<_> = claims.iter().map(|(_, public, _)| *public).collect();
    let minus_point = point.times(&-Scalar::one());
    pairings_cancel(&[
        (G1::sum_of_products(&partials, &weights), G2::generator()),
        (minus_point, G2::sum_of_products(&publics, &weights)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identifiers::{ClusterId, EpochNumber, Threshold};
    use crate::polynomial::Polynomial;

    fn index(i: u32) -> NodeIndex {
        NodeIndex::new(i).unwrap()
    }

    fn polynomial(seed: u64, threshold: u16) -> Polynomial {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        Polynomial::random(SecretScalar::random(&mut rng), Threshold(threshold), &mut rng)
    }

    fn partials(polynomial: &Polynomial, purpose: &Purpose, nodes: &[u32]) -> BTreeMap<NodeIndex, G1> {
        nodes.iter().map(|i| (index(*i), sign(purpose, &polynomial.share_of(index(*i))))).collect()
    }

    /// seed: 000-17
    #[test]
    fn any_threshold_of_partials_makes_the_one_signature() {
        let polynomial = polynomial(1, 3);
        let (vector, purpose) = (polynomial.vector(), Purpose::signature("release", b"hello"));
        let all: Vec<_> = [[1u32, 2, 3], [2, 4, 5], [1, 3, 5]]
            .iter()
            .map(|set| combine(&purpose.point(), &vector, &partials(&polynomial, &purpose, set)).unwrap().signature)
            .collect();
        assert!(all.iter().all(|signature| *signature == all[0]), "every subset must give the same signature");
        assert_eq!(all[0], sign(&purpose, polynomial.constant()), "which is the key's own");
    }

    /// seed: 000-18
    #[test]
    fn wrong_partials_are_named_and_do_not_stop_the_others() {
        let polynomial = polynomial(2, 3);
        let (vector, purpose) = (polynomial.vector(), Purpose::signature("release", b"hello"));
        let mut given = partials(&polynomial, &purpose, &[1, 2, 3, 4, 5, 6]);
        // Two errors that cancel in an unweighted sum, and a partial of another message.
        let error = G1::generator();
        given.insert(index(2), given[&index(2)].plus(&error));
        given.insert(index(5), given[&index(5)].plus(&error.times(&-Scalar::one())));
        given.insert(index(1), sign(&Purpose::beacon(1), &polynomial.share_of(index(1))));
        assert_eq!(culprits(&purpose.point(), &vector, &given), [index(1), index(2), index(5)]);
        let combined = combine(&purpose.point(), &vector, &given).unwrap();
        assert_eq!(combined.culprits, [index(1), index(2), index(5)]);
        assert!(verifies(&vector.constant(), &purpose.point(), &combined.signature));
        given.remove(&index(6));
        let fault = combine(&purpose.point(), &vector, &given).unwrap_err();
        assert_eq!((fault.valid, fault.needed), (2, 3), "two honest partials are not enough for threshold three");
    }

    /// seed: 000-14
    #[test]
    fn no_purpose_yields_the_signature_of_another() {
        let possession = |prover, vector| {
            let (cluster, vector) = (ClusterId([0; 16]), Digest([vector; 32]));
            Purpose::possession(cluster, EpochNumber(7), index(prover), &vector, &[0; 32])
        };
        let same = [
            Purpose::beacon(7),
            Purpose::signature("a", b"bc"),
            Purpose::signature("ab", b"c"),
            possession(1, 7),
            possession(2, 7),
            possession(1, 8),
        ];
        for (i, one) in same.iter().enumerate() {
            for other in &same[i + 1..] {
                assert_ne!(one.point(), other.point(), "{one:?} and {other:?} must differ");
            }
        }
    }
}
