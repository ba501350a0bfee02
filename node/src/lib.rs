//! One key-management node: holds a share, takes part in rounds, serves callers.
//!
//! ```text
//!   API server ──plans, records──▶ round ◀──Follow, Fetch── peers
//!                                    │ outputs, top to bottom
//!        homes (keys) ◀── store (state file ─▶ S3) ──▶ published ──▶ peers, operator
//!                                    │ shares
//!   callers ──token, request──▶ serving ──▶ answer, audit
//! ```
//!
//! | To learn about | read |
//! |---|---|
//! | what a secret looks like at rest | [`seal`] |
//! | the two homes of key material, and what a start makes of them | [`homes`] |
//! | the state file and the file of bundles | [`store`] |
//! | in which order a round's outputs become durable and are said | [`round`] |
//! | who may connect, and how it is told | [`keyfleet_api::tls`] |
//! | what callers may ask for, and what they get | [`serving`] |
//! | the YAML file and the environment | [`config`], [`startup`] |
//! | the end of a node, for good | `erasure` |
//! | what is read and written at the API server | [`apiserver`] |
//! | the platform's certificate for callers | `certificate` |
//! | which cluster a name belongs to, by the bucket | [`claim`] |
//! | what goes wrong while it runs | [`troubles`] |
//! | the process: waits for what it lacks, then runs | [`process`]; before it, [`restore`] |
//! | the job that deletes what no node's replica needs any more | [`retain`] |
//! | the gRPC services | [`grpc`] |
//! | the tasks of a running node | [`runtime`] |
//! | the pages for kubelet and people | [`http`] |

pub mod apiserver;
mod certificate;
pub mod claim;
pub mod config;
#[cfg(feature = "danger-faults")]
pub mod danger;
mod erasure;
pub mod grpc;
pub mod homes;
pub mod http;
pub mod process;
pub mod restore;
pub mod retain;
pub mod round;
pub mod runtime;
pub mod seal;
pub mod serving;
pub mod startup;
pub mod store;
pub mod troubles;
