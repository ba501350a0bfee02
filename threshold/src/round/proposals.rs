//! Proposals: what was shown of kept epochs and awaits a proof.

use std::collections::BTreeMap;

use super::shown::ShownEpoch;
use crate::identifiers::{EpochNumber, NodeIndex};
use crate::plan::FrozenDigests;

/// Epochs of one peer that wait until this node knows the cluster's key; the newest stay.
const WAITING_MAX: usize = 4;

/// Shown epochs and lists that are not proven yet. In memory alone: every stream shows them again.
#[derive(Default)]
pub(super) struct ShownEpochs {
    lists: BTreeMap<EpochNumber, BTreeMap<Proposer, Proposal>>,
    /// Epochs that came before the cluster's key was known.
    pub(super) waiting: BTreeMap<NodeIndex, BTreeMap<EpochNumber, ShownEpoch>>,
    /// Number of times that each peer showed something else than an epoch of the cluster.
    pub(super) refused: BTreeMap<NodeIndex, usize>,
}

/// Author of a list: the record, or a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Proposer {
    Record,
    Peer(NodeIndex),
}

/// A list of qualified bundles that may be the one of its epoch.
enum Proposal {
    Open(FrozenDigests),
    /// Tried already, and gave no share.
    Tried,
}

impl ShownEpochs {
    /// Takes a list, the first of its proposer: who could propose others could make this node fetch and add up for ever.
    pub(super) fn propose(&mut self, number: EpochNumber, proposer: Proposer, list: &FrozenDigests) {
        self.lists.entry(number).or_default().entry(proposer).or_insert_with(|| Proposal::Open(list.clone()));
    }

    pub(super) fn open_lists(&self, number: EpochNumber) -> impl Iterator<Item = (Proposer, &FrozenDigests)> {
        let proposals = self.lists.get(&number).into_iter().flatten();
        proposals.filter_map(|(proposer, proposal)| match proposal {
            Proposal::Open(list) => Some((*proposer, list)),
            Proposal::Tried => None,
        })
    }

    /// Marks a list as tried, whoever proposed it. Returns these.
    pub(super) fn tried(&mut self, number: EpochNumber, list: &FrozenDigests) -> Vec<Proposer> {
        let proposals = self.lists.entry(number).or_default().iter_mut();
        let same = proposals.filter(|(_, proposal)| matches!(proposal, Proposal::Open(open) if open == list));
        same.map(|(proposer, proposal)| {
            *proposal = Proposal::Tried;
            *proposer
        })
        .collect()
    }

    pub(super) fn wait(&mut self, from: NodeIndex, shown: &ShownEpoch) {
        let waiting = self.waiting.entry(from).or_default();
        waiting.insert(shown.number(), shown.clone());
        if waiting.len() > WAITING_MAX {
            waiting.pop_first();
        }
    }

    /// Forgets the lists of an epoch that needs none any more.
    pub(super) fn settle(&mut self, number: EpochNumber) {
        self.lists.remove(&number);
    }

    /// Forgets the lists of epochs that are not kept any more.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&EpochNumber) -> bool) {
        self.lists.retain(|number, _| is_kept(number));
    }
}
