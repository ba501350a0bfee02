//! S3 server in memory, for tests: one lock around check-and-put, so that conditional writes are atomic, and
//! faults on order. (Servers that are not atomic cannot test fencing: they have two winners.)
//!
//! Here is the tests' side of it; `answers` is the clients' side.

mod answers;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keyfleet_litestream::bucket::{Bucket, Location, RetryPolicy, StaticCredentials};
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

/// Fault of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Request carried out; the connection is reset before the answer.
    LostAnswer,
    /// Request not carried out; the connection is reset.
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
    /// Request without any answer.
    Hang,
    /// A listing of what was there when the fault was ordered.
    StaleList(Vec<String>),
    /// A listing that lacks every second entry.
    PartialList,
    /// 200 from something on the way, with a page of its own and without an ETag: nothing is stored.
    Page,
}

/// Deed at the moment when a request arrives.
type Deed = Box<dyn FnOnce() + Send>;

/// Fault on order: the next `times` requests of `operation` whose key contains `key`.
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

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<Version>>,
    versioned: bool,
    versions_denied: bool,
    /// True for a store that takes every PUT, whatever its condition.
    ignores_conditions: bool,
    /// True for a bucket with a default retention of Object Lock.
    demands_checksums: bool,
    /// Part of the keys that are under a legal hold.
    held: Option<String>,
    /// Distance of the server's clock from this machine's, in seconds.
    clock_s: i64,
    deeds: Vec<(&'static str, String, Deed)>,
    orders: VecDeque<Order>,
    down: bool,
    page: usize,
    log: Vec<(&'static str, String)>,
    next_version: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("objects", &self.objects.keys()).finish_non_exhaustive()
    }
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
        // The client signs with the time that the server tells it, and the server's clock is set by tests.
        let mut config = S3Config::default();
        config.presigned_url_max_skew_time_secs = u32::MAX;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let service = builder.build();
        let dated = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let (service, state) = (service.clone(), Arc::clone(&dated.state));
                let answer = service_fn(move |request| {
                    let (service, state) = (service.clone(), Arc::clone(&state));
                    async move {
                        match hyper::service::Service::call(&service, request).await {
                            // An error here closes the connection without an answer.
                            Ok(response) if response.status() == 599 => Err(std::io::Error::other("reset")),
                            Ok(mut response) => {
                                let date = date(state.lock().unwrap().clock_s);
                                response.headers_mut().insert("date", date.parse().expect("a date"));
                                Ok(response)
                            }
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

    /// Returns the number of orders left: a test whose fault never came has proven nothing.
    pub(crate) fn orders_left(&self) -> usize {
        self.state.lock().unwrap().orders.len()
    }

    /// Takes the server away (503 to everything) or brings it back.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    pub(crate) fn is_down(&self) -> bool {
        self.state.lock().unwrap().down
    }

    pub(crate) fn set_page(&self, keys: usize) {
        self.state.lock().unwrap().page = keys;
    }

    pub(crate) fn set_versioned(&self) {
        self.state.lock().unwrap().versioned = true;
    }

    /// Denies or allows listing versions, which is a right of its own.
    pub(crate) fn deny_versions(&self, denied: bool) {
        self.state.lock().unwrap().versions_denied = denied;
    }

    /// Makes the server a store that takes every PUT, whatever its condition.
    pub(crate) fn ignore_conditions(&self) {
        self.state.lock().unwrap().ignores_conditions = true;
    }

    /// Gives the bucket a default retention of Object Lock: a PUT without a checksum is refused.
    pub(crate) fn demand_checksums(&self) {
        self.state.lock().unwrap().demands_checksums = true;
    }

    /// Puts the objects whose keys contain `part` under a legal hold.
    pub(crate) fn hold(&self, part: &str) {
        self.state.lock().unwrap().held = Some(part.to_owned());
    }

    /// Sets the server's clock: seconds from this machine's.
    pub(crate) fn set_clock(&self, seconds: i64) {
        self.state.lock().unwrap().clock_s = seconds;
    }

    /// Does something when the next request of `operation` whose key contains `key` arrives, before it is answered.
    pub(crate) fn when(&self, operation: &'static str, key: &str, deed: impl FnOnce() + Send + 'static) {
        self.state.lock().unwrap().deeds.push((operation, key.to_owned(), Box::new(deed)));
    }

    /// Number of requests so far, by operation.
    pub(crate) fn requests(&self, operation: &str) -> usize {
        self.state.lock().unwrap().log.iter().filter(|(name, _)| *name == operation).count()
    }

    /// Returns the keys that a plain GET would answer.
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
}

/// Returns the server's time as the header `Date` has it.
fn date(seconds: i64) -> String {
    let now = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(seconds)).expect("a time");
    now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn current(state: &State, key: &str) -> Option<Bytes> {
    state.objects.get(key)?.last()?.bytes.clone()
}

/// Short limits: tests wait for conditions, not for servers.
pub(crate) fn retry() -> RetryPolicy {
    RetryPolicy {
        attempt_timeout: Duration::from_secs(5),
        read_attempts: 8,
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
    }
}

pub(crate) async fn bucket(location: Location) -> Bucket {
    Bucket::connect(location, retry()).await
}
