//! Proofs of possession: which of the epochs that a node claims to hold it can sign with. Pure.
//!
//! Every stream begins with a fresh challenge, and the node's reports answer it with a partial signature per epoch. A claim
//! counts once that signature verifies under the node's public share of the certified vector; until the vector is known it
//! is open, and counts no more than one that is false.

use std::collections::BTreeMap;

use keyfleet_crds::epoch::status::Holder;
use keyfleet_threshold::curve::{G1, G2};
use keyfleet_threshold::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::purpose::{Purpose, verifies};

use super::Unproven;

/// Most epochs that a report may claim at once: far more than are kept.
const CLAIMS_MAX: usize = 64;

/// A challenge: 32 fresh random bytes.
pub type Challenge = [u8; 32];

/// One epoch of which a node's report says that it holds the share.
#[derive(Clone, Default, Debug)]
pub struct Claimed {
    /// The epoch's number.
    pub number: u64,
    /// Digest of its verification vector; `None` where the report's field is no digest.
    pub vector: Option<Digest>,
    /// Partial signature over the challenge, as it came.
    pub possession: Vec<u8>,
}

/// Claims of a node's newest report to hold epochs.
#[derive(Clone, Default, Debug)]
pub struct Claims(BTreeMap<u64, Claim>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Claim {
    vector: Option<Digest>,
    /// Purpose that the proof must be a signature over.
    purpose: Purpose,
    proof: Result<G1, Unproven>,
    /// `None` while the epoch's vector is not known.
    verdict: Option<Result<(), Unproven>>,
}

impl Claims {
    /// Reads what a node of `cluster` claims in a report that answers the challenge `answered`, when it was sent `challenge`.
    #[must_use]
    pub fn of(
        cluster: ClusterId,
        claimed: impl IntoIterator<Item = Claimed>,
        answered: &[u8],
        challenge: &Challenge,
    ) -> Self {
        let answered = answered == challenge;
        let claim = |held: Claimed| {
            let proof = match held.possession.as_slice() {
                _ if !answered => Err(Unproven::OtherChallenge),
                [] => Err(Unproven::Missing),
                bytes => {
                    let point = bytes.try_into().ok().and_then(|bytes| G1::decode(bytes).ok());
                    point.ok_or(Unproven::WrongSignature)
                }
            };
            let verdict = proof.as_ref().err().map(|why| Err(*why));
            let purpose = Purpose::possession(cluster, EpochNumber(held.number), challenge);
            (held.number, Claim { vector: held.vector, purpose, proof, verdict })
        };
        Self(claimed.into_iter().take(CLAIMS_MAX).map(claim).collect())
    }

    /// Takes a newer report's claims. What was judged of the same claims stays judged. Returns true where anything changed.
    pub fn renew(&mut self, mut newer: Self) -> bool {
        for (number, claim) in &mut newer.0 {
            let before = self.0.get(number).filter(|before| before.is_same(claim));
            if let Some(before) = before {
                claim.verdict = before.verdict;
            }
        }
        let same = |(a, b): ((&u64, &Claim), (&u64, &Claim))| a.0 == b.0 && a.1.is_same(b.1);
        let changed = self.0.len() != newer.0.len() || !self.0.iter().zip(&newer.0).all(same);
        *self = newer;
        changed
    }

    /// Returns true while a claim is still to be judged.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.values().any(|claim| claim.verdict.is_none())
    }

    /// Judges what can be judged of node `index`. `known` gives what is known of an epoch.
    pub fn judge<'a>(&mut self, index: u32, known: impl Fn(u64) -> Option<CertifiedVector<'a>>) {
        let Some(index) = NodeIndex::new(index) else { return };
        for (number, claim) in self.0.iter_mut().filter(|(_, claim)| claim.verdict.is_none()) {
            let (Some(known), Ok(proof)) = (known(*number), &claim.proof) else { continue };
            if claim.vector != Some(known.vector) {
                claim.verdict = Some(Err(Unproven::OtherVector));
                continue;
            }
            let Some(share) = known.public_share(index) else { continue };
            let good = verifies(&share, &claim.purpose.point(), proof);
            claim.verdict = Some(if good { Ok(()) } else { Err(Unproven::WrongSignature) });
        }
    }

    /// Epochs that the node has proven to hold.
    pub fn proven(&self) -> impl Iterator<Item = u64> {
        self.0.iter().filter(|(_, claim)| claim.verdict == Some(Ok(()))).map(|(number, _)| *number)
    }

    /// Epochs that it claims and has not proven, with what is wrong.
    pub fn refuted(&self) -> impl Iterator<Item = (u64, Unproven)> {
        self.0.iter().filter_map(|(number, claim)| Some((*number, claim.verdict?.err()?)))
    }
}

impl Claim {
    fn is_same(&self, other: &Self) -> bool {
        (self.vector, &self.purpose, &self.proof) == (other.vector, &other.purpose, &other.proof)
    }
}

/// Certified vector of an epoch, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct CertifiedVector<'a> {
    /// The digest of the certified vector.
    pub vector: Digest,
    /// The vector itself, where it was heard.
    pub full: Option<&'a VerificationVector>,
    /// Public shares of those who held the epoch when it was activated, from its record.
    pub holders: &'a [Holder],
}

impl CertifiedVector<'_> {
    fn public_share(&self, index: NodeIndex) -> Option<G2> {
        if let Some(vector) = self.full {
            return Some(vector.public_share(index));
        }
        let holder = self.holders.iter().find(|holder| holder.index == index.value())?;
        keyfleet_crds::convert::point(&holder.public_share).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyfleet_threshold::curve::SecretScalar;
    use keyfleet_threshold::identifiers::Threshold;
    use keyfleet_threshold::polynomial::Polynomial;
    use keyfleet_threshold::serving::signature;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    const CLUSTER: ClusterId = ClusterId([7; 16]);
    const CHALLENGE: Challenge = [9; 32];

    struct Epoch {
        polynomial: Polynomial,
        vector: VerificationVector,
    }

    fn epoch(seed: u8) -> Epoch {
        let mut rng = ChaCha20Rng::from_seed([seed; 32]);
        let polynomial = Polynomial::random(SecretScalar::random(&mut rng), Threshold(3), &mut rng);
        let vector = polynomial.vector();
        Epoch { polynomial, vector }
    }

    impl Epoch {
        fn proof(&self, signer: u32, number: u64, challenge: &Challenge) -> Vec<u8> {
            let share = self.polynomial.share_of(NodeIndex::new(signer).unwrap());
            let purpose = Purpose::possession(CLUSTER, EpochNumber(number), challenge);
            signature::sign(&purpose, &share).encode().to_vec()
        }

        fn held(&self, number: u64, possession: Vec<u8>) -> Claimed {
            Claimed { number, vector: Some(self.vector.digest()), possession }
        }

        fn known(&self) -> CertifiedVector<'_> {
            CertifiedVector { vector: self.vector.digest(), full: Some(&self.vector), holders: &[] }
        }
    }

    /// Claims of a report, and the challenge that it answers.
    type Report = (Vec<Claimed>, Challenge);

    fn of(report: &Report, challenge: Challenge) -> Claims {
        Claims::of(CLUSTER, report.0.clone(), &report.1, &challenge)
    }

    fn report(held: Vec<Claimed>, challenge: Challenge) -> Report {
        (held, challenge)
    }

    /// Returns what node 2 has proven and what is refuted, when it claims this of epoch 5.
    fn judged(held: Claimed, answers: Challenge, epoch: &Epoch) -> (Vec<u64>, Vec<(u64, Unproven)>) {
        let mut claims = of(&report(vec![held], answers), CHALLENGE);
        claims.judge(2, |number| (number == 5).then(|| epoch.known()));
        (claims.proven().collect(), claims.refuted().collect())
    }

    /// A claim counts only with the nodes own signature over this challenge.
    /// seed: 003-32
    #[test]
    fn a_claim_counts_only_with_a_signature_over_this_challenge() {
        let (own, other) = (epoch(1), epoch(2));
        let refuted = |why| (Vec::new(), vec![(5, why)]);
        let cases = [
            ("the right one", own.held(5, own.proof(2, 5, &CHALLENGE)), CHALLENGE, (vec![5], Vec::new())),
            ("none", own.held(5, Vec::new()), CHALLENGE, refuted(Unproven::Missing)),
            ("no point", own.held(5, vec![1; 48]), CHALLENGE, refuted(Unproven::WrongSignature)),
            ("too short", own.held(5, vec![1; 3]), CHALLENGE, refuted(Unproven::WrongSignature)),
            ("another node's", own.held(5, own.proof(3, 5, &CHALLENGE)), CHALLENGE, refuted(Unproven::WrongSignature)),
            (
                "that of another epoch",
                own.held(5, own.proof(2, 4, &CHALLENGE)),
                CHALLENGE,
                refuted(Unproven::WrongSignature),
            ),
            (
                "with another share",
                own.held(5, other.proof(2, 5, &CHALLENGE)),
                CHALLENGE,
                refuted(Unproven::WrongSignature),
            ),
            ("replayed", own.held(5, own.proof(2, 5, &[8; 32])), CHALLENGE, refuted(Unproven::WrongSignature)),
            (
                "replayed with its report",
                own.held(5, own.proof(2, 5, &[8; 32])),
                [8; 32],
                refuted(Unproven::OtherChallenge),
            ),
            (
                "of another vector",
                other.held(5, other.proof(2, 5, &CHALLENGE)),
                CHALLENGE,
                refuted(Unproven::OtherVector),
            ),
        ];
        for (what, held, answers, expected) in cases {
            assert_eq!(judged(held, answers, &own), expected, "the proof is {what}");
        }
    }

    /// A claim on an epoch whose vector is unknown is open until it is known.
    #[test]
    fn a_claim_is_open_until_its_epochs_vector_is_known() {
        let own = epoch(1);
        let claimed = report(vec![own.held(5, own.proof(2, 5, &CHALLENGE))], CHALLENGE);
        let mut claims = of(&claimed, CHALLENGE);
        claims.judge(2, |_| None);
        assert_eq!((claims.proven().count(), claims.refuted().count()), (0, 0), "nothing is known to judge it by");
        let (index, key) = (NodeIndex::new(2).unwrap(), keyfleet_crds::convert::public_key);
        let holders = [Holder { index: 2, public_share: key(&own.vector.public_share(index)) }];
        let recorded = CertifiedVector { vector: own.vector.digest(), full: None, holders: &holders };
        claims.judge(2, |_| Some(recorded));
        assert_eq!(claims.proven().collect::<Vec<_>>(), [5], "the record's public share is enough");
    }

    #[test]
    fn what_a_newer_report_no_longer_claims_counts_no_more() {
        let own = epoch(1);
        let good = || report(vec![own.held(5, own.proof(2, 5, &CHALLENGE))], CHALLENGE);
        let mut claims = Claims::default();
        assert!(claims.renew(of(&good(), CHALLENGE)), "a first claim is news");
        claims.judge(2, |_| Some(own.known()));
        assert!(!claims.renew(of(&good(), CHALLENGE)), "the same again is no news");
        assert_eq!(claims.proven().count(), 1, "and stays judged");
        let wrong = report(vec![own.held(5, own.proof(3, 5, &CHALLENGE))], CHALLENGE);
        assert!(claims.renew(of(&wrong, CHALLENGE)));
        assert_eq!(claims.proven().count(), 0, "another proof is judged anew");
        claims.renew(of(&good(), CHALLENGE));
        claims.judge(2, |_| Some(own.known()));
        assert!(claims.renew(of(&report(Vec::new(), CHALLENGE), CHALLENGE)));
        assert_eq!(claims.proven().count(), 0, "its share is gone");
        // Another stream asks anew: what was proven to the challenge before is open again.
        claims.renew(of(&good(), CHALLENGE));
        claims.judge(2, |_| Some(own.known()));
        claims.renew(of(&good(), [1; 32]));
        assert_eq!(claims.refuted().collect::<Vec<_>>(), [(5, Unproven::OtherChallenge)]);
    }
}
