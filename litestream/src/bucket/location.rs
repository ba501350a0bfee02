//! Where a replica lies, who asks, and how long.

use std::fmt;
use std::time::Duration;

use crate::authorities::Authorities;

/// Where a replica lies, and how to reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Bucket.
    pub bucket: String,
    /// Folder in the bucket, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Region; the standard chain's when absent.
    pub region: Option<String>,
    /// Another server than AWS's.
    pub endpoint: Option<String>,
    /// Bucket in the path rather than in the host name. Defaults to whether there is an endpoint.
    pub force_path_style: Option<bool>,
    /// Static credentials; the standard chain's, which refreshes them, when absent.
    pub credentials: Option<StaticCredentials>,
    /// Who may sign the server's certificate; the system's authorities when absent.
    pub authorities: Option<Authorities>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// An access key from the configuration.
#[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct StaticCredentials {
    /// Its public half.
    pub access_key_id: String,
    /// Its secret half.
    pub secret_access_key: String,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticCredentials({}, redacted)", self.access_key_id)
    }
}

/// Limits of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// One request, headers and body.
    pub attempt_timeout: Duration,
    /// How often a read is tried.
    pub read_attempts: u32,
    /// Pause after the first failure; doubles up to [`RetryPolicy::backoff_max`].
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
    /// The pause after `failures` failures in a row.
    #[must_use]
    pub fn backoff(&self, failures: u32) -> Duration {
        self.backoff_min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.backoff_max)
    }
}
