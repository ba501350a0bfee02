//! Requests of callers: derive the key of an identity, sign under a key name, sign a beacon round.
//!
//! Each request passes [`token`] (who is it), the access rules of `keyfleet_crds` (may they), [`service`] (the share's
//! work), and `audit` (it is written down) before it is answered.

pub(crate) mod audit;
pub mod service;
pub mod token;

pub use service::{Answer, Asked, RequestError, Service};
pub use token::{Caller, FetchedKeys, IssuerError, KeySource, Tokens};
