//! Cost of serving beside the bare mathematics, in one run: `cargo xtask bench fleet` calls it.
//!
//! Three real nodes run in this process; a child calls one of them over TLS with tokens, with rules and the audit log in
//! force. The processor time that this process spends on a request is set against that of the bare operation.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::cast_possible_truncation)]

#[path = "processor/mod.rs"]
mod processor;

use std::process::Command;
use std::time::{Duration, Instant};

use keyfleet_api::tls::Connector;
use keyfleet_api::v1;
use keyfleet_api::v1::kms_client::KmsClient;
use keyfleet_api::{channel, wire};
use keyfleet_client::Fleet as Facts;

use keyfleet_threshold::curve::SecretScalar;
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::serving::derivation::{EncryptedKey, TransportKey};
use keyfleet_threshold::serving::ibe::Identity;
use keyfleet_threshold::serving::signature;

use keyfleet_test_fleet::serving::{CALLER, Fleet, token};

/// Requests of each kind.
const REQUESTS: u64 = 4000;
/// As many are on their way at once.
const AT_ONCE: u64 = 32;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [kind, address, pin, token] => call(kind, address, pin, token),
        _ => measure(),
    }
}

#[tokio::main(worker_threads = 1)]
async fn measure() {
    let fleet = Fleet::start(3).await;
    let facts = Facts::try_from(&fleet.record()).unwrap();
    let (node, pin) = facts.nodes.iter().next().unwrap();
    let token = token(CALLER, &wire::audience(facts.cluster, node.value()));
    let address = fleet.callers[node].clone();
    println!(
        "| | processor time a request | of it the bare operation | requests a second, one core serving |\n|---|---|---|---|"
    );
    for (kind, bare) in [("Sign", bare_sign as fn()), ("Derive", bare_derive as fn())] {
        let began = Instant::now();
        (0..REQUESTS).for_each(|_| bare());
        let bare = began.elapsed().as_secs_f64() / REQUESTS as f64;
        let (before, began) = (processor::time(), Instant::now());
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([kind, &address, &hex::encode(pin.0), &token]);
        let status = tokio::task::spawn_blocking(move || child.status()).await.unwrap().unwrap();
        assert!(status.success(), "the caller failed");
        let rate = REQUESTS as f64 / began.elapsed().as_secs_f64();
        let served = (processor::time() - before) / REQUESTS as f64;
        println!(
            "| {kind} | {:.0} µs | {:.0} µs, {:.0} % | {rate:.0} |",
            served * 1e6,
            bare * 1e6,
            bare / served * 100.0
        );
    }
}

fn bare_sign() {
    let share = SecretScalar::random(&mut rand::rng());
    let _ = signature::sign(&Purpose::signature("receipts", b"paid"), &share);
}

fn bare_derive() {
    let share = SecretScalar::random(&mut rand::rng());
    thread_local!(static TRANSPORT: TransportKey = TransportKey::random(&mut rand::rng()));
    TRANSPORT.with(|transport| {
        let _ = EncryptedKey::derive(Identity(b"backups/2026"), &transport.public(), &share, &mut rand::rng());
    });
}

#[tokio::main(worker_threads = 1)]
async fn call(kind: &str, address: &str, pin: &str, token: &str) {
    let pin = IdentityPublicKey(hex::decode(pin).unwrap().try_into().unwrap());
    let connector = Connector::new(None, pin).unwrap();
    let channel = channel::connect(address.to_owned(), connector).await.unwrap();
    let cluster = keyfleet_test_fleet::rounds::CLUSTER.0.to_vec();
    let transport = TransportKey::random(&mut rand::rng()).public().encode().to_vec();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let mut client = KmsClient::new(channel.clone());
        let (kind, token) = (kind.to_owned(), token.to_owned());
        let (cluster_id, transport_key) = (cluster.clone(), transport.clone());
        callers.spawn(async move {
            for _ in 0..REQUESTS / AT_ONCE {
                let request_id = rand::random::<[u8; 16]>().to_vec();
                if kind == "Sign" {
                    let message = v1::NamedMessage { key_name: "receipts".into(), message: b"paid".to_vec() };
                    let purpose = Some(v1::sign_request::Purpose::Message(message));
                    let message = v1::SignRequest { cluster_id: cluster_id.clone(), request_id, purpose, epoch: 0 };
                    let _ = client.sign(authorized(message, &token)).await.unwrap();
                } else {
                    let message = v1::DeriveRequest {
                        cluster_id: cluster_id.clone(),
                        request_id,
                        identity: "backups/2026".into(),
                        transport_key: transport_key.clone(),
                        epoch: 0,
                    };
                    let _ = client.derive(authorized(message, &token)).await.unwrap();
                }
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
}

fn authorized<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_secs(60));
    let _ = request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}
