//! Four real nodes in this process, with their rounds, stores and sockets; an operator that only looks; and an issuer of
//! tokens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::rounds::{CLUSTER, Operator, Round, TestNode, index};
use async_trait::async_trait;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use keyfleet_api::tls::{Acceptor, Pins, Platform};
use keyfleet_api::v1;
use keyfleet_api::v1::kms_server::{Kms, KmsServer};
use keyfleet_api::wire::{FleetRecord, Hex, RecordNode};
use keyfleet_client::{Client, Direct, Fleet as Facts, Patience, Token, TokenError, Tokens};
use keyfleet_crds::cluster::Access;
use keyfleet_crds::convert;
use keyfleet_crds::epoch::status::{Certificate, Holder};
use keyfleet_crds::{KeyEpoch, KeyEpochStatus, values};
use keyfleet_node::grpc::kms::KmsApi;
use keyfleet_node::grpc::transport;
use keyfleet_node::round::Input;
use keyfleet_node::runtime::{Addresses, Node, Options};
pub use keyfleet_node::serving::{FetchedKeys, IssuerError, KeySource};
use keyfleet_node::serving::{Service, Tokens as Checked};
use keyfleet_threshold::curve::G1;
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::round::Phase;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

pub const ISSUER: &str = "https://kubernetes.default.svc";
pub const CALLER: &str = "system:serviceaccount:shop:checkout";

/// An Ed25519 key in PKCS #8.
fn signing_key() -> EncodingKey {
    let pkcs8 =
        [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20], [7; 32].as_slice()].concat();
    EncodingKey::from_ed_der(&pkcs8)
}

/// A token for an audience, good for ten minutes.
pub fn token(subject: &str, audience: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "iss": ISSUER, "sub": subject, "aud": [audience], "iat": now, "nbf": now, "exp": now + 600 });
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("key".to_owned());
    encode(&header, &claims, &signing_key()).unwrap()
}

struct Issuer;

#[async_trait]
impl KeySource for Issuer {
    async fn fetch(&self, _: &str) -> Result<FetchedKeys, IssuerError> {
        let mut jwk = Jwk::from_encoding_key(&signing_key(), Algorithm::EdDSA).unwrap();
        jwk.common.key_id = Some("key".to_owned());
        Ok(FetchedKeys { issuer: ISSUER.to_owned(), keys: JwkSet { keys: vec![jwk] } })
    }
}

/// Tokens of one subject, for the audience asked for or always the same one.
pub struct Minted {
    pub subject: &'static str,
    pub always: Option<String>,
}

#[async_trait]
impl Tokens for Minted {
    async fn token(&self, _: NodeIndex, audience: &str, _: bool) -> Result<Token, TokenError> {
        Ok(Token::new(token(self.subject, self.always.as_deref().unwrap_or(audience))))
    }
}

fn rules() -> Access {
    serde_json::from_value(json!({ "rules": [{
        "subjects": ["system:serviceaccount:shop:*"],
        "verbs": ["Derive", "Sign"],
        "identities": ["backups/*"],
        "keyNames": ["receipts"],
    }] }))
    .unwrap()
}

/// Answers with other points than the share makes.
struct Liar(KmsApi);

#[async_trait]
impl Kms for Liar {
    async fn public_key(
        &self,
        request: Request<v1::PublicKeyRequest>,
    ) -> Result<Response<v1::PublicKeyResponse>, Status> {
        self.0.public_key(request).await
    }

    async fn derive(&self, request: Request<v1::DeriveRequest>) -> Result<Response<v1::DeriveResponse>, Status> {
        let mut answer = self.0.derive(request).await?;
        let c3 = &mut answer.get_mut().encrypted_partial[144..];
        c3.copy_from_slice(&other(c3));
        Ok(answer)
    }

    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<v1::SignResponse>, Status> {
        let mut answer = self.0.sign(request).await?;
        let partial = &mut answer.get_mut().partial_signature;
        *partial = other(partial).to_vec();
        Ok(answer)
    }
}

fn other(point: &[u8]) -> [u8; 48] {
    G1::decode(point.try_into().unwrap()).unwrap().plus(&G1::generator()).encode()
}

struct Member {
    test: TestNode,
    running: Option<Running>,
    lies: bool,
}

struct Running {
    node: Node,
    kms: tokio::task::JoinHandle<()>,
}

/// The fleet.
pub struct Fleet {
    members: Vec<Member>,
    pins: Pins,
    addresses: watch::Sender<Addresses>,
    pub callers: BTreeMap<NodeIndex, String>,
    operator: Operator,
    access: watch::Sender<Arc<Access>>,
    issuer: Arc<dyn KeySource>,
    /// The platform's certificate for callers.
    pub platform: Platform,
}

impl Fleet {
    /// `n` nodes with a key.
    pub async fn start(n: u32) -> Self {
        Self::start_with(n, Arc::new(Issuer)).await
    }

    /// The same, with tokens of another issuer.
    pub async fn start_with(n: u32, issuer: Arc<dyn KeySource>) -> Self {
        let members = (1..=n).map(|i| Member { test: TestNode::new(i), running: None, lies: false }).collect();
        let mut fleet = Self {
            members,
            pins: Pins::default(),
            addresses: watch::Sender::new(Addresses::new()),
            callers: BTreeMap::new(),
            operator: Operator::default(),
            access: watch::Sender::new(Arc::new(rules())),
            issuer,
            platform: Platform::default(),
        };
        for i in 1..=n {
            fleet.run(i).await;
        }
        let pins =
            fleet.members.iter().map(|member| (member.test.index, member.running.as_ref().unwrap().node.identity()));
        fleet.pins.set(pins.collect());
        fleet.round().await;
        fleet
    }

    /// Starts a node's process. Its ports are new ones.
    pub async fn run(&mut self, i: u32) {
        let member = &mut self.members[i as usize - 1];
        let node_index = member.test.index;
        let started = member.test.try_start().await.unwrap();
        let persister = &started.persister;
        let identity: IdentitySecretKey = persister.identity_key().unwrap();
        let owner = (CLUSTER, node_index);
        let names = ["kubernetes".to_owned()];
        let tokens =
            Checked::new(owner, &names, self.issuer.clone(), persister.store().clone(), persister.node_key().clone())
                .unwrap();
        let service = Service::new(
            owner,
            self.access.subscribe(),
            persister.served(),
            Arc::new(tokens),
            persister.store().clone(),
        );
        let api = KmsApi(Arc::new(service));
        let routes =
            if member.lies { Routes::new(KmsServer::new(Liar(api))) } else { Routes::new(KmsServer::new(api)) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.callers.insert(node_index, listener.local_addr().unwrap().to_string());
        let acceptor = Acceptor::for_callers(&identity, self.pins.clone(), self.platform.clone()).unwrap();
        let kms = tokio::spawn(async move {
            let _ = transport::serve(listener, acceptor, routes, std::future::pending()).await;
        });
        let peers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = peers.local_addr().unwrap().to_string();
        let (pins, addresses) = (self.pins.clone(), self.addresses.subscribe());
        let options = Options { peers, kms: None, platform: Platform::default(), pins, addresses, readers: None };
        let node = Node::run(started, options).unwrap();
        self.addresses.send_modify(|all| {
            all.insert(node_index, address);
        });
        self.members[i as usize - 1].running = Some(Running { node, kms });
    }

    /// Takes a node away; its address refuses connections.
    pub async fn stop(&mut self, i: u32) {
        let running = self.members[i as usize - 1].running.take().unwrap();
        running.kms.abort();
        let _ = running.kms.await;
        running.node.stop().await;
    }

    /// Starts a node again as one that lies to callers.
    pub async fn corrupt(&mut self, i: u32) {
        self.stop(i).await;
        self.members[i as usize - 1].lies = true;
        self.run(i).await;
        self.serves(i).await;
    }

    /// Runs the next round to its end; nodes that are away are not waited for.
    pub async fn round(&mut self) {
        let round = self.begin().await;
        self.finish(round).await;
    }

    async fn begin(&mut self) -> Round {
        let mut members = Vec::new();
        for member in &self.members {
            let node = &member.running.as_ref().unwrap().node;
            let mut published = node.published();
            let showing = published.wait_for(|published| published.prekey().is_some());
            let showing = tokio::time::timeout(Duration::from_secs(60), showing).await.expect("no prekey is shown");
            members.push((member.test.index, node.identity(), showing.unwrap().prekey().copied()));
        }
        self.operator.plan(&members)
    }

    async fn finish(&mut self, mut round: Round) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        self.tell(&round).await;
        while round.record.phase != Phase::Confirmed {
            assert!(tokio::time::Instant::now() < deadline, "the round stands still in {:?}", round.record.phase);
            for member in &self.members {
                let Some(running) = &member.running else { continue };
                let published = running.node.published().borrow().clone();
                for message in &published.messages {
                    let _ = round.transcript.hear(message);
                }
            }
            let before = round.record.clone();
            self.operator.look(&mut round, false);
            if round.record == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            } else {
                self.tell(&round).await;
            }
        }
        for i in 1..=u32::try_from(self.members.len()).unwrap() {
            self.serves(i).await;
        }
    }

    async fn tell(&self, round: &Round) {
        for member in &self.members {
            let Some(running) = &member.running else { continue };
            let facts = running.node.facts();
            facts.send(Input::Plan((*round.plan).clone())).await.unwrap();
            facts.send(Input::Record(round.number, round.record.clone())).await.unwrap();
        }
    }

    async fn serves(&self, i: u32) {
        let newest = self.operator.epochs.last().unwrap().number;
        let mut served = self.members[i as usize - 1].running.as_ref().unwrap().node.served();
        let serving = served.wait_for(|epochs| epochs.newest().is_some_and(|(number, _)| number == newest));
        let serving = tokio::time::timeout(Duration::from_secs(60), serving).await;
        assert!(matches!(serving, Ok(Ok(_))), "{i} does not serve epoch {newest}");
    }

    /// Changes the access rules of all nodes.
    pub fn allow(&self, access: Access) {
        self.access.send_replace(Arc::new(access));
    }

    /// Returns the fleet's record for callers.
    pub fn record(&self) -> FleetRecord {
        let epoch = self.operator.epochs.last().unwrap();
        let node = |receiver: &keyfleet_threshold::plan::Receiver| RecordNode {
            index: receiver.index.value(),
            identity_key: Hex(receiver.identity.0),
        };
        FleetRecord {
            cluster: "keys".to_owned(),
            cluster_id: Hex(CLUSTER.0),
            public_key: Hex(epoch.public_key.encode()),
            threshold: u32::from(epoch.plan.threshold.0),
            nodes: epoch.plan.receivers.iter().map(node).collect(),
        }
    }

    /// The object of the newest round, as the operator writes it.
    pub fn key_epoch(&self) -> KeyEpoch {
        let epoch = self.operator.epochs.last().unwrap();
        let vector = &self.operator.vectors[&epoch.number];
        let served = self.members.iter().find_map(|member| member.running.as_ref()).unwrap().node.served();
        let certificate = served.borrow().newest().unwrap().1.certificate;
        let mut object = KeyEpoch::new(&format!("keys-{}", epoch.number), convert::spec_of(&epoch.plan));
        let holder = |index: &NodeIndex| Holder {
            index: index.value(),
            public_share: convert::public_key(&vector.public_share(*index)),
        };
        object.status = Some(KeyEpochStatus {
            phase: Some(keyfleet_crds::epoch::Phase::Active),
            plan_digest: Some(convert::digest(&epoch.plan.digest())),
            holders: Some(epoch.holders.iter().map(holder).collect()),
            vector_digest: Some(convert::digest(&vector.digest())),
            certificate: Some(Certificate {
                signature: values::BlsSignature(certificate.signature.encode()),
                signers: epoch.holders.iter().map(|index| index.value()).collect(),
            }),
            ..KeyEpochStatus::default()
        });
        object
    }

    /// A client whose tokens are minted for it.
    pub fn client(&self, patience: Patience) -> Client {
        self.client_of(Minted { subject: CALLER, always: None }, patience)
    }

    /// A client with other tokens.
    pub fn client_of(&self, tokens: Minted, patience: Patience) -> Client {
        let facts = Facts::try_from(&self.record()).unwrap();
        Client::new(facts, Arc::new(Direct(self.callers.clone())), Arc::new(tokens), patience)
    }
}

/// The node of an index.
pub fn node(i: u32) -> NodeIndex {
    index(i)
}
