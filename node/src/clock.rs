//! The wall clock, for expiry, sequence numbers, reports, and the ages of proofs and epochs. No phase of a round rests on it.

use std::time::SystemTime;

/// Returns milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    keyfleet_litestream::clock::now_ms()
}

/// Returns seconds since 1970.
pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
