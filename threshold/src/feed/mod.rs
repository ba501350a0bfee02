//! Inputs of a node, fetches from its peers, and answers to them: pure decisions.
//!
//! A [`Participant`](crate::round::Participant) takes facts in any order. Somebody has to give it these facts: plans and
//! records from the API server, messages and kept epochs from the streams of peers, and blobs that it asks for by digest. All of that is
//! decided here, from values alone. The node carries the decisions out over Kubernetes and TLS, the simulation in memory.
//!
//! ```text
//!  Listing ──Feed::next──▶ Input ─┐                         ┌─▶ Outputs, carried out by the caller
//!  peers' streams ──says_itself──▶├─▶ take ───▶ Participant ─┤
//!  peers' answers ◀──Turns::due── ┘        ▲                └─▶ wants ──▶ Turns::want, one per peer
//!                                          └── recall, from the node's own file
//!  a peer's digests ──answer──▶ places        PersistentState ──Report::of, Showing──▶ what every stream begins with
//! ```
//!
//! | Type or function | Decides |
//! |---|---|
//! | [`Feed`] | the next [`Input`]s from what is [listed](Listing), their order, and which plans are [held back](HeldBack) |
//! | [`take`], [`take_all`], [`recall`] | what the participant does with inputs, and with what the node's own file holds |
//! | [`Turns`] | when one peer is asked for which digests |
//! | [`says_itself`] | which rows of a peer's stream are its own |
//! | [`answer()`], [`is_handed_out`] | what a node hands out for the digests of a `Fetch` |
//! | [`Report`], [`Showing`] | what a node shows about itself, and of the epochs that it keeps |
//!
//! Time is an argument in milliseconds, randomness an argument, and nothing here reads or writes anything.

mod answer;
mod input;
mod intake;
mod listing;
mod report;
mod showing;
#[cfg(test)]
mod tests;
mod turns;

pub use answer::{Answer, answer, is_handed_out};
pub use input::{Input, InputError};
pub use intake::{recall, take, take_all};
pub use listing::{Feed, HeldBack, ListedEpoch, Listing, Next};
pub use report::Report;
pub use showing::Showing;
pub use turns::{Turns, says_itself};
