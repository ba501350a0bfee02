//! The promises of litestream, one test each.
//!
//! `s3` is a server with faults on order, `gateway` a real one; `wire` holds the promises that both must keep.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a test that panics says what broke; sizes here are small"
)]

mod cli;
mod damage;
mod faults;
mod formats;
mod gateway;
mod identity;
mod kill;
mod latches;
mod replay;
mod requests;
mod rollback;
mod s3;
mod simulation;
mod store;
mod support;
mod sweep;
mod time;
mod wire;
