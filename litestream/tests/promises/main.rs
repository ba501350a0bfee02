//! The promises of litestream, one test each.
//!
//! `s3` is a server with faults on order, `gateway` a real one; `wire` holds the promises that both must keep.

mod faults;
mod gateway;
mod replay;
mod s3;
mod support;
mod sweep;
mod wire;
