//! A model of the API server, for the planner's own tests and for the simulation of whole fleets.
//!
//! - [`Server`]: objects with versions; it takes and refuses writes as the real one does
//! - [`rules`]: what the kinds' CEL rules refuse
//! - [`invariants`]: what no write may break, whoever makes it

pub mod invariants;
pub mod rules;
mod server;

pub use server::{Objects, RefusalError, Server};
