//! Listings of a bucket: objects, folders, versions.

use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::{Bucket, BucketError};

/// Entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key under the prefix.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Time at which the server stored it, in milliseconds since the Unix epoch, by the server's clock.
    pub stored_ms: u64,
    /// Identifier of the version, in a listing of versions.
    pub version: Option<String>,
    /// True for a delete marker.
    pub is_delete_marker: bool,
    /// True for the version that a plain GET answers with.
    pub is_latest: bool,
}

impl Bucket {
    /// Lists everything under `folder`, after `start_after` (a key under the prefix, exclusive).
    ///
    /// A listing is a hint: what it lacks is looked up by key where that matters.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn list(&self, folder: &str, start_after: Option<&str>) -> Result<Vec<Entry>, BucketError> {
        let mut entries = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self.page(folder, start_after, None, token).await?;
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
            token = next_token(&page);
            if token.is_none() {
                return Ok(entries);
            }
        }
    }

    /// Lists the folders right under the prefix, without their slashes.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn folders(&self) -> Result<Vec<String>, BucketError> {
        let mut folders = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self.page("", None, Some("/"), token).await?;
            let names = page.common_prefixes().iter().filter_map(|folder| self.relative(folder.prefix()?));
            folders.extend(names.map(|name| name.trim_end_matches('/').to_owned()));
            token = next_token(&page);
            if token.is_none() {
                return Ok(folders);
            }
        }
    }

    async fn page(
        &self,
        folder: &str,
        start_after: Option<&str>,
        delimiter: Option<&str>,
        token: Option<String>,
    ) -> Result<ListObjectsV2Output, BucketError> {
        self.with_retries(|| async {
            self.traffic.lists.fetch_add(1, Ordering::Relaxed);
            self.client
                .list_objects_v2()
                .bucket(&self.location.bucket)
                .prefix(self.full(folder))
                .set_start_after(start_after.map(|key| self.full(key)))
                .set_delimiter(delimiter.map(str::to_owned))
                .set_continuation_token(token.clone())
                .send()
                .await
                .map_err(|error| self.classify("LIST", folder, &error))
        })
        .await
    }

    /// Lists every version and delete marker under `folder`; on a bucket without versions, every object.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub(crate) async fn list_versions(&self, folder: &str) -> Result<Vec<Entry>, BucketError> {
        let mut entries = Vec::new();
        let (mut key_marker, mut version_marker): (Option<String>, Option<String>) = (None, None);
        loop {
            let page = self
                .with_retries(|| async {
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
}

/// Returns the token of the next page; `None` after the last.
fn next_token(page: &ListObjectsV2Output) -> Option<String> {
    page.next_continuation_token().filter(|_| page.is_truncated() == Some(true)).map(str::to_owned)
}

fn stored_ms(time: Option<&aws_sdk_s3::primitives::DateTime>) -> u64 {
    time.and_then(|time| time.to_millis().ok()).and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0)
}
