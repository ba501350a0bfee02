//! Records that are older than the nodes, and nodes that show what no record knows: nobody is stopped for good.

use keyfleet_crds::convert::record_of;
use keyfleet_crds::epoch::Phase;
use keyfleet_planner::model::Objects;
use keyfleet_simulation::{Behaviour, Fleet, Settings, seeds};
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};
use keyfleet_threshold::purpose::Certificate;
use keyfleet_threshold::round;
use keyfleet_threshold::serving::signature;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).expect("indices start at one")
}

/// A fleet of four, threshold three, whose first epoch all hold.
fn fleet(seed: u64) -> (Fleet, EpochNumber) {
    let mut fleet = Fleet::new(seed, Settings::CALM, 4, 3, 3);
    let first = fleet.next_active(None, 30);
    fleet.run_until("everyone holds the first epoch", 5, |fleet| fleet.holders(first).len() == 4);
    (fleet, first)
}

fn phase(fleet: &Fleet, number: EpochNumber) -> Option<Phase> {
    fleet.api.now.epochs.get(&number.0)?.phase()
}

/// Lets `who` make the certificate of a round from its own signature and those that the others said, and keep it.
fn keep_certificate(fleet: &mut Fleet, who: u32, number: EpochNumber) {
    let plan = fleet.plan(number);
    let record = record_of(&plan, Some(fleet.status(number))).expect("the operator writes records");
    let mut record = record.expect("the round is open");
    let node = fleet.nodes.get_mut(&index(who)).expect("it is there");
    let participant = &mut node.process.as_mut().expect("it runs").participant;
    let vector = participant.state().attempts[&number].vector.clone().expect("it is prepared");
    let transcript = participant.transcript(number).expect("it takes part");
    let purpose = transcript.certificate_purpose(&vector.digest());
    let mut partials = transcript.partials().clone();
    partials.insert(index(who), signature::sign(&purpose, participant.share(number).expect("it has its share")));
    let combined = signature::combine(&purpose.point(), &vector, &partials).expect("three have signed");
    record.phase = round::Phase::Active;
    record.certificate = Some(Certificate {
        cluster: plan.cluster,
        number,
        plan: plan.digest(),
        vector: vector.digest(),
        signature: combined.signature,
    });
    let outputs =
        participant.observe(number, &record, &mut ChaCha20Rng::seed_from_u64(5)).expect("it contradicts nothing");
    node.carry_out(outputs, None);
    let state = node.process.as_ref().expect("it runs").participant.state();
    assert_eq!(state.newest_certified().map(|certificate| certificate.number), Some(number), "it is convinced");
}

/// Node 4 is away, and node 3 signs the certificate for itself alone: the attempt fails, and five later failures let its record go.
/// Then node 3 shows the certificate. When node 4 is back, rounds succeed.
#[test]
fn a_certificate_that_one_node_kept_stops_no_fleet() {
    for seed in seeds(2) {
        let (mut fleet, first) = fleet(seed);
        fleet.take_down(4);
        fleet.behave(3, Behaviour::Withholder);
        let open = |fleet: &Fleet| fleet.epochs().next_back().map(|epoch| EpochNumber(epoch.spec.number));
        let all_signed = |fleet: &Fleet, number: EpochNumber| {
            let node = fleet.nodes[&index(3)].process.as_ref();
            let partials = node.and_then(|it| it.participant.transcript(number)).map_or(0, |it| it.partials().len());
            phase(fleet, number) == Some(Phase::Certifying) && partials == 3
        };
        fleet.run_until("an attempt lacks one signature", 30, |fleet| {
            open(fleet).is_some_and(|number| number > first && all_signed(fleet, number))
        });
        let failed = open(&fleet).expect("it was just seen");
        keep_certificate(&mut fleet, 3, failed);
        fleet.run_until("the attempt fails", 10, |fleet| phase(fleet, failed) == Some(Phase::Failed));
        fleet.run_until("its record is gone", 300, |fleet| !fleet.api.now.epochs.contains_key(&failed.0));
        assert_eq!(fleet.active(), Some(first), "seed {seed}: nothing succeeded meanwhile");
        fleet.take_down(3);
        fleet.behave(3, Behaviour::Honest);
        fleet.bring_up(3);
        fleet.bring_up(4);
        let next = fleet.next_active(Some(first), 100);
        assert!(next > failed, "seed {seed}");
        fleet.run_until("all four hold it", 20, |fleet| fleet.holders(next).len() == 4);
    }
}

/// An attempt named node 4's newer prekey and failed. Then the KmsNodes come back from an older backup, the failed KeyEpoch is gone, and
/// node 4 is away: its older prekey is all that the API server knows, and no dealer seals to that. The others' reports know the newer.
#[test]
fn a_prekey_that_the_objects_forgot_costs_no_round() {
    for seed in seeds(2) {
        let mut fleet = Fleet::new(seed, Settings::CALM, 4, 3, 3);
        fleet.run_until("genesis is under way", 30, |fleet| phase(fleet, EpochNumber(1)) == Some(Phase::Dealing));
        let backup = fleet.api.now.clone();
        let first = fleet.next_active(None, 30);
        fleet.run_until("everyone holds the first epoch", 5, |fleet| fleet.holders(first).len() == 4);
        fleet.run_blocks(2);
        let shown = |objects: &Objects| objects.nodes[&4].prekey.map(|prekey| prekey.number);
        assert!(shown(&fleet.api.now) > shown(&backup), "seed {seed}: node 4 shows a newer prekey than in the backup");
        fleet.take_down(4);
        fleet.behave(3, Behaviour::Withholder);
        let failed = |fleet: &Fleet| fleet.epochs().any(|epoch| epoch.phase() == Some(Phase::Failed));
        fleet.run_until("an attempt lacks one signature and fails", 40, failed);
        fleet.behave(3, Behaviour::Honest);
        let mut older = Objects { nodes: backup.nodes, ..fleet.api.now.clone() };
        older.epochs.retain(|_, epoch| epoch.phase() != Some(Phase::Failed));
        fleet.api.restore(&older);
        assert!(!failed(&fleet), "seed {seed}: the failed attempt is forgotten");
        let next = fleet.next_active(Some(first), 100);
        let named = fleet.plan(next).receiver(index(4)).and_then(|receiver| receiver.prekey);
        assert!(named.map(|prekey| prekey.number) > shown(&fleet.api.now), "seed {seed}: sealed to the forgotten one");
        fleet.bring_up(4);
        fleet.run_until("node 4 opens its share", 20, |fleet| fleet.holders(next).len() == 4);
    }
}
