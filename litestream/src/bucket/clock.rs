//! Clock of the server, as the `Date` of its answers tells it.
//!
//! A machine that was paused, or put back to a snapshot of itself, has clocks that stood still, all of them. The store's
//! clock decides whether a writer is late, and which time an object may claim.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use jiff::fmt::rfc2822::DateTimeParser;

/// Time of the server's last answer, and the moment at which it came.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerClock(Arc<Mutex<Option<(u64, Instant)>>>);

impl ServerClock {
    /// Returns the server's time in milliseconds since the Unix epoch: that of its last answer, in whole seconds, and what
    /// was counted here since. Never later than the server's own. This machine's time before the first answer.
    pub(super) fn now_ms(&self) -> u64 {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((date_ms, at)) => date_ms + u64::try_from(at.elapsed().as_millis()).unwrap_or(0),
            None => crate::clock::now_ms(),
        }
    }

    fn set(&self, date: &str) {
        let parsed = DateTimeParser::new().parse_timestamp(date).ok();
        if let Some(date_ms) = parsed.and_then(|date| u64::try_from(date.as_millisecond()).ok()) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((date_ms, Instant::now()));
        }
    }
}

impl Intercept for ServerClock {
    fn name(&self) -> &'static str {
        "ServerClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date") {
            self.set(date);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_http_is_understood_and_no_other_text() {
        let clock = ServerClock::default();
        let own = clock.now_ms();
        assert!(own > 1_700_000_000_000, "without an answer this machine's clock tells the time");
        clock.set("yesterday");
        assert!(clock.now_ms() >= own, "nonsense was taken for a time");
        clock.set("Sun, 06 Nov 1994 08:49:37 GMT");
        let then = clock.now_ms();
        assert!((784_111_777_000..784_111_777_000 + 600_000).contains(&then), "{then}");
    }
}
