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
//! | what is copied, and when | [`recorder`] |
//! | requests to S3, and what a failure means | [`bucket`] |
//! | the objects in the bucket | [`mod@format`], [`layout`], [`keys`] |
//! | who may write: terms, fencing, acknowledgement | [`tenure`] |
//! | what happens to a local file at a start | [`start`] |
//! | what a restore checks | [`chain`], [`restore`] |
//! | whether a replica holds the rows that it should | [`drill`](mod@drill), [`contents`] |
//! | what is deleted, and when | [`retention`] |
//! | what `litestream.yml` may say | [`config`] |
//!
//! `tenure`, `start`, `chain` and `format` are pure: the same code runs in the process and in
//! the simulation.

#![warn(missing_docs)]

pub mod authorities;
pub mod bucket;
pub mod chain;
pub mod clock;
pub mod config;
pub mod contents;
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
