//! The node's side of rounds, around the pure [`Participant`](keyfleet_threshold::round::Participant).
//!
//! - [`persist`]: carries its outputs out, in the order in which they become durable
//! - [`driver`]: feeds it facts, one after the other, and owes what a key store or the replica did not take yet
//! - [`published`]: what others may read: only what is durable

pub mod driver;
pub mod persist;
pub mod published;

pub use driver::{Driver, Started};
pub use keyfleet_threshold::feed::Input;
pub use persist::{PersistError, Persister, Step};
pub use published::{Epochs, Messages, Published, ServedEpoch};
