//! Responses that not everyone gets to read: a liar shows its own to the operator alone, or to too few.

use super::{Table, index, say};
use crate::coordination::{Decision, RoundView, decide};
use crate::curve::G1;
use crate::identifiers::{Block, NodeIndex};
use crate::plan::ValidPlan;
use crate::plan::frozen::dealers_digest;
use crate::round::*;

/// A round whose operator hears everyone, and whose nodes hear what the test lets through.
struct Apart {
    table: Table,
    plan: ValidPlan,
    operator: Transcript,
    record: RoundRecord,
}

impl Apart {
    /// A reshare in which everyone has dealt, and the dealers are frozen. What each node says to that waits.
    fn verifying() -> Self {
        let mut table = Table::new();
        table.genesis();
        let plan = table.reshare_plan(2, 1);
        table.accept(&plan);
        let operator = table.nodes[&index(1)].transcript(plan.number).unwrap().clone();
        let mut apart = Self { table, plan, operator, record: RoundRecord::opened() };
        let frozen = apart.decide(0).expect("all have dealt");
        apart.write(&frozen);
        apart
    }

    fn decide(&self, now: u64) -> Option<Decision> {
        let (transcript, record) = (&self.operator, &self.record);
        decide(&RoundView { transcript, record, opened: Block(0), now: Block(now), overdue: false })
    }

    /// Writes a decision; every node reads it, and what it says waits.
    fn write(&mut self, decision: &Decision) {
        self.record.apply(decision).unwrap();
        for node in self.table.nodes.values_mut() {
            let outputs = node.observe(self.plan.number, &self.record, &mut self.table.rng).unwrap();
            self.table.said.extend(outputs.say);
        }
    }

    /// Everyone hears everything that waits, the operator too.
    fn settle(&mut self) {
        while let Some(message) = self.table.said.pop() {
            let _ = self.operator.hear(&message);
            self.table.tell(&Blob::Message(message));
        }
    }

    /// Takes away what `sender` would have answered.
    fn silence(&mut self, sender: NodeIndex) {
        self.table.said.retain(|message| message.sender != sender);
    }

    /// A response of node 4 that slanders dealer 1.
    fn slander(&self) -> SignedMessage {
        let frozen = self.record.dealers.as_ref().unwrap();
        let bundle = frozen.get(index(1)).unwrap();
        let complaints = vec![Complaint { dealer: index(1), bundle, key: G1::generator() }];
        let dealers = dealers_digest(&self.plan.digest(), frozen);
        say(&self.plan, 4, Body::Response(Response { dealers, unopened: false, complaints }))
    }

    /// Goes on from Preparing to the end without passing another deadline.
    fn finish(&mut self) {
        for _ in 0..2 {
            self.settle();
            let decision = self.decide(1).unwrap_or_else(|| panic!("{:?} stays open", self.record.phase));
            self.write(&decision);
        }
        assert_eq!(self.record.phase, Phase::Active, "the round comes to nothing");
        self.settle();
        for honest in [1, 2, 3] {
            let holds = self.table.nodes[&index(honest)].share(self.plan.number).is_some();
            assert!(holds, "node {honest} holds no share of the epoch");
        }
    }
}

/// A response without complaints follows from what everyone knows, so a liar that shows it to the operator alone stops nobody.
#[test]
fn a_response_shown_to_the_operator_alone_stops_no_round() {
    let mut round = Apart::verifying();
    let four = round.table.said.iter().position(|message| message.sender == index(4)).expect("it answers");
    let withheld = round.table.said.remove(four);
    round.operator.hear(&withheld).unwrap();
    round.settle();
    let frozen = round.decide(0).expect("everyone answered");
    let Decision::FreezeResponses { responses, .. } = &frozen else { panic!("{frozen:?}") };
    assert_eq!(responses.get(index(4)), Some(withheld.digest()), "the answer of node 4 counts");
    round.write(&frozen);
    let wanted = round.table.nodes.values().flat_map(Participant::wants).count();
    assert_eq!(wanted, 0, "somebody waits for bytes that follow from what it knows");
    round.finish();
}

/// The same for an answer that says that nothing could be opened.
#[test]
fn an_unopened_response_needs_no_bytes_either() {
    let mut round = Apart::verifying();
    round.silence(index(4));
    let dealers = dealers_digest(&round.plan.digest(), round.record.dealers.as_ref().unwrap());
    let response = Response { dealers, unopened: true, complaints: Vec::new() };
    round.operator.hear(&say(&round.plan, 4, Body::Response(response))).unwrap();
    round.settle();
    let frozen = round.decide(0).expect("everyone answered");
    round.write(&frozen);
    // Whoever could not open prepares nothing, and nobody waits for it.
    round.table.said.retain(|message| message.sender != index(4));
    round.finish();
}

/// Complaints that too few nodes have are not frozen: their author costs the round one deadline, and nothing else.
#[test]
fn complaints_shown_to_the_operator_alone_cost_one_deadline() {
    let mut round = Apart::verifying();
    round.silence(index(4));
    let slander = round.slander();
    round.operator.hear(&slander).unwrap();
    let own = Body::Heard { receiver: index(4), response: slander.digest() };
    round.operator.hear(&say(&round.plan, 4, own)).unwrap();
    round.settle();
    assert_eq!(round.decide(1), None, "others may hear it before the deadline");
    let frozen = round.decide(2).expect("the deadline is over");
    let Decision::FreezeResponses { responses, qualified } = &frozen else { panic!("{frozen:?}") };
    assert_eq!(responses.iter().map(|(receiver, _)| receiver.value()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(*qualified, [1, 2, 3, 4].map(index), "what was not frozen judges nobody");
    round.write(&frozen);
    round.finish();
}

/// Complaints that enough nodes say they have are frozen and judged before the deadline, whether or not their author shows them to
/// everyone.
#[test]
fn complaints_that_enough_nodes_have_are_judged() {
    let mut round = Apart::verifying();
    round.silence(index(4));
    let slander = round.slander();
    for hearer in [1, 2] {
        let node = round.table.nodes.get_mut(&index(hearer)).unwrap();
        let said = node.learn(&Blob::Message(slander.clone()), &mut round.table.rng).unwrap().say;
        let heard = Body::Heard { receiver: index(4), response: slander.digest() };
        assert_eq!(said.iter().map(|message| &message.body).collect::<Vec<_>>(), [&heard], "node {hearer}");
        round.table.said.extend(said);
    }
    round.operator.hear(&slander).unwrap();
    round.settle();
    let frozen = round.decide(0).expect("all answered, and two have the complaint");
    let Decision::FreezeResponses { responses, qualified } = &frozen else { panic!("{frozen:?}") };
    assert_eq!(responses.get(index(4)), Some(slander.digest()));
    assert_eq!(*qualified, [1, 2, 3].map(index), "who complains falsely does not qualify");
    round.write(&frozen);
    let lacks = round.table.nodes[&index(3)].wants();
    assert_eq!(lacks.iter().map(|want| want.digest).collect::<Vec<_>>(), [slander.digest()]);
    round.table.tell(&Blob::Message(slander));
    round.finish();
}

/// A response to other dealers than the frozen ones is nothing: it is not frozen, and nobody is asked for it.
#[test]
fn a_response_to_other_dealers_is_not_frozen() {
    let mut round = Apart::verifying();
    round.silence(index(4));
    let other = Response { dealers: round.plan.digest(), unopened: false, complaints: Vec::new() };
    round.operator.hear(&say(&round.plan, 4, Body::Response(other))).unwrap();
    round.settle();
    let frozen = round.decide(0).expect("everyone said something");
    let Decision::FreezeResponses { responses, .. } = &frozen else { panic!("{frozen:?}") };
    assert_eq!(responses.get(index(4)), None);
    round.write(&frozen);
    round.finish();
}

/// In a round without complaints nobody says more than its own part.
#[test]
fn a_round_without_complaints_says_nothing_of_responses() {
    let mut round = Apart::verifying();
    round.settle();
    round.table.said.clear();
    let frozen = round.decide(0).expect("everyone answered");
    round.write(&frozen);
    round.finish();
    for node in round.table.nodes.values() {
        let outbox = &node.state.attempts[&round.plan.number].outbox;
        assert!(!outbox.iter().any(|message| matches!(message.body, Body::Heard { .. })), "{}", node.state.index);
    }
}
