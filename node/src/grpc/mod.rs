//! gRPC: what `keyfleet_api` specifies, over TLS by pin.
//!
//! - [`transport`]: servers whose connections know who is at the other end
//! - [`round`]: `Round`, what this node says
//! - `peer_limits`: what one peer may have open at a time
//! - `report`: the signed report that every stream begins with
//! - [`kms`]: `Kms`, for callers
//! - `health`: health checks and reflection, on both ports

pub(crate) mod health;
pub mod kms;
pub(crate) mod peer_limits;
pub(crate) mod report;
pub mod round;
pub mod transport;
