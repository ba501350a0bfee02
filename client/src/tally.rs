//! Choice of the nodes to ask for an epoch, and the count of their answers. Pure: answers go in, calls come out.
//!
//! A round may end while a client asks: then some nodes answer from the new epoch and others from the one before. Both are
//! served for a while, so nodes that answered from one are asked for the other, whichever most nodes can give; and a node
//! that lags is asked again for its newest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};

use crate::error::NodeError;

/// First pause before a node that did not answer is asked again; doubled every time.
const AGAIN: Duration = Duration::from_millis(50);
/// Longest pause before a node is asked again.
const AGAIN_MOST: Duration = Duration::from_secs(1);

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
    /// The name of this question to the node. One that is repeated because no answer came has the same name, and is counted
    /// once; one that asks for another answer has another, since the same would bring the same answer.
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

#[derive(Default)]
struct Standing {
    asked: bool,
    out: bool,
    renewed: bool,
    tries: u32,
    answers: u32,
    fault: Option<NodeError>,
    newest: Option<EpochNumber>,
    refused: BTreeSet<EpochNumber>,
}

impl<P: Copy> Tally<P> {
    pub(crate) fn new(nodes: impl IntoIterator<Item = NodeIndex>) -> Self {
        let nodes = nodes.into_iter().map(|node| (node, Standing::default())).collect();
        Self { nodes, partials: BTreeMap::new() }
    }

    /// A node answered.
    pub(crate) fn answered(&mut self, node: NodeIndex, epoch: EpochNumber, partial: P) {
        let Some(standing) = self.nodes.get_mut(&node) else { return };
        standing.asked = false;
        standing.answers += 1;
        if standing.newest.is_none_or(|newest| newest < epoch) {
            (standing.newest, standing.tries) = (Some(epoch), 0);
        }
        standing.fault = None;
        self.partials.entry(epoch).or_default().insert(node, partial);
    }

    /// A node was asked for `epoch` and did not answer.
    pub(crate) fn failed(&mut self, node: NodeIndex, epoch: Option<EpochNumber>, fault: NodeError) {
        let Some(standing) = self.nodes.get_mut(&node) else { return };
        standing.asked = false;
        match (&fault, epoch) {
            // It does not serve that epoch, or not any more: no reason to let it go.
            (NodeError::Refused(_), Some(epoch)) => {
                standing.refused.insert(epoch);
                return;
            }
            // Once with a fresh token: the one shown may have been over.
            (NodeError::Unauthenticated(_), _) if !standing.renewed => standing.renewed = true,
            _ => standing.out = fault.is_final(),
        }
        standing.tries += 1;
        standing.fault = Some(fault);
    }

    /// These nodes answered what their shares do not make.
    pub(crate) fn blame(&mut self, culprits: &[NodeIndex]) {
        for node in culprits {
            for partials in self.partials.values_mut() {
                partials.remove(node);
            }
            if let Some(standing) = self.nodes.get_mut(node) {
                (standing.out, standing.fault) = (true, Some(NodeError::WrongPartial));
            }
        }
    }

    /// The partials of every epoch, most first.
    pub(crate) fn partials(&self) -> Vec<(EpochNumber, &BTreeMap<NodeIndex, P>)> {
        let mut all: Vec<_> = self.partials.iter().map(|(epoch, partials)| (*epoch, partials)).collect();
        all.sort_by_key(|(epoch, partials)| (std::cmp::Reverse(partials.len()), std::cmp::Reverse(*epoch)));
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
            if standing.asked || standing.out {
                continue;
            }
            let has = |epoch| self.partials.get(&epoch).is_some_and(|partials| partials.contains_key(node));
            let epoch = match target {
                // Nothing is missing from it, unless it lags behind the others and has caught up by now.
                Some(target) if has(target) && standing.newest == newest => continue,
                Some(target) if has(target) => None,
                Some(target) if standing.newest.is_some() && !standing.refused.contains(&target) => Some(target),
                _ => None,
            };
            if epoch.is_none() && standing.newest.is_some() && standing.fault.is_none() {
                standing.tries += 1;
            }
            let renew = matches!(standing.fault, Some(NodeError::Unauthenticated(_)));
            let after = match standing.tries {
                0 => Duration::ZERO,
                tries => AGAIN_MOST.min(AGAIN * 2u32.saturating_pow(tries - 1)),
            };
            let at_once = renew || (epoch.is_some() && standing.fault.is_none());
            let after = if at_once { Duration::ZERO } else { after };
            standing.asked = true;
            calls.push(Call { node: *node, epoch, after, renew, answers: standing.answers });
        }
        calls
    }

    /// The epoch that most nodes have answered from or may still; of several the lowest, which the others serve as well.
    fn target(&self) -> Option<EpochNumber> {
        let could = |epoch: &EpochNumber| {
            let partials = &self.partials[epoch];
            let able = |(node, standing): &(&NodeIndex, &Standing)| {
                partials.contains_key(node) || !standing.out && !standing.refused.contains(epoch)
            };
            (self.nodes.iter().filter(able).count(), std::cmp::Reverse(*epoch))
        };
        self.partials.keys().copied().max_by_key(could)
    }

    /// Why each node that did not contribute to `epoch` is missing.
    pub(crate) fn missing(&self, epoch: Option<EpochNumber>) -> BTreeMap<NodeIndex, NodeError> {
        let none = BTreeMap::new();
        let came = epoch.and_then(|epoch| self.partials.get(&epoch)).unwrap_or(&none);
        let absent = self.nodes.iter().filter(|(node, _)| !came.contains_key(node));
        let why = |standing: &Standing| match (&standing.fault, standing.newest) {
            (Some(fault), _) => fault.clone(),
            (None, Some(newest)) => NodeError::OtherEpoch(newest),
            (None, None) => NodeError::Silent,
        };
        absent.map(|(node, standing)| (*node, why(standing))).collect()
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

    #[test]
    fn nodes_on_both_sides_of_a_round_meet_in_the_epoch_that_both_serve() {
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

    #[test]
    fn an_epoch_that_the_others_have_retired_waits_for_the_one_that_lags() {
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
        assert_eq!(tally.hopeful(), 4, "no node is let go for that");
        tally.answered(node(3), NEW, ());
        assert_eq!((tally.partials()[0].0, tally.partials()[0].1.len()), (NEW, 3));
    }

    #[test]
    fn a_token_that_was_not_taken_is_renewed_once_and_a_refusal_is_final() {
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
    }
}
