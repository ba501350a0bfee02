//! x
#![allow(missing_docs)]
pub mod curve;
pub mod encoding;
pub mod identifiers;
pub mod identity;
pub mod plan;
pub mod polynomial;
pub mod prekey;
pub mod purpose;
