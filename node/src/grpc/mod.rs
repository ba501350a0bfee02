//! gRPC: what `keyfleet_api` specifies, over TLS by pin.
//!
//! - [`transport`]: servers whose connections know who is at the other end
//! - [`round`]: `Round`, what this node says
//! - `fetch`: what it hands out by digest
//! - `peer_limits`: what one caller may have open at a time
//! - `report`: the signed report that every stream begins with
//! - [`kms`]: `Kms`, for callers
//! - `health`: health checks and reflection, on both ports

mod fetch;
pub(crate) mod health;
pub mod kms;
pub(crate) mod peer_limits;
pub(crate) mod report;
pub mod round;
#[cfg(test)]
mod tests;
pub mod transport;
