//! Floods: what a liar makes others compute, and what it makes them remember, is bounded.

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{CLUSTER, COMBINED, Table, deal, dealt, genesis_plan, identity, index, say, shifted, view};
use crate::coordination::{Decision, decide};
use crate::curve::{G1, HashDomain, Scalar};
use crate::identifiers::{Digest, NodeIndex, PrekeyNumber, Threshold};
use crate::plan::frozen::dealers_digest;
use crate::plan::{Member, Receiver, ValidPlan};
use crate::prekey::PrekeySecret;
use crate::round::bundle::tests::JUDGED;
use crate::round::*;

/// A genesis of nine, as [`genesis_plan`].
fn nine() -> (ValidPlan, BTreeMap<NodeIndex, PrekeySecret>) {
    let mut plan = crate::plan::tests::genesis_example();
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    (plan.dealers, plan.receivers, plan.expected) = Default::default();
    let mut secrets = BTreeMap::new();
    for i in (1..=9).map(index) {
        let secret = PrekeySecret::generate(PrekeyNumber(3), &mut rng);
        let key = identity(i.value());
        let prekey = Some(secret.offer(plan.cluster, i, &key));
        secrets.insert(i, secret);
        plan.expected.push(i);
        plan.dealers.push(Member { index: i, identity: key.public() });
        plan.receivers.push(Receiver { index: i, identity: key.public(), prekey });
    }
    plan.threshold = Threshold(6);
    plan.min_holders = 9;
    (plan.validate().unwrap(), secrets)
}

fn judgements(work: impl FnOnce()) -> usize {
    let before = JUDGED.get();
    work();
    JUDGED.get() - before
}

/// Every liar complains late about everybody with the value that it truly shares with them, so that each complaint has to be opened.
/// Two judgements for each liar: the one that convicts it as a dealer, and the one that convicts it as a complainer.
#[test]
fn late_complaints_cost_two_judgements_per_liar_at_most() {
    let (plan, secrets) = nine();
    let liars = [7, 8, 9];
    // Liar 7 deals badly to liar 8, so that one of the complaints is a true one.
    let dealing = |dealer| if dealer == 7 { shifted(&plan, 7, index(8), Scalar::one()) } else { deal(&plan, dealer) };
    let bundles: Vec<_> = (1..=9).map(|dealer| say(&plan, dealer, Body::Dealing(dealing(dealer)))).collect();
    let late = |liar: u32| {
        let complaint = |bundle: &SignedMessage| {
            let Body::Dealing(dealing) = &bundle.body else { unreachable!() };
            let key = secrets[&index(liar)].shared_with(&dealing.ephemeral.g1).disclose();
            Complaint { dealer: bundle.sender, bundle: bundle.digest(), key }
        };
        let mut complaints: Vec<_> = bundles.iter().map(complaint).collect();
        if liar == 8 {
            complaints.retain(|complaint| complaint.dealer.value() >= 7);
        }
        say(&plan, liar, Body::Late(complaints))
    };
    let mut transcript = dealt(&plan, &bundles);
    let before_the_freeze = judgements(|| liars.iter().for_each(|liar| transcript.hear(&late(*liar)).unwrap()));
    assert_eq!(before_the_freeze, 0, "nothing is judged that no record has frozen");
    assert_eq!(transcript.culprits().count(), 0);
    let judged = judgements(|| {
        transcript.want(bundles.iter().map(SignedMessage::digest));
        for again in liars {
            let _ = transcript.hear(&late(again));
        }
    });
    assert!(judged <= 2 * liars.len(), "{judged} judgements for {} liars", liars.len());
    let guilty: Vec<_> = transcript.culprits().map(|culprit| culprit.index.value()).collect();
    assert_eq!(guilty, liars, "they are named, and nobody else");
}

/// Words that repeat their kind are forgotten at once: a sender that signs one kind without end fills no memory.
#[test]
fn words_that_change_nothing_are_not_remembered() {
    let (plan, _) = genesis_plan();
    let mut transcript = Transcript::new(plan.clone(), None);
    let mut flood = |body: &dyn Fn(u8) -> Body| {
        let mut remembered = 0;
        for i in 0..50 {
            let _ = transcript.hear(&say(&plan, 5, body(i)));
            if i == 2 {
                remembered = transcript.remembered();
            }
        }
        assert_eq!(transcript.remembered(), remembered, "{:?} fills the memory", body(0).kind());
    };
    let point = |i: u8| G1::hash(&[i], HashDomain::Signature);
    let complaint = |i: u8| Complaint { dealer: index(2), bundle: Digest([i; 32]), key: point(i) };
    flood(&|i| Body::Holds { vector: Digest([i; 32]) });
    flood(&|i| Body::Partial(point(i)));
    flood(&|i| Body::Late(vec![complaint(i)]));
    flood(&|i| Body::Prepared { vector: Digest([i; 32]), frozen: Digest([0; 32]) });
    flood(&|i| Body::Have { dealer: index(2), bundle: Digest([i; 32]) });
    flood(&|i| Body::Response(Response { dealers: Digest([i; 32]), unopened: false, complaints: Vec::new() }));
    assert_eq!(transcript.holds()[&index(5)], Digest([0; 32]), "the first word counts");
}

/// The operator looks at a round again and again while nothing changes. It is judged once.
#[test]
fn a_round_is_judged_once_however_often_it_is_looked_at() {
    let (plan, _) = genesis_plan();
    let mut bundles: Vec<_> = [2, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer)))).into();
    bundles.push(say(&plan, 3, Body::Dealing(deal(&plan, 3))));
    bundles.sort_by_key(|bundle| bundle.sender);
    let mut transcript = dealt(&plan, &bundles);
    let dealers = super::freeze(&bundles.iter().collect::<Vec<_>>());
    let complaint = Complaint { dealer: index(2), bundle: bundles[0].digest(), key: G1::generator() };
    let named = dealers_digest(&plan.digest(), &dealers);
    let response = |complaints| Body::Response(Response { dealers: named, unopened: false, complaints });
    let mut responses: Vec<_> = [2, 3, 4].map(|receiver| say(&plan, receiver, response(Vec::new()))).into();
    responses.push(say(&plan, 5, response(vec![complaint])));
    responses.iter().for_each(|response| transcript.hear(response).unwrap());
    let responses = super::freeze(&responses.iter().collect::<Vec<_>>());
    let record = RoundRecord {
        phase: Phase::Preparing,
        dealers: Some(dealers),
        responses: Some(responses),
        qualified: Some([2, 3, 4].map(index).into()),
        ..RoundRecord::opened()
    };
    let combined = COMBINED.get();
    let judged = judgements(|| {
        for _ in 0..10 {
            let failed = decide(&view(&transcript, &record, 1_000));
            assert!(matches!(failed, Some(Decision::Fail(_))), "nobody prepared");
            assert_eq!(crate::coordination::closing::culprits(&view(&transcript, &record, 1_000)).len(), 1);
        }
    });
    assert_eq!(judged, 1, "the same complaint is judged again and again");
    assert_eq!(COMBINED.get() - combined, 1, "the same polynomials are added again and again");
}

/// Attempts that fail one after the other are not all kept until one succeeds.
#[test]
fn failed_attempts_do_not_pile_up() {
    let mut table = Table::new();
    table.genesis();
    for number in 2..=30 {
        let plan = table.reshare_plan(number, 1);
        table.begin(&plan);
        table.said.clear();
        let failed = RoundRecord { phase: Phase::Failed, ..RoundRecord::opened() };
        table.observe(plan.number, &failed);
    }
    for node in table.nodes.values() {
        assert_eq!(node.state.cluster, CLUSTER);
        let kept = node.state.attempts.len();
        assert!(kept <= 8, "{} keeps {kept} attempts of which one lives", node.state.index);
        assert!(node.state.attempts.len() == node.transcripts.len() + kept - 1, "nor is their transcript kept");
    }
}
