//! Claims of one answer, and the verification that makes proofs of them.

use std::collections::BTreeMap;

use crate::curve::{G1, G2};
use crate::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};
use crate::purpose::{Purpose, verifies};

/// Most epochs that an answer may claim at once: far more than are kept.
const CLAIMS_MAX: usize = 64;

/// A challenge: 32 fresh random bytes.
pub type Challenge = [u8; 32];

/// A challenge that was sent, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The challenge.
    pub challenge: Challenge,
    /// When it was sent.
    pub at_ms: u64,
}

/// One epoch of which a node says that it holds the share.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The epoch's number.
    pub number: EpochNumber,
    /// Digest of its verification vector; `None` where the answer's field is no digest.
    pub vector: Option<Digest>,
    /// Partial signature over the challenge, as it came.
    pub possession: Vec<u8>,
}

/// Reason why a node that claims to hold an epoch does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unproven {
    /// No proof was sent.
    #[error("it sends no partial signature")]
    Missing,
    /// Proof over another challenge.
    #[error("its report answers another challenge than the one it was sent: it was made earlier, or elsewhere")]
    OtherChallenge,
    /// Claim for another vector than the certified one.
    #[error("it names another verification vector than the certified one")]
    OtherVector,
    /// The signature is not that of its share.
    #[error("its partial signature does not verify under its public share")]
    WrongSignature,
}

/// Epoch whose share a node has proven to hold. Only [`Claims::judge`] makes one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProvenHolding {
    number: EpochNumber,
    vector: Digest,
}

impl ProvenHolding {
    /// Returns the epoch's number.
    #[must_use]
    pub fn number(&self) -> EpochNumber {
        self.number
    }

    /// Returns the digest of its certified vector.
    #[must_use]
    pub fn vector(&self) -> Digest {
        self.vector
    }
}

/// The prover's public half of a certified epoch, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct CertifiedShare {
    /// Digest of the certified vector.
    pub vector: Digest,
    /// The prover's public share; `None` while the vector itself was not heard.
    pub point: Option<G2>,
}

/// Claims of a node's answer to one challenge.
#[derive(Clone, Debug)]
pub struct Claims {
    cluster: ClusterId,
    prover: NodeIndex,
    asked: Asked,
    claims: BTreeMap<EpochNumber, Claim>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Claim {
    vector: Option<Digest>,
    proof: Result<G1, Unproven>,
    /// `None` while the prover's public share of the epoch is not known.
    verdict: Option<Result<(), Unproven>>,
}

impl Claims {
    /// Reads what node `prover` of `cluster` claims in a report that answers the challenge `answered`, when it was `asked`.
    #[must_use]
    pub fn of(
        cluster: ClusterId,
        prover: NodeIndex,
        claimed: impl IntoIterator<Item = Claimed>,
        answered: &[u8],
        asked: Asked,
    ) -> Self {
        let answers = answered == asked.challenge;
        let claim = |held: Claimed| {
            let proof = match held.possession.as_slice() {
                _ if !answers => Err(Unproven::OtherChallenge),
                [] => Err(Unproven::Missing),
                bytes => {
                    let point = bytes.try_into().ok().and_then(|bytes| G1::decode(bytes).ok());
                    point.ok_or(Unproven::WrongSignature)
                }
            };
            let verdict = proof.as_ref().err().map(|why| Err(*why));
            (held.number, Claim { vector: held.vector, proof, verdict })
        };
        let claims = claimed.into_iter().take(CLAIMS_MAX).map(claim).collect();
        Self { cluster, prover, asked, claims }
    }

    /// Returns the node that makes these claims.
    #[must_use]
    pub fn prover(&self) -> NodeIndex {
        self.prover
    }

    /// Returns when the challenge was sent that these claims answer.
    #[must_use]
    pub fn asked_ms(&self) -> u64 {
        self.asked.at_ms
    }

    /// Takes a newer report's claims. What was judged of the same claims stays judged. Returns true where anything changed.
    pub fn renew(&mut self, mut newer: Self) -> bool {
        let same_asking = self.asked == newer.asked;
        for (number, claim) in &mut newer.claims {
            let before = self.claims.get(number).filter(|before| same_asking && before.is_same(claim));
            if let Some(before) = before {
                claim.verdict = before.verdict;
            }
        }
        let same = |(a, b): ((&EpochNumber, &Claim), (&EpochNumber, &Claim))| a.0 == b.0 && a.1.is_same(b.1);
        let unchanged =
            same_asking && self.claims.len() == newer.claims.len() && self.claims.iter().zip(&newer.claims).all(same);
        *self = newer;
        !unchanged
    }

    /// Returns true while a claim is still to be judged.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.claims.values().any(|claim| claim.verdict.is_none())
    }

    /// Judges what can be judged. `known` gives what is known of an epoch and the prover's public share of it.
    pub fn judge(&mut self, known: impl Fn(EpochNumber, NodeIndex) -> Option<CertifiedShare>) {
        for (number, claim) in self.claims.iter_mut().filter(|(_, claim)| claim.verdict.is_none()) {
            let (Some(known), Ok(proof)) = (known(*number, self.prover), &claim.proof) else { continue };
            if claim.vector != Some(known.vector) {
                claim.verdict = Some(Err(Unproven::OtherVector));
                continue;
            }
            let Some(public_share) = known.point else { continue };
            let purpose = Purpose::possession(self.cluster, *number, self.prover, &known.vector, &self.asked.challenge);
            let good = verifies(&public_share, &purpose.point(), proof);
            claim.verdict = Some(if good { Ok(()) } else { Err(Unproven::WrongSignature) });
        }
    }

    /// The epochs that the node has proven to hold.
    pub fn proven(&self) -> impl Iterator<Item = ProvenHolding> {
        self.claims
            .iter()
            .filter(|(_, claim)| claim.verdict == Some(Ok(())))
            .filter_map(|(number, claim)| Some(ProvenHolding { number: *number, vector: claim.vector? }))
    }

    /// The epochs that it claims and has not proven, with what is wrong.
    pub fn refuted(&self) -> impl Iterator<Item = (EpochNumber, Unproven)> {
        self.claims.iter().filter_map(|(number, claim)| Some((*number, claim.verdict?.err()?)))
    }
}

impl Claim {
    fn is_same(&self, other: &Self) -> bool {
        (self.vector, &self.proof) == (other.vector, &other.proof)
    }
}
