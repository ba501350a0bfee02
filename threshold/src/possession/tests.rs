//! Tests of claims, of their verification, and of what is asked when.

use std::collections::BTreeSet;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::curve::{G1, SecretScalar};
use crate::identifiers::{ClusterId, EpochNumber, NodeIndex, Threshold};
use crate::polynomial::{Polynomial, VerificationVector, lagrange_at_zero};
use crate::purpose::Purpose;
use crate::serving::signature;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const ASKED: Asked = Asked { challenge: [9; 32], at_ms: 1_000 };
const FIVE: EpochNumber = EpochNumber(5);

fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).unwrap()
}

/// A sharing with threshold three.
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
    fn proof(&self, signer: u32, number: EpochNumber, challenge: &Challenge) -> Vec<u8> {
        let share = self.polynomial.share_of(index(signer));
        let purpose = Purpose::possession(CLUSTER, number, index(signer), &self.vector.digest(), challenge);
        signature::sign(&purpose, &share).encode().to_vec()
    }

    /// Claims epoch 5 with this proof.
    fn claimed(&self, possession: Vec<u8>) -> Claimed {
        Claimed { number: FIVE, vector: Some(self.vector.digest()), possession }
    }

    fn good(&self, signer: u32) -> Claimed {
        self.claimed(self.proof(signer, FIVE, &ASKED.challenge))
    }

    fn share(&self, prover: NodeIndex) -> CertifiedShare {
        CertifiedShare { vector: self.vector.digest(), point: Some(self.vector.public_share(prover)) }
    }

    fn judge(&self, claims: &mut Claims) {
        claims.judge(|_, prover| Some(self.share(prover)));
    }

    /// Claims of a node that holds epoch 5 and was asked then, judged.
    fn proven_by(&self, prover: u32, at_ms: u64) -> Claims {
        let asked = Asked { at_ms, ..ASKED };
        let mut claims = Claims::of(CLUSTER, index(prover), [self.good(prover)], &asked.challenge, asked);
        self.judge(&mut claims);
        claims
    }
}

fn of(prover: u32, claimed: impl IntoIterator<Item = Claimed>) -> Claims {
    Claims::of(CLUSTER, index(prover), claimed, &ASKED.challenge, ASKED)
}

fn numbers(claims: &Claims) -> Vec<EpochNumber> {
    claims.proven().map(|proven| proven.number()).collect()
}

/// Only the node's own share, over the challenge of this stream, proves that it is held.
/// seed: 002-04
#[test]
fn a_node_counts_only_with_a_fresh_proof_of_its_own_share() {
    let (own, other) = (epoch(1), epoch(2));
    let refuted = |why| (Vec::new(), vec![(FIVE, why)]);
    let elsewhere = [8; 32];
    let cases = [
        ("good", own.good(2), ASKED.challenge, (vec![FIVE], Vec::new())),
        ("missing", own.claimed(Vec::new()), ASKED.challenge, refuted(Unproven::Missing)),
        ("no point", own.claimed(vec![3; 48]), ASKED.challenge, refuted(Unproven::WrongSignature)),
        ("too short", own.claimed(vec![3; 10]), ASKED.challenge, refuted(Unproven::WrongSignature)),
        ("another node's", own.good(3), ASKED.challenge, refuted(Unproven::WrongSignature)),
        (
            "another share's",
            own.claimed(other.proof(2, FIVE, &ASKED.challenge)),
            ASKED.challenge,
            refuted(Unproven::WrongSignature),
        ),
        (
            "of another number",
            own.claimed(own.proof(2, EpochNumber(4), &ASKED.challenge)),
            ASKED.challenge,
            refuted(Unproven::WrongSignature),
        ),
        ("replayed", own.claimed(own.proof(2, FIVE, &elsewhere)), ASKED.challenge, refuted(Unproven::WrongSignature)),
        (
            "replayed with its report",
            own.claimed(own.proof(2, FIVE, &elsewhere)),
            elsewhere,
            refuted(Unproven::OtherChallenge),
        ),
        ("of another vector", other.good(2), ASKED.challenge, refuted(Unproven::OtherVector)),
    ];
    for (what, claimed, answered, expected) in cases {
        let mut claims = Claims::of(CLUSTER, index(2), [claimed], &answered, ASKED);
        own.judge(&mut claims);
        assert_eq!((numbers(&claims), claims.refuted().collect()), expected, "the proof is {what}");
    }
}

/// A liar without a share passes its challenge on to three holders, and interpolates their answers at its own index. Were the prover no
/// part of what is signed, that would be its partial signature.
#[test]
fn a_relayed_challenge_gives_nothing_to_interpolate() {
    let own = epoch(1);
    let decoded = |bytes: Vec<u8>| G1::decode(bytes.as_slice().try_into().unwrap()).unwrap();
    let answers = [2, 3, 4].map(|holder| decoded(own.proof(holder, FIVE, &ASKED.challenge)));
    let forged = as_node_1(answers);
    let mut claims = of(1, [own.claimed(forged.encode().to_vec())]);
    own.judge(&mut claims);
    assert_eq!(claims.refuted().collect::<Vec<_>>(), [(FIVE, Unproven::WrongSignature)], "three answers made a fourth");

    let shared = Purpose::signature("the same of all", &ASKED.challenge);
    let partial = |holder: u32| signature::sign(&shared, &own.polynomial.share_of(index(holder)));
    assert_eq!(
        as_node_1([2, 3, 4].map(partial)),
        partial(1),
        "the liar interpolates wrongly, so that nothing is tried"
    );
}

/// Interpolates the partial signatures of nodes 2, 3 and 4 at 1: one step lower these are the indices 1, 2 and 3, and it is zero.
fn as_node_1(partials: [G1; 3]) -> G1 {
    G1::sum_of_products(&partials, &lagrange_at_zero(&[1, 2, 3].map(index)))
}

/// A claim on an epoch whose vector is unknown is open until it is known.
#[test]
fn a_claim_is_open_until_its_epochs_vector_is_known() {
    let own = epoch(1);
    let mut claims = of(2, [own.good(2)]);
    claims.judge(|_, _| None);
    claims.judge(|_, prover| Some(CertifiedShare { point: None, ..own.share(prover) }));
    assert_eq!((claims.proven().count(), claims.refuted().count()), (0, 0), "nothing is known to judge it by");
    assert!(claims.is_open());
    own.judge(&mut claims);
    assert_eq!(numbers(&claims), [FIVE]);
    assert!(!claims.is_open());
}

#[test]
fn what_a_newer_report_no_longer_claims_counts_no_more() {
    let own = epoch(1);
    let mut claims = of(2, []);
    assert!(claims.renew(of(2, [own.good(2)])), "a first claim is news");
    own.judge(&mut claims);
    assert!(!claims.renew(of(2, [own.good(2)])), "the same again is no news");
    assert_eq!(claims.proven().count(), 1, "and stays judged");
    assert!(claims.renew(of(2, [own.good(3)])));
    assert_eq!(claims.proven().count(), 0, "another proof is judged anew");
    claims.renew(of(2, [own.good(2)]));
    own.judge(&mut claims);
    assert!(claims.renew(of(2, [])));
    assert_eq!(claims.proven().count(), 0, "its share is gone");
    // Another challenge asks anew: what was proven to the one before is open again.
    claims.renew(of(2, [own.good(2)]));
    own.judge(&mut claims);
    let again = Asked { challenge: [1; 32], at_ms: 2_000 };
    claims.renew(Claims::of(CLUSTER, index(2), [own.good(2)], &ASKED.challenge, again));
    assert_eq!(claims.refuted().collect::<Vec<_>>(), [(FIVE, Unproven::OtherChallenge)]);
}

/// Peers with open streams, and what node 1 does next for epoch 4.
fn connected(peers: std::ops::RangeInclusive<u32>) -> (Holdings, BTreeSet<EpochNumber>) {
    let mut holdings = Holdings::default();
    peers.for_each(|peer| holdings.connect(index(peer)));
    (holdings, BTreeSet::from([EpochNumber(4)]))
}

fn used(turn: Turn) -> Proofs {
    match turn {
        Turn::Use(proofs) => proofs,
        turn => panic!("nothing is used: {turn:?}"),
    }
}

#[test]
fn the_end_of_a_stream_takes_back_what_its_node_proved() {
    let own = epoch(1);
    let (mut holdings, of) = connected(2..=4);
    assert_eq!(holdings.next(&of, 1_000), Turn::Ask);
    (2..=4).for_each(|peer| holdings.answer(&own.proven_by(peer, 1_000)));
    holdings.disconnect(index(2));
    // It is back, and proved nothing in this stream.
    holdings.disconnect(index(3));
    holdings.connect(index(3));
    assert!(matches!(holdings.next(&of, 1_001), Turn::Wait { .. }), "the one that is back was not heard yet");
    let proofs = used(holdings.next(&of, 1_000 + 10_000));
    assert_eq!(proofs.holders(FIVE, &own.vector.digest(), 2_000), [index(4)].into());
    // An answer that was under way when the stream ended.
    holdings.answer(&own.proven_by(2, 30_000));
    assert_eq!(holdings.next(&of, 30_000), Turn::Ask);
    let proofs = used(holdings.next(&of, 40_000));
    assert!(proofs.holders(FIVE, &own.vector.digest(), 40_000).is_empty(), "a node whose stream ended counts");
}

/// A peer that stays connected and never answers costs ten seconds and counts as not holding; then the others do.
#[test]
fn a_peer_that_proves_nothing_holds_nobody_up_for_ever() {
    let own = epoch(1);
    let (mut holdings, of) = connected(2..=4);
    assert_eq!(holdings.next(&of, 1_000), Turn::Ask);
    for peer in 2..=3 {
        holdings.answer(&own.proven_by(peer, 1_000));
    }
    assert_eq!(holdings.next(&of, 1_001), Turn::Wait { until_ms: 11_000 });
    let proofs = used(holdings.next(&of, 11_000));
    assert_eq!(proofs.holders(FIVE, &own.vector.digest(), 11_000), [2, 3].map(index).into());
}

/// Answers are used once; and where they were not enough, peers are asked again after pauses that double.
#[test]
fn peers_are_asked_anew_for_every_retirement() {
    let own = epoch(1);
    let (mut holdings, mut of) = connected(2..=2);
    let (mut now_ms, mut pauses) = (1_000, Vec::new());
    for _ in 0..7 {
        assert_eq!(holdings.next(&of, now_ms), Turn::Ask);
        assert!(matches!(holdings.next(&of, now_ms), Turn::Wait { .. }), "the answer of another time is used again");
        holdings.answer(&own.proven_by(2, now_ms));
        assert_eq!(used(holdings.next(&of, now_ms)).holders(FIVE, &own.vector.digest(), now_ms).len(), 1);
        let Turn::Wait { until_ms } = holdings.next(&of, now_ms) else { panic!("it asks at once again") };
        pauses.push((until_ms - now_ms) / 1_000);
        now_ms = until_ms;
    }
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60, 60]);
    // What is retired next is asked for at once, and not on what was proven for the one before.
    of = BTreeSet::from([EpochNumber(6)]);
    assert_eq!(holdings.next(&of, now_ms), Turn::Ask);
    assert_eq!(holdings.next(&BTreeSet::new(), now_ms), Turn::Rest);
    assert_eq!(holdings.next(&of, now_ms), Turn::Ask);
}
