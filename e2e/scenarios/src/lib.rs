//! The verbs that scenarios on a real cluster are written in.
//!
//! A scenario is a test in `tests/`, named for the promise that it keeps. It works as a platform engineer does, with
//! `kubectl` and `helm`, on the cluster that its kubeconfig leads to; `cargo xtask test` brings that cluster up.
//!
//! [`cluster`] is the cluster and who may disturb it, [`namespace`] a scenario's own corner of it, [`fleet`] a fleet of nodes
//! in it, [`documents`] the manifests that documents show, [`s3`] a bucket of its own, [`probe`] the program that looks around from inside, [`machine`] what the machine
//! underneath has, [`wait`] how to wait. [`control_plane`] is the local cluster without its API server.

pub mod cluster;
pub mod control_plane;
pub mod documents;
pub mod fleet;
pub mod machine;
pub mod namespace;
pub mod operator;
pub mod probe;
mod reader;
pub mod s3;
pub mod wait;
