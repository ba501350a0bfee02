//! Report of a node about itself, which begins every stream.

use std::collections::BTreeMap;

use crate::identifiers::{EpochNumber, NodeIndex};
use crate::plan::MEMBERS_MAX;
use crate::prekey::SignedPrekey;
use crate::purpose::Certificate;
use crate::round::PersistentState;

/// The facts of a report, from the state that was committed last. The node adds who it is, dates it and signs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The highest attempt number that the node has ever seen.
    pub highest: EpochNumber,
    /// The certificates of the epochs whose share it holds, newest first.
    pub held: Vec<Certificate>,
    /// The newest prekey that the node accepted of each receiver of its newest certified plan and of newer ones, failed ones
    /// too; at most [`MEMBERS_MAX`], those of newer plans first. It seals to no older one, so whoever plans has to know them.
    pub prekeys: BTreeMap<NodeIndex, SignedPrekey>,
}

impl Report {
    /// Makes the report of a state.
    #[must_use]
    pub fn of(state: &PersistentState) -> Self {
        let held = state.attempts.values().rev().filter(|attempt| attempt.holds_share);
        let held = held.filter_map(|attempt| attempt.certificate().copied()).collect();
        Self { highest: state.highest, held, prekeys: accepted(state) }
    }
}

fn accepted(state: &PersistentState) -> BTreeMap<NodeIndex, SignedPrekey> {
    let certified = state.newest_certified().map(|certificate| certificate.number);
    let newer = state.attempts.iter().rev().take_while(|(number, _)| certified.is_none_or(|newest| **number >= newest));
    let mut prekeys = BTreeMap::new();
    for receiver in newer.flat_map(|(_, attempt)| &attempt.plan.receivers) {
        if prekeys.len() == MEMBERS_MAX {
            break;
        }
        let accepted = state.accepted_prekeys.get(&receiver.index);
        prekeys.extend(accepted.map(|prekey| (receiver.index, *prekey)));
    }
    prekeys
}
