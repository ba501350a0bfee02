//! Kinds of failed requests.

use std::fmt;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::Bucket;

/// Failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {key}: {kind}: {what}")]
pub struct BucketError {
    /// Kind of the failure.
    pub kind: ErrorKind,
    /// HTTP method of the request, or LIST.
    pub operation: &'static str,
    /// URL of the object, as `s3://BUCKET/PREFIX/KEY`.
    pub key: String,
    /// Cause, in the server's words.
    pub what: String,
}

/// Kind of a failed request, as it is counted in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Missing object.
    NoObject,
    /// Missing bucket.
    NoBucket,
    /// 412: the condition of the request does not hold.
    Precondition,
    /// 409: another request on the same key at the same time.
    Conflict,
    /// Credentials without the right to make the request.
    Denied,
    /// Missing or expired credentials.
    Credentials,
    /// Clock of this machine that is too far off.
    ClockSkew,
    /// Server that asks for fewer requests.
    SlowDown,
    /// Timeout of the request.
    Timeout,
    /// Failure of the connection.
    Transport,
    /// Failure of the server.
    Server,
    /// Answer that no S3 server gives: something on the way took the request.
    NotS3,
    /// Failure of this machine's disk, of a copy for the bucket.
    LocalDisk,
    /// Failure of any other kind.
    Other,
}

impl ErrorKind {
    /// Returns true when the same request may succeed a moment later. Expired credentials count: the standard chain
    /// refreshes them.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Conflict
            | Self::Credentials
            | Self::SlowDown
            | Self::Timeout
            | Self::Transport
            | Self::Server
            | Self::NotS3
            | Self::LocalDisk => true,
            Self::NoObject | Self::NoBucket | Self::Precondition | Self::Denied | Self::ClockSkew | Self::Other => {
                false
            }
        }
    }

    /// Returns the name of the kind in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoObject => "no-object",
            Self::NoBucket => "no-bucket",
            Self::Precondition => "precondition-failed",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Credentials => "credentials",
            Self::ClockSkew => "clock-skew",
            Self::SlowDown => "slow-down",
            Self::Timeout => "timeout",
            Self::Transport => "transport",
            Self::Server => "server",
            Self::NotS3 => "not-s3",
            Self::LocalDisk => "local-disk",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoObject => "there is no such object",
            Self::NoBucket => "there is no such bucket",
            Self::Precondition => "the precondition failed",
            Self::Conflict => "another request is under way for the same object",
            Self::Denied => "the credentials do not allow it",
            Self::Credentials => "no valid credentials (absent or expired)",
            Self::ClockSkew => "this machine's clock is too far off",
            Self::SlowDown => "the server asks to slow down",
            Self::Timeout => "no answer in time",
            Self::Transport => "the connection failed",
            Self::Server => "the server failed",
            Self::NotS3 => "the answer is not S3's",
            Self::LocalDisk => "the local disk failed",
            Self::Other => "refused",
        })
    }
}

impl Bucket {
    /// Finds the kind of a failure, and words for it.
    pub(super) fn classify<E>(
        &self,
        operation: &'static str,
        key: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> BucketError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let code = error.code().unwrap_or_default();
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        let kind = match (error, status, code) {
            (SdkError::TimeoutError(_), ..) => ErrorKind::Timeout,
            (SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_), ..) if lacks_credentials(error) => {
                ErrorKind::Credentials
            }
            (SdkError::DispatchFailure(failure), ..) if failure.is_timeout() => ErrorKind::Timeout,
            (SdkError::DispatchFailure(_), ..) => ErrorKind::Transport,
            (_, _, "NoSuchBucket") => ErrorKind::NoBucket,
            (_, _, "ExpiredToken" | "TokenRefreshRequired" | "RequestExpired") => ErrorKind::Credentials,
            (_, _, "RequestTimeTooSkewed") => ErrorKind::ClockSkew,
            (_, 404, _) => ErrorKind::NoObject,
            (_, 412, _) => ErrorKind::Precondition,
            (_, 409, _) => ErrorKind::Conflict,
            (_, 401 | 403, _) => ErrorKind::Denied,
            (_, 429 | 503, _) => ErrorKind::SlowDown,
            (_, 500..=599, _) => ErrorKind::Server,
            (SdkError::ResponseError(_), ..) => ErrorKind::Transport,
            _ => ErrorKind::Other,
        };
        let what = match (code, error.message()) {
            ("", _) => in_words(error),
            (code, Some(message)) => format!("{status} {code}: {message}"),
            (code, None) => format!("{status} {code}"),
        };
        BucketError { kind, operation, key: format!("{}/{key}", self.location), what }
    }
}

/// Describes an error with its causes, for people: the last cause says most.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let said = error.to_string();
        // Some repeat their cause.
        if !said.is_empty() && !words.last().is_some_and(|before| before.ends_with(&said)) {
            words.push(said);
        }
        cause = error.source();
    }
    words.join(": ")
}

/// Returns true when a request failed before it was made, for want of credentials.
fn lacks_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<aws_credential_types::provider::error::CredentialsError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
