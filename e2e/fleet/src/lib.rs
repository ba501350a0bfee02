//! Fleets for tests. No product crate depends on this one but in its own tests, and never one that stands below it.
//!
//! - [`rounds`]: nodes without sockets, which die at any step, and an operator that coordinates their rounds
//! - [`serving`]: the same nodes as tasks with TLS sockets, an issuer of tokens, and clients

#![allow(missing_docs, clippy::must_use_candidate, clippy::unwrap_used, reason = "for tests, where it says what broke")]

pub mod rounds;
pub mod serving;
