//! x
#![allow(missing_docs)]
pub mod curve;
mod encoding;
pub mod identifiers;
pub mod identity;
pub mod plan;
pub mod polynomial;
pub mod prekey;
pub mod purpose;
pub mod round;
pub use encoding::DecodeError;
pub mod coordination;
pub mod serving;
