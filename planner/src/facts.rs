//! Facts that several decisions rest on, looked up once per run.

use std::collections::BTreeMap;

use keyfleet_crds::values::ClusterId;

use crate::epochs::Counting;
use crate::gate::Gates;
use crate::membership::{self, Members};
use crate::rounds;
use crate::state::{Epoch, Problem, State};

/// A state, and what follows from it alone. Every module that decides takes these, so that all decide on the same.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The state itself.
    pub(crate) state: &'a State,
    /// Nodes that belong to the fleet, and those that leave it.
    pub(crate) members: Members,
    /// The newest epoch that serves, with its number.
    pub(crate) active: Option<(u64, &'a Epoch)>,
    /// The round under way, with its number.
    pub(crate) open: Option<(u64, &'a Epoch)>,
    /// Permissions to write, to move rounds on, and to start one.
    pub(crate) gates: Gates,
    /// Nodes whose bucket does not take what they write. Nothing of theirs is said in rounds until it does.
    pub(crate) without_bucket: BTreeMap<u32, &'a Problem>,
}

impl<'a> Facts<'a> {
    /// Looks the facts of a state up.
    #[must_use]
    pub(crate) fn of(state: &'a State) -> Self {
        let nodes = state.nodes.iter().filter(|(_, node)| !node.spec.removed);
        Self {
            state,
            members: membership::members(state),
            active: state.active(),
            open: state.open(),
            gates: Gates::of(state),
            without_bucket: nodes.filter_map(|(index, node)| Some((*index, node.bucket_problem()?))).collect(),
        }
    }

    /// Returns the cluster's id, once it was minted or adopted.
    #[must_use]
    pub(crate) fn id(&self) -> Option<ClusterId> {
        self.state.cluster.status.cluster_id
    }

    /// Returns true while a round is under way or due, or nodes still have to report: the cluster is then reconciled often.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        self.gates.reports.is_err()
            || self.state.cluster.status.reservation.is_some()
            || self.open.is_some()
            || rounds::due(self, self.state.last_block).is_some()
    }

    /// Returns true when `counting` t nodes can sign with the active epoch, and the cluster's status names it.
    #[must_use]
    pub(crate) fn is_settled(&self, counting: Counting) -> bool {
        self.active.is_some_and(|(number, active)| {
            self.state.cluster.status.active_epoch == Some(number)
                && counting.holders(self.state, number, active) >= active.spec.threshold as usize
        })
    }
}
