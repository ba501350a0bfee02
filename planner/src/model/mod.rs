//! A model of the API server, for the planner's own tests and for the simulation of whole fleets.
//!
//! - [`Server`]: objects with versions; it takes and refuses writes as the real one does
//!   ([`rules`](crate::rules) of the kinds included)
//! - [`invariants`]: what no write may break, whoever makes it

pub mod invariants;
mod server;

pub use server::{Objects, RefusalError, Server};
