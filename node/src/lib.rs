//! One key-management node: holds a share, takes part in rounds, serves callers.
//!
//! ```text
//!   API server ──plans, records──▶ round ◀──Follow, Fetch── peers
//!                                    │ outputs, top to bottom
//!        key stores ◀── store (state file ─▶ S3) ──▶ published ──▶ peers, operator
//!                                    │ shares
//!   callers ──token, request──▶ serving ──▶ answer, audit
//! ```
//!
//! | To learn about | read |
//! |---|---|
//! | what a secret looks like at rest | [`seal`] |
//! | the two key stores, and what a start makes of them | [`keystores`] |
//! | the state file, its replica, and the file of bundles | [`store`] |
//! | in which order a round's outputs become durable and are published | [`round`] |
//! | who may connect, and how callers are known | [`keyfleet_api::tls`] |
//! | what callers may ask for, and what they get | [`serving`] |
//! | the command line | [`program`] |
//! | the YAML file and the environment | [`config`] |
//! | a node's life: restored, started, run, erased | [`boot`] |
//! | what is read and written at the API server | `apiserver` |
//! | the platform's certificate for callers | `certificate` |
//! | which cluster a name belongs to, by the bucket | [`name_mark`] |
//! | what goes wrong while it runs | `problems` |
//! | the job that deletes what no node's replica needs any more | `retain` |
//! | the gRPC services | [`grpc`] |
//! | the tasks of a running node | [`runtime`] |
//! | the pages for kubelet and people | `http` |
//! | where the randomness of secrets comes from | `secret_rng` |

// Only this workspace's programs and tests use this library, and most names say all there is to say.
#![allow(missing_docs)]

pub(crate) mod apiserver;
pub mod boot;
mod certificate;
mod clock;
pub mod config;
#[cfg(feature = "danger-faults")]
pub mod fault_injection;
pub mod grpc;
pub(crate) mod http;
pub mod keystores;
pub mod name_mark;
pub(crate) mod problems;
pub mod program;
pub(crate) mod retain;
pub mod round;
pub mod runtime;
pub mod seal;
mod secret_rng;
pub mod serving;
pub mod store;
