//! Keyfleet's operator.
//!
//! What to do next is decided by [`keyfleet_planner`], a pure function of everything known; start there.
//!
//! - [`objects`]: the objects of a cluster and its nodes, from their kinds; pure
//! - [`blocks`]: where blocks come from, and which are believed
//! - [`node_streams`]: the streams of nodes, behind a trait
//! - [`controllers`]: the shell on the API server
//! - [`metrics`]: what can be measured, and the HTTP endpoints
//! - [`manifests`]: its rights, and the policies that confine them
//! - [`leader`]: which of several operators writes

pub mod blocks;
pub mod controllers;
pub mod leader;
pub mod manifests;
pub mod metrics;
pub mod node_streams;
pub mod objects;
