//! Rules of the `KmsNode`.

use keyfleet_crds::KmsNode;
use serde_json::{Value, json};

use crate::apiserver::{self, with};
use crate::{ID, Objects, accepted, hex, refused};

fn node(name: &str, index: u32) -> Value {
    json!({
        "apiVersion": "keyfleet.dev/v1alpha1", "kind": "KmsNode", "metadata": {"name": name},
        "spec": {"clusterName": "keys", "clusterId": ID, "index": index},
    })
}

#[tokio::test]
async fn a_node_keeps_its_index_and_its_pin() {
    let client = apiserver::namespace("nodes").await;
    let nodes = Objects::new::<KmsNode>(&client);
    for (name, index) in [("keys-2", 3), ("key-3", 3), ("keys-03", 3), ("keys", 3), ("keys-x-3", 3)] {
        refused(
            name,
            nodes.try_create(&node(name, index)).await,
            &["not <clusterName>-<index>", "change the KmsCluster"],
        );
    }
    refused("index zero", nodes.try_create(&node("keys-0", 0)).await, &["greater than or equal to 1"]);
    accepted("the last index", nodes.try_create(&node("keys-4294967295", u32::MAX)).await);

    let made = nodes.create(&node("keys-3", 3)).await;
    let pinned = with(&made, "/spec/identityKey", json!(hex(3, 32)));
    let made = accepted("the pin", nodes.update(&pinned).await);
    let pin = "/spec/identityKey";
    refused("another pin", nodes.update(&with(&made, pin, json!(hex(4, 32)))).await, &["written once", "removeNodes"]);
    refused("no pin any more", nodes.update(&with(&made, pin, Value::Null)).await, &["written once", "removeNodes"]);
    refused(
        "another cluster",
        nodes.update(&with(&made, "/spec/clusterId", json!(hex(9, 16)))).await,
        &["never change"],
    );
    refused("lost, not removed", nodes.update(&with(&made, "/spec/lost", json!(true))).await, &["set removed as well"]);

    let report = json!({"node": {"highestNumber": 7}});
    let made = accepted("a report", nodes.update_status(&with(&made, "/status", report)).await);
    let highest = "/status/node/highestNumber";
    refused("a lower number", nodes.update_status(&with(&made, highest, json!(6))).await, &["only rises"]);
    refused(
        "no report any more",
        nodes.update_status(&with(&made, "/status/node", Value::Null)).await,
        &["only rises"],
    );
    let made = accepted("a higher number", nodes.update_status(&with(&made, highest, json!(8))).await);

    let through = "/status/erasedThrough";
    let made = accepted("an erasure", nodes.update_status(&with(&made, through, json!(5))).await);
    refused("an erasure that is less", nodes.update_status(&with(&made, through, json!(4))).await, &["only rises"]);
    refused("none any more", nodes.update_status(&with(&made, through, Value::Null)).await, &["only rises"]);
    let made = accepted("more", nodes.update_status(&with(&made, through, json!(6))).await);
    let last = "/status/lastEpoch";
    let made = accepted("its last epoch", nodes.update_status(&with(&made, last, json!(6))).await);
    refused("an older one", nodes.update_status(&with(&made, last, json!(5))).await, &["only rises"]);

    let made = accepted("removal", nodes.update(&with(&made, "/spec/removed", json!(true))).await);
    refused("its undoing", nodes.update(&with(&made, "/spec/removed", json!(false))).await, &["cannot be taken back"]);
    accepted("its loss", nodes.update(&with(&made, "/spec/lost", json!(true))).await);
}
