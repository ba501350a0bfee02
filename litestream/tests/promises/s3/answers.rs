//! Answers of the server: to each request that of an S3 server, unless a fault is on order for it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::{Fault, Server, Version, current};

#[async_trait::async_trait]
impl S3 for Server {
    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let mut bytes = Vec::new();
        if let Some(mut body) = req.input.body.take() {
            use futures_util::StreamExt as _;
            while let Some(chunk) = body.next().await {
                bytes.extend(chunk.map_err(|_| reset())?);
            }
        }
        let fault = self.admit("PUT", &req.input.key)?;
        if fault == Some(Fault::Hang) {
            hang::<()>().await;
        }
        if fault == Some(Fault::Page) {
            return Ok(S3Response::new(PutObjectOutput::default()));
        }
        let tag = etag(&bytes);
        {
            let mut state = self.state.lock().unwrap();
            if state.demands_checksums && !has_checksum(&req.headers) {
                let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object \
                               Lock parameters";
                return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message));
            }
            let there = current(&state, &req.input.key);
            let allowed = match (&req.input.if_none_match, &req.input.if_match, &there) {
                _ if state.ignores_conditions => true,
                (Some(_), _, Some(_)) => false,
                (_, Some(ETagCondition::ETag(expected)), Some(bytes)) => etag(bytes).value() == expected.value(),
                (_, Some(_), None) => return Err(S3Error::new(S3ErrorCode::NoSuchKey)),
                _ => true,
            };
            if !allowed {
                return Err(S3Error::new(S3ErrorCode::PreconditionFailed));
            }
            state.next_version += 1;
            let version = Version {
                id: format!("v{}", state.next_version),
                bytes: Some(bytes.into()),
                stored: SystemTime::now(),
            };
            let versioned = state.versioned;
            let versions = state.objects.entry(req.input.key.clone()).or_default();
            if !versioned {
                versions.clear();
            }
            versions.push(version);
        }
        if fault == Some(Fault::LostAnswer) {
            return Err(reset());
        }
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(tag), ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let fault = self.admit("GET", &req.input.key)?;
        if fault == Some(Fault::Hang) {
            hang::<()>().await;
        }
        let bytes = current(&self.state.lock().unwrap(), &req.input.key);
        let Some(bytes) = bytes else { return Err(S3Error::new(S3ErrorCode::NoSuchKey)) };
        let tag = etag(&bytes);
        let bytes = match req.input.range {
            Some(range) => {
                let range = range.check(bytes.len() as u64)?;
                bytes.slice(range.start as usize..range.end as usize)
            }
            None => bytes,
        };
        let len = bytes.len();
        let pieces: Vec<(u64, Result<Bytes, std::io::Error>)> = match fault {
            Some(Fault::LostAnswer) => return Err(reset()),
            Some(Fault::Truncated) => {
                vec![(0, Ok(bytes.slice(..len / 2))), (0, Err(std::io::Error::other("cut")))]
            }
            Some(Fault::SlowBody) => {
                bytes.chunks((len / 8).max(1)).map(|piece| (20, Ok(Bytes::copy_from_slice(piece)))).collect()
            }
            _ => vec![(0, Ok(bytes))],
        };
        let body = stream::unfold(pieces.into_iter(), |mut pieces| async move {
            let (pause_ms, piece) = pieces.next()?;
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            Some((piece, pieces))
        });
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(Box::pin(body))),
            content_length: Some(len as i64),
            e_tag: Some(tag),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let prefix = req.input.prefix.unwrap_or_default();
        let fault = self.admit("LIST", &prefix)?;
        let after = req.input.continuation_token.or(req.input.start_after).unwrap_or_default();
        let state = self.state.lock().unwrap();
        let mut keys: Vec<&String> = state
            .objects
            .keys()
            .filter(|key| key.starts_with(&prefix) && **key > after && current(&state, key).is_some())
            .collect();
        match &fault {
            Some(Fault::StaleList(known)) => keys.retain(|key| known.contains(key)),
            Some(Fault::PartialList) => {
                let mut index = 0;
                keys.retain(|_| {
                    index += 1;
                    index % 2 == 0
                });
            }
            _ => {}
        }
        let truncated = keys.len() > state.page;
        keys.truncate(state.page);
        let contents: Vec<Object> = keys
            .iter()
            .map(|key| {
                let version = state.objects[*key].last().expect("listed");
                Object {
                    key: Some((*key).clone()),
                    size: Some(version.bytes.as_ref().map_or(0, Bytes::len) as i64),
                    last_modified: Some(version.stored.into()),
                    ..Default::default()
                }
            })
            .collect();
        Ok(S3Response::new(ListObjectsV2Output {
            next_continuation_token: truncated.then(|| keys.last().expect("a full page").to_string()),
            is_truncated: Some(truncated),
            contents: Some(contents),
            ..Default::default()
        }))
    }

    async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let prefix = req.input.prefix.unwrap_or_default();
        self.admit("LIST", &prefix)?;
        let state = self.state.lock().unwrap();
        if state.versions_denied {
            return Err(S3Error::new(S3ErrorCode::AccessDenied));
        }
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for (key, all) in state.objects.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            for (index, version) in all.iter().enumerate() {
                let is_latest = Some(index + 1 == all.len());
                let (key, version_id) = (Some(key.clone()), Some(version.id.clone()));
                let last_modified = Some(version.stored.into());
                match &version.bytes {
                    Some(bytes) => versions.push(ObjectVersion {
                        key,
                        version_id,
                        is_latest,
                        last_modified,
                        size: Some(bytes.len() as i64),
                        ..Default::default()
                    }),
                    None => markers.push(DeleteMarkerEntry {
                        key,
                        version_id,
                        is_latest,
                        last_modified,
                        ..Default::default()
                    }),
                }
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            versions: Some(versions),
            delete_markers: Some(markers),
            is_truncated: Some(false),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.admit("DELETE", &req.input.key)?;
        let mut state = self.state.lock().unwrap();
        if state.held.as_ref().is_some_and(|held| req.input.key.contains(held)) {
            return Err(S3Error::new(S3ErrorCode::AccessDenied));
        }
        state.next_version += 1;
        let marker = Version { id: format!("v{}", state.next_version), bytes: None, stored: SystemTime::now() };
        let versioned = state.versioned;
        match (&req.input.version_id, versioned) {
            (Some(id), _) => {
                if let Some(versions) = state.objects.get_mut(&req.input.key) {
                    versions.retain(|version| version.id != *id);
                    if versions.is_empty() {
                        state.objects.remove(&req.input.key);
                    }
                }
            }
            (None, true) => state.objects.entry(req.input.key).or_default().push(marker),
            (None, false) => drop(state.objects.remove(&req.input.key)),
        }
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }
}

impl Server {
    /// Takes note of a request. A fault that is on order becomes its answer, or is left to the caller.
    fn admit(&self, operation: &'static str, key: &str) -> Result<Option<Fault>, S3Error> {
        let mut state = self.state.lock().unwrap();
        state.log.push((operation, key.into()));
        let due = state.deeds.iter().position(|(of, part, _)| *of == operation && key.contains(part));
        if let Some(at) = due {
            let (.., deed) = state.deeds.remove(at);
            deed();
        }
        if state.down {
            return Err(S3Error::new(S3ErrorCode::SlowDown));
        }
        let at = state.orders.iter().position(|order| order.operation == operation && key.contains(&order.key));
        let Some(at) = at else { return Ok(None) };
        let fault = state.orders[at].fault.clone();
        state.orders[at].times -= 1;
        if state.orders[at].times == 0 {
            state.orders.remove(at);
        }
        Err(match fault {
            Fault::Conflict => custom("ConditionalRequestConflict", 409),
            Fault::SlowDown => S3Error::new(S3ErrorCode::SlowDown),
            Fault::Expired => custom("ExpiredToken", 400),
            Fault::Denied => S3Error::new(S3ErrorCode::AccessDenied),
            Fault::ClockSkew => custom("RequestTimeTooSkewed", 403),
            Fault::LostRequest => reset(),
            later => return Ok(Some(later)),
        })
    }
}

fn has_checksum(headers: &hyper::HeaderMap) -> bool {
    headers.keys().any(|name| name == "content-md5" || name.as_str().starts_with("x-amz-checksum-"))
}

fn custom(code: &'static str, status: u16) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::Custom(code.into()));
    error.set_status_code(status.try_into().expect("a status"));
    error
}

/// Becomes a closed connection.
fn reset() -> S3Error {
    custom("Reset", 599)
}

async fn hang<T>() -> T {
    std::future::pending().await
}

fn etag(bytes: &[u8]) -> ETag {
    ETag::Strong(keyfleet_litestream::position::Digest::of(bytes).to_string())
}
