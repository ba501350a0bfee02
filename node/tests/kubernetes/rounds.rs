//! Four nodes and the operator: a key is generated and reshared, through the API server and real streams.

use k8s_openapi::api::core::v1::ServiceAccount;
use keyfleet_api::tls::Connector;
use keyfleet_api::v1::kms_client::KmsClient;
use keyfleet_api::wire;
use keyfleet_api::{channel, v1};
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::{KeyEpoch, KmsNode};
use keyfleet_threshold::curve::G1;
use keyfleet_threshold::identifiers::ClusterId;
use keyfleet_threshold::identity::IdentityPublicKey;
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use serde_json::json;

use crate::fleet::{Fleet, token};

/// Asks a node to sign, with a token of the account `caller`.
async fn sign(fleet: &Fleet, index: u32, audience_of: u32) -> Result<(u64, G1), tonic::Code> {
    let node = fleet.node(index).await.expect("the node");
    let (id, pin) = (node.spec.cluster_id, node.spec.identity_key.expect("a pin"));
    let token =
        token(&fleet.client, &fleet.namespace, "caller", Some(wire::audience(ClusterId(id.0), audience_of))).await;
    let port = fleet.ports.lock().expect("one thread at a time")[&index].kms;
    let connector = Connector::new(None, IdentityPublicKey(pin.0)).expect("a connector");
    let channel = channel::connect(format!("127.0.0.1:{port}"), connector).await.map_err(|_| tonic::Code::Unknown)?;
    let named = v1::NamedMessage { key_name: "receipts".into(), message: b"paid".to_vec() };
    let mut request = tonic::Request::new(v1::SignRequest {
        cluster_id: id.0.to_vec(),
        purpose: Some(v1::sign_request::Purpose::Message(named)),
        ..v1::SignRequest::default()
    });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    let answer = KmsClient::new(channel).sign(request).await.map_err(|status| status.code())?.into_inner();
    let partial = answer.partial_signature.as_slice().try_into().expect("48 bytes");
    Ok((answer.epoch, G1::decode(partial).expect("a point")))
}

async fn epochs(fleet: &Fleet, phases: &[Phase]) -> Vec<KeyEpoch> {
    let api: Api<KeyEpoch> = fleet.api();
    let mut all = api.list(&ListParams::default()).await.expect("a list of epochs").items;
    all.retain(|epoch| {
        epoch.status.as_ref().and_then(|status| status.phase).is_some_and(|phase| phases.contains(&phase))
    });
    all.sort_by_key(|epoch| epoch.spec.number);
    all
}

/// One apply makes a key that four nodes serve and reshare; a node that restarts without an API server serves on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_serve_reshare_and_restart_alone() {
    let mut fleet = Fleet::new("rounds").await;
    fleet.apply(500, serde_json::json!({})).await;
    fleet.run_operator();
    let living = [Phase::Active, Phase::Confirmed, Phase::Retired];
    fleet.until("the first epoch", async |fleet| !epochs(fleet, &living).await.is_empty()).await;
    fleet
        .until("the public key", async |fleet| fleet.cluster().await.status.is_some_and(|s| s.public_key.is_some()))
        .await;
    let first = fleet.cluster().await.status.and_then(|status| status.public_key).expect("a public key");
    fleet.until("three epochs", async |fleet| epochs(fleet, &living).await.len() >= 3).await;
    let now = fleet.cluster().await.status.and_then(|status| status.public_key);
    assert_eq!(now, Some(first), "the public key changed");
    fleet
        .until("every node to report the epoch that it serves", async |fleet| {
            let active = fleet.cluster().await.status.and_then(|status| status.active_epoch);
            let api: Api<KmsNode> = fleet.api();
            let nodes = api.list(&ListParams::default()).await.expect("a list of nodes").items;
            let serves = |node: &KmsNode| node.status.as_ref().and_then(|status| status.node.as_ref()?.active_epoch);
            active.is_some() && nodes.len() == 4 && nodes.iter().all(|node| serves(node) >= active)
        })
        .await;

    // Callers: nothing without a rule, and a rule counts without a restart.
    let accounts: Api<ServiceAccount> = fleet.api();
    let caller = ServiceAccount {
        metadata: ObjectMeta { name: Some("caller".into()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    accounts.create(&PostParams::default(), &caller).await.expect("an account");
    assert_eq!(sign(&fleet, 1, 1).await.err(), Some(tonic::Code::PermissionDenied), "answered without a rule");
    assert_eq!(sign(&fleet, 1, 2).await.err(), Some(tonic::Code::Unauthenticated), "a token made for another node");
    let subject = format!("system:serviceaccount:{}:caller", fleet.namespace);
    let rule = json!({ "subjects": [subject], "verbs": ["Sign"], "keyNames": ["receipts"] });
    // From here on the epochs stand still, so that partials of one are combined.
    let access = json!({ "access": { "rules": [rule] }, "paused": true });
    fleet.apply(500, access).await;
    fleet
        .until("every node to follow the rule", async |fleet| {
            let mut all = true;
            for index in 1..=4 {
                all &= sign(fleet, index, index).await.is_ok();
            }
            all
        })
        .await;
    fleet
        .until("no round to be under way", async |fleet| {
            let open = [Phase::Dealing, Phase::Verifying, Phase::Preparing, Phase::Certifying];
            epochs(fleet, &open).await.is_empty()
        })
        .await;

    // A node whose container restarts while the API server is away: it knows pins, rules and issuers' keys, and serves.
    let before = sign(&fleet, 2, 2).await.expect("node 2 serves");
    fleet.stop(2).await;
    fleet.start_alone(2).await;
    fleet.until("node 2 to serve on", async |fleet| sign(fleet, 2, 2).await.is_ok()).await;
    let after = sign(&fleet, 2, 2).await.expect("node 2 serves");
    assert_eq!(after, before, "the node serves another share than before it restarted");
    let ready = fleet.get(2, "/ready").await.unwrap_or_default();
    assert!(ready.starts_with("HTTP/1.1 200"), "it serves and is not ready: {ready}");
    assert_eq!(sign(&fleet, 2, 3).await.err(), Some(tonic::Code::Unauthenticated), "an outage loosened the rules");
}
