//! Edge to S3: conditional creates, reads with retries, listings, deletions. Nothing is decided here.
//!
//! The SDK's own retries are off: a create that the SDK repeats turns its own success into a 412.
//! Reads are repeated here, creates by [`crate::term`].
//!
//! `location` has the address of a replica and the timeouts, `listing` the entries found there, `error` the kinds of
//! failure, `clock` the server's time, `checksum` what some buckets ask for.

mod checksum;
mod clock;
mod error;
mod listing;
mod location;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls;

use clock::ServerClock;

pub use error::{BucketError, ErrorKind};
pub use listing::Entry;
pub use location::{Location, PrefixError, RetryPolicy, StaticCredentials};

/// Counters of requests and bytes of this process.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
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

/// Outcome of a conditional PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// Success: the object is stored.
    Yes,
    /// 412: an object that does not meet the condition lies under that key.
    Exists,
}

/// Client of one folder of a bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    location: Location,
    retry: RetryPolicy,
    traffic: Arc<Traffic>,
    clock: ServerClock,
    /// True once the bucket asked for a checksum of what it stores, as one with Object Lock does.
    checksums: Arc<AtomicBool>,
}

impl Bucket {
    /// Prepares a client. Nothing is sent yet.
    pub async fn connect(location: Location, retry: RetryPolicy) -> Self {
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
                    .connect_timeout(retry.attempt_timeout.min(Duration::from_secs(5)))
                    .operation_attempt_timeout(retry.attempt_timeout)
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
        let clock = ServerClock::default();
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            // Servers that are not AWS reject the newer default checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(location.force_path_style.unwrap_or(location.endpoint.is_some()))
            .interceptor(clock.clone());
        if shared.region().is_none() {
            config = config.region(Region::new("us-east-1"));
        }
        if let Some(endpoint) = &location.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Self {
            client: Client::from_conf(config.build()),
            location,
            retry,
            traffic: Arc::default(),
            clock,
            checksums: Arc::default(),
        }
    }

    /// Returns the location of the folder.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Returns the timeouts and retries of requests.
    #[must_use]
    pub fn retry(&self) -> RetryPolicy {
        self.retry
    }

    /// Returns the time by the server's clock, in milliseconds since the Unix epoch: that of its last answer, in whole
    /// seconds, and what was counted here since. Never later than the server's own. This machine's time before the first
    /// answer, and where the server's answers have no `Date`.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Returns the counters of this client and its clones.
    #[must_use]
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Creates an object: PUT with `If-None-Match: *`, tried once.
    ///
    /// # Errors
    /// Any error leaves open whether the object was made, except [`ErrorKind::Denied`] and
    /// [`ErrorKind::NoBucket`].
    pub async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, BucketError> {
        self.put(key, bytes, Precondition::Absent).await
    }

    /// Replaces the object that has this ETag: PUT with `If-Match`, tried once. Without an ETag creates the object.
    ///
    /// # Errors
    /// As [`Bucket::create`].
    pub async fn replace(&self, key: &str, bytes: &[u8], etag: Option<&str>) -> Result<Created, BucketError> {
        self.put(key, bytes, etag.map_or(Precondition::Absent, Precondition::Is)).await
    }

    async fn put(&self, key: &str, bytes: &[u8], condition: Precondition<'_>) -> Result<Created, BucketError> {
        let asked = self.checksums.load(Ordering::Relaxed);
        match self.put_once(key, bytes, condition, asked).await {
            // Nothing was stored. Servers that are not AWS reject checksums, others demand them.
            Err(error) if !asked && asks_for_checksum(&error) => {
                tracing::info!(key, "the bucket asks for checksums: they are sent from now on");
                self.checksums.store(true, Ordering::Relaxed);
                self.put_once(key, bytes, condition, true).await
            }
            outcome => outcome,
        }
    }

    async fn put_once(
        &self,
        key: &str,
        bytes: &[u8],
        condition: Precondition<'_>,
        with_checksum: bool,
    ) -> Result<Created, BucketError> {
        self.traffic.puts.fetch_add(1, Ordering::Relaxed);
        self.traffic.bytes_put.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let request = self
            .client
            .put_object()
            .bucket(&self.location.bucket)
            .key(self.full(key))
            .set_checksum_sha256(with_checksum.then(|| checksum::sha256(bytes)))
            .body(ByteStream::from(bytes.to_vec()));
        let request = match condition {
            Precondition::Absent => request.if_none_match("*"),
            Precondition::Is(etag) => request.if_match(etag),
        };
        match request.send().await {
            Ok(answer) if answer.e_tag().is_some_and(|etag| !etag.is_empty()) => Ok(Created::Yes),
            // A page of something on the way says nothing about the object.
            Ok(_) => Err(BucketError {
                kind: ErrorKind::NotS3,
                operation: "PUT",
                key: format!("{}/{key}", self.location),
                what: "200 without an ETag: whoever answered stored nothing that it could name".into(),
            }),
            Err(error) => match self.classify("PUT", key, &error) {
                BucketError { kind: ErrorKind::Precondition, .. } => Ok(Created::Exists),
                error => Err(error),
            },
        }
    }

    /// Reads a whole object, with retries; `None` when it does not exist.
    ///
    /// # Errors
    /// Failure of the last try.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BucketError> {
        Ok(self.get_tagged(key, None).await?.map(|(bytes, _)| bytes))
    }

    /// Reads the first `len` bytes of an object, with retries.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub(crate) async fn get_start(&self, key: &str, len: usize) -> Result<Option<Vec<u8>>, BucketError> {
        Ok(self.get_tagged(key, Some(len)).await?.map(|(bytes, _)| bytes))
    }

    /// Reads an object and its ETag, with retries; of the object the first `start` bytes only where that is given.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub(crate) async fn get_tagged(
        &self,
        key: &str,
        start: Option<usize>,
    ) -> Result<Option<(Vec<u8>, Option<String>)>, BucketError> {
        self.with_retries(|| self.get_once(key, start)).await
    }

    /// Reads an object and its ETag, tried once: for callers that repeat requests themselves.
    ///
    /// # Errors
    /// Failure of the request.
    pub(crate) async fn get_once(
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
        let body = tokio::time::timeout(self.retry.attempt_timeout, response.body.collect()).await;
        let body = body
            .map_err(|_| body_error(ErrorKind::Timeout, key, "the body stalled".into()))?
            .map_err(|error| body_error(ErrorKind::Transport, key, format!("the body broke off: {error}")))?
            .into_bytes();
        if expected.is_some_and(|expected| u64::try_from(expected) != Ok(body.len() as u64)) {
            let what = format!("the body has {} bytes of {}", body.len(), expected.unwrap_or(0));
            return Err(body_error(ErrorKind::Transport, key, what));
        }
        self.traffic.bytes_got.fetch_add(body.len() as u64, Ordering::Relaxed);
        Ok(Some((body.into(), etag)))
    }

    /// Deletes an object, or one version of it. Succeeds when it does not exist.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn delete(&self, key: &str, version: Option<&str>) -> Result<(), BucketError> {
        self.with_retries(|| async {
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

    /// Makes a request until it succeeds, fails for good, or was tried [`RetryPolicy::read_attempts`] times.
    async fn with_retries<T, F: Future<Output = Result<T, BucketError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, BucketError> {
        let mut failures = 0;
        loop {
            match attempt().await {
                Err(error) if error.kind.is_transient() && failures + 1 < self.retry.read_attempts => {
                    failures += 1;
                    tracing::debug!(%error, failures, "request failed, will be tried again");
                    tokio::time::sleep(self.retry.backoff(failures)).await;
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
}

/// Error of an answer whose body did not arrive whole.
fn body_error(kind: ErrorKind, key: &str, what: String) -> BucketError {
    BucketError { kind, operation: "GET", key: key.to_owned(), what }
}

/// Returns true for the answer of a bucket that stores nothing without a checksum.
fn asks_for_checksum(error: &BucketError) -> bool {
    error.kind == ErrorKind::Other && (error.what.contains("x-amz-checksum") || error.what.contains("Content-MD5"))
}

#[derive(Clone, Copy)]
enum Precondition<'a> {
    Absent,
    Is(&'a str),
}
