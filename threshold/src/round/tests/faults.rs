//! Faulty machines: what a node computed wrongly does not leave it.

use super::{Table, index};
use crate::round::dealing::tests::FAULTY;
use crate::round::*;

/// A bit flips after the sealing. The dealer opens what it would say, reports that its machine is faulty, and says nothing; nothing of
/// the attempt stays behind.
#[test]
fn a_dealer_reports_its_faulty_machine_and_says_nothing() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    let node = table.nodes.get_mut(&index(4)).unwrap();
    let _ = node.accept((*plan).clone(), &mut table.rng).unwrap();
    FAULTY.set(true);
    let faulty = node.observe(plan.number, &RoundRecord::opened(), &mut table.rng).unwrap();
    FAULTY.set(false);
    assert!(matches!(faulty.notices[..], [Notice::FaultyDealing(..)]), "{:?}", faulty.notices);
    assert!(!faulty.say.iter().any(|message| message.body.kind() == MessageKind::Dealing), "the bundle leaves");
    assert_eq!(faulty.create, [], "the seed of a bundle that nobody has is made durable");
    let sound = node.observe(plan.number, &RoundRecord::opened(), &mut table.rng).unwrap();
    assert!(sound.say.iter().any(|message| message.body.kind() == MessageKind::Dealing), "it deals when it can");
}

/// Restored from a replica in an open round, a node may have lost the prekey with which its other life opened its shares. Whatever it
/// said there, it says nothing else now: two answers would name an honest node.
#[test]
fn a_node_restored_in_an_open_round_says_nothing_else() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let node = &table.nodes[&index(4)];
    let bytes = node.state.encode();
    let stored = node.state.live_secrets().into_iter().filter(|name| !matches!(name, SecretName::Prekey(_)));
    let stored: Vec<_> = stored.map(|name| (name, node.expose(name).unwrap())).collect();
    let record = table.finish(&plan);
    assert_eq!(record.phase, Phase::Active);
    let verifying = RoundRecord { phase: Phase::Verifying, dealers: record.dealers, ..RoundRecord::opened() };
    let said: Vec<_> = table.nodes.values().flat_map(|node| node.state.attempts[&plan.number].outbox.clone()).collect();
    let (mut again, _) = Participant::restore(super::identity(4), &bytes, stored).unwrap();
    let _ = again.abstain_through(plan.block);
    let mut answers = again.observe(plan.number, &verifying, &mut table.rng).unwrap().say;
    for message in said.iter().filter(|message| message.sender != index(4)) {
        answers.extend(again.learn(&Blob::Message(message.clone()), &mut table.rng).unwrap().say);
    }
    assert_eq!(answers, [], "it answers again in a round in which it may have answered");
}
