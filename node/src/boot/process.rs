//! A node's process: waits for what it lacks, says so, and runs once all is there.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::tls::{Pins, Platform};
use keyfleet_crds::KmsNodeStatus;
use keyfleet_crds::cluster::access::KUBERNETES_ISSUER;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_litestream::bucket::Location;
use keyfleet_threshold::identity::IdentitySecretKey;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::assemble::{AssembleError, RESTORED, assemble, secret_store};
use super::erase::Ending;
use super::flush::flush;
use super::recover::{StartError, start};
use crate::apiserver::ApiServer;
use crate::apiserver::issuers::Issuers;
use crate::apiserver::last_known::LastKnown;
use crate::apiserver::rounds::{Plans, Rounds};
use crate::apiserver::status::{Problems, Speaker, StatusWriter};
use crate::apiserver::watching::{AddressOf, Doom, Listed, address_in_dns, watch_all};
use crate::certificate::Mounted;
use crate::config::Config;
#[cfg(feature = "danger-faults")]
use crate::fault_injection::FaultInjection;
use crate::grpc::round::Readers;
use crate::http::{self, Pages, Running};
use crate::name_mark::NameMark;
use crate::problems::{watch_replication, watch_rounds};
use crate::round::Started;
use crate::runtime::{Addresses, Node, Options};
use crate::serving::{Service, Tokens};
use crate::store::Backing;

/// Pause before the next try: a Secret may be created later, a bucket may answer again.
const RETRY: Duration = Duration::from_secs(5);

/// Message of the pages once the node is erased.
const DESTROYED: &str =
    "the KmsCluster is deleted with deletionPolicy Destroy: everything secret of this node is destroyed";

/// Tries with an environment that lacks what the configuration names.
const TRIES_WITHOUT: u32 = 6;

/// Everything that a process is given beside its configuration.
pub struct Surroundings {
    /// The API server; `None` with a second key store, for development outside Kubernetes.
    pub client: Option<Client>,
    /// Where peers are.
    pub address_of: AddressOf,
    /// The port of peers and operator.
    pub peers: TcpListener,
    /// The port of callers.
    pub kms: TcpListener,
    /// The port of the pages.
    pub http: TcpListener,
}

/// Why a process ends without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// A listener, or a second key store.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The node's own state or identity.
    #[error(transparent)]
    Run(#[from] crate::runtime::RunError),
    /// The state file.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// This program is at fault: a task without which the node does nothing has ended.
    #[error("a task of the node ended: {0}. The container has to start again; report it with the log above")]
    TaskEnded(String),
    /// A container's environment is made when it starts: only a new one has what came meanwhile.
    #[error("the environment lacks {0}: the container has to start again once it is there")]
    Environment(String),
}

impl Surroundings {
    /// The pod's: its API server, the ports of the configuration, peers by their host names.
    ///
    /// # Errors
    /// When a port is taken.
    pub async fn of_pod(config: &Config) -> Result<Self, ProcessError> {
        let client = match Client::try_default().await {
            Ok(client) => Some(client),
            Err(error) if config.file.second_home.is_some() => {
                tracing::warn!(%error, "without an API server: for development only");
                None
            }
            Err(error) => return Err(std::io::Error::other(error).into()),
        };
        let file = &config.file;
        Ok(Self {
            client,
            address_of: address_in_dns(&file.cluster, &file.namespace),
            peers: bind(file.round_port).await?,
            kms: bind(file.kms_port).await?,
            http: bind(file.http_port).await?,
        })
    }
}

/// On all addresses of both families, or of IPv4 where there is no IPv6.
async fn bind(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(("::", port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
    }
}

/// Runs a node until `stop` resolves.
///
/// # Errors
/// For faults that no waiting would heal.
pub async fn run(
    config: Config,
    surroundings: Surroundings,
    stop: impl Future<Output = ()>,
) -> Result<(), ProcessError> {
    Process::new(config, surroundings.client.as_ref()).run(surroundings, stop).await
}

/// As [`run`], with faults that are installed before the node persists anything.
///
/// # Errors
/// As [`run`].
#[cfg(feature = "danger-faults")]
pub async fn run_with_faults(
    config: Config,
    surroundings: Surroundings,
    faults: Box<dyn FaultInjection>,
    stop: impl Future<Output = ()>,
) -> Result<(), ProcessError> {
    tracing::warn!("KEYFLEET_DANGER: this program has faults on demand; never run it with a key that counts");
    let mut process = Process::new(config, surroundings.client.as_ref());
    process.faults = Some(faults);
    process.run(surroundings, stop).await
}

/// A process, and what it shows of itself from its first moment to its last.
struct Process {
    config: Config,
    server: Option<ApiServer>,
    problems: Problems,
    platform: Platform,
    /// Reason why the node does not run, for the pages.
    trouble: watch::Sender<Option<String>>,
    /// The running node, for the pages.
    running: watch::Sender<Option<Running>>,
    /// The running node, for its `KmsNode`.
    speaker: watch::Sender<Option<Speaker>>,
    /// This node's `KmsNode` as it was seen last.
    seen: watch::Sender<Option<Arc<KmsNodeStatus>>>,
    pages: JoinSet<()>,
    tasks: JoinSet<()>,
    #[cfg(feature = "danger-faults")]
    faults: Option<Box<dyn FaultInjection>>,
}

/// A node that runs, and what its end needs.
struct Wired {
    node: Node,
    backing: Backing,
    identity: Option<Arc<IdentitySecretKey>>,
    doomed: watch::Receiver<Doom>,
}

impl Process {
    fn new(config: Config, client: Option<&Client>) -> Self {
        Self {
            server: client.map(|client| ApiServer::new(client.clone(), &config.file)),
            config,
            problems: Problems::default(),
            platform: Platform::default(),
            trouble: watch::Sender::new(None),
            running: watch::Sender::new(None),
            speaker: watch::Sender::new(None),
            seen: watch::Sender::new(None),
            pages: JoinSet::new(),
            tasks: JoinSet::new(),
            #[cfg(feature = "danger-faults")]
            faults: None,
        }
    }

    async fn run(mut self, surroundings: Surroundings, stop: impl Future<Output = ()>) -> Result<(), ProcessError> {
        tokio::pin!(stop);
        let Surroundings { client, address_of, peers, kms, http } = surroundings;
        self.serve_pages(http);
        if let (Some(server), Some(ending)) = (&self.server, Ending::begun(self.config.data())?) {
            self.trouble.send_replace(Some(DESTROYED.to_owned()));
            ending.go_on(self.config.data(), server, stop).await;
            return Ok(());
        }
        self.report();
        self.follow_certificate();
        let Some(started) = self.wait_for_start(&mut stop).await? else { return Ok(()) };
        let mut wired = self.wire(started, Ports { client, peers, kms }, address_of).await?;
        let doomed = tokio::select! {
            () = &mut stop => false,
            Ok(_) = wired.doomed.wait_for(|doom| doom.is_sealed()) => true,
            how = wired.node.ended() => return Err(ProcessError::TaskEnded(how)),
            how = panicked(&mut self.tasks) => return Err(ProcessError::TaskEnded(how)),
        };
        self.end(wired, doomed, stop).await
    }

    /// Serves the pages, from before the node can start to after its end.
    fn serve_pages(&mut self, listener: TcpListener) {
        let pages = Pages {
            trouble: self.trouble.subscribe(),
            node: self.running.subscribe(),
            #[cfg(feature = "danger-faults")]
            died: self.faults.as_ref().map_or_else(Vec::new, |faults| faults.died()),
        };
        self.pages.spawn(async move {
            if let Err(error) = http::run(listener, pages).await {
                tracing::error!(%error, "the pages ended");
            }
        });
    }

    /// Writes `status.node` from now on: also while something keeps the node from starting.
    fn report(&mut self) {
        if let Some(writer) = self.status_writer() {
            self.tasks.spawn(writer.run());
        }
    }

    fn status_writer(&self) -> Option<StatusWriter> {
        Some(StatusWriter {
            server: self.server.clone()?,
            key_encryption_id: self.config.active_key().to_owned(),
            problems: self.problems.clone(),
            speaker: self.speaker.subscribe(),
            seen: self.seen.subscribe(),
        })
    }

    /// Reads the platform's certificate for callers, where there is one, and follows its renewals.
    fn follow_certificate(&mut self) {
        let Some(folder) = self.config.file.kms_certificate_folder.clone() else { return };
        let mut mounted = Mounted::new(folder, self.platform.clone(), self.problems.clone());
        // Before the first caller comes.
        mounted.look();
        self.tasks.spawn(mounted.follow());
    }

    /// Tries to start until nothing is missing; `None` when `stop` resolved first.
    async fn wait_for_start(
        &mut self,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> Result<Option<Started>, ProcessError> {
        for tries in 1_u32.. {
            match self.try_start().await {
                #[cfg_attr(not(feature = "danger-faults"), expect(unused_mut, reason = "faults are installed in it"))]
                Ok(mut started) => {
                    self.trouble.send_replace(None);
                    #[cfg(feature = "danger-faults")]
                    if let Some(faults) = self.faults.take() {
                        faults.install(&mut started.persister);
                    }
                    return Ok(Some(started));
                }
                Err(error) => {
                    let error = error.to_string();
                    tracing::error!(error, "not started");
                    self.trouble.send_replace(Some(error));
                }
            }
            let lacked = self.config.lacked(|name| std::env::var_os(name).is_some());
            if let Some(lacked) = lacked.filter(|_| tries >= TRIES_WITHOUT) {
                return Err(ProcessError::Environment(lacked));
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = &mut stop => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Tries once. Notes what is wrong, in words that a person can act on.
    async fn try_start(&self) -> Result<Started, TryError> {
        let secret = secret_store(&self.config, self.server.as_ref()).map_err(TryError::KeyStore)?;
        let parts = assemble(&self.config, secret).await.map_err(|error| self.not_assembled(&error))?;
        self.problems.clear(ProblemAbout::KeyEncryption);
        self.problems.clear(ProblemAbout::Replication);
        let started = start(parts).await.map_err(|error| self.not_started(&error))?;
        self.problems.clear(ProblemAbout::Seal);
        for finding in &started.findings {
            self.problems.set(ProblemAbout::Seal, finding.reason(), &finding.to_string());
        }
        Ok(started)
    }

    fn not_assembled(&self, error: &AssembleError) -> TryError {
        let ((about, reason), message) = (error.concerns(), error.to_string());
        self.problems.set(about, reason, &message);
        // A problem of one thing says nothing of the others, but that the key was read before the bucket was asked.
        if !matches!(error, AssembleError::Key(_)) {
            self.problems.clear(ProblemAbout::KeyEncryption);
        }
        TryError::Problem { reason, message }
    }

    fn not_started(&self, error: &StartError) -> TryError {
        let ((about, reason), message) = (error.concerns(), error.to_string());
        self.problems.set(about, reason, &message);
        TryError::Problem { reason, message }
    }

    /// Connects a started node with peers, callers and the API server, and runs it.
    async fn wire(&mut self, started: Started, ports: Ports, address_of: AddressOf) -> Result<Wired, ProcessError> {
        let (store, node_key) = (started.persister.store().clone(), started.persister.node_key().clone());
        let backing = store.backing().clone();
        let last_known = LastKnown::recall(&store, &node_key)?;
        let identity = started.persister.identity_key().map(Arc::new);
        let restored = started.restored.then(|| self.config.data().join(RESTORED));
        let options = self.options(&started, &last_known, ports)?;
        let node = Node::run(started, options)?;
        let name = hex::encode(node.identity().0);
        tracing::info!(identity = name, "running; the operator pins this identity");
        let running = Running { identity: name, published: node.published(), served: node.served() };
        self.running.send_replace(Some(running));
        let doom = watch::Sender::new(Doom::default());
        let doomed = doom.subscribe();
        if let (Some(server), Some(identity)) = (self.server.clone(), identity.clone()) {
            self.speaker.send_replace(Some(Speaker {
                identity,
                owner: (self.config.cluster, self.config.index),
                published: node.published(),
                served: node.served(),
                backing: backing.clone(),
            }));
            let listed = watch::Sender::new(Arc::new(Listed::default()));
            let rounds = Rounds {
                facts: node.facts(),
                proofs: node.proofs(),
                published: node.published(),
                name_mark: self.name_mark(&backing).await,
                restored,
                problems: self.problems.clone(),
                plans: Plans::default(),
            };
            self.tasks.spawn(rounds.feed(listed.subscribe()));
            self.tasks.spawn(watch_rounds(node.notices(), node.served(), self.problems.clone()));
            self.tasks.spawn(watch_replication(backing.clone(), self.problems.clone()));
            self.tasks.spawn(last_known.clone().remember(store, node_key));
            self.tasks.spawn(watch_all(server, last_known, address_of, listed, self.seen.clone(), doom));
        }
        Ok(Wired { node, backing, identity, doomed })
    }

    /// Returns what the node is run with. Without an API server there are neither callers nor peers.
    fn options(&self, started: &Started, last_known: &LastKnown, ports: Ports) -> Result<Options, ProcessError> {
        let mut options = Options {
            peers: ports.peers,
            kms: None,
            platform: self.platform.clone(),
            pins: Pins::default(),
            addresses: watch::Sender::new(Addresses::new()).subscribe(),
            readers: None,
        };
        let Some(client) = ports.client else { return Ok(options) };
        let owner = (self.config.cluster, self.config.index);
        let (store, node_key) = (started.persister.store(), started.persister.node_key());
        let access = last_known.access();
        let mut issuers = vec![KUBERNETES_ISSUER.to_owned()];
        issuers.extend(access.borrow().issuers.iter().map(|issuer| issuer.name.clone()));
        let source = Arc::new(Issuers::new(client, access.clone()));
        let tokens = Arc::new(Tokens::new(owner, &issuers, source, store.clone(), node_key.clone())?);
        let service = Service::new(owner, access.clone(), started.persister.served(), tokens.clone(), store.clone());
        options.kms = Some((ports.kms, Arc::new(service)));
        options.readers = Some(Readers { tokens, operator: self.config.file.operator.clone(), access });
        options.pins = last_known.pins();
        options.addresses = last_known.addresses();
        Ok(options)
    }

    /// Returns the mark of the cluster's name in the bucket that the node's own replica is in.
    async fn name_mark(&self, backing: &Backing) -> Option<NameMark> {
        let (file, replica) = (&self.config.file, backing.location()?);
        let prefix = file.replication.as_ref()?.s3.prefix.clone().unwrap_or_default();
        let bucket = Location { prefix, ..replica.clone() };
        Some(NameMark::new(bucket, &file.namespace, &file.cluster, file.cluster_id).await)
    }

    /// Stops the node; then erases it for good, or sends the rest of its commits to the bucket.
    async fn end(mut self, wired: Wired, doomed: bool, stop: impl Future<Output = ()>) -> Result<(), ProcessError> {
        self.tasks.shutdown().await;
        wired.node.stop().await;
        if let (true, Some(server), Some(identity)) = (doomed, &self.server, wired.identity) {
            tracing::warn!("the cluster is destroyed, and with it everything secret of this node");
            self.running.send_replace(None);
            self.trouble.send_replace(Some(DESTROYED.to_owned()));
            let owner = (self.config.cluster, self.config.index);
            let ending = Ending::begin(self.config.data(), owner, &identity)?;
            ending.go_on(self.config.data(), server, stop).await;
            return Ok(());
        }
        let Some(flushed) = flush(wired.backing).await else { return Ok(()) };
        if let Some(writer) = self.status_writer()
            && let Err(error) = writer.say_goodbye(flushed).await
        {
            tracing::warn!(%error, "the KmsNode does not say how far the replica is");
        }
        Ok(())
    }
}

/// Waits until a task panics. One that has nothing more to do may return.
async fn panicked(tasks: &mut JoinSet<()>) -> String {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            return error.to_string();
        }
    }
    std::future::pending().await
}

/// The API server and the ports of a pod that a node takes over.
struct Ports {
    client: Option<Client>,
    peers: TcpListener,
    kms: TcpListener,
}

/// Why one try did not start the node.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    KeyStore(AssembleError),
    #[error("{}: {message}", .reason.as_str())]
    Problem { reason: Reason, message: String },
}
