//! The clock of this machine. The pure modules never read it: the time is an argument of theirs.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the wall-clock time, in milliseconds since the Unix epoch. Zero on a clock that stands before it.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
