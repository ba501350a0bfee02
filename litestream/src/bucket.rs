//! The thin edge to S3: conditional creates, reads with retries, listings, deletions. Nothing is decided here.
//!
//! The SDK's own retries are off: a create that is repeated behind our back turns its own success into a 412.
//! Reads are repeated here, creates by [`crate::tenure`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

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
pub struct Patience {
    /// One request, headers and body.
    pub attempt: Duration,
    /// How often a read is tried.
    pub reads: u32,
    /// Pause after the first failure; doubles up to [`Patience::pause_max`].
    pub pause: Duration,
    /// Longest pause.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(30),
            reads: 6,
            pause: Duration::from_millis(100),
            pause_max: Duration::from_secs(10),
        }
    }
}

impl Patience {
    /// The pause after `failures` failures in a row.
    #[must_use]
    pub fn pause_after(&self, failures: u32) -> Duration {
        self.pause.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.pause_max)
    }
}

/// Requests and bytes, as counted by this process.
#[derive(Debug, Default)]
pub struct Traffic {
    /// PUT requests.
    pub puts: AtomicU64,
    /// GET requests of objects.
    pub gets: AtomicU64,
    /// LIST requests.
    pub lists: AtomicU64,
    /// DELETE requests.
    pub deletes: AtomicU64,
    /// Bytes of bodies sent.
    pub bytes_put: AtomicU64,
    /// Bytes of bodies received.
    pub bytes_got: AtomicU64,
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key under the prefix.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// When the server stored it, in milliseconds since the Unix epoch, by the server's clock.
    pub stored_ms: u64,
    /// Version, in a listing of versions.
    pub version: Option<String>,
    /// Whether this is a delete marker.
    pub is_delete_marker: bool,
    /// Whether this is what a plain GET answers with.
    pub is_latest: bool,
}

/// What a conditional create came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object was not there, and now is.
    Yes,
    /// 412: there is one.
    Exists,
}

/// A folder of a bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    location: Location,
    patience: Patience,
    traffic: Arc<Traffic>,
}

impl Bucket {
    /// Prepares a client. Nothing is sent yet.
    pub async fn connect(location: Location, patience: Patience) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring));
        let http = match &location.authorities {
            None => http.build_https(),
            Some(authorities) => http.tls_context(authorities.context()).build_https(),
        };
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(patience.attempt.min(Duration::from_secs(5)))
                    .operation_attempt_timeout(patience.attempt)
                    .build(),
            );
        if let Some(region) = &location.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(keys) = &location.credentials {
            loader = loader.credentials_provider(Credentials::new(
                keys.access_key_id.clone(),
                keys.secret_access_key.clone(),
                None,
                None,
                "litestream.yml",
            ));
        }
        let shared = loader.load().await;
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            // Servers that are not AWS reject the newer default checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(location.force_path_style.unwrap_or(location.endpoint.is_some()));
        if shared.region().is_none() {
            config = config.region(Region::new("us-east-1"));
        }
        if let Some(endpoint) = &location.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Self { client: Client::from_conf(config.build()), location, patience, traffic: Arc::default() }
    }

    /// Where this is.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Limits of requests.
    #[must_use]
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Requests made through this client and its clones.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// PUT with `If-None-Match: *`, once.
    ///
    /// # Errors
    /// Any error leaves open whether the object was made, except [`ErrorKind::Denied`] and
    /// [`ErrorKind::NoBucket`].
    pub async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, BucketError> {
        self.put(key, bytes, Precondition::Absent).await
    }

    /// PUT with `If-Match: etag`, or `If-None-Match: *` when there is none, once.
    ///
    /// # Errors
    /// As [`Bucket::create`].
    pub async fn replace(&self, key: &str, bytes: &[u8], etag: Option<&str>) -> Result<Created, BucketError> {
        self.put(key, bytes, etag.map_or(Precondition::Absent, Precondition::Is)).await
    }

    async fn put(&self, key: &str, bytes: &[u8], condition: Precondition<'_>) -> Result<Created, BucketError> {
        self.traffic.puts.fetch_add(1, Ordering::Relaxed);
        self.traffic.bytes_put.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let request = self
            .client
            .put_object()
            .bucket(&self.location.bucket)
            .key(self.full(key))
            .body(ByteStream::from(bytes.to_vec()));
        let request = match condition {
            Precondition::Absent => request.if_none_match("*"),
            Precondition::Is(etag) => request.if_match(etag),
        };
        match request.send().await {
            Ok(_) => Ok(Created::Yes),
            Err(error) => match self.classify("PUT", key, &error) {
                BucketError { kind: ErrorKind::Precondition, .. } => Ok(Created::Exists),
                error => Err(error),
            },
        }
    }

    /// GET of a whole object, tried again as often as patience allows; none when there is none.
    ///
    /// # Errors
    /// The last failure.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BucketError> {
        Ok(self.get_tagged(key, None).await?.map(|(bytes, _)| bytes))
    }

    /// GET of the first `len` bytes of an object.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn get_start(&self, key: &str, len: usize) -> Result<Option<Vec<u8>>, BucketError> {
        Ok(self.get_tagged(key, Some(len)).await?.map(|(bytes, _)| bytes))
    }

    /// GET of an object and its ETag.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn get_tagged(
        &self,
        key: &str,
        start: Option<usize>,
    ) -> Result<Option<(Vec<u8>, Option<String>)>, BucketError> {
        self.patiently(|| self.get_once(key, start)).await
    }

    /// GET of a whole object, tried once: for callers with a clock of their own.
    ///
    /// # Errors
    /// The failure.
    pub async fn get_once(
        &self,
        key: &str,
        start: Option<usize>,
    ) -> Result<Option<(Vec<u8>, Option<String>)>, BucketError> {
        self.traffic.gets.fetch_add(1, Ordering::Relaxed);
        let mut request = self.client.get_object().bucket(&self.location.bucket).key(self.full(key));
        if let Some(len) = start {
            request = request.range(format!("bytes=0-{}", len.max(1) - 1));
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return match self.classify("GET", key, &error) {
                    BucketError { kind: ErrorKind::NoObject, .. } => Ok(None),
                    error => Err(error),
                };
            }
        };
        let expected = response.content_length();
        let etag = response.e_tag().map(str::to_owned);
        // A body that stalls is as dead as a server that never answers.
        let body = tokio::time::timeout(self.patience.attempt, response.body.collect()).await;
        let torn = |what: String| BucketError { kind: ErrorKind::Transport, operation: "GET", key: key.into(), what };
        let body = body
            .map_err(|_| BucketError { kind: ErrorKind::Timeout, ..torn("the body stalled".into()) })?
            .map_err(|error| torn(format!("the body broke off: {error}")))?
            .into_bytes();
        if expected.is_some_and(|expected| u64::try_from(expected) != Ok(body.len() as u64)) {
            return Err(torn(format!("the body has {} bytes of {}", body.len(), expected.unwrap_or(0))));
        }
        self.traffic.bytes_got.fetch_add(body.len() as u64, Ordering::Relaxed);
        Ok(Some((body.into(), etag)))
    }

    /// LIST of everything under `folder`, after `start_after` (a key under the prefix, exclusive).
    ///
    /// A listing is a hint: what it lacks is looked up by key where that matters.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn list(&self, folder: &str, start_after: Option<&str>) -> Result<Vec<Entry>, BucketError> {
        let mut entries = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .patiently(|| async {
                    self.traffic.lists.fetch_add(1, Ordering::Relaxed);
                    self.client
                        .list_objects_v2()
                        .bucket(&self.location.bucket)
                        .prefix(self.full(folder))
                        .set_start_after(start_after.map(|key| self.full(key)))
                        .set_continuation_token(token.clone())
                        .send()
                        .await
                        .map_err(|error| self.classify("LIST", folder, &error))
                })
                .await?;
            for object in page.contents() {
                let Some(key) = object.key().and_then(|key| self.relative(key)) else { continue };
                entries.push(Entry {
                    key: key.to_owned(),
                    size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    stored_ms: stored_ms(object.last_modified()),
                    version: None,
                    is_delete_marker: false,
                    is_latest: true,
                });
            }
            match page.next_continuation_token() {
                Some(next) if page.is_truncated() == Some(true) => token = Some(next.to_owned()),
                _ => return Ok(entries),
            }
        }
    }

    /// LIST of the folders right under the prefix, without their slashes.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn folders(&self) -> Result<Vec<String>, BucketError> {
        let mut folders = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .patiently(|| async {
                    self.traffic.lists.fetch_add(1, Ordering::Relaxed);
                    self.client
                        .list_objects_v2()
                        .bucket(&self.location.bucket)
                        .prefix(self.full(""))
                        .delimiter("/")
                        .set_continuation_token(token.clone())
                        .send()
                        .await
                        .map_err(|error| self.classify("LIST", "", &error))
                })
                .await?;
            let names = page.common_prefixes().iter().filter_map(|folder| self.relative(folder.prefix()?));
            folders.extend(names.map(|name| name.trim_end_matches('/').to_owned()));
            match page.next_continuation_token() {
                Some(next) if page.is_truncated() == Some(true) => token = Some(next.to_owned()),
                _ => return Ok(folders),
            }
        }
    }

    /// LIST of every version and delete marker under `folder`. On a bucket without versions, of every object.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn list_versions(&self, folder: &str) -> Result<Vec<Entry>, BucketError> {
        let mut entries = Vec::new();
        let (mut key_marker, mut version_marker): (Option<String>, Option<String>) = (None, None);
        loop {
            let page = self
                .patiently(|| async {
                    self.traffic.lists.fetch_add(1, Ordering::Relaxed);
                    self.client
                        .list_object_versions()
                        .bucket(&self.location.bucket)
                        .prefix(self.full(folder))
                        .set_key_marker(key_marker.clone())
                        .set_version_id_marker(version_marker.clone())
                        .send()
                        .await
                        .map_err(|error| self.classify("LIST", folder, &error))
                })
                .await?;
            for version in page.versions() {
                let Some(key) = version.key().and_then(|key| self.relative(key)) else { continue };
                entries.push(Entry {
                    key: key.to_owned(),
                    size: version.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    stored_ms: stored_ms(version.last_modified()),
                    version: version.version_id().map(str::to_owned),
                    is_delete_marker: false,
                    is_latest: version.is_latest().unwrap_or(false),
                });
            }
            for marker in page.delete_markers() {
                let Some(key) = marker.key().and_then(|key| self.relative(key)) else { continue };
                entries.push(Entry {
                    key: key.to_owned(),
                    size: 0,
                    stored_ms: stored_ms(marker.last_modified()),
                    version: marker.version_id().map(str::to_owned),
                    is_delete_marker: true,
                    is_latest: marker.is_latest().unwrap_or(false),
                });
            }
            if page.is_truncated() != Some(true) {
                return Ok(entries);
            }
            key_marker = page.next_key_marker().map(str::to_owned);
            version_marker = page.next_version_id_marker().map(str::to_owned);
        }
    }

    /// DELETE of an object, or of one version of it. Deleting what is not there succeeds.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn delete(&self, key: &str, version: Option<&str>) -> Result<(), BucketError> {
        self.patiently(|| async {
            self.traffic.deletes.fetch_add(1, Ordering::Relaxed);
            self.client
                .delete_object()
                .bucket(&self.location.bucket)
                .key(self.full(key))
                .set_version_id(version.map(str::to_owned))
                .send()
                .await
                .map_err(|error| self.classify("DELETE", key, &error))
        })
        .await
        .map(drop)
    }

    async fn patiently<T, F: Future<Output = Result<T, BucketError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, BucketError> {
        let mut failures = 0;
        loop {
            match attempt().await {
                Err(error) if error.kind.is_transient() && failures + 1 < self.patience.reads => {
                    failures += 1;
                    tracing::debug!(%error, failures, "request failed, will be tried again");
                    tokio::time::sleep(self.patience.pause_after(failures)).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn full(&self, key: &str) -> String {
        if self.location.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.location.prefix) }
    }

    fn relative<'a>(&self, full: &'a str) -> Option<&'a str> {
        if self.location.prefix.is_empty() {
            return Some(full);
        }
        full.strip_prefix(self.location.prefix.as_str())?.strip_prefix('/')
    }

    fn classify<E>(&self, operation: &'static str, key: &str, error: &SdkError<E, HttpResponse>) -> BucketError
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

/// An error with its causes, for people: the last one says most.
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

/// Whether the request failed before it was made, for want of credentials.
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

enum Precondition<'a> {
    Absent,
    Is(&'a str),
}

fn stored_ms(time: Option<&aws_sdk_s3::primitives::DateTime>) -> u64 {
    time.and_then(|time| time.to_millis().ok()).and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0)
}

/// A request that did not do what it should.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {key}: {kind}: {what}")]
pub struct BucketError {
    /// What kind of trouble.
    pub kind: ErrorKind,
    /// The request.
    pub operation: &'static str,
    /// Of which object.
    pub key: String,
    /// In the server's words.
    pub what: String,
}

/// Kinds of trouble, as they are counted in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such object.
    NoObject,
    /// There is no such bucket.
    NoBucket,
    /// 412.
    Precondition,
    /// 409: another request on the same key at the same time.
    Conflict,
    /// The credentials do not allow it.
    Denied,
    /// No credentials, or expired ones.
    Credentials,
    /// This machine's clock is off.
    ClockSkew,
    /// Too many requests.
    SlowDown,
    /// No answer in time.
    Timeout,
    /// The connection failed.
    Transport,
    /// The server failed.
    Server,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// Whether the same request may succeed a moment later. Expired credentials count: the standard chain
    /// refreshes them.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Conflict | Self::Credentials | Self::SlowDown | Self::Timeout | Self::Transport | Self::Server => {
                true
            }
            Self::NoObject | Self::NoBucket | Self::Precondition | Self::Denied | Self::ClockSkew | Self::Other => {
                false
            }
        }
    }

    /// Its name in metrics.
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
            Self::Other => "refused",
        })
    }
}
