//! Rules of the `KmsCluster`.

use k8s_openapi::api::autoscaling::v1::Scale;
use keyfleet_crds::KmsCluster;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::apiserver::{self, with};
use crate::{ID, Objects, accepted, hex, refused};

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "keyfleet.dev/v1alpha1", "kind": "KmsCluster", "metadata": {"name": name},
        "spec": {"keyEncryption": {"active": {"id": "1", "secret": {"name": "kek"}}}},
    })
}

#[tokio::test]
async fn the_samples_are_admitted_and_the_smallest_gets_the_defaults() {
    let client = apiserver::namespace("samples").await;
    let clusters = Objects::new::<KmsCluster>(&client);
    for text in
        [include_str!("../../../manifests/samples/smallest.yaml"), include_str!("../../../manifests/samples/full.yaml")]
    {
        clusters.create(&serde_yaml::from_str(text).expect("YAML")).await;
    }
    let kept = Api::<KmsCluster>::default_namespaced(client).get("keys").await.expect("the sample is there");
    let here: KmsCluster =
        serde_yaml::from_str(include_str!("../../../manifests/samples/smallest.yaml")).expect("a sample");
    assert_eq!(kept.spec, here.spec, "the schema's defaults and the types' are two");
}

#[tokio::test]
async fn bad_sizes_thresholds_and_schedules_are_refused_with_what_to_do() {
    let client = apiserver::namespace("sizes").await;
    let clusters = Objects::new::<KmsCluster>(&client);
    let spec = |fields: Value| {
        let mut object = cluster("keys");
        for (key, value) in fields.as_object().expect("fields") {
            object["spec"][key] = value.clone();
        }
        object
    };
    let short = json!({"intervalBlocks": 8});
    let key = |source: Value| json!({"keyEncryption": {"active": source}});
    let rule = |rule: Value| json!({"access": {"rules": [rule]}});
    for (what, fields, parts) in [
        (
            "retention without an identity",
            json!({"replication": {"s3": {"bucket": "fleets"}, "retention": {}}}),
            &["no identity of its own", "credentialsSecret", "serviceAccountAnnotations"][..],
        ),
        (
            "a malformed schedule",
            json!({"replication": {
                "s3": {"bucket": "fleets"}, "retention": {"cron": "every morning", "credentialsSecret": "s3-delete"},
            }}),
            &["spec.replication.retention.cron"],
        ),
        (
            "retention as the nodes",
            json!({"replication": {
                "s3": {"bucket": "fleets", "credentialsSecret": "s3"}, "retention": {"credentialsSecret": "s3"},
            }}),
            &["is the nodes' own", "Name a Secret with another key"],
        ),
        ("two nodes", json!({"nodes": 2}), &["spec.nodes", "greater than or equal to 3"]),
        ("101 nodes", json!({"nodes": 101}), &["spec.nodes", "less than or equal to 100"]),
        ("half as threshold", json!({"threshold": 2}), &["not more than half of nodes", "Raise"]),
        ("threshold above nodes", json!({"threshold": 5}), &["the key could never be used", "Lower threshold"]),
        ("all nodes as threshold", json!({"threshold": 4}), &["loses the key for good", "allowDowntime: true"]),
        ("minHolders below the threshold", json!({"minHolders": 2}), &["minHolders is below the threshold", "Raise"]),
        ("minHolders above nodes", json!({"minHolders": 5}), &["minHolders is more than nodes"]),
        (
            "interval zero",
            json!({"schedule": {"intervalBlocks": 0}}),
            &["intervalBlocks", "greater than or equal to 1"],
        ),
        ("interval of the deadlines", json!({"schedule": short}), &["not longer than the four deadlines", "Lengthen"]),
        (
            "two sources",
            json!({"schedule": {"source": {"clock": {}, "ethereum": {"chainId": 1, "urls": ["http://a"]}}}}),
            &["one of clock and ethereum"],
        ),
        ("no source", json!({"schedule": {"source": {}}}), &["one of clock and ethereum"]),
        (
            "a chain without endpoint",
            json!({"schedule": {"source": {"ethereum": {"chainId": 1}}}}),
            &["needs urls, or urlsSecret"],
        ),
        (
            "confirmations of final blocks",
            json!({"schedule": {"source": {"ethereum": {"chainId": 1, "urls": ["http://a"], "confirmations": 3}}}}),
            &["confirmations are for finality Latest"],
        ),
        ("no size", json!({"storage": {"size": "much"}}), &["size must be a quantity"]),
        ("a key from nowhere", key(json!({"id": "1"})), &["exactly one of secret, file and env"]),
        (
            "a key from two places",
            key(json!({"id": "1", "secret": {"name": "a"}, "file": {"path": "/k"}})),
            &["exactly one of secret, file and env"],
        ),
        (
            "one id for two keys",
            json!({"keyEncryption": {"active": {"id": "1", "secret": {"name": "a"}},
                "previous": [{"id": "1", "secret": {"name": "b"}}]}}),
            &["an id stands for one key for ever"],
        ),
        (
            "a rule of an unknown issuer",
            rule(json!({"issuer": "ci", "subjects": ["a"], "verbs": ["Beacon"]})),
            &["a rule names an issuer that is not there"],
        ),
        ("derive what?", rule(json!({"subjects": ["a"], "verbs": ["Derive"]})), &["needs identities"]),
        ("sign with what?", rule(json!({"subjects": ["a"], "verbs": ["Sign"]})), &["needs keyNames"]),
        ("a verb of no meaning", rule(json!({"subjects": ["a"], "verbs": ["Read"]})), &["Unsupported value", "Derive"]),
        (
            "all nodes removed",
            json!({"removeNodes": [{"index": 1}, {"index": 2}, {"index": 3}, {"index": 4}]}),
            &["Remove them in several steps"],
        ),
        ("one node removed twice", json!({"removeNodes": [{"index": 1}, {"index": 1}]}), &["Duplicate value"]),
        ("a short public key", json!({"expectedPublicKey": "abcd"}), &["spec.expectedPublicKey", "should match"]),
        (
            "a mount over the state",
            json!({"podTemplate": {"mounts": [{"name": "a", "path": "/var/lib/keyfleet/x", "secret": "a"}]}}),
            &["must not cover /var/lib/keyfleet"],
        ),
        (
            "a variable without value",
            json!({"podTemplate": {"env": [{"name": "A"}]}}),
            &["has a value, or a secret to take it from"],
        ),
        (
            "egress without its mode",
            json!({"networkPolicy": {"egressTo": [{"cidr": "10.0.0.0/8"}]}}),
            &["no effect without mode IngressAndEgress"],
        ),
        (
            "no addresses",
            json!({"networkPolicy": {"mode": "IngressAndEgress", "egressTo": [{"cidr": "ten"}]}}),
            &["CIDR form"],
        ),
        ("a misspelt field", json!({"treshold": 3}), &["unknown field \"spec.treshold\""]),
        ("a roster", json!({"membership": {"mode": "Approved"}}), &["unknown field \"spec.membership\""]),
        ("custodians", json!({"recovery": {"required": 1}}), &["unknown field \"spec.recovery\""]),
        (
            "a key in a cloud",
            key(json!({"id": "1", "awsKms": {"keyArn": "arn:aws:kms:eu-central-1:1:key/1"}})),
            &["unknown field \"spec.keyEncryption.active.awsKms\""],
        ),
    ] {
        refused(what, clusters.try_create(&spec(fields)).await, parts);
    }
    for (what, fields) in [
        ("three nodes", json!({"nodes": 3})),
        ("a hundred nodes", json!({"nodes": 100})),
        ("a bare majority", json!({"nodes": 5, "threshold": 3})),
        ("all nodes, knowingly", json!({"threshold": 4, "allowDowntime": true})),
        ("an interval one longer than the deadlines", json!({"schedule": {"intervalBlocks": 9}})),
        ("minHolders of all", json!({"minHolders": 4})),
        (
            "confirmations of the newest blocks",
            json!({"schedule": {"source": {"ethereum": {"chainId": 1, "urls": ["http://a"], "finality": "Latest",
                "confirmations": 3}}}}),
        ),
        ("a file as key", key(json!({"id": "1", "file": {"path": "/kek/key"}}))),
        (
            "a rule",
            rule(json!({"subjects": ["a"], "verbs": ["Derive", "Sign"], "identities": ["*"], "keyNames": ["k"]})),
        ),
    ] {
        accepted(what, clusters.try_create(&spec(fields)).await);
    }
}

/// A name that leaves no room for the names made from it is refused.
#[tokio::test]
async fn a_name_too_long_for_names_made_from_it_is_refused() {
    let client = apiserver::namespace("names").await;
    let clusters = Objects::new::<KmsCluster>(&client);
    accepted("a name of 40", clusters.try_create(&cluster(&"a".repeat(40))).await);
    refused(
        "a name of 41",
        clusters.try_create(&cluster(&"a".repeat(41))).await,
        &["more than 40 characters", "shorter"],
    );
}

#[tokio::test]
async fn what_a_cluster_is_built_on_cannot_be_changed() {
    let client = apiserver::namespace("immutable").await;
    let clusters = Objects::new::<KmsCluster>(&client);
    let made = clusters.create(&cluster("keys")).await;
    let ethereum = json!({"ethereum": {"chainId": 1, "urls": ["http://a"]}});
    for (what, pointer, value, parts) in [
        ("another clock", "/spec/schedule/source/clock/blockMs", json!(1_000), "cannot move to another chain or clock"),
        ("a chain for a clock", "/spec/schedule/source", ethereum.clone(), "cannot move to another chain or clock"),
        (
            "the whole schedule removed and put back otherwise",
            "/spec/schedule",
            json!({"source": ethereum}),
            "another chain",
        ),
        ("a smaller volume", "/spec/storage/size", json!("1Mi"), "size cannot shrink"),
    ] {
        refused(what, clusters.update(&with(&made, pointer, value)).await, &[parts]);
    }
    let made = accepted("a larger volume", clusters.update(&with(&made, "/spec/storage/size", json!("2Gi"))).await);
    accepted("another interval", clusters.update(&with(&made, "/spec/schedule/intervalBlocks", json!(100))).await);

    let mut chain = cluster("chain");
    chain["spec"]["schedule"] = json!({"source": ethereum});
    let chain = clusters.create(&chain).await;
    let urls = "/spec/schedule/source/ethereum/urls";
    let chain = accepted("another endpoint", clusters.update(&with(&chain, urls, json!(["http://b"]))).await);
    let other = with(&chain, "/spec/schedule/source/ethereum/chainId", json!(2));
    refused("another chain", clusters.update(&other).await, &["cannot move to another chain"]);
}

/// Removed and set again is changed: a rule on the field alone would let it pass.
#[tokio::test]
async fn key_and_id_are_written_once_and_numbers_only_rise() {
    let client = apiserver::namespace("once").await;
    let clusters = Objects::new::<KmsCluster>(&client);
    let made = clusters.create(&cluster("keys")).await;
    let made = accepted(
        "metadata of an object without status",
        clusters.update(&with(&made, "/metadata/labels", json!({"a": "b"}))).await,
    );
    let first = json!({"clusterId": ID, "nextNumber": 1, "nextIndex": 5, "lastProcessedBoundary": 50});
    let made = accepted("the first status", clusters.update_status(&with(&made, "/status", first)).await);
    let made =
        accepted("the key", clusters.update_status(&with(&made, "/status/publicKey", json!(hex(0xa1, 96)))).await);
    let made = accepted("metadata", clusters.update(&with(&made, "/metadata/labels", json!({"a": "c"}))).await);

    for (field, other) in [("clusterId", json!(hex(9, 16))), ("publicKey", json!(hex(0xa2, 96)))] {
        let pointer = format!("/status/{field}");
        let says = [&format!("status.{field} is written once")[..]];
        refused("a change", clusters.update_status(&with(&made, &pointer, other)).await, &says);
        refused("a removal", clusters.update_status(&with(&made, &pointer, Value::Null)).await, &says);
    }
    for (field, less, more) in [("nextNumber", 0, 2), ("nextIndex", 4, 6), ("lastProcessedBoundary", 49, 51)] {
        let pointer = format!("/status/{field}");
        let says = [&format!("status.{field} only rises")[..]];
        refused("a fall", clusters.update_status(&with(&made, &pointer, json!(less))).await, &says);
        refused("a removal", clusters.update_status(&with(&made, &pointer, Value::Null)).await, &says);
        let raised = with(&made, &pointer, json!(more));
        let path = format!("{}/keys/status?dryRun=All", clusters.path);
        accepted("a rise", clusters.send("PUT", &path, &raised).await);
    }
    refused("no status at all", clusters.update_status(&with(&made, "/status", Value::Null)).await, &["written once"]);

    let expected = "/spec/expectedPublicKey";
    let made = accepted("its own key", clusters.update(&with(&made, expected, json!(hex(0xa1, 96)))).await);
    refused(
        "another key",
        clusters.update(&with(&made, expected, json!(hex(0xa2, 96)))).await,
        &["never changes its key"],
    );
}

#[tokio::test]
async fn an_epoch_number_is_reserved_once() {
    let client = apiserver::namespace("numbers").await;
    let clusters = Objects::new::<KmsCluster>(&client);
    let made = clusters.create(&cluster("keys")).await;
    let reserve = |number: u64, next: u64| json!({"nextNumber": next, "reservation": {"number": number, "block": 50, "boundary": 50, "generation": 1}});
    refused(
        "a number at hand for the next as well",
        clusters.update_status(&with(&made, "/status", reserve(1, 1))).await,
        &["not below status.nextNumber"],
    );
    let made = accepted("a reservation", clusters.update_status(&with(&made, "/status", reserve(1, 2))).await);
    let stale = made.clone();
    let made = accepted("its end", clusters.update_status(&with(&made, "/status", json!({"nextNumber": 2}))).await);
    refused(
        "the number again",
        clusters.update_status(&with(&made, "/status", reserve(1, 3))).await,
        &["reserved before"],
    );
    let made = accepted("the next", clusters.update_status(&with(&made, "/status", reserve(2, 3))).await);
    accepted("a higher one in its place", clusters.update_status(&with(&made, "/status", reserve(3, 4))).await);
    refused(
        "what a second operator decided on an older reading",
        clusters.update_status(&with(&stale, "/status", reserve(4, 5))).await,
        &["the object has been modified"],
    );
}

#[tokio::test]
async fn scaling_keeps_the_rules_and_applying_again_changes_nothing() {
    let client = apiserver::namespace("scale").await;
    let api = Api::<KmsCluster>::default_namespaced(client.clone());
    let mut object = cluster("keys");
    object["spec"]["threshold"] = json!(3);
    let apply = PatchParams::apply("kubectl");
    let first = api.patch("keys", &apply, &Patch::Apply(&object)).await.expect("applied");
    let again = api.patch("keys", &apply, &Patch::Apply(&object)).await.expect("applied again");
    assert_eq!(first.metadata.generation, again.metadata.generation, "the same manifest again is no change");

    let scale = |nodes: u32| json!({"spec": {"replicas": nodes}});
    let scaled: Scale =
        api.patch_scale("keys", &PatchParams::default(), &Patch::Merge(scale(5))).await.expect("five nodes");
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(5));
    let error =
        api.patch_scale("keys", &PatchParams::default(), &Patch::Merge(scale(6))).await.map_err(|e| e.to_string());
    refused("six nodes under threshold three", error, &["not more than half of nodes"]);
}
