//! The client against four real nodes, threshold three, over TLS sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::tls::{Authorities, PlatformCertificate};
use keyfleet_client::sealed::{Sealed, seal};
use keyfleet_client::{AskError, Client, Direct, NodeError, Patience, ShortfallError, Trust};
use keyfleet_crds::cluster::Access;
use keyfleet_test_fleet::serving::{CALLER, Fleet, Minted, node};
use keyfleet_threshold::identifiers::EpochNumber;
use keyfleet_threshold::purpose::{Purpose, verifies};

const SHORT: Patience = Patience { request: Duration::from_secs(5), call: Duration::from_secs(2) };
/// Nothing is asserted about how long it takes.
const LONG: Patience = Patience { request: Duration::from_secs(60), call: Duration::from_secs(20) };

const IDENTITY: &str = "backups/2026";

fn sealed(client: &Client, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    seal(&client.fleet().public_key, IDENTITY, &mut &*data, &mut out, &mut |_| ()).unwrap();
    out
}

async fn opened(client: &Client, bytes: &[u8]) -> Result<Vec<u8>, AskError> {
    let sealed = Sealed::read(bytes).unwrap();
    let key = client.derive(sealed.identity()).await?.value;
    let mut out = Vec::new();
    sealed.open(&key, &mut out, &mut |_| ()).unwrap();
    Ok(out)
}

fn shortfall<T>(answer: Result<T, AskError>) -> ShortfallError {
    match answer {
        Err(AskError::TooFew(shortfall)) => shortfall,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("too few nodes gave an answer"),
    }
}

/// Data that was encrypted before a reshare opens after it, and signatures stay the same.
/// seed: 001-35
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_data_opens_after_a_reshare() {
    let mut fleet = Fleet::start(4).await;
    let client = fleet.client(LONG);
    let bytes = sealed(&client, b"a secret");
    assert_eq!(opened(&client, &bytes).await.unwrap(), b"a secret");
    let before = client.sign("receipts", b"paid").await.unwrap();
    let point = Purpose::signature("receipts", b"paid").point();
    assert!(verifies(&client.fleet().public_key, &point, &before.value), "the signature does not verify");
    fleet.round().await;
    assert_eq!(opened(&client, &bytes).await.unwrap(), b"a secret", "a reshare changed the key");
    let after = client.sign("receipts", b"paid").await.unwrap();
    assert_eq!(after.value, before.value, "one key makes one signature");
    assert_eq!((before.epoch, after.epoch), (EpochNumber(1), EpochNumber(2)));
    assert!(after.culprits.is_empty());
}

/// seed: 001-44
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_down_is_not_noticed_and_two_down_are_named() {
    let mut fleet = Fleet::start(4).await;
    let client = fleet.client(LONG);
    let bytes = sealed(&client, b"a secret");
    fleet.stop(2).await;
    assert_eq!(opened(&client, &bytes).await.unwrap(), b"a secret", "with one node down");
    fleet.stop(4).await;
    let hasty = fleet.client(SHORT);
    let short = shortfall(opened(&hasty, &bytes).await);
    assert_eq!((short.came, short.needed), (2, 3));
    assert_eq!(short.missing.keys().copied().collect::<Vec<_>>(), [node(2), node(4)], "{short}");
    assert!(short.missing.values().all(|error| matches!(error, NodeError::Unreachable(_))), "{short}");
    assert!(!short.is_refusal(), "nobody refused");
    let said = short.to_string();
    assert!(said.starts_with("2 of 3 needed answers came") && said.contains("\n  node 4: cannot be reached"), "{said}");
    fleet.run(4).await;
    assert_eq!(opened(&fleet.client(LONG), &bytes).await.unwrap(), b"a secret", "with the third back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lies_is_left_out_and_named() {
    let mut fleet = Fleet::start(4).await;
    fleet.corrupt(1).await;
    // Whether the liar is among the first three depends on who is fast: with another one down it must be asked.
    fleet.stop(3).await;
    let short = shortfall(fleet.client(SHORT).sign("receipts", b"paid").await);
    assert_eq!((short.came, short.needed), (2, 3));
    assert_eq!(short.missing[&node(1)], NodeError::WrongPartial, "{short}");
    fleet.run(3).await;
    let mut named = false;
    for message in 0..200 {
        let message = format!("paid {message}");
        let signed = fleet.client(LONG).sign("receipts", message.as_bytes()).await.unwrap();
        let point = Purpose::signature("receipts", message.as_bytes()).point();
        assert!(verifies(&client_key(&fleet), &point, &signed.value), "a lie reached the caller");
        named |= signed.culprits == [node(1)];
        if named {
            break;
        }
    }
    assert!(named, "in 200 requests the liar was never among the first three, or never named");
    let derived = fleet.client(LONG).derive(IDENTITY).await.unwrap();
    assert!(derived.culprits.is_empty() || derived.culprits == [node(1)]);
}

fn client_key(fleet: &Fleet) -> keyfleet_threshold::curve::G2 {
    fleet.client(LONG).fleet().public_key
}

/// Every node refuses a caller without the right token or rule, and says why.
/// seed: 001-45
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_refuses_a_caller_without_token_or_rule() {
    let fleet = Fleet::start(4).await;
    let one = keyfleet_api::wire::audience(fleet.client(LONG).fleet().cluster, 1);
    // Node 1's token shown to all.
    let client = fleet.client_of(Minted { subject: CALLER, always: Some(one) }, LONG);
    let short = shortfall(client.sign("receipts", b"paid").await);
    assert!(short.is_refusal(), "{short}");
    assert!(short.came <= 1, "only node 1 may take its token: {short}");
    let refused = &short.missing[&node(2)];
    assert!(matches!(refused, NodeError::Unauthenticated(why) if why.contains("audience")), "{short}");

    let stranger = fleet.client_of(Minted { subject: "system:serviceaccount:other:thief", always: None }, LONG);
    let short = shortfall(stranger.derive(IDENTITY).await);
    assert!(short.is_refusal() && short.came == 0, "{short}");
    let denied = |error: &NodeError| matches!(error, NodeError::Denied(why) if why.contains("spec.access.rules"));
    assert!(short.missing.values().any(denied), "{short}");
    let short = shortfall(fleet.client(LONG).sign("payroll", b"paid").await);
    assert!(short.is_refusal(), "{short}");
    fleet.allow(Access::default());
    let short = shortfall(fleet.client(LONG).sign("receipts", b"paid").await);
    assert!(short.is_refusal(), "a rule that was taken away still counts: {short}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_identity_than_the_pinned_one_is_not_asked() {
    let mut fleet = Fleet::start(4).await;
    let (three, four) = (fleet.callers[&node(3)].clone(), fleet.callers[&node(4)].clone());
    fleet.callers.insert(node(3), four);
    fleet.callers.insert(node(4), three);
    let short = shortfall(fleet.client(SHORT).sign("receipts", b"paid").await);
    assert_eq!(short.came, 2, "{short}");
    let pinned =
        |error: &NodeError| matches!(error, NodeError::Unreachable(why) if why.contains("not the pinned node"));
    assert!(short.missing.values().all(pinned), "{short}");
}

/// A client may know nodes by the platforms authorities in the place of pins.
/// seed: 002-26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_know_nodes_by_the_platforms_authorities() {
    let fleet = Fleet::start(3).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["kms.example.com".to_owned()]).unwrap().self_signed(&key).unwrap();
    let pem = certificate.pem();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let served = PlatformCertificate::read(pem.as_bytes(), key.serialize_pem().as_bytes(), now.cast_signed()).unwrap();
    fleet.platform.set(Some(served));
    let trusting = |name: &str| {
        let names = (1..=3).map(|i| (node(i), vec![name.to_owned()])).collect();
        let trust = Trust::Authorities { authorities: Authorities::read(pem.as_bytes()).unwrap(), names };
        let facts = keyfleet_client::Fleet::try_from(&fleet.record()).unwrap();
        let (dial, tokens) = (Direct(fleet.callers.clone()), Minted { subject: CALLER, always: None });
        Client::with_trust(facts, Arc::new(dial), Arc::new(tokens), LONG, trust)
    };
    let signed = trusting("kms.example.com").sign("receipts", b"paid").await.unwrap();
    assert_eq!(fleet.client(LONG).sign("receipts", b"paid").await.unwrap().value, signed.value, "by pin, as before");
    let short = shortfall(trusting("other.example.com").sign("receipts", b"paid").await);
    assert!(short.missing.values().all(|error| matches!(error, NodeError::Unreachable(_))), "{short}");
}

/// A client that asks all the time never fails while the key is reshared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_never_fails_while_the_key_is_reshared() {
    let mut fleet = Fleet::start(4).await;
    let client = fleet.client(LONG);
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let (counts, asked) = tokio::sync::watch::channel(0);
    let asking = tokio::spawn(async move {
        let mut epochs = std::collections::BTreeSet::new();
        while !*stopped.borrow_and_update() {
            epochs.insert(client.sign("receipts", b"paid").await.expect("a request failed during a reshare").epoch);
            client.derive(IDENTITY).await.expect("a request failed during a reshare");
            counts.send_modify(|asked| *asked += 1);
        }
        epochs
    });
    // Rounds may be faster than requests are: the key is reshared until some were made meanwhile.
    for round in 0..40 {
        if round < 4 || *asked.borrow() <= 4 {
            fleet.round().await;
        }
    }
    stop.send_replace(true);
    let epochs = asking.await.unwrap();
    let asked = *asked.borrow();
    assert!(asked > 4 && epochs.len() > 1, "{asked} requests saw {epochs:?}: no reshare was met");
}
