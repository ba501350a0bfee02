//! Where blocks come from.
//!
//! - [`clock`]: arithmetic on the Unix epoch
//! - [`mod@ethereum`]: a chain, asked by JSON-RPC
//! - [`tracker`]: which answers are believed; the only place that decides so
//!
//! A source that is down, goes backwards, jumps far ahead or answers nonsense gives a [`BlockError`], which becomes a
//! condition: no round starts, and serving is untouched.

pub mod clock;
pub mod ethereum;
pub mod tracker;

use keyfleet_crds::conditions::Reason;

pub use tracker::Tracker;

/// Something that knows the newest block that counts.
#[async_trait::async_trait]
pub trait BlockSource: Send + Sync {
    /// The newest block that counts, as the source says. [`Tracker`] decides whether it is believed.
    async fn newest(&self) -> Result<u64, BlockError>;
}

/// Why the newest block is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// Nothing was asked yet.
    #[error("the block source has not been asked yet")]
    NotAsked,
    /// It does not answer.
    #[error(
        "the block source does not answer: {0}; no round starts until it does. Check the URL, its access key and the network"
    )]
    Down(String),
    /// It answers for another chain.
    #[error(
        "the block source is chain {found}, the KmsCluster's schedule says {expected}: correct the URL or make a new cluster"
    )]
    OtherChain {
        /// What it answers.
        found: u64,
        /// What was configured.
        expected: u64,
    },
    /// Its answer makes no sense.
    #[error(
        "the block source answers nonsense: {0}; no round starts. Check that the URL is a JSON-RPC endpoint of an Ethereum node"
    )]
    Nonsense(String),
    /// It went back below a height that it had told.
    #[error(
        "the block source says {now} after it had said {before}: a final height never falls. No round starts until it is past {before} again; check the endpoint"
    )]
    Reversed {
        /// What it had told.
        before: u64,
        /// What it says now.
        now: u64,
    },
    /// It jumped implausibly far.
    #[error(
        "the block source jumped from {before} to {now} within {elapsed_seconds} s, which no chain does. No round starts; if the height is right, restart the operator"
    )]
    Jumped {
        /// What it had told.
        before: u64,
        /// What it says now.
        now: u64,
        /// Time between the two answers.
        elapsed_seconds: u64,
    },
}

impl BlockError {
    /// The condition's reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotAsked | Self::Down(_) => Reason::BlockSourceDown,
            Self::OtherChain { .. } | Self::Nonsense(_) => Reason::BlockSourceWrong,
            Self::Reversed { .. } => Reason::BlockSourceReversed,
            Self::Jumped { .. } => Reason::BlockSourceJumped,
        }
    }
}
