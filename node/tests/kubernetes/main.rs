//! Nodes against a real API server, each under its own ServiceAccount with its own Role, and the real operator beside them.
//!
//! No kubelet runs: [`fleet`] plays its part, and starts a node's process in this one for every Pod that the operator makes.
//! Needs the environment variable `KEYFLEET_BIN`, the folder of the `kubernetes` and `versitygw` binaries.

#[path = "../../../crds/tests/apiserver/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod apiserver;
mod destroy;
mod fleet;
mod listening;
mod one;
mod retain;
mod rounds;
mod volume;
