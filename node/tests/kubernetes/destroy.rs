//! The end of a whole fleet, under the nodes' real accounts.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, ServiceAccount};
use keyfleet_crds::cluster::status::Erasure;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsNode};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::fleet::Fleet;

/// `deletionPolicy: Destroy`: each node erases its volume, deletes its own seal, and says so under its pinned identity; only
/// then is it released. One that is killed in the middle goes on where it was.
///
/// seed: 003-51
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_fleet_leaves_no_secret_and_proves_it() {
    let mut fleet = Fleet::new("destroyed").await;
    fleet
        .apply(
            250,
            json!({ "deletionPolicy": "Destroy", "schedule": {
        "source": { "clock": { "blockMs": 250 } }, "intervalBlocks": 100_000,
        "deadlines": { "dealingBlocks": 40, "verifyingBlocks": 40, "preparingBlocks": 40, "certifyingBlocks": 40 },
    } }),
        )
        .await;
    fleet.run_operator();
    fleet
        .until("the key", async |fleet| {
            fleet.cluster().await.status.is_some_and(|status| status.active_epoch == Some(1))
        })
        .await;
    let (secrets, nodes) = (fleet.api::<Secret>(), fleet.api::<KmsNode>());
    for index in 1..=4 {
        let seal = secrets.get(&format!("keys-{index}-seal")).await.expect("each node has a seal");
        assert!(seal.data.is_some_and(|data| data.contains_key("data-1")), "node {index} has no share to lose");
    }
    // Node 4 is away: it is waited for, and named.
    fleet.stop(4).await;
    fleet.api::<KmsCluster>().delete("keys", &DeleteParams::default()).await.expect("it can be deleted");
    fleet
        .wait("three nodes to have said so, and the fourth to be named", async |fleet| {
            let all = fleet.api::<KmsNode>().list(&ListParams::default()).await.expect("a list").items;
            let erasure = |node: &KmsNode| node.status.as_ref().and_then(|status| status.erasure);
            let waiting: Vec<_> = all.iter().filter(|node| erasure(node) != Some(Erasure::Proven)).collect();
            let reason = fleet.cluster().await.status.and_then(|status| status.reason).unwrap_or_default();
            let [last] = waiting.as_slice() else { return false };
            last.spec.index == 4 && erasure(last) == Some(Erasure::Pending) && reason.contains("seals: 4.")
        })
        .await;
    for index in 1..=3 {
        let seal = secrets.get_opt(&format!("keys-{index}-seal")).await.expect("the API server answers");
        assert!(seal.is_none(), "the seal of node {index} is still there");
        let left: Vec<_> = std::fs::read_dir(fleet.folder.path().join(format!("node-{index}")))
            .expect("the volume")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(left, ["erased"], "node {index} left something on its volume");
    }
    assert!(secrets.get_opt("keys-4-seal").await.expect("an answer").is_some(), "nobody else destroys node 4's");
    // Its container comes back, and another time in the middle of its end.
    fleet.start(4).await;
    fleet.wait("the fourth to have begun", async |fleet| fleet.folder.path().join("node-4/erased").exists()).await;
    fleet.stop(4).await;
    fleet.start(4).await;
    fleet
        .wait("the cluster to be gone", async |fleet| {
            fleet.api::<KmsCluster>().get_opt("keys").await.is_ok_and(|cluster| cluster.is_none())
        })
        .await;
    assert!(secrets.get_opt("keys-4-seal").await.expect("an answer").is_none(), "node 4's seal is still there");
    let left = nodes.list(&ListParams::default()).await.expect("a list").items.len()
        + fleet.api::<KeyEpoch>().list(&ListParams::default()).await.expect("a list").items.len();
    assert_eq!(left, 0, "something of the fleet is left");
    // No garbage collector runs here: what it would collect belongs to a KmsNode that is gone.
    for index in 1..=4 {
        let claim = fleet.api::<PersistentVolumeClaim>().get(&format!("keys-{index}-state")).await.expect("the claim");
        let account = fleet.api::<ServiceAccount>().get(&format!("keys-{index}")).await.expect("the account");
        for owners in [claim.metadata.owner_references, account.metadata.owner_references] {
            let owned = owners.is_some_and(|owners| owners.iter().any(|owner| owner.kind == "KmsNode"));
            assert!(owned, "what node {index} left behind belongs to nobody");
        }
    }
}
