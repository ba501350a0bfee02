//! Records that contradict what a node knows: it says nothing to them, and follows the right one once it reads that.

use super::{Table, index};
use crate::plan::{FrozenDigests, ValidPlan};
use crate::round::*;

/// A finished reshare at a table, told to node 4 anew by a record that may lie.
struct Told {
    node: Participant,
    table: Table,
    plan: ValidPlan,
    record: RoundRecord,
    said: Vec<SignedMessage>,
}

impl Told {
    /// Node 4 has heard all bundles, and has read no frozen field yet.
    fn begin() -> Self {
        let mut table = Table::new();
        table.genesis();
        let plan = table.reshare_plan(2, 1);
        table.accept(&plan);
        let node = &table.nodes[&index(4)];
        let stored = node.state.live_secrets().into_iter().map(|name| (name, node.expose(name).unwrap()));
        let (mut node, _) = Participant::restore(super::identity(4), &node.state.encode(), stored).unwrap();
        let record = table.finish(&plan);
        assert_eq!(record.phase, Phase::Active);
        let said: Vec<_> =
            table.nodes.values().flat_map(|node| node.state.attempts[&plan.number].outbox.clone()).collect();
        for message in said.iter().filter(|message| message.body.kind() == MessageKind::Dealing) {
            let _ = node.learn(&Blob::Message(message.clone()), &mut table.rng);
        }
        Self { node, table, plan, record, said }
    }

    fn observe(&mut self, record: &RoundRecord) -> Result<Outputs, Contradiction> {
        self.node.observe(self.plan.number, record, &mut self.table.rng)
    }

    /// The frozen dealers with their digests shifted by one.
    fn permuted(&self) -> FrozenDigests {
        let dealers = self.record.dealers.as_ref().unwrap();
        let digests: Vec<_> = dealers.iter().map(|(_, digest)| digest).collect();
        let shifted = digests.iter().cycle().skip(1);
        FrozenDigests::new(dealers.iter().zip(shifted).map(|((dealer, _), digest)| (dealer, *digest)).collect())
            .unwrap()
    }

    fn verifying(&self, dealers: FrozenDigests) -> RoundRecord {
        RoundRecord { phase: Phase::Verifying, dealers: Some(dealers), ..RoundRecord::opened() }
    }

    fn hear_all(&mut self) {
        for message in self.said.clone() {
            let _ = self.node.learn(&Blob::Message(message), &mut self.table.rng);
        }
    }
}

/// Dealers under whose names the record lists other nodes' bundles silence a node, until the record is right.
#[test]
fn a_corrected_list_of_dealers_is_followed() {
    let mut told = Told::begin();
    let wrong = told.verifying(told.permuted());
    let silenced = told.observe(&wrong).unwrap();
    assert!(matches!(silenced.notices[..], [Notice::ForeignBundle(..)]), "{:?}", silenced.notices);
    assert_eq!(silenced.say, [], "it answers to a record that lies");
    let right = told.verifying(told.record.dealers.clone().unwrap());
    let answer = told.observe(&right).expect("the record is right again").say;
    assert!(matches!(answer[..], [SignedMessage { body: Body::Response(_), .. }]), "{answer:?}");
}

/// The same for a list that was read before the bundles came which prove it wrong, and after a restart.
#[test]
fn a_list_that_bundles_prove_wrong_is_not_kept() {
    let mut told = Told::begin();
    let wrong = told.verifying(told.permuted());
    let _ = told.observe(&wrong).unwrap();
    let attempt = &told.node.state.attempts[&told.plan.number];
    assert_eq!(attempt.dealers, None, "what the bundles prove wrong is kept as if it had been frozen");
}

/// Qualified dealers that do not follow from the messages are not acted on; the right ones are.
#[test]
fn a_corrected_list_of_qualified_dealers_is_followed() {
    let mut told = Told::begin();
    let dealers = told.record.dealers.clone();
    let right = RoundRecord { phase: Phase::Preparing, certificate: None, dealers, ..told.record.clone() };
    let wrong = RoundRecord { qualified: Some([1, 2, 3].map(index).into()), ..right.clone() };
    let _ = told.observe(&told.verifying(right.dealers.clone().unwrap())).unwrap();
    let _ = told.observe(&wrong).unwrap();
    told.hear_all();
    assert!(told.node.share(told.plan.number).is_none(), "it acts on a record that lies");
    let prepared = told.observe(&right).expect("the record is right again").say;
    assert!(matches!(prepared[..], [SignedMessage { body: Body::Prepared { .. }, .. }]), "{prepared:?}");
}

/// A certificate says by itself what the epoch is, whatever else the record says.
#[test]
fn a_certificate_counts_beside_frozen_fields_that_changed() {
    let mut told = Told::begin();
    let _ = told.observe(&told.verifying(told.record.dealers.clone().unwrap())).unwrap();
    let contradicting = RoundRecord { dealers: Some(told.permuted()), ..told.record.clone() };
    let outputs = told.observe(&contradicting).expect("the certificate verifies");
    let attempt = &told.node.state.attempts[&told.plan.number];
    assert_eq!(attempt.certificate(), told.record.certificate.as_ref(), "the epoch serves, and the node does not know");
    assert!(outputs.notices.iter().any(|notice| matches!(notice, Notice::Contradicted(_))), "{:?}", outputs.notices);
    let unsigned = RoundRecord { certificate: None, phase: Phase::Preparing, ..contradicting };
    assert!(told.observe(&unsigned).is_err(), "nothing but the certificate is taken of it");
}
