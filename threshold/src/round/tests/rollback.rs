//! An API server whose data went back in time, or lies: numbers and prekeys are named again, and nothing opens twice.

use super::super::pad::PadContext;
use super::returns::NOW_MS;
use super::*;
use crate::curve::G1;
use crate::feed::Report;
use crate::identifiers::Digest;
use crate::prekey::SignedPrekey;

/// A plan on epoch 1 whose receiver 4 has this prekey, at a block of its own.
fn plan_naming(table: &Table, number: u64, block: u64, prekey: SignedPrekey) -> ValidPlan {
    let mut plan: Plan = (*table.reshare_plan(number, 1)).clone();
    plan.block = Block(block);
    plan.receivers[3].prekey = Some(prekey);
    plan.validate().unwrap()
}

/// Lets `who` accept a plan and read its record as Dealing. Returns what they say.
fn begin(table: &mut Table, plan: &ValidPlan, who: &[u32]) -> Vec<SignedMessage> {
    let mut said = Vec::new();
    for i in who {
        let node = table.nodes.get_mut(&index(*i)).unwrap();
        said.extend(node.accept((**plan).clone(), &mut table.rng).unwrap().say);
        said.extend(node.observe(plan.number, &RoundRecord::opened(), &mut table.rng).unwrap().say);
    }
    said
}

fn dealing_of(said: &[SignedMessage], dealer: u32) -> &SignedMessage {
    let dealt = |message: &&SignedMessage| message.sender == index(dealer) && matches!(message.body, Body::Dealing(_));
    said.iter().find(dealt).expect("it deals")
}

/// The points of a dealer's polynomial that two corrupt nodes have, and the one that a value disclosed by node 4 would give.
fn points_seen(table: &Table, plan: &ValidPlan, bundle: &SignedMessage, corrupt: [u32; 2], disclosed: G1) -> usize {
    let Body::Dealing(dealing) = &bundle.body else { panic!("it is a bundle") };
    let bundle = VerifiedBundle::verify(plan, bundle.sender, bundle.digest(), dealing, false).unwrap();
    let opens = |i: u32| {
        let node = &table.nodes[&index(i)];
        let named = plan.receiver(index(i)).unwrap().prekey.unwrap().number;
        VerifiedBundle::open_all(&[&bundle], plan, index(i), &node.secrets.prekeys[&named]).is_ok()
    };
    let context = PadContext {
        plan: plan.digest(),
        dealer: bundle.dealer(),
        commitments: dealing.vector.digest(),
        ephemeral: dealing.ephemeral.g1,
    };
    let prekey = plan.receivers[3].prekey.unwrap().key;
    let guessed = context.open_disclosed(&dealing.shares[3].unwrap(), index(4), &prekey, &disclosed);
    corrupt.iter().filter(|i| opens(**i)).count() + usize::from(dealing.vector.matches(index(4), &guessed))
}

/// The API server forgot a plan in which an honest node dealt; the next one names the same prekey of the node that was cut off, under
/// the same number or a rebuilt one. A liar cheats that node, and its complaint opens nothing of the forgotten round.
#[test]
fn a_prekey_named_again_after_a_rollback_opens_one_bundle() {
    for number in [2, 65_538] {
        let mut table = Table::new();
        table.genesis();
        let named = table.nodes[&index(4)].state.shown_prekey().copied().unwrap();
        let forgotten = plan_naming(&table, 2, 200, named);
        let before = begin(&mut table, &forgotten, &[2]);
        let honest = dealing_of(&before, 2).clone();
        let plan = plan_naming(&table, number, 300, named);
        let refused = table.nodes.get_mut(&index(2)).unwrap().accept((*plan).clone(), &mut table.rng).err();
        let expected = (number == 2).then_some(Refusal::OtherPlan(EpochNumber(2)));
        assert_eq!(refused, expected, "one plan per number, whatever the record forgot");
        let mut said = begin(&mut table, &plan, &[1, 3, 4]);
        let Body::Dealing(mut lie) = dealing_of(&said, 3).body.clone() else { panic!("it is a bundle") };
        lie.shares[3] = lie.shares[3].map(|share| share + Scalar::one());
        let secret = table.nodes[&index(3)].secrets.seeds[&plan.number].ephemeral(&plan.digest(), index(3));
        lie.possession = lie.statement(&plan.digest(), index(3)).times_secret(&secret);
        said.retain(|message| message.sender != index(3));
        said.push(say(&plan, 3, Body::Dealing(lie)));
        table.said.extend(said);
        table.settle();
        let record = RoundRecord::opened();
        let transcript = table.nodes[&index(4)].transcript(plan.number).unwrap();
        let Some(Decision::FreezeDealers(dealers)) = decide(&view(transcript, &record, 2)) else {
            panic!("{number}: three have dealt")
        };
        let verifying = RoundRecord { phase: Phase::Verifying, dealers: Some(dealers), ..record };
        let cheated = table.nodes.get_mut(&index(4)).unwrap();
        let answer = cheated.observe(plan.number, &verifying, &mut table.rng).unwrap().say;
        let complaint = answer.iter().find_map(|message| match &message.body {
            Body::Response(response) => response.complaints.first().copied(),
            _ => None,
        });
        let complaint = complaint.expect("node 4 complains");
        assert_eq!(complaint.dealer, index(3), "{number}: somebody else is accused");
        let seen = points_seen(&table, &forgotten, &honest, [1, 3], complaint.key);
        assert_eq!(seen, 2, "{number}: t points of an honest polynomial are known to two corrupt nodes");
    }
}

/// A plan with a prekey whose secret was stolen long ago: every dealer refuses, and names the prekey that a plan may have.
#[test]
fn a_refusal_of_an_older_prekey_names_the_accepted_one() {
    let mut table = Table::new();
    let first = table.genesis();
    let stolen = first.receivers[3].prekey.unwrap();
    let newer = table.nodes[&index(4)].state.shown_prekey().copied().unwrap();
    assert!(newer.number > stolen.number, "node 4 shows a new prekey once its share is durable");
    let failed = plan_naming(&table, 2, 200, newer);
    begin(&mut table, &failed, &[1, 2, 3]);
    let over = RoundRecord { phase: Phase::Failed, ..RoundRecord::opened() };
    let old = plan_naming(&table, 3, 300, stolen);
    for i in 1..=3 {
        let node = table.nodes.get_mut(&index(i)).unwrap();
        let _ = node.observe(failed.number, &over, &mut table.rng).unwrap();
        let refusal = node.accept((*old).clone(), &mut table.rng).expect_err("shares would be sealed to a thief");
        let (receiver, named) = (index(4), stolen.number);
        assert_eq!(refusal, Refusal::Prekey { receiver, named, accepted: Box::new(newer) });
        let reported = Report::of(&node.state).prekeys;
        assert_eq!(reported.get(&index(4)), Some(&newer), "the report does not pass on what a failed plan named");
        assert_eq!(reported.len(), 4, "each receiver is there");
    }
    let again = plan_naming(&table, 3, 300, newer);
    begin(&mut table, &again, &[1, 2, 3]);
}

/// A fleet cannot be made to report without end: of many receivers in plans that failed, those of the newest are reported.
#[test]
fn a_report_passes_on_as_many_prekeys_as_a_plan_has() {
    let mut table = Table::new();
    table.genesis();
    let node = &table.nodes[&index(1)];
    let (mut state, attempt) = (node.state.clone(), node.state.attempts[&EpochNumber(1)].clone());
    for number in 2..=27 {
        let mut plan: Plan = (*attempt.plan).clone();
        plan.number = EpochNumber(number);
        for (at, i) in (1..=4).map(|at| u32::try_from(8 * number + at).unwrap()).enumerate() {
            (plan.receivers[at].index, plan.receivers[at].identity) = (index(i), identity(i).public());
            (plan.dealers[at].index, plan.dealers[at].identity) = (index(i), identity(i).public());
            plan.expected[at] = index(i);
        }
        prekeys_for(&mut plan);
        let plan = plan.validate().unwrap();
        let named = plan.receivers.iter().map(|receiver| (receiver.index, receiver.prekey.unwrap()));
        state.accepted_prekeys.extend(named);
        let failed = Attempt { plan, verdict: Some(Verdict::Failed), ..attempt.clone() };
        state.attempts.insert(EpochNumber(number), failed);
    }
    let reported = Report::of(&state).prekeys;
    assert_eq!(reported.len(), crate::plan::MEMBERS_MAX);
    assert!(reported.contains_key(&index(220)) && !reported.contains_key(&index(17)), "the newest plans come first");
}

/// A certificate of epoch `number` over another vector, as t corrupt nodes that are shown another record could make.
fn other_certificate(table: &Table, number: u64) -> crate::purpose::Certificate {
    let known = table.nodes[&index(1)].state.attempts[&EpochNumber(number)].certificate().copied().unwrap();
    let vector = Digest([0xaa; 32]);
    let purpose = Purpose::certificate(CLUSTER, &known.plan, &vector, known.number);
    let full = table.nodes[&index(1)].state.attempts[&EpochNumber(number)].vector.clone().unwrap();
    let partials = table.nodes.iter().map(|(index, node)| {
        let share = node.share(EpochNumber(number)).unwrap();
        (*index, signature::sign(&purpose, share))
    });
    let combined = signature::combine(&purpose.point(), &full, &partials.collect()).unwrap();
    crate::purpose::Certificate { vector, signature: combined.signature, ..known }
}

/// Two valid certificates of one number prove that the API server lied. A node that hears both says so for good, and retires nothing.
#[test]
fn a_second_certificate_of_a_number_ends_retirement() {
    let mut table = Table::new();
    table.genesis();
    for number in 2..=4 {
        let plan = table.reshare_plan(number, number - 1);
        table.accept(&plan);
        table.finish(&plan);
    }
    let other = other_certificate(&table, 3);
    let forged = crate::purpose::Certificate { vector: Digest([0xbb; 32]), ..other };
    let unknown = crate::purpose::Certificate { number: EpochNumber(9), ..other };
    let proofs = table.proofs(1, &[1, 2, 3, 4], NOW_MS);
    let node = table.nodes.get_mut(&index(1)).unwrap();
    let known = node.state.attempts[&EpochNumber(3)].certificate().copied().unwrap();
    for harmless in [known, forged, unknown] {
        assert!(!node.hear_certificate(&harmless).commit, "{harmless:?} proves nothing");
    }
    let retire = |node: &mut Participant, number: u64, proofs: &Proofs, rng: &mut ChaCha20Rng| {
        let retirement = Retirement { number: EpochNumber(number), proofs: proofs.clone(), confirm_after_ms: Some(0) };
        let _ = node.date(NOW_MS);
        node.retire(&retirement, NOW_MS, rng)
    };
    assert!(retire(node, 1, &proofs, &mut table.rng).is_ok(), "nothing contradicts itself yet");
    let dealers = node.state.attempts[&EpochNumber(3)].dealers.clone().unwrap();
    let lie = RoundRecord { phase: Phase::Active, certificate: Some(other), dealers: None, ..RoundRecord::opened() };
    let fed =
        crate::feed::take(&crate::feed::Input::Record(EpochNumber(3), lie), node, NOW_MS, &mut table.rng).unwrap();
    assert!(fed.commit && fed.notices.contains(&Notice::RecordContradicted(EpochNumber(3))), "no notice is shown");
    assert_eq!(node.state.attempts[&EpochNumber(3)].certificate(), Some(&known), "the node keeps to the first");
    assert_eq!(node.state.attempts[&EpochNumber(3)].dealers.as_ref(), Some(&dealers));
    let refused = retire(node, 2, &proofs, &mut table.rng).err();
    assert_eq!(refused, Some(RetireError::RecordContradicted(EpochNumber(2))), "it erases what others may need");
    let state = PersistentState::decode(&node.state.encode()).unwrap();
    assert_eq!(state.contradicted, Some([known, other]), "a restart forgets the proof");
}
