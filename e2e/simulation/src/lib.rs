//! A whole fleet in one thread: the real [`Participant`](keyfleet_threshold::round::Participant)s and the operator's real
//! [`decide`](keyfleet_threshold::coordination::decide), around a modelled API server, network, disk and clock.
//!
//! Everything that happens is an event in virtual time, and every choice (delay, loss, crash point) comes from one seed: a
//! seed and a commit reproduce a run event by event. After every event the `invariant_*` functions hold, or the run panics
//! and prints its seed; `KEYFLEET_SIM_SEED=<seed>` runs that one again.
//!
//! - [`Fleet`]: the world, and the verbs of a scenario ([`Fleet::run_until`], [`Fleet::take_down`], [`Fleet::lose`], …)
//! - `network`: how nodes learn, across delays and losses
//! - [`api`]: the API server as far as rounds see it: linearizable, write-once fields
//! - [`node`]: a node's disk, process and crash points
//! - [`operator`]: reconciles with the pure decisions
//! - [`Behaviour`]: nodes that lie
//! - [`invariants`]: what must hold after every event

pub mod api;
pub mod fleet;
pub mod invariants;
mod network;
pub mod node;
pub mod operator;

pub use fleet::{Fleet, Settings, seeds};
pub use keyfleet_adversary::Behaviour;
