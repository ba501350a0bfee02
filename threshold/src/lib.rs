//! x
#![allow(missing_docs)]
pub mod curve;
pub mod encoding;
pub mod identifiers;
pub mod polynomial;
