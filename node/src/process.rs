//! A node's process: waits for what it lacks, says so, and runs once all is there.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::tls::{Pins, Platform};
use keyfleet_crds::cluster::access::KUBERNETES_ISSUER;
use keyfleet_crds::node::report::ProblemAbout;
use keyfleet_litestream::bucket::Location;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::apiserver::ApiServer;
use crate::apiserver::issuers::Issuers;
use crate::apiserver::last_known::LastKnown;
use crate::apiserver::rounds::Rounds;
use crate::apiserver::seal::SealSecret;
use crate::apiserver::status::{Problems, Speaker, StatusWriter};
use crate::apiserver::watching::{AddressOf, Doom, Listed, address_in_dns, watch_all};
use crate::certificate::Mounted;
use crate::config::Config;
use crate::erasure::Ending;
use crate::grpc::round::Readers;
use crate::http::{self, Pages, Running};
use crate::keystores::KeyStore;
use crate::keystores::decision::StoreKind;
use crate::keystores::secret::SecretStore;
use crate::keystores::volume::VolumeStore;
use crate::name_mark::NameMark;
use crate::problems::{watch_replication, watch_rounds};
use crate::round::{StartError, Started, start};
use crate::runtime::{Addresses, Node, Options};
use crate::serving::{Service, Tokens};
use crate::startup::{AssembleError, RESTORED, assemble};
use crate::store::Backing;

/// What is missing may come: a Secret that is created later, a bucket that answers again.
const RETRY: Duration = Duration::from_secs(5);

/// What a node's pages say in the end.
const DESTROYED: &str =
    "the KmsCluster is deleted with deletionPolicy Destroy: everything secret of this node is destroyed";

/// So many tries are made with an environment that lacks what the configuration names.
const TRIES_WITHOUT: u32 = 6;

/// A process that ends waits so long for the bucket: with callers' leave and the last words it must stay within the pod's
/// grace period of a minute.
const FLUSH: Duration = Duration::from_secs(25);

/// What a process is given beside its configuration.
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
    /// A second key store.
    #[error(transparent)]
    KeyStore(#[from] crate::keystores::KeyStoreError),
    /// The node's own state or identity.
    #[error(transparent)]
    Run(#[from] crate::runtime::RunError),
    /// The state file.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A container's environment is made when it starts: only a new one has what came meanwhile.
    #[error("the environment lacks {0}: the container has to start again once it is there")]
    Environment(String),
    /// A test asks for a fault that there is not.
    #[cfg(feature = "danger-faults")]
    #[error(transparent)]
    Danger(#[from] crate::fault_injection::DangerError),
    /// Neither the API server nor a folder in its place.
    #[error("there is no API server here, and secondHome is not set")]
    Nowhere,
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
/// What no waiting would heal.
pub async fn run(
    config: Config,
    surroundings: Surroundings,
    stop: impl Future<Output = ()>,
) -> Result<(), ProcessError> {
    let (trouble, running) = (watch::Sender::new(None), watch::Sender::new(None));
    #[cfg(feature = "danger-faults")]
    let faults = crate::fault_injection::Faults::read(|name| std::env::var(name).ok(), config.index, config.data())?;
    let pages = Pages {
        trouble: trouble.subscribe(),
        node: running.subscribe(),
        #[cfg(feature = "danger-faults")]
        died: faults.died(),
    };
    let (mut shown, mut tasks) = (JoinSet::new(), JoinSet::new());
    shown.spawn(async move {
        if let Err(error) = http::run(surroundings.http, pages).await {
            tracing::error!(%error, "the pages ended");
        }
    });
    let server = surroundings.client.as_ref().map(|client| ApiServer::new(client.clone(), &config.file));
    if let (Some(server), Some(ending)) = (&server, Ending::begun(config.data())?) {
        trouble.send_replace(Some(DESTROYED.to_owned()));
        ending.go_on(config.data(), server, stop).await;
        return Ok(());
    }
    let (speaker, seen) = (watch::Sender::new(None), watch::Sender::new(None));
    let problems = Problems::default();
    let writer = server.as_ref().map(|server| StatusWriter {
        server: server.clone(),
        key_encryption_id: config.active_key().to_owned(),
        problems: problems.clone(),
        speaker: speaker.subscribe(),
        seen: seen.subscribe(),
    });
    if let Some(writer) = writer.clone() {
        tasks.spawn(writer.run());
    }
    let platform = Platform::default();
    if let Some(folder) = config.file.kms_certificate_folder.clone() {
        let mut mounted = Mounted::new(folder, platform.clone(), problems.clone());
        // Before the first caller comes.
        mounted.look();
        tasks.spawn(mounted.follow());
    }
    tokio::pin!(stop);
    let mut tries = 0;
    let started = loop {
        match try_start(&config, server.as_ref(), &problems).await {
            Ok(started) => break started,
            Err(fault) => {
                tracing::error!(fault, "not started");
                trouble.send_replace(Some(fault));
            }
        }
        tries += 1;
        if let Some(lacked) = config.lacked(|name| std::env::var_os(name).is_some()).filter(|_| tries >= TRIES_WITHOUT)
        {
            return Err(ProcessError::Environment(lacked));
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = &mut stop => return Ok(()),
        }
    };
    trouble.send_replace(None);
    #[cfg(feature = "danger-faults")]
    let started = {
        let mut started = started;
        faults.install(&mut started.persister);
        started
    };
    let (store, node_key) = (started.persister.store().clone(), started.persister.node_key().clone());
    let backing = store.backing().clone();
    let last_known = LastKnown::recall(&store, &node_key)?;
    let owner = (config.cluster, config.index);
    let identity = started.persister.identity_key();
    let last = server.clone().zip(started.persister.identity_key());
    let (doom, mut doomed) = watch::channel(Doom::default());
    let restored = started.restored.then(|| config.data().join(RESTORED));
    let mut options = Options {
        peers: surroundings.peers,
        kms: None,
        platform,
        pins: Pins::default(),
        addresses: watch::Sender::new(Addresses::new()).subscribe(),
        readers: None,
    };
    if let Some(client) = surroundings.client {
        let access = last_known.access();
        let mut issuers = vec![KUBERNETES_ISSUER.to_owned()];
        issuers.extend(access.borrow().issuers.iter().map(|issuer| issuer.name.clone()));
        let source = Arc::new(Issuers::new(client, access.clone()));
        let tokens = Arc::new(Tokens::new(owner, &issuers, source, store.clone(), node_key.clone())?);
        let service = Service::new(owner, access.clone(), started.persister.served(), tokens.clone(), store.clone());
        options.kms = Some((surroundings.kms, Arc::new(service)));
        options.readers = Some(Readers { tokens, operator: config.file.operator.clone(), access });
        options.pins = last_known.pins();
        options.addresses = last_known.addresses();
    }
    let node = Node::run(started, options)?;
    let name = hex::encode(node.identity().0);
    tracing::info!(identity = name, "running; the operator pins this identity");
    running.send_replace(Some(Running { identity: name, published: node.published(), served: node.served() }));
    if let (Some(server), Some(identity)) = (server, identity) {
        speaker.send_replace(Some(Speaker {
            identity: Arc::new(identity),
            owner,
            published: node.published(),
            served: node.served(),
            backing: store.backing().clone(),
        }));
        let name_mark = match (&config.file.replication, store.backing()) {
            (Some(replication), Backing::Replicated { database, .. }) => {
                let prefix = replication.s3.prefix.clone().unwrap_or_default();
                let (file, bucket) = (&config.file, Location { prefix, ..database.bucket().location().clone() });
                Some(NameMark::new(bucket, &file.namespace, &file.cluster, file.cluster_id).await)
            }
            _ => None,
        };
        let troubles = problems.clone();
        tasks.spawn(watch_rounds(node.notices(), node.served(), problems.clone()));
        let listed = watch::Sender::new(Arc::new(Listed::default()));
        let rounds = Rounds { facts: node.facts(), published: node.published(), name_mark, restored, problems };
        tasks.spawn(rounds.feed(listed.subscribe()));
        tasks.spawn(watch_replication(store.backing().clone(), troubles));
        tasks.spawn(last_known.clone().remember(store, node_key));
        tasks.spawn(watch_all(server, last_known, surroundings.address_of, listed, seen, doom));
    }
    let doomed = tokio::select! {
        () = &mut stop => false,
        Ok(_) = doomed.wait_for(|doom| doom.is_sealed()) => true,
    };
    tasks.shutdown().await;
    node.stop().await;
    if let (true, Some((server, identity))) = (doomed, last) {
        tracing::warn!("the cluster is destroyed, and with it everything secret of this node");
        running.send_replace(None);
        trouble.send_replace(Some(DESTROYED.to_owned()));
        let ending = Ending::begin(config.data(), owner, &identity)?;
        ending.go_on(config.data(), &server, stop).await;
        return Ok(());
    }
    let flushed = flush(backing).await;
    if let (Some(flushed), Some(writer)) = (flushed, writer)
        && let Err(error) = writer.say_goodbye(flushed).await
    {
        tracing::warn!(%error, "the KmsNode does not say how far the replica is");
    }
    Ok(())
}

/// Sends what is not in the bucket yet, for as long as a pod that ends may take. Whether all of it is there; `None` where
/// nothing is replicated.
async fn flush(backing: Backing) -> Option<bool> {
    let Backing::Replicated { database, .. } = backing else { return None };
    let behind = database.lag();
    match database.close(FLUSH).await {
        Ok(position) => {
            let position = position.map_or_else(|| "the beginning".to_owned(), |position| position.to_string());
            tracing::info!(position, commits = behind.lag_commits, "flushed: the bucket has everything");
            Some(true)
        }
        Err(why) => {
            let position = behind.position.map_or_else(|| "the beginning".to_owned(), |position| position.to_string());
            tracing::error!(
                position,
                commits = behind.lag_commits,
                %why,
                "not flushed: the bucket did not confirm the newest commits; the volume has them, so keep it"
            );
            Some(false)
        }
    }
}

/// One try. What is wrong is noted, in words that a person can act on.
async fn try_start(config: &Config, server: Option<&ApiServer>, problems: &Problems) -> Result<Started, String> {
    let secret = key_store(config, server).map_err(|fault| fault.to_string())?;
    let parts = match assemble(config, secret).await {
        Ok(parts) => parts,
        Err(fault) => {
            let (about, reason) = fault.concerns();
            let text = fault.to_string();
            problems.set(about, reason, &text);
            // A fault of one thing says nothing of the others, but that the key was read before the bucket was asked.
            if !matches!(fault, AssembleError::Key(_)) {
                problems.clear(ProblemAbout::KeyEncryption);
            }
            return Err(format!("{}: {text}", reason.as_str()));
        }
    };
    problems.clear(ProblemAbout::KeyEncryption);
    problems.clear(ProblemAbout::Replication);
    match start(parts).await {
        Ok(started) => {
            problems.clear(ProblemAbout::Seal);
            for finding in &started.findings {
                problems.set(ProblemAbout::Seal, finding.reason(), &finding.to_string());
            }
            Ok(started)
        }
        Err(fault) => {
            let (about, reason) = StartError::concerns(&fault);
            problems.set(about, reason, &fault.to_string());
            Err(format!("{}: {fault}", reason.as_str()))
        }
    }
}

/// The key store beside the volume: the Secret, or the folder in its place.
pub(crate) fn key_store(config: &Config, server: Option<&ApiServer>) -> Result<Arc<dyn KeyStore>, ProcessError> {
    match (&config.file.second_home, server) {
        (Some(folder), _) => Ok(Arc::new(VolumeStore::open_as(StoreKind::Secret, folder.clone())?)),
        (None, Some(server)) => Ok(Arc::new(SecretStore::new(SealSecret::new(server)))),
        (None, None) => Err(ProcessError::Nowhere),
    }
}
