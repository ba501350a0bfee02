//! One fact for a participant.

use crate::identifiers::{Block, EpochNumber, NodeIndex};
use crate::plan::Plan;
use crate::round::{
    Blob, Contradiction, MessageError, Refusal, RetireError, Retirement, RoundRecord, ShownEpoch, ShownError,
};

/// A fact. Facts may come in any order and be repeated.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "inputs are taken up one by one and not kept")]
pub enum Input {
    /// A plan appeared.
    Plan(Plan),
    /// The record of a round, as it reads now.
    Record(EpochNumber, RoundRecord),
    /// A peer said or gave something, or the API server did in its place.
    Blob(Blob),
    /// A peer, and no other, shows an epoch that it keeps.
    Shown(NodeIndex, ShownEpoch),
    /// The record says that an epoch is retired, and peers were asked what they hold.
    Retire(Retirement),
    /// The node was restored from its replica when this was the newest block of a plan.
    Abstain(Block),
}

/// Why a participant did not take an input up. Nothing of it has taken effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A plan is refused. The operator is at fault.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// A record contradicts what the node has seen. The operator is at fault.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// A peer is at fault, or the message comes out of turn.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The peer that shows the epoch is at fault, unless the error says otherwise.
    #[error(transparent)]
    Shown(#[from] ShownError),
    /// The epoch is kept.
    #[error(transparent)]
    Retire(#[from] RetireError),
}
