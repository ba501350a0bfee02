//! Objects that one node writes and keeps at the API server.

use k8s_openapi::api::core::v1::Secret;
use keyfleet_crds::KmsNode;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, Signature};
use kube::Api;

use crate::fleet::Fleet;

fn problems(node: Option<KmsNode>) -> Vec<String> {
    let report = node.and_then(|node| node.status?.node);
    report.map(|report| report.problems.into_iter().map(|problem| problem.reason).collect()).unwrap_or_default()
}

/// A node without its key reports it in its object, and starts when the key comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_key_reports_it_and_waits() {
    let mut fleet = Fleet::new("one-node").await;
    std::fs::remove_file(fleet.key_file()).expect("it was there");
    fleet.apply(60_000, serde_json::json!({})).await;
    fleet.run_operator();
    fleet
        .until("the problem in the KmsNode", async |fleet| {
            problems(fleet.node(1).await).contains(&"KeyEncryptionKeyMissing".to_owned())
        })
        .await;
    let ready = fleet.get(1, "/ready").await.unwrap_or_default();
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("KeyEncryptionKeyMissing"), "{ready}");
    std::fs::write(fleet.key_file(), "0badc0de").expect("our own folder");
    fleet
        .until("the other problem in the KmsNode", async |fleet| {
            problems(fleet.node(1).await) == ["KeyEncryptionKeyWrong"]
        })
        .await;
    std::fs::write(fleet.key_file(), "cd".repeat(32)).expect("our own folder");
    fleet
        .until("an offer without problems", async |fleet| {
            let node = fleet.node(1).await;
            let report = node.and_then(|node| node.status?.node).unwrap_or_default();
            report.offer.is_some() && report.prekey.is_some() && report.problems.is_empty()
        })
        .await;
    let node = fleet.node(1).await.expect("the node");
    let report = node.status.and_then(|status| status.node).expect("a report");
    let offer = report.offer.expect("an offer");
    let (cluster, index) = (ClusterId(node.spec.cluster_id.0), NodeIndex::new(1).expect("not zero"));
    let identity = IdentityPublicKey(offer.key.0);
    assert!(identity.is_offered(cluster, index, &Signature(offer.proof.0)), "the offer proves nothing");
    assert_eq!((report.plan_versions.as_slice(), report.key_encryption_id.as_deref()), ([2].as_slice(), Some("1")));
    assert_eq!(report.needed_key_encryption_ids, ["1"], "the node does not say which key it still needs");
    // Under its own Role, in the Secret that the operator made.
    let secrets: Api<Secret> = fleet.api();
    let seal = secrets.get("keys-1-seal").await.expect("the seal");
    let held: Vec<_> = seal.data.iter().flatten().map(|(name, _)| name.as_str()).collect();
    assert!(held.contains(&"identity") && held.contains(&"node"), "the seal holds {held:?}");
    let labels = seal.metadata.labels.unwrap_or_default();
    assert!(labels.contains_key("keyfleet.dev/cluster-id"), "the seal lost its labels: {labels:?}");
    // Pinned, and the same one after a restart.
    fleet
        .until("the pin", async |fleet| fleet.node(1).await.is_some_and(|node| node.spec.identity_key.is_some()))
        .await;
    fleet.stop(1).await;
    fleet.start(1).await;
    fleet
        .until("the node to be ready again", async |fleet| {
            fleet.get(1, "/ready").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })
        .await;
    let again = fleet.node(1).await.expect("the node");
    assert_eq!(again.spec.identity_key.map(|key| key.0), Some(offer.key.0), "another identity was pinned");
    let again = again.status.and_then(|status| status.node?.offer).expect("an offer");
    assert_eq!(again.key, offer.key, "a restart made another identity");
}
