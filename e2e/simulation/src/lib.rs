//! A whole fleet in memory: seeded and deterministic, with loss, delay, death and lies.
//!
//! Everything that decides is the product's own code: [`keyfleet_planner`] and its view of what nodes say for the operator,
//! [`keyfleet_threshold::round`] and [`keyfleet_threshold::feed`] for the nodes. Modelled are the API server
//! ([`keyfleet_planner::model`]), the network, disks and the clock, and nothing is read here that production could not read.
//!
//! - [`Fleet`]: the world, in `world`: time, events, nodes, objects and chance
//! - `fleet`: what a scenario or a user does to it, and what goes wrong by itself; start here
//! - `operator`: an operator's memory
//! - `reconcile`: an operator's streams, decisions and writes
//! - `peers`: what nodes read at the API server and from each other
//! - [`node`]: disks, processes, and where they may die
//! - `invariants`: what holds after every event; `erasures`: what was ever sealed, and said to be gone
//! - [`scenario`]: random lives of random fleets
//! - [`history`]: short lives, step by step; [`search`]: all of them

mod erasures;
mod fleet;
pub mod history;
mod invariants;
pub mod node;
mod operator;
mod peers;
mod proofs;
mod reconcile;
pub mod scenario;
pub mod search;
mod settings;
mod world;

pub use fleet::seeds;
pub use keyfleet_adversary::Behaviour;
pub use settings::Settings;
pub use world::Fleet;
