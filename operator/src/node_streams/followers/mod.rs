//! One task per node: keeps its stream open, checks what comes, and fetches what is wanted from whoever has it.
//!
//! ```text
//!  node ──Follow──▶ task ──signature under the pin──▶ Transcripts ──▶ notifications ──▶ a reconcile
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use keyfleet_api::limits::REPORT_PREKEYS_MAX;
use keyfleet_api::round_reader::{
    self, FETCH_TIMEOUT, Fetched, Heard, ProveError, ReportError, RoundReader, fetch_requests,
};
use keyfleet_api::tls::{CertificateError, Connector};
use keyfleet_api::{channel, v1, wire};
use keyfleet_crds::values::{ClusterId, PublicKey};
use keyfleet_threshold::identifiers::{self, Digest, NodeIndex};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::possession::{Asked, Challenge};
use keyfleet_threshold::round::Blob;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::token::{Token, TokenError, Tokens};
use super::{Nodes, Target};
use keyfleet_planner::state::ms;
use keyfleet_planner::view::transcripts::{Transcripts, Watched};
use keyfleet_planner::view::{ReportedPrekey, StreamView};

/// The pause before a node is called again; doubled up to the last after every failure.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Wait before a fetch of the same messages is tried again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Messages that come together make one reconcile.
const GATHER: Duration = Duration::from_millis(20);

/// Follows nodes over TLS by pin and token.
pub struct Followers {
    tokens: Arc<dyn Tokens>,
    fleets: Mutex<HashMap<ClusterId, Fleet>>,
    notifications: Arc<Notifications>,
}

struct Fleet {
    transcripts: Arc<Mutex<Transcripts>>,
    tasks: BTreeMap<u32, (Target, Task)>,
    wanted: watch::Sender<BTreeSet<Digest>>,
    /// Number of times that the nodes were asked for proofs.
    asked: watch::Sender<u64>,
}

/// Ends its task when dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Of which clusters something was heard since the reader last asked.
#[derive(Default)]
struct Notifications {
    clusters: Mutex<BTreeSet<[u8; 16]>>,
    some: Notify,
}

impl Notifications {
    fn of(&self, cluster: ClusterId) {
        locked(&self.clusters).insert(cluster.0);
        self.some.notify_one();
    }

    async fn next(&self) -> BTreeSet<[u8; 16]> {
        self.some.notified().await;
        tokio::time::sleep(GATHER).await;
        std::mem::take(&mut locked(&self.clusters))
    }
}

impl Followers {
    /// Follows with these tokens.
    #[must_use]
    pub fn new(tokens: Arc<dyn Tokens>) -> Self {
        Self { tokens, fleets: Mutex::default(), notifications: Arc::default() }
    }
}

#[async_trait::async_trait]
impl Nodes for Followers {
    fn follow(&self, cluster: ClusterId, targets: BTreeMap<u32, Target>) {
        let mut fleets = locked(&self.fleets);
        let fleet = fleets.entry(cluster).or_insert_with(|| Fleet {
            transcripts: Arc::default(),
            tasks: BTreeMap::new(),
            wanted: watch::Sender::default(),
            asked: watch::Sender::default(),
        });
        let transcripts = fleet.transcripts.clone();
        fleet.tasks.retain(|index, (target, _)| {
            let stays = targets.get(index) == Some(target);
            let same_node = targets.get(index).is_some_and(|new| new.identity == target.identity);
            if !stays {
                locked(&transcripts).disconnect(*index);
            }
            if !same_node {
                locked(&transcripts).forget(*index);
            }
            stays
        });
        for (index, target) in targets {
            let Some(node) = NodeIndex::new(index).filter(|_| !fleet.tasks.contains_key(&index)) else { continue };
            let pin = IdentityPublicKey(target.identity.0);
            let follower = Follower {
                cluster,
                index,
                address: target.address.clone(),
                pin,
                tokens: self.tokens.clone(),
                transcripts: fleet.transcripts.clone(),
                wanted: fleet.wanted.subscribe(),
                asks: fleet.asked.subscribe(),
                notifications: self.notifications.clone(),
                token: None,
                asked: Asked { challenge: Challenge::default(), at_ms: 0 },
                reader: RoundReader::new(identifiers::ClusterId(cluster.0), node, pin),
            };
            fleet.tasks.insert(index, (target, Task(tokio::spawn(follower.run()))));
        }
    }

    fn forget(&self, cluster: ClusterId) {
        locked(&self.fleets).remove(&cluster);
    }

    fn ask(&self, cluster: ClusterId) {
        if let Some(fleet) = locked(&self.fleets).get(&cluster) {
            locked(&fleet.transcripts).ask(now_ms());
            fleet.asked.send_modify(|times| *times += 1);
        }
    }

    async fn view(&self, cluster: ClusterId, key: Option<PublicKey>, rounds: Vec<Watched>) -> StreamView {
        let Some(transcripts) = locked(&self.fleets).get(&cluster).map(|fleet| fleet.transcripts.clone()) else {
            return StreamView::default();
        };
        // Judging a round of a hundred nodes takes a while.
        let looked = tokio::task::spawn_blocking(move || {
            let mut transcripts = locked(&transcripts);
            (transcripts.view(key, &rounds), transcripts.wanted(&rounds))
        });
        let Ok((view, wanted)) = looked.await else { return StreamView::default() };
        if let Some(fleet) = locked(&self.fleets).get(&cluster) {
            fleet.wanted.send_if_modified(|before| {
                let changed = *before != wanted;
                *before = wanted;
                changed
            });
        }
        view
    }

    fn notifications(&self) -> BoxStream<'static, ClusterId> {
        let notifications = self.notifications.clone();
        stream::unfold(notifications, async |notifications| {
            Some((stream::iter(notifications.next().await), notifications))
        })
        .flatten()
        .map(ClusterId)
        .boxed()
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads one node.
struct Follower {
    cluster: ClusterId,
    index: u32,
    /// Host name and port.
    address: String,
    pin: IdentityPublicKey,
    tokens: Arc<dyn Tokens>,
    transcripts: Arc<Mutex<Transcripts>>,
    wanted: watch::Receiver<BTreeSet<Digest>>,
    asks: watch::Receiver<u64>,
    notifications: Arc<Notifications>,
    token: Option<Token>,
    /// Challenge that the node has to prove its shares over, in the stream that is open.
    asked: Asked,
    reader: RoundReader,
}

/// Why a stream ended, or none began.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the TLS settings: {0}")]
    Tls(#[from] CertificateError),
    #[error("{address}: {error:?}")]
    Unreachable { address: String, error: tonic::transport::Error },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the node: {0}")]
    Status(#[from] tonic::Status),
    #[error("the node closed the stream")]
    Closed,
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("the cluster is forgotten")]
    Forgotten,
}

impl Follower {
    async fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let opened = Instant::now();
            let Err(error) = self.once().await;
            tracing::debug!(cluster = %self.cluster, node = self.index, %error, "the stream ended");
            locked(&self.transcripts).disconnect(self.index);
            self.notifications.of(self.cluster);
            pause = if opened.elapsed() > PAUSE_MAX { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Follows until the stream ends, which it never does by itself.
    async fn once(&mut self) -> Result<Infallible, StreamError> {
        let connector = Connector::new(None, self.pin)?;
        let channel = channel::connect(self.address.clone(), connector).await;
        let channel = channel.map_err(|error| StreamError::Unreachable { address: self.address.clone(), error })?;
        // A fresh one for every stream: what was proven to an earlier one proves nothing now.
        self.asked = Asked { challenge: rand::random(), at_ms: now_ms() };
        let request = self.authorized(self.reader.request(&self.asked.challenge)).await?;
        let mut stream = match round_reader::client(channel.clone()).follow(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => {
                self.reader.refused(&status);
                if status.code() == tonic::Code::Unauthenticated {
                    self.token = None;
                }
                return Err(status.into());
            }
        };
        let mut wanted = self.wanted.clone();
        wanted.mark_changed();
        let mut asks = self.asks.clone();
        asks.mark_unchanged();
        let mut again = tokio::time::interval(ASK_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                item = stream.message() => {
                    if self.take(item?.ok_or(StreamError::Closed)?)? {
                        self.notifications.of(self.cluster);
                    }
                }
                changed = wanted.changed() => {
                    changed.map_err(|_| StreamError::Forgotten)?;
                    let now = wanted.borrow_and_update().clone();
                    self.fetch(&channel, now).await?;
                }
                changed = asks.changed() => {
                    changed.map_err(|_| StreamError::Forgotten)?;
                    self.prove(&channel).await?;
                }
                _ = again.tick() => {
                    let still = wanted.borrow().clone();
                    self.fetch(&channel, still).await?;
                }
            }
        }
    }

    async fn authorized<T>(&mut self, message: T) -> Result<tonic::Request<T>, TokenError> {
        let token = match self.token.take().filter(|token| Instant::now() < token.renew_at) {
            Some(token) => token,
            None => self.tokens.token(&wire::audience(identifiers::ClusterId(self.cluster.0), self.index)).await?,
        };
        let mut request = tonic::Request::new(message);
        let bearer = format!("Bearer {}", token.secret).parse().map_err(|_| TokenError::NoHeader)?;
        request.metadata_mut().insert("authorization", bearer);
        self.token = Some(token);
        Ok(request)
    }

    /// Takes up what a node says. Returns true for something new; an error where the node does not say what is its own.
    fn take(&mut self, item: v1::FollowItem) -> Result<bool, ReportError> {
        Ok(match self.reader.take(item)? {
            None => false,
            Some(Heard::CaughtUp) => {
                locked(&self.transcripts).caught_up(self.index, now_ms());
                true
            }
            Some(Heard::Report(report)) => {
                let claims = self.reader.claims(&report, self.asked);
                let prekeys: Vec<_> =
                    report.prekeys.iter().take(REPORT_PREKEYS_MAX).filter_map(reported_prekey).collect();
                let mut transcripts = locked(&self.transcripts);
                let knows_newer = transcripts.report_prekeys(self.index, prekeys);
                transcripts.report(self.index, report.highest_number, claims) || knows_newer
            }
            Some(Heard::Kept(shown)) => locked(&self.transcripts).show(self.index, &shown),
            Some(Heard::Row { number, blob: Blob::Message(message) }) => {
                let verified = message.verify(&self.pin);
                verified.is_some_and(|it| locked(&self.transcripts).say(self.index, number, it))
            }
            Some(Heard::Row { blob: Blob::Vector(_), .. }) => false,
        })
    }

    /// Asks the node anew what it holds. One that does not answer proves nothing, and is read on.
    async fn prove(&mut self, channel: &Channel) -> Result<(), StreamError> {
        let asked = Asked { challenge: rand::random(), at_ms: now_ms() };
        let request = self.authorized(self.reader.prove_request(&asked.challenge)).await?;
        match self.reader.prove(channel, request).await {
            Ok(report) => {
                locked(&self.transcripts).answer(self.index, self.reader.claims(&report, asked));
                self.notifications.of(self.cluster);
            }
            Err(ProveError::Report(error)) => return Err(error.into()),
            Err(error) => tracing::debug!(cluster = %self.cluster, node = self.index, %error, "it was asked anew"),
        }
        Ok(())
    }
    async fn fetch(&mut self, channel: &Channel, wanted: BTreeSet<Digest>) -> Result<(), StreamError> {
        let wanted: Vec<Digest> = wanted.into_iter().collect();
        for request in fetch_requests(identifiers::ClusterId(self.cluster.0), &wanted) {
            let mut request = self.authorized(request).await?;
            request.set_timeout(FETCH_TIMEOUT);
            let mut found = Fetched::ask(channel, request).await?;
            let mut came = false;
            while let Some(blob) = found.next().await? {
                locked(&self.transcripts).fetched(&blob);
                came = true;
            }
            if came {
                self.notifications.of(self.cluster);
            }
        }
        Ok(())
    }
}

/// Returns the wall clock, as decisions count it.
fn now_ms() -> u64 {
    ms(jiff::Timestamp::now())
}

fn reported_prekey(accepted: &v1::AcceptedPrekey) -> Option<(u32, ReportedPrekey)> {
    let v1::AcceptedPrekey { index, number, public_key, signature } = accepted;
    Some((*index, ReportedPrekey::of(*number, public_key, signature)?))
}

#[cfg(test)]
mod tests;
