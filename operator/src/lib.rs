//! Keyfleet's operator.
//!
//! What to do next is decided by [`keyfleet_planner`], a pure function of everything known; start there.
//!
//! - [`build`]: from kinds to objects, pure
//! - [`blocks`]: where blocks come from, and which are believed
//! - [`heard`]: what nodes say, behind the trait that their streams are followed by
//! - [`controllers`]: the shell on the API server
//! - [`metrics`]: what can be measured, and the HTTP endpoints
//! - [`manifests`]: its rights, and the policies that confine them
//! - [`leader`]: which of several operators writes

pub mod blocks;
pub mod build;
pub mod controllers;
pub mod heard;
pub mod leader;
pub mod manifests;
pub mod metrics;
