//! Keyfleet's gRPC interfaces, `keyfleet.v1`.
//!
//! - [`v1`]: messages, clients and servers, generated from `proto/keyfleet/v1` (`cargo xtask codegen`) and checked in; the
//!   `.proto` files say lengths, limits, deadlines and codes. [`DESCRIPTORS`]: the same for tools
//! - [`limits`]: the same limits for code
//! - [`messages`], [`report`]: what a node signed, between its canonical bytes and what travels; [`erasure`]: its last word;
//!   [`kept_epoch`]: what a node shows of an epoch that it keeps; [`epoch_certificate`]: of an epoch that it serves, verified
//! - [`round_reader`]: reading of one node's streams, for its peers, the operator and auditors
//! - [`wire`]: ports, host names, token audiences, and a fleet's public record
//! - [`tls`], [`channel`]: who is at the other end, by the pinned identity

/// Messages, clients and servers of `keyfleet.v1`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/keyfleet.v1.rs");
}

/// The descriptors of `keyfleet.v1` with their comments (a `google.protobuf.FileDescriptorSet`): what reflection answers
/// from, and what tools read that do not have the `.proto` files.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/keyfleet.v1.descriptors");

pub mod channel;
pub mod epoch_certificate;
pub mod erasure;
pub mod kept_epoch;
pub mod limits;
pub mod messages;
pub mod report;
pub mod round_reader;
pub mod tls;
pub mod wire;
