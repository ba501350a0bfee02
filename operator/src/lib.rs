//! Keyfleet's operator.
//!
//! - [`decide`]: what to do next, a pure function of everything known; start here
//! - [`round`]: a `KeyEpoch`'s phases as types, and the way between the kinds and the threshold core
//! - [`build`]: from kinds to objects, pure
//! - [`blocks`]: where blocks come from, and which are believed
//! - [`leader`]: which of several operators writes

pub mod blocks;
pub mod build;
pub mod decide;
pub mod leader;
pub mod round;
