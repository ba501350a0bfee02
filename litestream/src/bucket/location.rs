//! Address of a replica, credentials for it, and timeouts of requests.

use std::fmt;
use std::time::Duration;

use crate::authorities::Authorities;

/// Address of a replica, and the way to reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Name of the bucket.
    pub bucket: String,
    /// Folder in the bucket, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Region; the standard chain's when absent.
    pub region: Option<String>,
    /// URL of another server than AWS's.
    pub endpoint: Option<String>,
    /// True to name the bucket in the path rather than in the host name. Defaults to true where an endpoint is given.
    pub force_path_style: Option<bool>,
    /// Static credentials; the standard chain's, which refreshes them, when absent.
    pub credentials: Option<StaticCredentials>,
    /// Authorities that may sign the server's certificate; the system's when absent.
    pub authorities: Option<Authorities>,
}

/// Prefix that a server makes another one of, so that what is written there is not found again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the prefix `{0}` has a part that is empty, `.` or `..`: servers make another folder of it; choose one without"
)]
pub struct PrefixError(String);

impl Location {
    /// Checks that no server changes the prefix.
    ///
    /// # Errors
    /// [`PrefixError`] for an empty part, `.` or `..`.
    pub fn check(&self) -> Result<(), PrefixError> {
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        if self.prefix.is_empty() || self.prefix.split('/').all(is_plain) {
            Ok(())
        } else {
            Err(PrefixError(self.prefix.clone()))
        }
    }

    /// Returns true when one of two folders is the other, or lies in it. Regions, credentials and addresses of servers are left
    /// out: one server has many.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        self.bucket == other.bucket && (within(&self.prefix, &other.prefix) || within(&other.prefix, &self.prefix))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// Access key from the configuration.
#[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct StaticCredentials {
    /// Public half of the access key.
    pub access_key_id: String,
    /// Secret half of the access key.
    pub secret_access_key: String,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticCredentials({}, redacted)", self.access_key_id)
    }
}

/// Timeouts and retries of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Timeout of one request, headers and body.
    pub attempt_timeout: Duration,
    /// Number of times that a read is tried.
    pub read_attempts: u32,
    /// Pause after the first failure. Doubles with each, up to [`RetryPolicy::backoff_max`].
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(30),
            read_attempts: 6,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// Returns the pause after `failures` failures in a row.
    #[must_use]
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        self.backoff_min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.backoff_max)
    }
}
