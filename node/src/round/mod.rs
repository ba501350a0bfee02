//! The node's side of rounds, around the pure [`Participant`](keyfleet_threshold::round::Participant).
//!
//! - [`mod@start`]: from two key stores and a state file to a participant that remembers
//! - [`persist`]: carries its outputs out, in the order in which they become durable
//! - [`driver`]: feeds it facts, one after the other, and owes what a key store or the replica did not take yet
//! - [`outbox`]: the positions at which what was said is read
//! - `voice`: what the node says
//! - [`published`]: what others may read: only what is durable

pub mod driver;
pub mod outbox;
pub mod persist;
pub mod published;
pub mod start;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod voice;

pub use driver::Driver;
pub use keyfleet_threshold::feed::Input;
pub use persist::{PersistError, Persister, Step};
pub use published::{Epochs, Published, ServedEpoch};
pub use start::{Parts, StartError, Started, start};
