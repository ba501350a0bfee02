//! Invariants: true after every event, whatever was lost, delayed, restarted or lied about.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_crds::convert::{certificate_of, plan_of, point};
use keyfleet_crds::epoch::Phase;
use keyfleet_planner::Action;
use keyfleet_planner::model::Objects;
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::plan::Frozen;
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::round::{Body, MessageKind, Participant, PersistentState, SecretName, SignedMessage, Verdict};
use keyfleet_threshold::serving::signature;

use crate::erasures::Erasures;
use crate::node::{Node, holders, living_holders};
use keyfleet_adversary::Behaviour;

/// Memory of the checks from one event to the next.
#[derive(Default)]
pub(crate) struct Invariants {
    public_key: Option<G2>,
    vectors: BTreeMap<EpochNumber, Digest>,
    frozen: BTreeMap<EpochNumber, Frozen>,
    verdicts: BTreeMap<(NodeIndex, EpochNumber), Verdict>,
    said: BTreeMap<(NodeIndex, EpochNumber, MessageKind, Option<NodeIndex>), Digest>,
    signed: BTreeMap<EpochNumber, BTreeSet<NodeIndex>>,
    durable: BTreeMap<NodeIndex, BTreeSet<Digest>>,
    certified: BTreeSet<u64>,
    retired: BTreeSet<(NodeIndex, EpochNumber)>,
    erasures: Erasures,
}

impl Invariants {
    /// Remembers the plans that were posted: nobody else does so for ever.
    pub(crate) fn note_plans(&mut self, objects: &Objects) {
        self.erasures.note_plans(objects);
    }

    /// Checks everything that the event could have changed: the node it touched, and the epochs that are served.
    pub(crate) fn check(&mut self, nodes: &BTreeMap<NodeIndex, Node>, touched: Option<NodeIndex>) -> Option<String> {
        let result = (|| {
            if let Some(node) = touched.map(|index| &nodes[&index])
                && let (Some(process), Behaviour::Honest) = (&node.process, node.behaviour)
            {
                let state = process.participant.state();
                self.invariant_public_key_never_changes(state)?;
                self.invariant_one_vector_and_one_frozen_record_per_number(state)?;
                self.invariant_one_verdict_per_number(state)?;
                self.invariant_nothing_is_said_twice_differently(node)?;
                invariant_secrets_of_ended_rounds_are_gone(node, &process.participant)?;
                self.invariant_only_durable_words_are_read(node)?;
                self.invariant_an_epoch_goes_once_a_newer_one_is_held(nodes, state)?;
                self.invariant_shares_sign(nodes, state)?;
                self.erasures.invariant_erased_is_closed(node)?;
                invariant_honest_nodes_share_nothing_with_others(nodes, state)?;
            }
            Ok(())
        })();
        result.err()
    }

    /// The certificate of every epoch that serves verifies under the one key of the cluster's status.
    pub(crate) fn invariant_certificates_verify(&mut self, objects: &Objects) -> Result<(), String> {
        let Some(key) = &objects.cluster.status.public_key else { return Ok(()) };
        for (number, epoch) in objects.served() {
            if !self.certified.insert(number) {
                continue;
            }
            let read = || {
                let plan = plan_of(&epoch.spec).ok()?;
                let certificate = certificate_of(&plan, epoch.status.as_ref()?).ok()??;
                Some(certificate.verify(&point(key).ok()?))
            };
            ensure(read() == Some(true), || format!("the certificate of epoch {number} does not verify"))?;
        }
        Ok(())
    }

    /// Nobody honest is named with evidence: what proves something, proves a lie.
    pub(crate) fn invariant_only_liars_are_convicted(
        &self,
        nodes: &BTreeMap<NodeIndex, Node>,
        objects: &Objects,
    ) -> Result<(), String> {
        let statuses = objects.epochs.values().filter_map(|epoch| Some((epoch.spec.number, epoch.status.as_ref()?)));
        for (number, status) in statuses {
            for culprit in status.culprits.iter().filter(|culprit| !culprit.evidence_digests.is_empty()) {
                let lied = NodeIndex::new(culprit.index).and_then(|index| nodes.get(&index)).is_some_and(|it| it.lied);
                ensure(lied, || {
                    format!("epoch {number}: honest node {} is named for {:?}", culprit.index, culprit.fault)
                })?;
            }
        }
        Ok(())
    }

    fn invariant_public_key_never_changes(&mut self, state: &PersistentState) -> Result<(), String> {
        let Some(key) = state.public_key else { return Ok(()) };
        let first = *self.public_key.get_or_insert(key);
        ensure(first == key, || format!("node {} believes in another public key", state.index))
    }

    fn invariant_one_vector_and_one_frozen_record_per_number(&mut self, state: &PersistentState) -> Result<(), String> {
        for (number, attempt) in &state.attempts {
            if let Some(frozen) = &attempt.frozen {
                let first = self.frozen.entry(*number).or_insert_with(|| frozen.clone());
                ensure(first == frozen, || format!("epoch {number}: node {} froze another record", state.index))?;
            }
            if let Some(vector) = &attempt.vector {
                let digest = vector.digest();
                let first = *self.vectors.entry(*number).or_insert(digest);
                ensure(first == digest, || format!("epoch {number}: node {} has another vector", state.index))?;
            }
            if let Some(certificate) = attempt.certificate() {
                let first = *self.vectors.entry(*number).or_insert(certificate.vector);
                ensure(first == certificate.vector, || format!("epoch {number}: certificate of another vector"))?;
                ensure(certificate.plan == attempt.plan.digest(), || format!("epoch {number}: foreign certificate"))?;
            }
        }
        Ok(())
    }

    fn invariant_one_verdict_per_number(&mut self, state: &PersistentState) -> Result<(), String> {
        for (number, attempt) in &state.attempts {
            let Some(verdict) = attempt.verdict else { continue };
            let first = *self.verdicts.entry((state.index, *number)).or_insert(verdict);
            let same = matches!(
                (&first, &verdict),
                (Verdict::Failed, Verdict::Failed) | (Verdict::Active(_), Verdict::Active(_))
            );
            ensure(same, || format!("epoch {number}: node {} changed its verdict", state.index))?;
        }
        Ok(())
    }

    /// A node destroys its share of an epoch only while the threshold of a newer one lives: whatever the record says, and whatever
    /// nodes that are no more have said.
    fn invariant_an_epoch_goes_once_a_newer_one_is_held(
        &mut self,
        nodes: &BTreeMap<NodeIndex, Node>,
        state: &PersistentState,
    ) -> Result<(), String> {
        for (number, _) in state.attempts.iter().filter(|(_, attempt)| attempt.retired) {
            if !self.retired.insert((state.index, *number)) {
                continue;
            }
            let newer =
                state.attempts.iter().filter(|(newer, attempt)| *newer > number && attempt.certificate().is_some());
            let mut newer = newer.map(|(newer, attempt)| (newer, attempt.plan.threshold.count()));
            ensure(newer.any(|(newer, needed)| living_holders(nodes, *newer).len() >= needed), || {
                format!("node {} destroyed epoch {number}, and no newer one is held by its threshold", state.index)
            })?;
        }
        Ok(())
    }

    /// A restart says the same words again; it never says others.
    fn invariant_nothing_is_said_twice_differently(&mut self, node: &Node) -> Result<(), String> {
        for (number, message) in node.said() {
            let digest = message.digest();
            let about = match &message.body {
                Body::Have { dealer, .. } => Some(*dealer),
                Body::Heard { receiver, .. } => Some(*receiver),
                _ => None,
            };
            let key = (node.index, number, message.body.kind(), about);
            let first = *self.said.entry(key).or_insert(digest);
            ensure(first == digest, || {
                format!("epoch {number}: node {} said two different messages of kind {:?}", node.index, key.2)
            })?;
        }
        Ok(())
    }

    /// Whatever others may read is in the committed state: a crash takes back nothing that was said.
    fn invariant_only_durable_words_are_read(&mut self, node: &Node) -> Result<(), String> {
        let read: BTreeSet<_> = node.said().map(|(_, message)| message.digest()).collect();
        if self.durable.get(&node.index) == Some(&read) {
            return Ok(());
        }
        // Equal bytes are an equal state, and cheaper to compare; that they decode is shown by every restart.
        let Some(state) = node.process.as_ref().map(|process| process.participant.state()) else { return Ok(()) };
        let committed = state.encode() == node.disk.state;
        ensure(committed, || format!("node {} works on what is not committed", node.index))?;
        let outboxes = state.attempts.values().flat_map(|attempt| attempt.outbox.iter());
        let said: BTreeSet<_> = outboxes.map(SignedMessage::digest).collect();
        ensure(read.is_subset(&said), || format!("node {} let others read what was not durable", node.index))?;
        self.durable.insert(node.index, read);
        Ok(())
    }

    /// Every held share of a certified epoch lies on its vector, and any t of them sign for the one public key.
    fn invariant_shares_sign(
        &mut self,
        nodes: &BTreeMap<NodeIndex, Node>,
        state: &PersistentState,
    ) -> Result<(), String> {
        for (number, attempt) in &state.attempts {
            let (Some(_), Some(vector)) = (attempt.certificate(), &attempt.vector) else { continue };
            let mut holders = holders(nodes, *number);
            holders.retain(|index| nodes[index].behaviour == Behaviour::Honest);
            if self.signed.get(number) == Some(&holders) {
                continue;
            }
            let purpose = Purpose::signature("simulation", &number.0.to_be_bytes());
            let partials: BTreeMap<_, _> = holders
                .iter()
                .filter_map(|index| {
                    let share = nodes[index].process.as_ref()?.participant.share(*number)?;
                    Some((*index, signature::sign(&purpose, share)))
                })
                .collect();
            let wrong = signature::culprits(&purpose.point(), vector, &partials);
            ensure(wrong.is_empty(), || format!("epoch {number}: shares of {wrong:?} are not on the vector"))?;
            if partials.len() >= vector.threshold().count() {
                // With all shares on the vector, the lowest t and the highest t stand for any t.
                let low = signature::combine(&purpose.point(), vector, &partials).map_err(|fault| fault.to_string())?;
                let high: BTreeMap<_, _> =
                    partials.iter().rev().take(vector.threshold().count()).map(|(i, p)| (*i, *p)).collect();
                let high = signature::combine(&purpose.point(), vector, &high).map_err(|fault| fault.to_string())?;
                ensure(low.signature == high.signature, || format!("epoch {number}: two subsets sign differently"))?;
            }
            self.signed.insert(*number, holders);
        }
        Ok(())
    }
}

/// An epoch is Confirmed only when its threshold of nodes lives to sign with it, and Retired only when a newer one that is kept
/// has such nodes: checked as an operator decides it, by what is on the nodes' disks.
pub(crate) fn invariant_live_nodes_hold_what_is_confirmed_or_stands_in(
    objects: &Objects,
    nodes: &BTreeMap<NodeIndex, Node>,
    actions: &[Action],
) -> Result<(), String> {
    let epochs = &objects.epochs;
    let lives =
        |number: u64| living_holders(nodes, EpochNumber(number)).len() >= epochs[&number].spec.threshold as usize;
    let retired = |number: u64| {
        actions.iter().any(|action| {
            matches!(action, Action::UpdateEpoch { number: other, status, .. }
                if *other == number && status.phase == Some(Phase::Retired))
        })
    };
    for action in actions {
        let Action::UpdateEpoch { number, status, .. } = action else { continue };
        let before = epochs[number].status.as_ref().and_then(|status| status.phase);
        if before == status.phase {
            continue;
        }
        if status.phase == Some(Phase::Confirmed) {
            ensure(lives(*number), || {
                format!("epoch {number} would be Confirmed without a threshold of live holders")
            })?;
        }
        if status.phase == Some(Phase::Retired) {
            let mut newer = objects.served().map(|(newer, _)| newer).filter(|newer| newer > number);
            let stands_in = newer.any(|newer| !retired(newer) && lives(newer));
            ensure(stands_in, || {
                format!("epoch {number} would be Retired, and no newer one is held by its threshold")
            })?;
        }
    }
    Ok(())
}

/// An honest node discloses what it shares with a dealer only where that dealer lied: whatever was lost, delayed or said by others.
fn invariant_honest_nodes_share_nothing_with_others(
    nodes: &BTreeMap<NodeIndex, Node>,
    state: &PersistentState,
) -> Result<(), String> {
    for message in state.attempts.values().flat_map(|attempt| &attempt.outbox) {
        for dealer in message.body.complaints().iter().map(|complaint| complaint.dealer) {
            ensure(nodes[&dealer].lied, || {
                format!("node {} disclosed what it shares with node {dealer}", state.index)
            })?;
        }
    }
    Ok(())
}

/// A secret on disk is named by the ledger, and the ledger names none of a failed, ended or retired round.
fn invariant_secrets_of_ended_rounds_are_gone(node: &Node, process: &Participant) -> Result<(), String> {
    let state = process.state();
    let live = state.live_secrets();
    for name in node.disk.secrets.keys() {
        ensure(live.contains(name), || format!("node {} keeps {name:?}, which nothing needs", node.index))?;
    }
    for name in &live {
        ensure(node.disk.secrets.contains_key(name), || format!("node {} lost {name:?}", node.index))?;
    }
    for (number, attempt) in &state.attempts {
        let ended = attempt.verdict == Some(Verdict::Failed) || attempt.erased;
        let share = node.disk.secrets.contains_key(&SecretName::Share(*number));
        ensure(!(ended && share), || format!("node {} keeps the share of ended epoch {number}", node.index))?;
        let seed = node.disk.secrets.contains_key(&SecretName::DealerSeed(*number));
        ensure(!(attempt.verdict.is_some() && seed), || format!("node {} keeps the seed of {number}", node.index))?;
    }
    Ok(())
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
