//! Report of a node about itself, which begins every stream.

use crate::identifiers::EpochNumber;
use crate::purpose::Certificate;
use crate::round::PersistentState;

/// The facts of a report, from the state that was committed last. The node adds who it is, dates it and signs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The highest attempt number that the node has ever seen.
    pub highest: EpochNumber,
    /// The certificates of the epochs whose share it holds, newest first.
    pub held: Vec<Certificate>,
}

impl Report {
    /// Makes the report of a state.
    #[must_use]
    pub fn of(state: &PersistentState) -> Self {
        let held = state.attempts.values().rev().filter(|attempt| attempt.holds_share);
        Self { highest: state.highest, held: held.filter_map(|attempt| attempt.certificate().copied()).collect() }
    }
}
