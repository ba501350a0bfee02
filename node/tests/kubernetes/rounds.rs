//! Four nodes and the operator: a key is generated and reshared, through the API server and real streams.

use keyfleet_crds::epoch::Phase;
use keyfleet_crds::{KeyEpoch, KmsNode};
use kube::Api;
use kube::api::ListParams;

use crate::fleet::Fleet;

async fn epochs(fleet: &Fleet, phases: &[Phase]) -> Vec<KeyEpoch> {
    let api: Api<KeyEpoch> = fleet.api();
    let mut all = api.list(&ListParams::default()).await.expect("a list of epochs").items;
    all.retain(|epoch| {
        epoch.status.as_ref().and_then(|status| status.phase).is_some_and(|phase| phases.contains(&phase))
    });
    all.sort_by_key(|epoch| epoch.spec.number);
    all
}

/// seed: 003-30
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_apply_makes_a_key_that_four_nodes_serve_and_reshare_and_one_that_restarts_without_an_api_server_serves_on()
{
    let mut fleet = Fleet::new("rounds").await;
    fleet.apply(500, serde_json::json!({})).await;
    fleet.run_operator();
    let living = [Phase::Active, Phase::Confirmed, Phase::Retired];
    fleet.until("the first epoch", async |fleet| !epochs(fleet, &living).await.is_empty()).await;
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
}
