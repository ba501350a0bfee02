//! Refusals that are clear, and answers that survive the absence of everyone else.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use keyfleet_api::wire::audience;
use keyfleet_crds::cluster::Access;
use keyfleet_threshold::identifiers::EpochNumber;
use keyfleet_threshold::purpose::Purpose;
use serde_json::json;
use tokio::sync::watch;

use keyfleet_node::seal::KeyMaterial;
use keyfleet_node::serving::token::{FetchedKeys, IssuerError, KeySource, TokenError, Tokens};
use keyfleet_node::serving::{Asked, RequestError, Service};
use keyfleet_node::store::Store;
use keyfleet_test_fleet::rounds::{CLUSTER, Operator, TestNode};

const ISSUER: &str = "https://kubernetes.default.svc";
const NOW: u64 = 1_800_000_000;
const CALLER: &str = "system:serviceaccount:shop:checkout";

/// An Ed25519 key in PKCS #8, and its name.
fn signing_key(byte: u8) -> EncodingKey {
    let pkcs8 =
        [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20], [byte; 32].as_slice()].concat();
    EncodingKey::from_ed_der(&pkcs8)
}

/// An issuer whose keys change, and which may be away.
struct Issuer {
    keys: Mutex<Vec<u8>>,
    down: Mutex<bool>,
    asked: Mutex<u32>,
}

impl Issuer {
    fn new(keys: &[u8]) -> Arc<Self> {
        Arc::new(Self { keys: Mutex::new(keys.to_vec()), down: Mutex::new(false), asked: Mutex::new(0) })
    }
}

#[async_trait]
impl KeySource for Issuer {
    async fn fetch(&self, _name: &str) -> Result<FetchedKeys, IssuerError> {
        *self.asked.lock().unwrap() += 1;
        if *self.down.lock().unwrap() {
            return Err(IssuerError::Unreachable { url: ISSUER.to_owned(), problem: "no answer".to_owned() });
        }
        let key = |byte: &u8| {
            let mut jwk = Jwk::from_encoding_key(&signing_key(*byte), Algorithm::EdDSA).unwrap();
            jwk.common.key_id = Some(format!("key-{byte}"));
            jwk
        };
        let keys = JwkSet { keys: self.keys.lock().unwrap().iter().map(key).collect() };
        Ok(FetchedKeys { issuer: ISSUER.to_owned(), keys })
    }
}

fn token(key: u8, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let node = keyfleet_threshold::identifiers::NodeIndex::new(1).unwrap();
    let mut claims = json!({
        "iss": ISSUER, "sub": CALLER, "aud": [audience(CLUSTER, node.value())], "iat": NOW, "nbf": NOW, "exp": NOW + 600,
    });
    change(&mut claims);
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(format!("key-{key}"));
    encode(&header, &claims, &signing_key(key)).unwrap()
}

fn rules() -> Access {
    serde_json::from_value(json!({
        "rules": [{ "subjects": ["system:serviceaccount:shop:*"], "verbs": ["Sign"], "keyNames": ["receipts"] }],
    }))
    .unwrap()
}

/// A node of three after genesis, and what its service is made of.
struct Served {
    nodes: Vec<TestNode>,
    access: watch::Sender<Arc<Access>>,
}

impl Served {
    async fn new() -> Self {
        let mut nodes: Vec<_> = (1..=3).map(TestNode::new).collect();
        for node in &mut nodes {
            node.start().await;
        }
        Operator::default().run(&mut nodes).await;
        Self { nodes, access: watch::Sender::new(Arc::new(rules())) }
    }

    fn parts(&self) -> (Store, KeyMaterial) {
        let persister = self.nodes[0].driver.as_ref().unwrap().persister();
        (persister.store().clone(), persister.node_key().clone())
    }

    fn service(&self, issuer: &Arc<Issuer>) -> Service {
        let (store, node_key) = self.parts();
        let owner = (CLUSTER, self.nodes[0].index);
        let tokens = Tokens::new(owner, &["kubernetes".to_owned()], issuer.clone(), store.clone(), node_key).unwrap();
        let served = self.nodes[0].driver.as_ref().unwrap().persister().served();
        Service::new(owner, self.access.subscribe(), served, Arc::new(tokens), store)
    }
}

fn sign(key_name: &str) -> Asked {
    Asked::Sign { key_name: key_name.to_owned(), message: b"paid".to_vec() }
}

/// A token counts for this node alone, and a rule must allow the rest.
///
/// seed: 000-15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_for_this_node_alone() {
    let served = Served::new().await;
    let issuer = Issuer::new(&[1]);
    let service = served.service(&issuer);
    let ask = |token: String, asked: Asked| {
        let service = &service;
        async move { service.answer(Some(&token), None, &asked, None, NOW + 60).await }
    };
    let good = ask(token(1, |_| {}), sign("receipts")).await.unwrap();
    let epochs = service.epochs();
    let (number, epoch) = epochs.newest().unwrap();
    let expected = keyfleet_threshold::serving::signature::sign(&Purpose::signature("receipts", b"paid"), &epoch.share);
    assert_eq!((good.epoch, good.partial), (number, expected.encode().to_vec()), "another partial than the share's");

    let own = audience(CLUSTER, served.nodes[0].index.value());
    let other = audience(CLUSTER, served.nodes[1].index.value());
    let refused = [
        ("another node's", token(1, |claims| claims["aud"] = json!([other]))),
        ("two nodes'", token(1, |claims| claims["aud"] = json!([own, other]))),
        ("nobody's", token(1, |claims| claims["aud"] = json!(["https://kubernetes.default.svc"]))),
        ("expired", token(1, |claims| claims["exp"] = json!(NOW + 20))),
        ("not yet valid", token(1, |claims| claims["nbf"] = json!(NOW + 600))),
        ("too long-lived", token(1, |claims| claims["exp"] = json!(NOW + 7200))),
        ("another issuer's", token(1, |claims| claims["iss"] = json!("https://evil"))),
        ("signed by an unknown key", token(2, |_| {})),
        ("changed", format!("{}x", token(1, |_| {}))),
        ("no token", "nonsense".to_owned()),
    ];
    for (what, token) in refused {
        let answer = ask(token, sign("receipts")).await;
        assert!(matches!(answer, Err(RequestError::Token(_))), "a token that is {what} gave {answer:?}");
    }
    let without = service.answer(None, None, &sign("receipts"), None, NOW).await;
    assert!(matches!(without, Err(RequestError::Token(TokenError::Missing))));
    for asked in [sign("payroll"), Asked::Beacon(7)] {
        let answer = ask(token(1, |_| {}), asked).await;
        assert!(matches!(answer, Err(RequestError::NotAllowed { .. })), "no rule allows it, yet: {answer:?}");
    }
    served.access.send_replace(Arc::new(Access::default()));
    let answer = ask(token(1, |_| {}), sign("receipts")).await;
    assert!(matches!(answer, Err(RequestError::NotAllowed { .. })), "empty rules must deny, at once: {answer:?}");
    let log = served.parts().0.audit().unwrap();
    assert_eq!(log.iter().map(|entry| entry.allowed).collect::<Vec<_>>(), [true, false, false, false]);
}

/// Rotated keys of an issuer are followed, and a restart without the issuer serves on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_keys_are_followed_and_outlive_a_restart() {
    let served = Served::new().await;
    let issuer = Issuer::new(&[1]);
    let service = served.service(&issuer);
    let good = |service: Service, key: u8, now: u64| async move {
        service.answer(Some(&token(key, |_| {})), None, &sign("receipts"), None, now).await.is_ok()
    };
    assert!(service.answer(Some(&token(1, |_| {})), None, &sign("receipts"), None, NOW).await.is_ok());
    *issuer.keys.lock().unwrap() = vec![1, 2];
    assert!(service.answer(Some(&token(2, |_| {})), None, &sign("receipts"), None, NOW + 60).await.is_ok(), "rotation");
    let asked = *issuer.asked.lock().unwrap();
    for _ in 0..20 {
        let _ = service.answer(Some(&token(9, |_| {})), None, &sign("receipts"), None, NOW + 61).await;
    }
    assert_eq!(*issuer.asked.lock().unwrap(), asked, "tokens of unknown keys make the node hammer the issuer");
    *issuer.down.lock().unwrap() = true;
    assert!(good(served.service(&issuer), 2, NOW + 62).await, "a restart while the issuer is away does not serve");
}

/// seed: 000-02, 000-16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_gives_one_answer_and_one_entry() {
    let served = Served::new().await;
    let mut access = rules();
    access.rules[0].verbs.push(keyfleet_crds::cluster::access::Verb::Derive);
    access.rules[0].identities = Some(vec!["shop/*".to_owned()]);
    served.access.send_replace(Arc::new(access));
    let service = served.service(&Issuer::new(&[1]));
    let transport = keyfleet_threshold::serving::derivation::TransportKey::random(&mut rand::rng()).public();
    let asked = Asked::Derive { identity: "shop/db".to_owned(), transport };
    let token = token(1, |_| {});
    let first = service.answer(Some(&token), Some(&[7; 16]), &asked, None, NOW).await.unwrap();
    let again = service.answer(Some(&token), Some(&[7; 16]), &asked, None, NOW).await.unwrap();
    assert_eq!(first, again, "the same request under the same id got another answer");
    let other = service.answer(Some(&token), Some(&[7; 16]), &sign("receipts"), None, NOW).await;
    assert!(matches!(other, Err(RequestError::IdReused)), "an id served two requests: {other:?}");
    let retired = service.answer(Some(&token), None, &asked, Some(EpochNumber(9)), NOW).await;
    assert!(matches!(retired, Err(RequestError::OtherEpoch(_))), "an epoch that is not there answered: {retired:?}");
    assert_eq!(served.parts().0.audit().unwrap().len(), 1, "one answer, one entry");
}
