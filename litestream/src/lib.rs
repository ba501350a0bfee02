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
//! | the objects in the bucket | [`format`], [`keyspace`], [`keys`] |
//! | who may write: terms, fencing, acknowledgement | [`tenure`] |
//! | what happens to a local file at a start | [`start`] |
//! | what a restore checks | [`chain`], [`restore`] |
//! | what is deleted, and when | [`retention`] |
//!
//! `tenure`, `start`, `chain`, `retention::plan` and `format` are pure: the same code runs in the process and in
//! the simulation.

pub mod chain;
pub mod format;
pub mod keys;
pub mod keyspace;
pub mod position;
pub mod recorder;
pub mod start;
pub mod tenure;
