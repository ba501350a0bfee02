//! Complaints: what proves a bad share, what proves its author guilty, and what each of them opens.

use std::collections::BTreeMap;

use super::{Table, deal, dealt, freeze, genesis_plan, index, reveals_nothing, say, shifted, view};
use crate::coordination::{Decision, decide};
use crate::curve::{G1, G2, Scalar};
use crate::identifiers::{Digest, EpochNumber};
use crate::plan::frozen::dealers_digest;
use crate::plan::{FrozenDigests, Plan, ValidPlan};
use crate::round::*;

/// Judges a response of `receiver` whose dealers digest is filled in.
pub(super) fn judged(
    plan: &ValidPlan,
    transcript: &Transcript,
    receiver: u32,
    response: Response,
) -> Vec<(u32, Offence)> {
    let frozen: BTreeMap<_, _> = transcript.bundles().map(|bundle| (bundle.dealer(), bundle.digest())).collect();
    let dealers = FrozenDigests::of(frozen);
    let response = Response { dealers: dealers_digest(&plan.digest(), &dealers), ..response };
    let message = say(plan, receiver, Body::Response(response));
    let mut transcript = transcript.clone();
    transcript.hear(&message).unwrap();
    let judgement = transcript.judge(&dealers, &freeze(&[&message])).unwrap();
    judgement.culprits.iter().map(|culprit| (culprit.index.value(), culprit.offence)).collect()
}

/// Complaints that prove nothing name their author; a true one names its dealer; of false ones only the first is judged.
/// seed: 004-33
#[test]
fn a_complaint_names_its_dealer_or_its_author() {
    let (plan, secrets) = genesis_plan();
    let mut bundles: Vec<_> = [2, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer)))).into();
    let bad = shifted(&plan, 3, index(5), Scalar::one());
    bundles.push(say(&plan, 3, Body::Dealing(bad)));
    let transcript = dealt(&plan, &bundles);
    let bundle = |dealer: u32| transcript.bundle_of(index(dealer)).unwrap();
    let honest = |dealer: u32| Complaint {
        dealer: index(dealer),
        bundle: bundle(dealer).digest(),
        key: secrets[&index(5)].shared_with(&deal(&plan, dealer).ephemeral.g1).disclose(),
    };
    let judge = |complaints: &[Complaint]| {
        let response = Response { dealers: Digest([0; 32]), unopened: false, complaints: complaints.to_vec() };
        judged(&plan, &transcript, 5, response)
    };
    let real = bundle(3).complain(&plan, index(5), &secrets[&index(5)]).expect("the share is bad");
    assert_eq!(real, honest(3), "what it discloses is what the two share");
    assert_eq!(judge(&[real]), [(3, Offence::BadShare(index(5)))]);
    assert_eq!(bundle(2).complain(&plan, index(5), &secrets[&index(5)]), None, "a good share gives no complaint");
    let random = Complaint { key: G1::generator(), ..honest(2) };
    let of_another =
        Complaint { key: secrets[&index(4)].shared_with(&deal(&plan, 2).ephemeral.g1).disclose(), ..honest(2) };
    let of_another_dealer = Complaint { key: honest(4).key, ..honest(2) };
    for (name, complaint) in [
        ("right", honest(2)),
        ("random", random),
        ("another receiver's", of_another),
        ("for another", of_another_dealer),
    ] {
        assert_eq!(judge(&[complaint]), [(5, Offence::FalseComplaint(index(2)))], "the {name} value");
    }
    let both = judge(&[honest(2), real, honest(4)]);
    assert_eq!(both, [(5, Offence::FalseComplaint(index(2)))], "after the first false complaint nothing counts");
    let cheated_first = judge(&[real, honest(4)]);
    assert_eq!(cheated_first, [(3, Offence::BadShare(index(5))), (5, Offence::FalseComplaint(index(4)))]);
}

/// The complaint is about bundle A of a dealer that signed two, and B was frozen: it counts for nothing, and names nobody.
#[test]
fn a_complaint_about_a_bundle_that_was_not_frozen_is_nothing() {
    let (plan, secrets) = genesis_plan();
    let bad = say(&plan, 3, Body::Dealing(shifted(&plan, 3, index(5), Scalar::one())));
    let complaint = dealt(&plan, std::slice::from_ref(&bad)).bundle_of(index(3)).unwrap().complain(
        &plan,
        index(5),
        &secrets[&index(5)],
    );
    let good = [2, 3, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer))));
    let transcript = dealt(&plan, &good);
    let response = Response { dealers: Digest([0; 32]), unopened: false, complaints: complaint.into_iter().collect() };
    assert_eq!(judged(&plan, &transcript, 5, response), [], "nobody is guilty of what was not frozen");
    let mut both = transcript;
    assert_eq!(both.hear(&bad), Err(MessageError::Contradicts(index(3))), "the two bundles convict their dealer");
}

/// A guilty complainer does not qualify as a dealer either.
#[test]
fn a_false_complainer_does_not_qualify_as_a_dealer() {
    let (plan, _) = genesis_plan();
    let bundles = [2, 3, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer))));
    let mut transcript = dealt(&plan, &bundles);
    let dealers = freeze(&bundles.iter().collect::<Vec<_>>());
    let complaint = Complaint { dealer: index(2), bundle: bundles[0].digest(), key: G1::generator() };
    let frozen = dealers_digest(&plan.digest(), &dealers);
    let response = Response { dealers: frozen, unopened: false, complaints: vec![complaint] };
    let response = say(&plan, 5, Body::Response(response));
    transcript.hear(&response).unwrap();
    let judgement = transcript.judge(&dealers, &freeze(&[&response])).unwrap();
    assert_eq!(judgement.frozen.qualified, [2, 3, 4].map(index));
}

/// Node 4 was sealed to under one prekey by several plans. In the newest, a dealer cheats it. Its complaint opens that one bundle.
#[test]
fn a_complaint_under_a_prekey_of_many_plans_opens_one_bundle() {
    let mut table = Table::new();
    table.genesis();
    // The operator has not seen node 4's newer prekey: three plans name the same one.
    let named = table.nodes[&index(4)].state.shown_prekey().copied();
    let mut plans = Vec::new();
    for number in 2..=4 {
        let mut plan: Plan = (*table.reshare_plan(number, 1)).clone();
        plan.receivers[3].prekey = named;
        plans.push(plan.validate().unwrap());
    }
    let mut heard: Vec<SignedMessage> = Vec::new();
    for plan in &plans {
        table.begin(plan);
        let cheats = plan.number == EpochNumber(4);
        for message in std::mem::take(&mut table.said) {
            let bent = match &message.body {
                Body::Dealing(dealing) if cheats && message.sender == index(1) => {
                    let mut lie = dealing.clone();
                    lie.shares[3] = lie.shares[3].map(|share| share + Scalar::one());
                    let seed = table.nodes[&index(1)].secrets.seeds.get(&plan.number).unwrap();
                    let secret = seed.ephemeral(&plan.digest(), index(1));
                    lie.possession = lie.statement(&plan.digest(), index(1)).times_secret(&secret);
                    say(plan, 1, Body::Dealing(lie))
                }
                Body::Have { dealer, .. } if cheats && *dealer == index(1) && message.sender == index(1) => continue,
                _ => message,
            };
            heard.push(bent.clone());
            table.said.push(bent);
        }
        table.settle();
    }
    let plan = &plans[2];
    let transcript = table.nodes[&index(2)].transcript(plan.number).unwrap();
    let record = RoundRecord::opened();
    let Some(Decision::FreezeDealers(dealers)) = decide(&view(transcript, &record, 2)) else {
        panic!("all have dealt")
    };
    table.observe(plan.number, &RoundRecord { phase: Phase::Verifying, dealers: Some(dealers), ..record });
    let cheated = &table.nodes[&index(4)].state.attempts[&plan.number];
    let complaint = cheated.outbox.iter().find_map(|message| match &message.body {
        Body::Response(response) => response.complaints.first().copied(),
        _ => None,
    });
    let complaint = complaint.expect("node 4 complains");
    assert_eq!(complaint.dealer, index(1));
    let prekey = named.expect("the node shows one").key;
    for message in &heard {
        let Body::Dealing(dealing) = &message.body else { continue };
        let opens = crate::curve::pairings_cancel(&[
            (complaint.key, G2::generator()),
            (prekey.times(&-Scalar::one()), dealing.ephemeral.g2),
        ]);
        assert_eq!(opens, message.digest() == complaint.bundle, "the value opens a bundle of {}", message.sender);
    }
    let said = table.nodes.values().flat_map(|node| node.state.attempts.values().flat_map(|attempt| &attempt.outbox));
    reveals_nothing(said, &[1]);
}
