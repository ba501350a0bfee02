//! Four nodes as tasks over real TLS sockets, and an operator that reads them as the real one does.

mod health;
mod limits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyfleet_api::v1;
use keyfleet_api::v1::round_client::RoundClient;
use keyfleet_threshold::identifiers::{Digest, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey};
use keyfleet_threshold::prekey::SignedPrekey;
use keyfleet_threshold::round::{Blob, Body, MessageKind, Phase};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use keyfleet_api::tls::{Connector, Pins, Platform};
use keyfleet_api::{channel, messages};
use keyfleet_node::round::Input;
use keyfleet_node::runtime::{Addresses, Node, Options};
use keyfleet_node::serving::{FetchedKeys, IssuerError, KeySource, Service, Tokens};
use keyfleet_test_fleet::rounds::{CLUSTER, Operator, Round, TestNode, index};

/// Index 99 watches: it has a pin like the others, and takes part in nothing.
const OBSERVER: u32 = 99;

struct Fleet {
    nodes: Vec<(TestNode, Option<Node>)>,
    pins: Pins,
    addresses: watch::Sender<Addresses>,
    platform: Platform,
    /// Where callers are served.
    callers: BTreeMap<NodeIndex, String>,
    heard: mpsc::Receiver<(NodeIndex, Heard)>,
    hear: mpsc::Sender<(NodeIndex, Heard)>,
}

/// A node as a plan names it.
type PlannedNode = (NodeIndex, IdentityPublicKey, Option<SignedPrekey>);

enum Heard {
    Said(Box<Blob>),
    Report(Box<v1::Report>),
}

struct NoIssuer;

#[async_trait]
impl KeySource for NoIssuer {
    async fn fetch(&self, _: &str) -> Result<FetchedKeys, IssuerError> {
        Err(IssuerError::NotConfigured("kubernetes".to_owned()))
    }
}

fn observer() -> IdentitySecretKey {
    IdentitySecretKey::from_seed(&[99; 32])
}

impl Fleet {
    async fn start(n: u32) -> Self {
        let (hear, heard) = mpsc::channel(1024);
        let nodes = (1..=n).map(|i| (TestNode::new(i), None)).collect();
        let mut fleet = Self {
            nodes,
            pins: Pins::default(),
            addresses: watch::Sender::new(Addresses::new()),
            platform: Platform::default(),
            callers: BTreeMap::new(),
            heard,
            hear,
        };
        for at in 0..fleet.nodes.len() {
            fleet.run(at).await;
        }
        let pin = |(test, node): &(TestNode, Option<Node>)| (test.index, node.as_ref().unwrap().identity());
        let mut pins: BTreeMap<_, _> = fleet.nodes.iter().map(pin).collect();
        pins.insert(index(OBSERVER), observer().public());
        fleet.pins.set(pins);
        for at in 0..fleet.nodes.len() {
            fleet.observe(at);
        }
        fleet
    }

    /// Starts a node's process on a port of its own.
    async fn run(&mut self, at: usize) {
        let started = self.nodes[at].0.try_start().await.unwrap();
        let peers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = peers.local_addr().unwrap().to_string();
        let pins = self.pins.clone();
        let addresses = self.addresses.subscribe();
        let kms = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.callers.insert(self.nodes[at].0.index, kms.local_addr().unwrap().to_string());
        let (owner, persister) = ((CLUSTER, self.nodes[at].0.index), &started.persister);
        let (store, node_key) = (persister.store().clone(), persister.node_key().clone());
        let tokens = Tokens::new(owner, &["none".to_owned()], Arc::new(NoIssuer), store.clone(), node_key).unwrap();
        let access = watch::Sender::new(Arc::default()).subscribe();
        let service = Service::new(owner, access, persister.served(), Arc::new(tokens), store);
        let kms = Some((kms, Arc::new(service)));
        let node =
            Node::run(started, Options { peers, kms, platform: self.platform.clone(), pins, addresses, readers: None })
                .unwrap();
        self.addresses.send_modify(|all| {
            all.insert(self.nodes[at].0.index, address);
        });
        self.nodes[at].1 = Some(node);
    }

    /// Follows a node over the wire for as long as its process lives.
    fn observe(&self, at: usize) {
        let (peer, hear) = (self.nodes[at].0.index, self.hear.clone());
        let (address, pin) = (self.addresses.borrow()[&peer].clone(), self.pins.get(peer).unwrap());
        tokio::spawn(async move {
            let connector = Connector::new(Some(&observer()), pin).unwrap();
            loop {
                let Ok(channel) = channel::connect(address.clone(), connector.clone()).await else { return };
                let request = v1::FollowRequest { cluster_id: CLUSTER.0.to_vec(), ..v1::FollowRequest::default() };
                let Ok(stream) = RoundClient::new(channel).follow(request).await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let mut stream = stream.into_inner();
                while let Ok(Some(item)) = stream.message().await {
                    let heard = match item.item.unwrap() {
                        v1::follow_item::Item::Report(signed) => Heard::Report(Box::new(
                            keyfleet_api::report::verified(&signed, &pin).expect("a report is signed by its node"),
                        )),
                        v1::follow_item::Item::Row(row) => Heard::Said(Box::new(messages::read_row(&row).unwrap())),
                        v1::follow_item::Item::CaughtUp(_) | v1::follow_item::Item::KeptEpoch(_) => continue,
                    };
                    if hear.send((peer, heard)).await.is_err() {
                        return;
                    }
                }
            }
        });
    }

    /// Asks a node for one digest.
    async fn fetch(&self, peer: NodeIndex, digest: Digest) -> Option<Blob> {
        let (address, pin) = (self.addresses.borrow()[&peer].clone(), self.pins.get(peer).unwrap());
        let connector = Connector::new(Some(&observer()), pin).unwrap();
        let channel = channel::connect(address, connector).await.unwrap();
        let request = v1::FetchRequest { cluster_id: CLUSTER.0.to_vec(), digests: vec![digest.0.to_vec()] };
        let mut found = RoundClient::new(channel).fetch(request).await.unwrap().into_inner();
        messages::read_found(&found.message().await.unwrap()?)
    }

    async fn tell(&self, round: &Round) {
        for (_, node) in &self.nodes {
            if let Some(node) = node {
                node.facts().send(Input::Plan((*round.plan).clone())).await.unwrap();
                node.facts().send(Input::Record(round.number, round.record.clone())).await.unwrap();
            }
        }
    }

    /// Waits until every node shows a prekey. Returns all nodes as plans name them.
    async fn members(&self) -> Vec<PlannedNode> {
        let mut members = Vec::new();
        for (test, node) in &self.nodes {
            let node = node.as_ref().unwrap();
            let mut published = node.published();
            let showing = published.wait_for(|published| published.prekey().is_some());
            let showing = tokio::time::timeout(Duration::from_secs(60), showing).await.expect("no prekey is shown");
            members.push((test.index, node.identity(), showing.unwrap().prekey().copied()));
        }
        members
    }

    /// Runs a round to Confirmed. `restart` is killed when the round reaches the phase, and started again.
    async fn round(&mut self, operator: &mut Operator, restart: Option<(usize, Phase)>) -> Round {
        let round = operator.plan(&self.members().await);
        self.finish(operator, round, restart, Phase::Confirmed).await
    }

    /// Runs a round to Active while `away` is down, under the prekey that it showed last.
    async fn round_without(&mut self, operator: &mut Operator, members: &[PlannedNode], away: NodeIndex) -> Round {
        let round = operator.plan_without(members, away);
        self.finish(operator, round, None, Phase::Active).await
    }

    async fn finish(
        &mut self,
        operator: &mut Operator,
        mut round: Round,
        mut restart: Option<(usize, Phase)>,
        last: Phase,
    ) -> Round {
        let mut said: BTreeMap<(NodeIndex, Digest, MessageKind, Option<NodeIndex>), Digest> = BTreeMap::new();
        self.tell(&round).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while round.record.phase != last {
            if let Some((at, phase)) = restart.filter(|(_, phase)| *phase == round.record.phase) {
                restart = None;
                self.nodes[at].1.take().unwrap().stop().await;
                self.run(at).await;
                self.observe(at);
                self.tell(&round).await;
                assert_eq!(round.record.phase, phase);
            }
            let heard = tokio::time::timeout_at(deadline, self.heard.recv()).await;
            let (from, heard) =
                heard.unwrap_or_else(|_| panic!("the round stands still in {:?}", round.record.phase)).unwrap();
            if let Heard::Said(blob) = &heard
                && let Blob::Message(message) = blob.as_ref()
            {
                let about = match &message.body {
                    Body::Have { dealer, .. } => Some(*dealer),
                    Body::Heard { receiver, .. } => Some(*receiver),
                    _ => None,
                };
                let key = (from, message.plan, message.body.kind(), about);
                let first = *said.entry(key).or_insert(message.digest());
                assert_eq!(first, message.digest(), "{from} said two things of kind {:?}", message.body.kind());
                let _ = round.transcript.hear(message);
            }
            if let Heard::Report(report) = &heard {
                assert_eq!(report.node_index, from.value(), "a report of somebody else");
            }
            let before = round.record.clone();
            operator.look(&mut round, false);
            if round.record != before {
                self.tell(&round).await;
            }
        }
        round
    }

    async fn all_serve(&self, round: &Round) {
        for (test, node) in &self.nodes {
            let mut served = node.as_ref().unwrap().served();
            let serving = served.wait_for(|epochs| epochs.newest().is_some_and(|(number, _)| number == round.number));
            let serving = tokio::time::timeout(Duration::from_secs(60), serving).await;
            assert!(matches!(serving, Ok(Ok(_))), "{} does not serve epoch {}", test.index, round.number);
        }
    }
}

/// Four nodes make a key and reshare it over TLS, though one restarts in the middle of a round.
/// seed: 000-06, 001-36, 003-30, 003-35
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_reshare_over_tls_while_one_restarts() {
    let mut fleet = Fleet::start(4).await;
    let mut operator = Operator::default();
    let genesis = fleet.round(&mut operator, None).await;
    fleet.all_serve(&genesis).await;
    let key = operator.epochs[0].public_key;
    for phase in [Phase::Dealing, Phase::Verifying, Phase::Preparing, Phase::Certifying] {
        let round = fleet.round(&mut operator, Some((1, phase))).await;
        fleet.all_serve(&round).await;
        assert_eq!(operator.epochs.last().unwrap().public_key, key, "a restart in {phase:?} changed the public key");
    }
    for (test, node) in &fleet.nodes {
        let signed = node.as_ref().unwrap().served().borrow().newest().map(|(_, epoch)| epoch.vector.digest());
        assert_eq!(signed, operator.epochs.last().map(|epoch| epoch.vector), "{} has another vector", test.index);
    }
    // An operator that has just started judges proofs of epoch 1 by its vector.
    let first = operator.epochs[0].vector;
    assert_eq!(fleet.fetch(index(1), first).await.map(|blob| blob.digest()), Some(first), "no vector of epoch 1");
    for (_, node) in fleet.nodes {
        node.unwrap().stop().await;
    }
}

/// A node misses two epochs. Back, it reads nothing at the API server, and takes what it missed from its peers' streams alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_catches_up_from_its_peers_alone() {
    let mut fleet = Fleet::start(4).await;
    let mut operator = Operator::default();
    let genesis = fleet.round(&mut operator, None).await;
    fleet.all_serve(&genesis).await;
    let (away, members) = (3, fleet.members().await);
    fleet.nodes[away].1.take().unwrap().stop().await;
    let mut newest = None;
    for _ in 0..2 {
        newest = Some(fleet.round_without(&mut operator, &members, index(4)).await);
    }
    let newest = newest.unwrap();
    fleet.run(away).await;
    fleet.all_serve(&newest).await;
    let state = fleet.nodes[away].1.as_ref().unwrap().published().borrow().state.clone().unwrap();
    assert_eq!(state.attempts.keys().next_back(), Some(&newest.number));
    for (_, node) in fleet.nodes {
        node.unwrap().stop().await;
    }
}

/// seed: 000-25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_reads_nothing_and_another_cluster_is_told_so() {
    let fleet = Fleet::start(3).await;
    let (address, pin) = (fleet.addresses.borrow()[&index(1)].clone(), fleet.pins.get(index(1)).unwrap());
    let follow = |identity: Option<IdentitySecretKey>, cluster: [u8; 16]| {
        let address = address.clone();
        async move {
            let connector = Connector::new(identity.as_ref(), pin).unwrap();
            let channel = channel::connect(address, connector).await.map_err(|_| tonic::Code::Unauthenticated)?;
            let request = v1::FollowRequest { cluster_id: cluster.to_vec(), ..v1::FollowRequest::default() };
            let followed = RoundClient::new(channel).follow(request).await;
            followed.map(|_| ()).map_err(|status| status.code())
        }
    };
    assert_eq!(follow(None, CLUSTER.0).await, Err(tonic::Code::Unauthenticated), "no certificate and no token");
    let stranger = follow(Some(IdentitySecretKey::from_seed(&[5; 32])), CLUSTER.0).await;
    assert!(stranger.is_err(), "a certificate that nobody pinned was let in");
    assert_eq!(follow(Some(observer()), [0; 16]).await, Err(tonic::Code::FailedPrecondition), "another cluster");
}
