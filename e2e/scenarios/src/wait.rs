//! Waits for conditions, with a limit that only a fault can reach; never for a fixed time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `ask` until it returns something. An error counts as "not yet"; the last one is reported after the limit.
///
/// # Errors
/// `ask` has no result within three minutes.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    const LIMIT: Duration = Duration::from_secs(180);
    let started = Instant::now();
    loop {
        let outcome = ask();
        if let Ok(Some(answer)) = outcome {
            return Ok(answer);
        }
        if started.elapsed() > LIMIT {
            let last = outcome.err().map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("after {} s still not: {what}{last}", LIMIT.as_secs());
        }
        // Whoever asks takes time from what is waited for: a long wait asks less often.
        sleep((started.elapsed() / 10).clamp(Duration::from_millis(100), Duration::from_millis(600)));
    }
}
