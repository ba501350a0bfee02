//! Where blocks come from.
//!
//! - `clock`: arithmetic on the Unix epoch
//! - [`mod@ethereum`]: a chain, asked by JSON-RPC
//!
//! [`keyfleet_planner::blocks`] decides which answers are believed.
//!
//! A source that is down, goes backwards, jumps far ahead or answers nonsense gives a [`BlockError`], which becomes a
//! condition: no round starts, and serving is untouched.

pub(crate) mod clock;
pub mod ethereum;

pub use keyfleet_planner::state::BlockError;

/// Something that knows the newest block that counts.
#[async_trait::async_trait]
pub trait BlockSource: Send + Sync {
    /// The newest block that counts, as the source says. It may not be believable.
    async fn newest(&self) -> Result<u64, BlockError>;
}
