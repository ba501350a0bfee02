//! One key-management node: holds a share, takes part in rounds, serves callers.
//!
//! ```text
//!   API server ──plans, records──▶ round ◀──Follow, Fetch── peers
//!                                    │ outputs, top to bottom
//!        key stores (keys) ◀── store (state file ─▶ S3) ──▶ published ──▶ peers, operator
//!                                    │ shares
//!   callers ──token, request──▶ serving ──▶ answer, audit
//! ```
//!
//! | To learn about | read |
//! |---|---|
//! | what a secret looks like at rest | [`seal`] |
//! | the two key stores, and what a start makes of them | [`keystores`] |
//! | the state file and the file of bundles | [`store`] |
//! | in which order a round's outputs become durable and are said | [`round`] |
//! | who may connect, and how it is told | [`keyfleet_api::tls`] |
//! | what callers may ask for, and what they get | [`serving`] |
//! | the YAML file and the environment | [`config`], [`startup`] |
//! | the end of a node, for good | `erasure` |
//! | what is read and written at the API server | [`apiserver`] |
//! | the platform's certificate for callers | `certificate` |
//! | which cluster a name belongs to, by the bucket | [`name_mark`] |
//! | what goes wrong while it runs | [`problems`] |
//! | the process: waits for what it lacks, then runs | [`process`]; before it, [`restore`] |
//! | the job that deletes what no node's replica needs any more | [`retain`] |
//! | the gRPC services | [`grpc`] |
//! | the tasks of a running node | [`runtime`] |
//! | the pages for kubelet and people | [`http`] |

pub mod apiserver;
mod certificate;
pub mod config;
mod erasure;
#[cfg(feature = "danger-faults")]
pub mod fault_injection;
pub mod grpc;
pub mod http;
pub mod keystores;
pub mod name_mark;
pub mod problems;
pub mod process;
pub mod restore;
pub mod retain;
pub mod round;
pub mod runtime;
pub mod seal;
pub mod serving;
pub mod startup;
pub mod store;
