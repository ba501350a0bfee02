//! Timings of the round's and the key's operations on this machine, on one thread.
//!
//! `cargo run --release -p keyfleet-threshold --example timings`
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a timing needs a clock")]

use std::collections::BTreeMap;
use std::time::Instant;

use keyfleet_threshold::curve::{G2, SecretScalar};
use keyfleet_threshold::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, PrekeyNumber, Threshold};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::plan::{Deadlines, Member, Origin, Plan, PlanVersion, Receiver, Source, ValidPlan};
use keyfleet_threshold::polynomial::{Polynomial, VerificationVector, lagrange_at_zero};
use keyfleet_threshold::prekey::{PrekeySecret, SignedPrekey};
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::round::{Body, DealerSeed, Dealing, SignedMessage, Transcript, VerifiedBundle};
use keyfleet_threshold::serving::derivation::{EncryptedKey, TransportKey};
use keyfleet_threshold::serving::ibe::Identity;
use keyfleet_threshold::serving::signature;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn main() {
    println!("milliseconds, one thread; n of n receivers, threshold ⌈2n/3⌉, one reshare");
    println!(
        "{:>4} {:>9} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "n", "deal", "check all", "open all", "combine", "sign", "combine t", "derive"
    );
    for n in [4u32, 7, 10, 20, 50, 100] {
        measure(n);
    }
}

fn measure(n: u32) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let threshold = Threshold(u16::try_from((2 * n).div_ceil(3)).expect("small"));
    let old = Polynomial::random(SecretScalar::random(&mut rng), threshold, &mut rng);
    let source = old.vector();
    let nodes: Vec<_> = (1..=n).filter_map(NodeIndex::new).collect();
    let identities: Vec<_> = nodes.iter().map(|_| IdentitySecretKey::random(&mut rng)).collect();
    let cluster = ClusterId([1; 16]);
    let secrets: Vec<_> = nodes.iter().map(|_| PrekeySecret::generate(PrekeyNumber(1), &mut rng)).collect();
    let prekeys = secrets.iter().zip(&nodes).zip(&identities);
    let prekeys = prekeys.map(|((secret, index), identity)| secret.offer(cluster, *index, identity));
    let plan = plan(cluster, threshold, &nodes, &identities, &source, &prekeys.collect::<Vec<_>>());

    let deal = |(index, identity): (&NodeIndex, &IdentitySecretKey)| {
        let seed = DealerSeed::restore(&[7; 32]);
        let dealing = Dealing::deal(&plan, *index, Some(&old.share_of(*index)), &seed);
        SignedMessage::sign(plan.digest(), *index, Body::Dealing(dealing), identity)
    };
    let (dealing_ms, _) = timed(|| deal((&nodes[0], &identities[0])));
    let encoded: Vec<_> = nodes.iter().zip(&identities).map(|dealer| deal(dealer).encode()).collect();

    // As a receiver does it: decode (subgroup checks), verify signatures and possession, compare the constant term.
    let (check_ms, transcript) = timed(|| {
        let messages: Vec<_> = encoded.iter().map(|bytes| SignedMessage::decode(bytes).expect("one message")).collect();
        let mut transcript = Transcript::new(plan.clone(), Some(source.clone()));
        let heard = transcript.hear_all(&messages.iter().collect::<Vec<_>>());
        assert!(heard.iter().all(Result::is_ok));
        transcript
    });
    let receiver = nodes.len() - 1;
    let bundles: Vec<_> = nodes.iter().filter_map(|dealer| transcript.bundle_of(*dealer)).collect();
    let (open_ms, shares) = timed(|| {
        VerifiedBundle::open_all(&bundles, &plan, nodes[receiver], &secrets[receiver]).expect("honest shares open")
    });
    let (combine_ms, vector) = timed(|| {
        let weights = lagrange_at_zero(&nodes);
        let vectors: Vec<_> = bundles.iter().map(|bundle| bundle.vector()).collect();
        let share = shares.iter().zip(&weights).fold(SecretScalar::zero(), |sum, (s, w)| sum.plus(&s.scaled(w)));
        let vector = VerificationVector::combine(&vectors, &weights).expect("honest dealings combine");
        assert!(vector.matches(nodes[receiver], &share));
        vector
    });
    assert!(vector.constant() == G2::of_secret(old.constant()), "the key stays");

    let purpose = Purpose::signature("timings", b"message");
    let (sign_ms, _) = timed(|| signature::sign(&purpose, &old.share_of(nodes[0])));
    let partials: BTreeMap<_, _> =
        nodes.iter().map(|index| (*index, signature::sign(&purpose, &old.share_of(*index)))).collect();
    let point = purpose.point();
    let (signature_ms, _) = timed(|| signature::combine(&point, &source, &partials).expect("honest partials"));
    let transport = TransportKey::random(&mut rng).public();
    let share = old.share_of(nodes[0]);
    let (derive_ms, _) = timed(|| EncryptedKey::derive(Identity(b"timings"), &transport, &share, &mut rng));
    println!(
        "{n:>4} {dealing_ms:>9.2} {check_ms:>10.2} {open_ms:>9.2} {combine_ms:>9.2} {sign_ms:>9.2} {signature_ms:>9.2} {derive_ms:>9.2}"
    );
}

fn plan(
    cluster: ClusterId,
    threshold: Threshold,
    nodes: &[NodeIndex],
    identities: &[IdentitySecretKey],
    source: &VerificationVector,
    prekeys: &[SignedPrekey],
) -> ValidPlan {
    let pairs = || nodes.iter().zip(identities);
    let plan = Plan {
        version: PlanVersion::V2,
        cluster,
        number: EpochNumber(2),
        origin: Origin::Reshare {
            source: Source { number: EpochNumber(1), plan: Digest([1; 32]), vector: source.digest(), threshold },
            public_key: source.constant(),
        },
        block: Block(1),
        threshold,
        min_holders: threshold.0,
        roster: None,
        dealers: pairs().map(|(index, key)| Member { index: *index, identity: key.public() }).collect(),
        receivers: pairs()
            .zip(prekeys)
            .map(|((index, key), prekey)| Receiver { index: *index, identity: key.public(), prekey: Some(*prekey) })
            .collect(),
        expected: nodes.to_vec(),
        deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
    };
    plan.validate().expect("the timed plan is valid")
}

/// The best of five runs, in milliseconds.
fn timed<T>(mut run: impl FnMut() -> T) -> (f64, T) {
    let mut once = || {
        let start = Instant::now();
        let value = run();
        (start.elapsed().as_secs_f64() * 1e3, value)
    };
    let (mut best, mut value) = once();
    for _ in 0..4 {
        let (ms, again) = once();
        (best, value) = (best.min(ms), again);
    }
    (best, value)
}
