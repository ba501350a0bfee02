//! Keyfleet's operator.
//!
//! - [`decide`]: what to do next, a pure function of everything known; start here
//! - [`round`]: a `KeyEpoch`'s phases as types, and the way between the kinds and the threshold core
//! - [`blocks`]: where blocks come from, and which are believed

pub mod blocks;
pub mod decide;
pub mod round;
