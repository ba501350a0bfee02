//! A running node: one task that drives the rounds, one server, and one follower per peer.
//!
//! ```text
//!  facts (plans, records) ─▶ ┐
//!  follower of each peer ──▶ ├─ mailbox ─▶ driver ─▶ published ─▶ server
//!  fetcher ◀── wants ─────── ┘
//! ```

mod follower;
mod proofs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use keyfleet_api::limits::MESSAGE_BYTES_MAX;
use keyfleet_api::tls::{Acceptor, CertificateError, Pins, Platform};
use keyfleet_api::v1::kms_server::KmsServer;
use keyfleet_api::v1::round_server::RoundServer;
use keyfleet_threshold::feed::InputError;
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::round::{Notice, Want};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::grpc::health::{self, Health};
use crate::grpc::kms::KmsApi;
use crate::grpc::peer_limits::PeerLimits;
use crate::grpc::round::{Readers, RoundApi};
use crate::grpc::transport;
use crate::round::driver::Driver;
use crate::round::{Epochs, Input, Published, Started};
use crate::seal::KeyName;
use crate::serving::Service;

pub use proofs::PeerProofs;

/// Facts that may wait for the driver, and those that it takes in at once.
const MAILBOX: usize = 256;
const TOGETHER: usize = 64;
/// Pause after a key store or the replica did not take something; doubled after every failure, up to the last.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(4);
/// Time that callers have to end their requests when the node stops.
const DRAIN: Duration = Duration::from_secs(10);
/// Notices remembered; the oldest go first.
const NOTICES: usize = 64;
/// Interval of the comparison of the key stores.
const COMPARE: Duration = Duration::from_secs(300);

/// Why a node cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The key stores hold no identity.
    #[error("`{0}` is in neither key store")]
    NoIdentity(KeyName),
    /// The identity makes no TLS.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Where the peers are: host and port by index. Their identities are in the pins.
pub type Addresses = BTreeMap<NodeIndex, String>;

/// Number of times that each peer had to be read again from its first word.
type Rereads = BTreeMap<NodeIndex, u64>;

/// Surroundings that a node is run in.
pub struct Options {
    /// The port of peers and operator.
    pub peers: TcpListener,
    /// The port of callers, and what they are served with; `None`: nobody is.
    pub kms: Option<(TcpListener, Arc<Service>)>,
    /// The platform's certificate for callers, where there is one.
    pub platform: Platform,
    /// The pins.
    pub pins: Pins,
    /// Where the peers are.
    pub addresses: watch::Receiver<Addresses>,
    /// Checks the tokens of the operator and of observers; `None`: only peers read.
    pub readers: Option<Readers>,
}

/// A running node. Dropping it ends its tasks at once, as a kill would.
pub struct Node {
    facts: mpsc::Sender<Input>,
    proofs: Arc<PeerProofs>,
    identity: IdentityPublicKey,
    published: watch::Receiver<Arc<Published>>,
    served: watch::Receiver<Arc<Epochs>>,
    notices: watch::Receiver<Vec<Notice>>,
    tasks: JoinSet<()>,
    servers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Node {
    /// Runs a started node.
    ///
    /// # Errors
    /// When it has no identity, or that makes no TLS.
    pub fn run(started: Started, options: Options) -> Result<Self, RunError> {
        let identity = started.persister.identity_key();
        let identity = Arc::new(identity.ok_or(RunError::NoIdentity(KeyName::Identity))?);
        let (cluster, index) = started.persister.key_stores().owner();
        let (published, served) = (started.persister.published(), started.persister.served());
        let bundles = started.persister.bundles().clone();
        let (facts, mailbox) = mpsc::channel(MAILBOX);
        let (wants, wanted) = watch::channel(Vec::new());
        let (rereads, reread) = watch::channel(Rereads::new());
        let (notices, noticed) = watch::channel(Vec::new());
        let (mut tasks, mut servers) = (JoinSet::new(), JoinSet::new());
        let stop = watch::Sender::new(false);

        let acceptor = Acceptor::new(&identity, options.pins.clone())?;
        let round = RoundApi {
            owner: (cluster, index),
            published: published.clone(),
            served: served.clone(),
            bundles,
            identity: identity.clone(),
            readers: options.readers,
            sequence: Arc::new(AtomicU64::new(crate::clock::now_ms())),
            reports: Arc::default(),
            limits: PeerLimits::default(),
        };
        let routes = Routes::new(RoundServer::new(round).max_decoding_message_size(MESSAGE_BYTES_MAX));
        let (of, to) = (published.clone(), served.clone());
        let routes = Health::beside::<RoundServer<RoundApi>>(routes, health::round_serves, of, to);
        servers.spawn(serve("peers", options.peers, acceptor, routes, stop.subscribe()));
        if let Some((listener, service)) = options.kms {
            if let Some(writer) = service.take_writer() {
                servers.spawn(async move { writer.await.unwrap_or_default() });
            }
            let kms = KmsServer::new(KmsApi(service)).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let routes = Routes::new(kms);
            let (of, to) = (published.clone(), served.clone());
            let routes = Health::beside::<KmsServer<KmsApi>>(routes, health::kms_serves, of, to);
            let acceptor = Acceptor::for_callers(&identity, options.pins.clone(), options.platform)?;
            servers.spawn(serve("callers", listener, acceptor, routes, stop.subscribe()));
        }
        let own = started.identity;
        tasks.spawn(drive(Driver::new(started), mailbox, wants, rereads, notices));
        let proofs = Arc::new(PeerProofs::default());
        let me = follower::Me {
            cluster,
            index,
            identity: identity.clone(),
            pins: options.pins,
            proofs: proofs.clone(),
            published: published.clone(),
        };
        tasks.spawn(follower::follow_all(me, options.addresses, facts.clone(), wanted, reread));
        Ok(Self { facts, proofs, identity: own, published, served, notices: noticed, tasks, servers, stop })
    }

    /// The identity that the node offers.
    #[must_use]
    pub fn identity(&self) -> IdentityPublicKey {
        self.identity
    }

    /// Where plans and records go in, as they are read.
    #[must_use]
    pub fn facts(&self) -> mpsc::Sender<Input> {
        self.facts.clone()
    }

    /// Where peers are asked what they hold, before an epoch is retired.
    #[must_use]
    pub fn proofs(&self) -> Arc<PeerProofs> {
        self.proofs.clone()
    }

    /// Returns what peers and operator may read of it, as it changes.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }

    /// The epochs that it serves.
    #[must_use]
    pub fn served(&self) -> watch::Receiver<Arc<Epochs>> {
        self.served.clone()
    }

    /// Returns what a person should hear of, as it changes.
    #[must_use]
    pub fn notices(&self) -> watch::Receiver<Vec<Notice>> {
        self.notices.clone()
    }

    /// Waits until one of the node's tasks ends, which none does by itself: what is left would look healthy and take part in
    /// nothing. Returns how it ended.
    pub async fn ended(&mut self) -> String {
        tokio::select! {
            ended = first_ended(&mut self.tasks) => ended,
            ended = first_ended(&mut self.servers) => ended,
        }
    }

    /// Stops: requests under way are answered, streams end, and the files are free when this returns.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // Streams of what was said end with the driver.
        self.tasks.shutdown().await;
        let drained = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("callers did not go in time");
            self.servers.shutdown().await;
        }
    }
}

async fn first_ended(tasks: &mut JoinSet<()>) -> String {
    match tasks.join_next().await {
        Some(Err(error)) => error.to_string(),
        Some(Ok(())) | None => "it returned".to_owned(),
    }
}

async fn serve(
    to: &'static str,
    listener: TcpListener,
    acceptor: Acceptor,
    (routes, mut health): (Routes, Health),
    mut stop: watch::Receiver<bool>,
) {
    // Before the first caller can ask.
    health.look().await;
    let health = health.follow(stop.clone());
    let stopped = async move {
        // A sender that is gone stops as well.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let (served, ()) = tokio::join!(transport::serve(listener, acceptor, routes, stopped), health);
    if let Err(error) = served {
        tracing::error!(%error, to, "the server ended");
    }
}

/// Feeds the driver, one fact after the other. A fact that meets an outage waits, and so do all after it.
async fn drive(
    mut driver: Driver,
    mut mailbox: mpsc::Receiver<Input>,
    wants: watch::Sender<Vec<Want>>,
    rereads: watch::Sender<Rereads>,
    notices: watch::Sender<Vec<Notice>>,
) {
    let mut compare = tokio::time::interval(COMPARE);
    compare.reset();
    let mut pause = RETRY;
    while let Err(error) = driver.settle().await {
        tracing::warn!(%error, "what the start owes is not durable yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    wants.send_replace(driver.wants());
    let mut inputs = Vec::new();
    loop {
        tokio::select! {
            // What waits already is taken together: it becomes durable at once.
            taken = mailbox.recv_many(&mut inputs, TOGETHER) => if taken == 0 {
                return;
            },
            _ = compare.tick() => {
                if let Err(error) = driver.compare().await {
                    tracing::warn!(%error, "the key stores could not be compared");
                }
                continue;
            }
        }
        let mut pause = RETRY;
        let errors = loop {
            match driver.feed_all(&inputs).await {
                Ok(errors) => break errors,
                Err(error) => {
                    tracing::warn!(%error, "a step is not durable yet; nothing is said until it is");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        };
        inputs.clear();
        for (_, error) in errors {
            match error {
                InputError::Message(error) => tracing::debug!(%error, "a message was not taken up"),
                InputError::Shown(error) => tracing::debug!(%error, "a shown epoch was not taken up"),
                error => tracing::warn!(%error, "a fact was refused"),
            }
        }
        let now = driver.wants();
        wants.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        let again = driver.take_rereads();
        if !again.is_empty() {
            rereads.send_modify(|times| again.into_iter().for_each(|peer| *times.entry(peer).or_default() += 1));
        }
        let new = driver.take_notices();
        if !new.is_empty() {
            for notice in &new {
                tracing::warn!(%notice, "noticed");
            }
            notices.send_modify(|all| {
                all.extend(new);
                all.drain(..all.len().saturating_sub(NOTICES));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn for_ever() {
        std::future::pending::<()>().await;
    }

    /// A node whose driver is gone answers health checks and takes part in no round.
    #[tokio::test]
    async fn a_task_that_panics_or_returns_is_noticed() {
        let mut tasks = JoinSet::new();
        tasks.spawn(for_ever());
        tasks.spawn(async { panic!("an invariant is broken") });
        let ended = first_ended(&mut tasks).await;
        assert!(ended.contains("an invariant is broken"), "{ended}");
        tasks.spawn(async {});
        assert_eq!(first_ended(&mut tasks).await, "it returned");
    }
}
