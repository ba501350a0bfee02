//! Litestream for redb: every commit in S3, provably restorable.
//!
//! ```text
//!  writer ──transaction──▶ redb ──write──▶ recorder ──▶ file
//!    │                                        │ cut per commit
//!    │◀─ acknowledged when durable ─ uploader ◀┘  seal, chain, PUT if-none-match
//! ```
//!
//! Start at [`Database`]: open one, write through it, ask for [`Ack::Remote`] where an answer must not be lost.
//!
//! | To learn about | read |
//! |---|---|
//! | copying what redb writes | [`recorder`] |
//! | requests to S3, and the kinds of their failures | [`bucket`] |
//! | the objects in the bucket | [`mod@format`], [`layout`], [`keys`] |
//! | terms of writers, fencing, acknowledgement | [`term`] |
//! | the decision on a local file at a start | [`start`] |
//! | restoring, and the checks on the way | [`chain`], [`restore`] |
//! | comparing a replica's rows with a file's | [`drill`](mod@drill) |
//! | deleting what no restore needs | [`retention`] |
//! | the keys of `litestream.yml` | [`config`] |
//!
//! `term`, `start`, `chain` and `format` are pure: the same code runs in the process and in the simulation.

#![warn(missing_docs)]

pub mod authorities;
pub mod bucket;
pub mod chain;
pub mod clock;
pub mod config;
mod contents;
pub mod database;
pub mod discover;
pub mod drill;
pub mod format;
pub mod keys;
pub mod layout;
pub mod meta;
pub mod metrics;
pub mod position;
pub mod recorder;
pub mod restore;
pub mod retention;
pub mod start;
pub mod term;
pub mod verify;

pub use database::{Ack, Database, Options};
pub use position::Position;
