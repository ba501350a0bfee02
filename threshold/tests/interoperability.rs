//! Interoperability with unmodified implementations of others, in both directions.

use std::collections::BTreeMap;

use drand_verify::{G2PubkeyRfc, Pubkey};
use keyfleet_threshold::curve::{G1, G2, SecretScalar};
use keyfleet_threshold::identifiers::{NodeIndex, Threshold};
use keyfleet_threshold::polynomial::Polynomial;
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::serving::ibe::{DerivedKey, Encapsulation, timelock_point};
use keyfleet_threshold::serving::signature;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// The signature over a beacon round by nodes 2, 3 and 5 of a threshold of three.
fn beacon(seed: u64, round: u64) -> (G2, G1) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let polynomial = Polynomial::random(SecretScalar::random(&mut rng), Threshold(3), &mut rng);
    let purpose = Purpose::beacon(round);
    let partials: BTreeMap<_, _> = [2, 3, 5]
        .into_iter()
        .filter_map(NodeIndex::new)
        .map(|index| (index, signature::sign(&purpose, &polynomial.share_of(index))))
        .collect();
    let combined =
        signature::combine(&purpose.point(), &polynomial.vector(), &partials).expect("three honest partials");
    (polynomial.vector().constant(), combined.signature)
}

#[test]
fn drand_verify_accepts_our_beacon_signatures() {
    for round in [1, 2, 12_040_883, u64::MAX] {
        let (public_key, signature) = beacon(round, round);
        let theirs = G2PubkeyRfc::from_fixed(public_key.encode()).unwrap();
        assert!(theirs.verify(round, b"", &signature.encode()).unwrap(), "round {round} must verify");
        assert!(!theirs.verify(round ^ 1, b"", &signature.encode()).unwrap(), "and no other round");
    }
}

/// Thirty ciphertexts each way: one in ten takes the branch in which a hash is rejected as a scalar.
#[test]
fn tlock_opens_what_we_seal_and_we_open_what_tlock_seals() {
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    for round in 1..=30 {
        let (public_key, signature) = beacon(7, round);
        let key = DerivedKey::verify(signature, &timelock_point(round), &public_key).unwrap();
        // tlock cuts trailing zeros off what it opens, so the message has none.
        let message: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap() + 1);

        let ours = Encapsulation::seal(&message, &timelock_point(round), &public_key, &mut rng);
        let mut opened = Vec::new();
        tlock::decrypt(&mut opened, ours.encode().as_slice(), &signature.encode()).unwrap();
        assert_eq!(opened, message, "round {round}: tlock must open what we sealed");

        let mut theirs = Vec::new();
        tlock::encrypt(&mut theirs, message.as_slice(), &public_key.encode(), round).unwrap();
        let theirs = Encapsulation::<16>::decode(&theirs).unwrap();
        assert_eq!(theirs.open(&key).as_deref(), Ok(&message), "round {round}: we must open what tlock sealed");
    }
}

/// A published round of drand's quicknet, signed by a fleet that is not ours.
#[test]
fn a_published_quicknet_round_verifies_here() {
    let public_key = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
    let signature = "929906c959032ab363c9f26570d215d66f5c06cb0c44fe508c12bb5839f04ec895bb6868e5b9ff13ab289bdb5266b394";
    let public_key = G2::decode(&hex::decode(public_key).unwrap().try_into().unwrap()).unwrap();
    let signature = G1::decode(&hex::decode(signature).unwrap().try_into().unwrap()).unwrap();
    let purpose = |round| Purpose::beacon(round).point();
    assert!(keyfleet_threshold::purpose::verifies(&public_key, &purpose(12_040_883), &signature));
    assert!(!keyfleet_threshold::purpose::verifies(&public_key, &purpose(12_040_884), &signature));
}
