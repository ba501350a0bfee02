//! Participants: what they accept and remember, and what they then refuse.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Table, identity, index, prekeys_for};
use crate::coordination::{Decision, RoundView, decide};
use crate::curve::G2;
use crate::identifiers::{Block, ClusterId, EpochNumber, PrekeyNumber};
use crate::plan::{FrozenDigests, Plan};
use crate::prekey::PrekeySecret;
use crate::round::*;

/// seed: 001-39, 004-01
#[test]
fn a_genesis_and_a_reshare_at_one_table_keep_the_key() {
    let mut table = Table::new();
    let first = table.genesis();
    let key = table.nodes[&index(1)].state.public_key.unwrap();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    assert_eq!(table.finish(&plan).phase, Phase::Active);
    for node in table.nodes.values() {
        assert!(node.state.public_key == Some(key), "{} believes in another key", node.state.index);
        assert_eq!(node.state.active, Some(EpochNumber(2)));
        let vectors: Vec<_> = node.state.attempts.values().filter_map(|attempt| attempt.vector.clone()).collect();
        assert!(vectors[0] != vectors[1], "the shares are new");
        assert!(node.share(first.number).is_some(), "the epoch before is kept for the grace window");
    }
}

/// seed: 004-14
#[test]
fn plans_that_would_cost_the_key_are_refused_by_every_node() {
    let mut table = Table::new();
    let first = table.genesis();
    let good = table.reshare_plan(5, 1);
    let node = table.nodes.get_mut(&index(1)).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut refusal = |change: &dyn Fn(&mut Plan)| {
        let mut plan: Plan = (*good).clone();
        change(&mut plan);
        let before = node.state.clone();
        let refusal = node.accept(plan, &mut rng).expect_err("the plan must be refused");
        assert!(node.state == before, "a refused plan leaves no trace");
        refusal
    };
    let other_cluster = |p: &mut Plan| {
        p.cluster = ClusterId([9; 16]);
        prekeys_for(p);
    };
    assert!(matches!(refusal(&other_cluster), Refusal::OtherCluster(_)));
    let second_genesis_plan = |p: &mut Plan| {
        *p = (*first).clone();
        p.block = Block(p.block.0 + 1);
    };
    assert_eq!(refusal(&second_genesis_plan), Refusal::OtherPlan(EpochNumber(1)), "one plan per number");
    let genesis = |p: &mut Plan| {
        p.origin = first.origin.clone();
        p.expected = p.receivers.iter().map(|receiver| receiver.index).collect();
    };
    assert_eq!(refusal(&genesis), Refusal::GenesisRefused, "never a second genesis");
    let other_key = |p: &mut Plan| {
        if let crate::plan::Origin::Reshare { public_key, .. } = &mut p.origin {
            *public_key = G2::generator();
        }
    };
    assert_eq!(refusal(&other_key), Refusal::PublicKey);
    let new_identity = |p: &mut Plan| {
        (p.receivers[2].identity, p.dealers[2].identity) = (identity(99).public(), identity(99).public());
        p.receivers[2].prekey = None;
    };
    assert_eq!(refusal(&new_identity), Refusal::Identity(index(3)));
    let older_prekey = |p: &mut Plan| {
        let stolen = PrekeySecret::restore(PrekeyNumber(0), &[8; 32]).unwrap();
        p.receivers[1].prekey = Some(stolen.offer(p.cluster, index(2), &identity(2)));
    };
    let (receiver, accepted) = (index(2), Box::new(first.receivers[1].prekey.unwrap()));
    assert_eq!(refusal(&older_prekey), Refusal::Prekey { receiver, named: PrekeyNumber(0), accepted });
    let _ = node.accept((*good).clone(), &mut rng).expect("unchanged, the plan is accepted");
    let mut late: Plan = (*good).clone();
    late.number = EpochNumber(4);
    let expected = Refusal::NumberNotAbove { number: EpochNumber(4), highest: EpochNumber(5) };
    assert_eq!(node.accept(late, &mut rng).expect_err("numbers only rise"), expected);
}

/// seed: 002-21
#[test]
fn frozen_fields_and_verdicts_are_written_once() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let record = table.finish(&plan);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let node = table.nodes.get_mut(&index(2)).unwrap();
    let mut other = record.clone();
    let fewer: Vec<_> = record.dealers.as_ref().unwrap().iter().take(3).collect();
    other.dealers = Some(FrozenDigests::new(fewer).unwrap());
    let changed = node.observe(plan.number, &other, &mut rng).expect_err("other frozen dealers");
    assert_eq!(changed, Contradiction::Frozen(plan.number, "dealers"));
    let failed = RoundRecord { phase: Phase::Failed, ..record };
    let verdict = node.observe(plan.number, &failed, &mut rng).expect_err("an active epoch cannot fail");
    assert_eq!(verdict, Contradiction::Verdict(plan.number));
    assert!(node.share(plan.number).is_some(), "nothing that it says is acted on");
    let proofs = table.proofs(1, &[], 0);
    let node = table.nodes.get_mut(&index(2)).unwrap();
    let mut refused = |number| {
        let retirement = Retirement { number, proofs: proofs.clone(), confirm_after_ms: Some(0) };
        node.retire(&retirement, 0, &mut rng).expect_err("it is served")
    };
    assert_eq!(refused(plan.number), RetireError::StillServed(plan.number));
    assert_eq!(refused(EpochNumber(1)), RetireError::StillServed(EpochNumber(1)));
}

/// seed: 004-16
#[test]
fn a_wrong_qualified_list_is_not_acted_on() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
    let record = RoundRecord::opened();
    let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(1), overdue: false };
    let Some(Decision::FreezeDealers(dealers)) = decide(&view) else { panic!("dealing is complete") };
    let mut record = RoundRecord { phase: Phase::Verifying, dealers: Some(dealers), ..record };
    table.observe(plan.number, &record);
    let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
    let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(1), overdue: false };
    let Some(Decision::FreezeResponses { responses, mut qualified }) = decide(&view) else { panic!("all answered") };
    qualified.pop();
    (record.responses, record.qualified, record.phase) = (Some(responses), Some(qualified), Phase::Preparing);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let node = table.nodes.get_mut(&index(3)).unwrap();
    let outputs = node.observe(plan.number, &record, &mut rng).unwrap();
    assert!(outputs.notices.contains(&Notice::RecordContradictsMessages(plan.number)));
    assert!(outputs.say.is_empty() && node.share(plan.number).is_none(), "no share is made of a set that lies");
}

/// seed: 000-11, 001-31, 003-12, 003-17, 003-53, 003-61
#[test]
fn a_restart_destroys_secrets_that_nothing_names() {
    let mut table = Table::new();
    table.genesis();
    let node = &table.nodes[&index(2)];
    let mut stored: Vec<_> =
        node.state.live_secrets().into_iter().map(|name| (name, node.expose(name).unwrap())).collect();
    let orphan = SecretName::Share(EpochNumber(77));
    stored.push((orphan, zeroize::Zeroizing::new([1; 32])));
    let bytes = node.state.encode();
    let (again, outputs) = Participant::restore(identity(2), &bytes, stored.clone()).unwrap();
    assert!(again.state == node.state, "the state comes back as it was");
    assert_eq!(outputs.destroy, [orphan], "what the ledger does not name is destroyed");
    assert!(again.share(EpochNumber(1)).is_some());
    for (name, bytes) in &mut stored {
        if matches!(name, SecretName::Share(EpochNumber(1))) {
            bytes[31] ^= 1;
        }
    }
    let fault = Participant::restore(identity(2), &bytes, stored).err().unwrap();
    assert_eq!(fault, RestoreError::Secret(SecretName::Share(EpochNumber(1))), "a damaged share is never served");
    assert!(matches!(Participant::restore(identity(2), &bytes[..40], []), Err(RestoreError::State(_))));
}

/// A node restored from a replica may have said, in its other life, what the replica does not hold.
/// seed: 000-22
#[test]
fn a_node_from_a_replica_abstains_in_older_plans() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    let node = table.nodes.get_mut(&index(4)).unwrap();
    let _ = node.abstain_through(plan.block);
    table.accept(&plan);
    let record = table.finish_without(&plan, index(4));
    assert_eq!(record.phase, Phase::Active, "three of four are enough");
    let kinds: Vec<_> =
        table.nodes[&index(4)].state.attempts[&EpochNumber(2)].outbox.iter().map(|m| m.body.kind()).collect();
    let withheld = [MessageKind::Dealing, MessageKind::Prepared, MessageKind::Partial];
    assert!(!withheld.iter().any(|kind| kinds.contains(kind)), "it neither deals, prepares nor certifies: {kinds:?}");
    assert!(table.nodes[&index(4)].share(EpochNumber(2)).is_some(), "and holds its share all the same");
}

/// A plan reaches one node later than the others have begun: nothing is said twice on a stream, so nothing may be lost.
///
/// seed: 001-39
#[test]
fn messages_before_their_plan_count_once_it_is_there() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    let late = index(4);
    let mut node = table.nodes.remove(&late).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    table.accept(&plan);
    let attempt = |participant: &Participant| participant.state.attempts[&EpochNumber(2)].outbox.clone();
    let said: Vec<_> = table.nodes.values().flat_map(attempt).collect();
    assert_eq!(
        said.iter().filter(|message| message.body.kind() == MessageKind::Dealing).count(),
        3,
        "the other three have dealt"
    );
    for message in &said {
        assert!(node.learn(&Blob::Message(message.clone()), &mut rng).unwrap().say.is_empty(), "it knows no plan yet");
    }
    let outputs = node.accept((*plan).clone(), &mut rng).unwrap();
    let has = outputs.say.iter().filter_map(|message| match message.body {
        Body::Have { dealer, .. } => Some(dealer),
        _ => None,
    });
    assert_eq!(has.collect::<Vec<_>>(), [1, 2, 3].map(index), "what came before the plan is lost");
}
