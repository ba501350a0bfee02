//! Nodes among others of their kind: what a crash, an outage, a stolen token or an old backup does to them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rounds;
mod runtime;
mod serving;
