//! Choice of the nodes to ask for an epoch, and the count of their answers. Pure: answers go in, calls come out.
//!
//! A round may end while a client asks: then some nodes answer from the new epoch and others from the one before. Both are
//! served for a while, so nodes that answered from one are asked for the other, whichever most nodes can give; and a node
//! that lags is asked again for its newest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};

use crate::error::NodeError;

/// First pause before a node that did not answer is asked again; doubled every time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before a node is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One call of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) node: NodeIndex,
    /// `None`: the node's newest.
    pub(crate) epoch: Option<EpochNumber>,
    /// Pause before the call.
    pub(crate) after: Duration,
    /// True when the node refused the token that it was shown.
    pub(crate) renew: bool,
    /// Number of answers that the node has given already.
    answers: u32,
}

impl Call {
    /// Returns the id of this request to the node. A call that is repeated because no answer came has the same id, so that the node
    /// counts it once. A call that wants another answer has another id, since the same would bring the same answer.
    pub(crate) fn request_id(&self, request: &[u8; 16]) -> Vec<u8> {
        let epoch = self.epoch.map_or(0, |epoch| epoch.0).to_be_bytes();
        let digest = Digest::of("KEYFLEET-V1-CLIENT-REQUEST", &[request, &epoch, &self.answers.to_be_bytes()]);
        digest.0[..16].to_vec()
    }
}

/// Knowledge of the nodes during one request.
pub(crate) struct Tally<P> {
    nodes: BTreeMap<NodeIndex, Standing>,
    partials: BTreeMap<EpochNumber, BTreeMap<NodeIndex, P>>,
}

/// State of one node during one request.
#[derive(Default)]
struct Standing {
    /// True while a call is under way.
    asked: bool,
    /// True when the node is not asked again, and what it answers counts no more.
    out: bool,
    /// True when the node was shown a fresh token.
    renewed: bool,
    /// Calls without an answer since the node last told a new epoch.
    tries: u32,
    answers: u32,
    error: Option<NodeError>,
    /// Newest epoch that the node answered from.
    newest: Option<EpochNumber>,
    /// Epochs that the node does not serve.
    refused: BTreeSet<EpochNumber>,
}

impl<P: Copy> Tally<P> {
    pub(crate) fn new(nodes: impl IntoIterator<Item = NodeIndex>) -> Self {
        let nodes = nodes.into_iter().map(|node| (node, Standing::default())).collect();
        Self { nodes, partials: BTreeMap::new() }
    }

    /// Takes the answer of a node. The answer of a node that was blamed meanwhile is dropped.
    pub(crate) fn answered(&mut self, node: NodeIndex, epoch: EpochNumber, partial: P) {
        let Some(standing) = self.nodes.get_mut(&node) else { return };
        standing.asked = false;
        if standing.out {
            return;
        }
        standing.answers += 1;
        if standing.newest.is_none_or(|newest| newest < epoch) {
            (standing.newest, standing.tries) = (Some(epoch), 0);
        }
        standing.error = None;
        self.partials.entry(epoch).or_default().insert(node, partial);
        self.invariant_partials_are_of_nodes_that_count();
    }

    /// Takes the error of a node that was asked for `epoch`.
    pub(crate) fn failed(&mut self, node: NodeIndex, epoch: Option<EpochNumber>, error: NodeError) {
        let Some(standing) = self.nodes.get_mut(&node) else { return };
        standing.asked = false;
        if standing.out {
            return;
        }
        match (&error, epoch) {
            // It does not serve that epoch, or not any more: it is still asked for others.
            (NodeError::Refused(_), Some(epoch)) => {
                standing.refused.insert(epoch);
                return;
            }
            // Once more with a fresh token: the one shown may have expired.
            (NodeError::Unauthenticated(_), _) if !standing.renewed => standing.renewed = true,
            _ => standing.out = error.is_final(),
        }
        standing.tries += 1;
        standing.error = Some(error);
    }

    /// Takes nodes out of the request whose answers do not match their public shares.
    pub(crate) fn blame(&mut self, culprits: &[NodeIndex]) {
        for node in culprits {
            for partials in self.partials.values_mut() {
                partials.remove(node);
            }
            if let Some(standing) = self.nodes.get_mut(node) {
                (standing.out, standing.error) = (true, Some(NodeError::WrongPartial));
            }
        }
        self.invariant_partials_are_of_nodes_that_count();
    }

    /// Returns the partials of every epoch, the epoch with the most first.
    pub(crate) fn partials(&self) -> Vec<(EpochNumber, &BTreeMap<NodeIndex, P>)> {
        let mut all: Vec<_> = self.partials.iter().map(|(epoch, partials)| (*epoch, partials)).collect();
        all.sort_by_key(|(epoch, partials)| (Reverse(partials.len()), Reverse(*epoch)));
        all
    }

    /// Returns the number of nodes that may still contribute, or have.
    pub(crate) fn hopeful(&self) -> usize {
        self.nodes.values().filter(|standing| !standing.out).count()
    }

    /// Returns the calls to make now, to nodes that have none under way. Each is then counted as being asked.
    pub(crate) fn calls(&mut self) -> Vec<Call> {
        let target = self.target();
        let newest = self.partials.keys().next_back().copied();
        let mut calls = Vec::new();
        for (node, standing) in &mut self.nodes {
            let partials = target.and_then(|target| self.partials.get(&target));
            let has_target = partials.is_some_and(|partials| partials.contains_key(node));
            calls.extend(standing.next_call(*node, target, has_target, newest));
        }
        calls
    }

    /// Returns the epoch that most nodes have answered from or may still; of several the lowest, which the others serve as well.
    fn target(&self) -> Option<EpochNumber> {
        self.partials.keys().copied().max_by_key(|epoch| (self.able(*epoch), Reverse(*epoch)))
    }

    /// Returns the number of nodes that have answered from an epoch, or may still.
    fn able(&self, epoch: EpochNumber) -> usize {
        let partials = &self.partials[&epoch];
        let able = self.nodes.iter().filter(|(node, standing)| {
            partials.contains_key(node) || !standing.out && !standing.refused.contains(&epoch)
        });
        able.count()
    }

    /// Returns the nodes that did not contribute to `epoch`, with the reason of each.
    pub(crate) fn missing(&self, epoch: Option<EpochNumber>) -> BTreeMap<NodeIndex, NodeError> {
        let none = BTreeMap::new();
        let came = epoch.and_then(|epoch| self.partials.get(&epoch)).unwrap_or(&none);
        let absent = self.nodes.iter().filter(|(node, _)| !came.contains_key(node));
        absent.map(|(node, standing)| (*node, standing.reason())).collect()
    }

    /// Panics unless every partial is of a node that counts, and not of an epoch above the newest that the node answered from.
    fn invariant_partials_are_of_nodes_that_count(&self) {
        for (epoch, partials) in &self.partials {
            for node in partials.keys() {
                let standing = &self.nodes[node];
                assert!(!standing.out, "node {node} is out of the request and its partial counts");
                assert!(standing.newest >= Some(*epoch), "node {node} answered from an epoch above its newest");
            }
        }
    }
}

impl Standing {
    /// Returns the next call of this node, if one is due. The node then counts as being asked.
    fn next_call(
        &mut self,
        node: NodeIndex,
        target: Option<EpochNumber>,
        has_target: bool,
        newest: Option<EpochNumber>,
    ) -> Option<Call> {
        if self.asked || self.out {
            return None;
        }
        let epoch = match target {
            // It has answered, and it does not lag: a node that lags may have caught up with the others by now.
            Some(_) if has_target && self.newest == newest => return None,
            Some(target) if !has_target && self.newest.is_some() && !self.refused.contains(&target) => Some(target),
            _ => None,
        };
        if epoch.is_none() && self.newest.is_some() && self.error.is_none() {
            self.tries += 1;
        }
        let renew = matches!(self.error, Some(NodeError::Unauthenticated(_)));
        let at_once = renew || (epoch.is_some() && self.error.is_none());
        let after = if at_once { Duration::ZERO } else { self.pause() };
        self.asked = true;
        Some(Call { node, epoch, after, renew, answers: self.answers })
    }

    fn pause(&self) -> Duration {
        match self.tries {
            0 => Duration::ZERO,
            tries => PAUSE_MAX.min(FIRST_PAUSE * 2u32.saturating_pow(tries - 1)),
        }
    }

    /// Returns the reason why the node is missing.
    fn reason(&self) -> NodeError {
        match (&self.error, self.newest) {
            (Some(error), _) => error.clone(),
            (None, Some(newest)) => NodeError::OtherEpoch(newest),
            (None, None) => NodeError::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: EpochNumber = EpochNumber(7);
    const NEW: EpochNumber = EpochNumber(8);

    fn node(index: u32) -> NodeIndex {
        NodeIndex::new(index).unwrap()
    }

    fn of(calls: &[Call]) -> Vec<(u32, Option<EpochNumber>)> {
        calls.iter().map(|call| (call.node.value(), call.epoch)).collect()
    }

    fn four() -> Tally<()> {
        let mut tally = Tally::new((1..=4).map(node));
        let first = tally.calls();
        assert_eq!(of(&first), [(1, None), (2, None), (3, None), (4, None)], "all are asked at once");
        assert!(first.iter().all(|call| call.after.is_zero()));
        tally
    }

    /// Nodes on both sides of a round meet in the epoch that both serve.
    #[test]
    fn both_sides_of_a_round_meet_in_an_epoch_that_both_serve() {
        let mut tally = four();
        tally.answered(node(1), NEW, ());
        tally.answered(node(2), NEW, ());
        assert_eq!(of(&tally.calls()), [], "so far all agree");
        tally.answered(node(3), OLD, ());
        let calls = tally.calls();
        assert_eq!(of(&calls), [(1, Some(OLD)), (2, Some(OLD)), (3, None)], "and 3 may have caught up by then");
        assert!(calls[0].after.is_zero() && !calls[2].after.is_zero());
        tally.answered(node(1), OLD, ());
        tally.answered(node(2), OLD, ());
        assert_eq!(tally.partials()[0].1.len(), 3, "enough of the old epoch for a threshold of three");
    }

    /// An epoch that the others have retired waits for the one that lags.
    #[test]
    fn an_epoch_retired_elsewhere_waits_for_the_node_that_lags() {
        let mut tally = four();
        tally.answered(node(3), OLD, ());
        tally.answered(node(1), NEW, ());
        tally.answered(node(2), NEW, ());
        tally.failed(node(4), None, NodeError::Unreachable("down".to_owned()));
        let retired = || NodeError::Refused("retired".to_owned());
        assert!(of(&tally.calls()).contains(&(1, Some(OLD))));
        tally.failed(node(1), Some(OLD), retired());
        tally.failed(node(2), Some(OLD), retired());
        let calls = tally.calls();
        assert!(!calls.iter().any(|call| call.epoch == Some(OLD)), "what was refused is not asked again: {calls:?}");
        assert_eq!(tally.hopeful(), 4, "no node is given up for that");
        tally.answered(node(3), NEW, ());
        assert_eq!((tally.partials()[0].0, tally.partials()[0].1.len()), (NEW, 3));
    }

    /// A token that was not taken is renewed once and a refusal is final.
    #[test]
    fn a_refused_token_is_renewed_once() {
        let mut tally = four();
        let expired = || NodeError::Unauthenticated("expired".to_owned());
        tally.failed(node(1), None, expired());
        assert!(tally.calls()[0].renew, "the same token would be refused again");
        tally.failed(node(1), None, expired());
        tally.failed(node(2), None, NodeError::Denied("no rule".to_owned()));
        assert_eq!((of(&tally.calls()), tally.hopeful()), (Vec::new(), 2));
        assert!(tally.missing(None)[&node(2)].is_refusal());
        assert_eq!(tally.missing(None)[&node(3)], NodeError::Silent);
    }

    #[test]
    fn a_question_keeps_its_name_until_it_is_answered() {
        let mut tally = Tally::<()>::new([node(1)]);
        let id = |tally: &mut Tally<()>| tally.calls()[0].request_id(&[7; 16]);
        let first = id(&mut tally);
        tally.failed(node(1), None, NodeError::Silent);
        assert_eq!(id(&mut tally), first, "repeated, it would be counted and logged twice");
        let mut tally = Tally::<()>::new([node(1), node(2)]);
        let _ = tally.calls();
        tally.answered(node(2), NEW, ());
        tally.answered(node(1), OLD, ());
        let again = tally.calls().into_iter().find(|call| call.node == node(1) && call.epoch.is_none()).unwrap();
        assert_ne!(again.request_id(&[7; 16]), first, "under the same name the node would answer the same again");
    }

    #[test]
    fn a_liar_counts_no_more() {
        let mut tally = four();
        for index in 1..=4 {
            tally.answered(node(index), NEW, ());
        }
        tally.blame(&[node(2)]);
        assert_eq!(tally.partials()[0].1.len(), 3);
        assert_eq!(tally.missing(Some(NEW)), [(node(2), NodeError::WrongPartial)].into());
        tally.answered(node(2), OLD, ());
        assert_eq!(tally.missing(Some(NEW)), [(node(2), NodeError::WrongPartial)].into(), "an answer cleared it");
        assert_eq!(tally.partials().len(), 1, "its answer to an earlier call counts");
    }
}
