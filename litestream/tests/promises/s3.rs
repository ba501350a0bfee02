//! An S3 server in memory, for tests: one lock around check-and-put, so that conditional writes are atomic, and
//! faults on order. (Servers that are not atomic cannot test fencing: they have two winners.)

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keyfleet_litestream::bucket::{Bucket, Location, Patience, StaticCredentials};
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use tokio::net::TcpListener;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Done, and then the connection is reset before the answer.
    LostAnswer,
    /// Not done, and the connection is reset.
    LostRequest,
    /// 409 ConditionalRequestConflict.
    Conflict,
    /// 503 SlowDown.
    SlowDown,
    /// 400 ExpiredToken.
    Expired,
    /// 403 AccessDenied.
    Denied,
    /// 403 RequestTimeTooSkewed.
    ClockSkew,
    /// The body stops half-way, and the connection is closed.
    Truncated,
    /// The body comes in small pieces with pauses.
    SlowBody,
    /// Never answered.
    Hang,
    /// A listing of what was there when the fault was ordered.
    StaleList(Vec<String>),
    /// A listing that lacks every second entry.
    PartialList,
}

/// One fault on order: the next `times` requests of `operation` whose key contains `key`.
#[derive(Clone, Debug)]
struct Order {
    operation: &'static str,
    key: String,
    fault: Fault,
    times: usize,
}

#[derive(Clone, Debug)]
struct Version {
    id: String,
    bytes: Option<Bytes>,
    stored: SystemTime,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Vec<Version>>,
    versioned: bool,
    versions_denied: bool,
    orders: VecDeque<Order>,
    down: bool,
    page: usize,
    log: Vec<(&'static str, String)>,
    next_version: u64,
}

/// The server's content and its faults. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    port: u16,
}

pub(crate) const ACCESS_KEY: &str = "test-access";
pub(crate) const SECRET_KEY: &str = "test-secret-key";

impl Server {
    /// Starts a server on a free port. It ends with the runtime.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = Self { state: Arc::default(), port: listener.local_addr().expect("bound").port() };
        server.state.lock().unwrap().page = 1000;
        let mut builder = S3ServiceBuilder::new(server.clone());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let service = service.clone();
                let answer = service_fn(move |request| {
                    let service = service.clone();
                    async move {
                        match hyper::service::Service::call(&service, request).await {
                            // An error here closes the connection without an answer.
                            Ok(response) if response.status() == 599 => Err(std::io::Error::other("reset")),
                            Ok(response) => Ok(response),
                            Err(error) => Err(std::io::Error::other(format!("{error:?}"))),
                        }
                    }
                });
                tokio::spawn(async move {
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
                    Ok::<_, Infallible>(())
                });
            }
        });
        server
    }

    pub(crate) fn location(&self, prefix: &str) -> Location {
        Location {
            bucket: "fleet".into(),
            prefix: prefix.into(),
            region: Some("us-east-1".into()),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            force_path_style: None,
            credentials: Some(StaticCredentials {
                access_key_id: ACCESS_KEY.into(),
                secret_access_key: SECRET_KEY.into(),
            }),
            authorities: None,
        }
    }

    /// Orders a fault.
    pub(crate) fn order(&self, operation: &'static str, key: &str, fault: Fault, times: usize) {
        self.state.lock().unwrap().orders.push_back(Order { operation, key: key.into(), fault, times });
    }

    /// Whether orders are left: a test whose fault never came has proven nothing.
    pub(crate) fn orders_left(&self) -> usize {
        self.state.lock().unwrap().orders.len()
    }

    /// Takes the server away (503 to everything) or brings it back.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    pub(crate) fn set_page(&self, keys: usize) {
        self.state.lock().unwrap().page = keys;
    }

    pub(crate) fn set_versioned(&self) {
        self.state.lock().unwrap().versioned = true;
    }

    /// Whether versions may be listed, which is a right of its own.
    pub(crate) fn deny_versions(&self, denied: bool) {
        self.state.lock().unwrap().versions_denied = denied;
    }

    /// Number of requests so far, by operation.
    pub(crate) fn requests(&self, operation: &str) -> usize {
        self.state.lock().unwrap().log.iter().filter(|(name, _)| *name == operation).count()
    }

    /// All keys that a plain GET would answer.
    pub(crate) fn keys(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.objects.keys().filter(|key| current(&state, key).is_some()).cloned().collect()
    }

    /// Bytes of an object, unconditionally.
    pub(crate) fn peek(&self, key: &str) -> Option<Bytes> {
        current(&self.state.lock().unwrap(), key)
    }

    /// Replaces an object behind everyone's back.
    pub(crate) fn poke(&self, key: &str, bytes: Vec<u8>) {
        let version = Version { id: "poked".into(), bytes: Some(bytes.into()), stored: SystemTime::now() };
        self.state.lock().unwrap().objects.insert(key.into(), vec![version]);
    }

    /// Removes an object behind everyone's back.
    pub(crate) fn remove(&self, key: &str) {
        self.state.lock().unwrap().objects.remove(key);
    }

    /// A copy of everything, to be put back later: a bucket that is rolled back.
    pub(crate) fn image(&self) -> BTreeMap<String, Bytes> {
        self.keys().into_iter().map(|key| (key.clone(), self.peek(&key).unwrap())).collect()
    }

    /// Puts an image in the place of everything.
    pub(crate) fn roll_back(&self, image: &BTreeMap<String, Bytes>) {
        let mut state = self.state.lock().unwrap();
        state.objects.clear();
        for (key, bytes) in image {
            let version = Version { id: "old".into(), bytes: Some(bytes.clone()), stored: SystemTime::now() };
            state.objects.insert(key.clone(), vec![version]);
        }
    }

    /// Makes everything look stored this long ago.
    pub(crate) fn age(&self, by: Duration) {
        for version in self.state.lock().unwrap().objects.values_mut().flatten() {
            version.stored -= by;
        }
    }

    fn admit(&self, operation: &'static str, key: &str) -> Result<Option<Fault>, S3Error> {
        let mut state = self.state.lock().unwrap();
        state.log.push((operation, key.into()));
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

fn current(state: &State, key: &str) -> Option<Bytes> {
    state.objects.get(key)?.last()?.bytes.clone()
}

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
        let tag = etag(&bytes);
        {
            let mut state = self.state.lock().unwrap();
            let there = current(&state, &req.input.key);
            let allowed = match (&req.input.if_none_match, &req.input.if_match, &there) {
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

/// Short limits: tests wait for conditions, not for servers.
pub(crate) fn patience() -> Patience {
    Patience {
        attempt: Duration::from_secs(5),
        reads: 8,
        pause: Duration::from_millis(5),
        pause_max: Duration::from_millis(50),
    }
}

pub(crate) async fn bucket(location: Location) -> Bucket {
    Bucket::connect(location, patience()).await
}
