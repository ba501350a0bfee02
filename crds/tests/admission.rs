//! Every rule, tried on a real API server: what it refuses, what it lets through, and that its message helps.
//!
//! Needs the environment variable `KEYFLEET_BIN`; `cargo xtask test --only crds` sets it.

#[allow(dead_code, reason = "other files use the rest")]
mod apiserver;

use std::fmt::Debug;

use apiserver::with;
use k8s_openapi::api::autoscaling::v1::Scale;
use keyfleet_crds::epoch::status::{Culprit, Fault, Phase, Timings};
use keyfleet_crds::values::Digest;
use keyfleet_crds::{KeyEpoch, KeyEpochStatus, KmsCluster, KmsNode};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

/// A kind's objects as JSON, so that tests can send what the types could not say.
struct Objects {
    client: Client,
    path: String,
}

impl Objects {
    fn new<K: Resource<DynamicType = ()>>(client: &Client) -> Self {
        let path = K::url_path(&(), Some(client.default_namespace()));
        Self { client: client.clone(), path }
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let body = serde_json::to_vec(body).expect("JSON");
        let answer = self.client.request::<Value>(request.body(body).expect("a request")).await;
        answer.map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => panic!("the API server did not answer: {other}"),
        })
    }

    /// What creating would answer; nothing is created.
    async fn try_create(&self, object: &Value) -> Result<Value, String> {
        self.send("POST", &format!("{}?dryRun=All&fieldValidation=Strict", self.path), object).await
    }

    async fn create(&self, object: &Value) -> Value {
        let path = format!("{}?fieldValidation=Strict", self.path);
        self.send("POST", &path, object).await.unwrap_or_else(|error| panic!("a good object was refused: {error}"))
    }

    async fn update(&self, object: &Value) -> Result<Value, String> {
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.send("PUT", &format!("{}/{name}", self.path), object).await
    }

    async fn update_status(&self, object: &Value) -> Result<Value, String> {
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.send("PUT", &format!("{}/{name}/status", self.path), object).await
    }
}

/// The answer must be a refusal that says all of `parts`.
#[track_caller]
fn refused<T: Debug>(what: &str, answer: Result<T, String>, parts: &[&str]) {
    let message = match answer {
        Ok(accepted) => panic!("{what} was accepted: {accepted:?}"),
        Err(message) => message,
    };
    for part in parts {
        assert!(message.contains(part), "{what}: the refusal does not say {part:?}, but:\n{message}");
    }
}

#[track_caller]
fn accepted(what: &str, answer: Result<Value, String>) -> Value {
    answer.unwrap_or_else(|error| panic!("{what} was refused: {error}"))
}

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "keyfleet.dev/v1alpha1", "kind": "KmsCluster", "metadata": {"name": name},
        "spec": {"keyEncryption": {"active": {"id": "1", "secret": {"name": "kek"}}}},
    })
}

fn hex(byte: u8, bytes: usize) -> String {
    format!("{byte:02x}").repeat(bytes)
}

const ID: &str = "000102030405060708090a0b0c0d0e0f";

#[tokio::test]
async fn the_samples_are_admitted_and_the_smallest_gets_the_defaults() {
    let client = apiserver::namespace("samples").await;
    let clusters = Objects::new::<KmsCluster>(&client);
    for text in
        [include_str!("../../manifests/samples/smallest.yaml"), include_str!("../../manifests/samples/full.yaml")]
    {
        clusters.create(&serde_yaml::from_str(text).expect("YAML")).await;
    }
    let kept = Api::<KmsCluster>::default_namespaced(client).get("keys").await.expect("the sample is there");
    let here: KmsCluster =
        serde_yaml::from_str(include_str!("../../manifests/samples/smallest.yaml")).expect("a sample");
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
            "a schedule that is none",
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
        ("a key from nowhere", key(json!({"id": "1"})), &["exactly one of secret, file, env and awsKms"]),
        (
            "a key from two places",
            key(json!({"id": "1", "secret": {"name": "a"}, "file": {"path": "/k"}})),
            &["exactly one of secret, file, env and awsKms"],
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
        ("approval without a roster", json!({"membership": {"mode": "Approved"}}), &["needs membership.roster"]),
        (
            "all nodes removed",
            json!({"removeNodes": [{"index": 1}, {"index": 2}, {"index": 3}, {"index": 4}]}),
            &["Remove them in several steps"],
        ),
        ("one node removed twice", json!({"removeNodes": [{"index": 1}, {"index": 1}]}), &["Duplicate value"]),
        (
            "more custodians needed than there are",
            json!({"recovery": {"required": 2, "recipients": [{"name": "a", "publicKey": hex(1, 32)}]}}),
            &["nobody could recover anything"],
        ),
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

#[tokio::test]
async fn a_name_that_leaves_no_room_for_the_names_made_from_it_is_refused() {
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
    let roster = |sequence: u64| {
        json!({"mode": "Approved", "roster": {"sequence": sequence, "payload": "AA==",
            "signatures": [{"approver": hex(1, 32), "signature": hex(2, 64)}]}})
    };
    let mut made = cluster("keys");
    made["spec"]["membership"] = roster(3);
    let made = clusters.create(&made).await;
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
        ("an older roster", "/spec/membership", roster(2), "the newest roster"),
        ("no approvers any more", "/spec/membership", json!({"mode": "Operator"}), "cannot go back from Approved"),
        ("membership removed", "/spec/membership", Value::Null, "cannot go back from Approved"),
    ] {
        refused(what, clusters.update(&with(&made, pointer, value)).await, &[parts]);
    }
    let made = accepted("a larger volume", clusters.update(&with(&made, "/spec/storage/size", json!("2Gi"))).await);
    let made = accepted("a newer roster", clusters.update(&with(&made, "/spec/membership", roster(4))).await);
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
async fn key_and_id_of_a_cluster_are_written_once_and_its_numbers_only_rise() {
    let client = apiserver::namespace("once").await;
    let clusters = Objects::new::<KmsCluster>(&client);
    let made = clusters.create(&cluster("keys")).await;
    let made = accepted(
        "metadata of an object without status",
        clusters.update(&with(&made, "/metadata/labels", json!({"a": "b"}))).await,
    );
    let first =
        json!({"clusterId": ID, "nextNumber": 1, "nextIndex": 5, "lastProcessedBoundary": 50, "rosterSequence": 1});
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
    for (field, less, more) in
        [("nextNumber", 0, 2), ("nextIndex", 4, 6), ("lastProcessedBoundary", 49, 51), ("rosterSequence", 0, 2)]
    {
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

    let made = accepted("removal", nodes.update(&with(&made, "/spec/removed", json!(true))).await);
    refused("its undoing", nodes.update(&with(&made, "/spec/removed", json!(false))).await, &["cannot be taken back"]);
    accepted("its loss", nodes.update(&with(&made, "/spec/lost", json!(true))).await);
}

fn epoch(number: u64) -> Value {
    let members = |extra: &dyn Fn(u8) -> Value| -> Vec<Value> {
        (1..=4)
            .map(|index| {
                let mut member = json!({"index": index, "identityKey": hex(index, 32)});
                member
                    .as_object_mut()
                    .expect("an object")
                    .extend(extra(index).as_object().cloned().unwrap_or_default());
                member
            })
            .collect()
    };
    json!({
        "apiVersion": "keyfleet.dev/v1alpha1", "kind": "KeyEpoch", "metadata": {"name": format!("keys-{number}")},
        "spec": {
            "planVersion": 1, "clusterId": ID, "number": number, "kind": "Reshare", "block": 100,
            "source": {"number": 1, "planDigest": hex(0x70, 32), "vectorDigest": hex(0x71, 32)},
            "oldThreshold": 3, "threshold": 3, "minHolders": 3,
            "dealers": members(&|_| json!({})),
            "receivers": members(&|index| json!({"prekeySet": 1, "prekeyDigest": hex(0x80 + index, 32)})),
            "expected": [1, 2, 3],
            "deadlines": {"dealingBlocks": 2, "verifyingBlocks": 2, "preparingBlocks": 2, "certifyingBlocks": 2},
            "expectedPublicKey": hex(0xa1, 96),
        },
    })
}

/// seed: 002-01
#[tokio::test]
async fn a_plan_is_complete_consistent_and_never_changes() {
    let client = apiserver::namespace("plans").await;
    let epochs = Objects::new::<KeyEpoch>(&client);
    let plan = epoch(8);
    for field in [
        "planVersion",
        "clusterId",
        "number",
        "kind",
        "block",
        "threshold",
        "minHolders",
        "dealers",
        "receivers",
        "expected",
        "deadlines",
    ] {
        let without = with(&plan, &format!("/spec/{field}"), Value::Null);
        refused(field, epochs.try_create(&without).await, &[&format!("spec.{field}"), "Required value"]);
    }
    for field in ["source", "oldThreshold", "expectedPublicKey"] {
        let without = with(&plan, &format!("/spec/{field}"), Value::Null);
        refused(
            field,
            epochs.try_create(&without).await,
            &["a Reshare has source, oldThreshold and expectedPublicKey"],
        );
    }
    let first = plan["spec"]["receivers"][0].clone();
    let mut unordered = plan["spec"]["receivers"].clone();
    unordered.as_array_mut().expect("a list").rotate_left(1);
    for (what, pointer, value, says) in [
        ("a name of another number", "/metadata/name", json!("keys-9"), "does not end in the epoch's number"),
        ("a source after the epoch", "/spec/source/number", json!(8), "starts from an earlier epoch"),
        ("half as threshold", "/spec/threshold", json!(2), "not more than half"),
        ("too few holders", "/spec/minHolders", json!(2), "not between threshold and"),
        ("too many holders", "/spec/minHolders", json!(5), "not between threshold and"),
        ("unordered receivers", "/spec/receivers", unordered, "ascend by index"),
        ("a receiver twice", "/spec/receivers/1", first, "Duplicate value"),
        ("unordered expected", "/spec/expected", json!([2, 1]), "ascend by index"),
        ("genesis from a source", "/spec/kind", json!("Genesis"), "a Genesis has none"),
    ] {
        refused(what, epochs.try_create(&with(&plan, pointer, value)).await, &[says]);
    }
    let made = epochs.create(&plan).await;
    let roster = json!(hex(5, 32));
    for (what, pointer, value) in [
        ("another threshold", "/spec/minHolders", json!(4)),
        ("an added roster", "/spec/rosterDigest", roster),
        ("fewer expected", "/spec/expected", json!([1, 2])),
    ] {
        refused(what, epochs.update(&with(&made, pointer, value)).await, &["a KeyEpoch's spec never changes"]);
    }
    accepted(
        "a finalizer",
        epochs.update(&with(&made, "/metadata/finalizers", json!(["keyfleet.dev/active-epoch"]))).await,
    );
    let again = epochs.send("POST", &epochs.path, &plan).await;
    refused("a second plan under the number", again, &["already exists"]);
}

/// Removed and set again is changed, for each frozen field; and a verdict stands.
/// seed: 001-27
#[tokio::test]
async fn the_record_of_a_round_is_frozen_field_by_field_and_moves_forward_only() {
    let client = apiserver::namespace("frozen").await;
    let epochs = Objects::new::<KeyEpoch>(&client);
    let mut record = epochs.create(&epoch(8)).await;
    let digest = |byte: u8| hex(byte, 32);
    let dealers = json!([{"index": 1, "bundleDigest": digest(1)}, {"index": 2, "bundleDigest": digest(2)}]);
    let steps = [
        ("phase", json!("Dealing")),
        ("phaseBlock", json!(100)),
        ("dealers", dealers),
        ("responses", json!([{"index": 1, "responseDigest": digest(3)}])),
        ("qualified", json!([1, 2])),
        ("holders", json!([{"index": 1, "publicShare": hex(0x91, 96)}])),
        ("vectorDigest", json!(digest(4))),
    ];
    record["status"] = json!({});
    for (field, value) in steps {
        record = accepted(field, epochs.update_status(&with(&record, &format!("/status/{field}"), value)).await);
    }
    let early = with(&record, "/status/phase", json!("Active"));
    refused(
        "activation without a certificate",
        epochs.update_status(&early).await,
        &["Active only with", "certificate"],
    );
    let certificate = json!({"signature": hex(0xb1, 48), "signers": [1, 2]});
    record = accepted("certificate", epochs.update_status(&with(&record, "/status/certificate", certificate)).await);

    for (field, other) in [
        ("dealers", json!([{"index": 1, "bundleDigest": digest(1)}])),
        ("dealers", json!([{"index": 1, "bundleDigest": digest(9)}, {"index": 2, "bundleDigest": digest(2)}])),
        ("responses", json!([])),
        ("qualified", json!([2, 1])),
        ("holders", json!([{"index": 1, "publicShare": hex(0x92, 96)}])),
        ("vectorDigest", json!(digest(9))),
        ("certificate", json!({"signature": hex(0xb2, 48), "signers": [1, 2]})),
    ] {
        let pointer = format!("/status/{field}");
        let says = [&format!("status.{field} is written once")[..]];
        refused("a change", epochs.update_status(&with(&record, &pointer, other)).await, &says);
        refused("a removal", epochs.update_status(&with(&record, &pointer, Value::Null)).await, &says);
    }
    refused(
        "an earlier block",
        epochs.update_status(&with(&record, "/status/phaseBlock", json!(99))).await,
        &["only rises"],
    );

    let to = |record: &Value, phase: &str| with(record, "/status/phase", json!(phase));
    record = accepted("certifying", epochs.update_status(&to(&record, "Certifying")).await);
    refused("back to dealing", epochs.update_status(&to(&record, "Dealing")).await, &["only moves forward"]);
    refused(
        "no phase",
        epochs.update_status(&with(&record, "/status/phase", Value::Null)).await,
        &["a round's verdict stands"],
    );
    record = accepted("activation", epochs.update_status(&to(&record, "Active")).await);
    refused("failing after activation", epochs.update_status(&to(&record, "Failed")).await, &["only moves forward"]);
    record = accepted("retirement", epochs.update_status(&to(&record, "Retired")).await);
    refused("coming back", epochs.update_status(&to(&record, "Active")).await, &["secrets are destroyed"]);

    let failed = epochs.create(&epoch(9)).await;
    let failed = accepted("failing", epochs.update_status(&with(&failed, "/status", json!({"phase": "Failed"}))).await);
    refused("trying on", epochs.update_status(&to(&failed, "Certifying")).await, &["a round that Failed"]);
}

/// An epoch of a hundred nodes fits an object many times over (etcd takes 1.5 MiB), and its rules stay within their budget.
#[tokio::test]
async fn a_hundred_nodes_fit() {
    let client = apiserver::namespace("hundred").await;
    let epochs = Objects::new::<KeyEpoch>(&client);
    let list = |item: &dyn Fn(u8) -> Value| Value::Array((1..=100).map(item).collect());
    let mut plan = epoch(8);
    plan["spec"]["threshold"] = json!(67);
    plan["spec"]["minHolders"] = json!(67);
    plan["spec"]["dealers"] = list(&|index| json!({"index": index, "identityKey": hex(index, 32)}));
    plan["spec"]["receivers"] = list(
        &|index| json!({"index": index, "identityKey": hex(index, 32), "prekeySet": 9, "prekeyDigest": hex(index, 32)}),
    );
    plan["spec"]["expected"] = list(&|index| json!(index));
    let made = epochs.create(&plan).await;
    let status = json!({
        "phase": "Active",
        "dealers": list(&|index| json!({"index": index, "bundleDigest": hex(index, 32)})),
        "responses": list(&|index| json!({"index": index, "responseDigest": hex(index, 32)})),
        "qualified": list(&|index| json!(index)),
        "holders": list(&|index| json!({"index": index, "publicShare": hex(index, 96)})),
        "vectorDigest": hex(1, 32),
        "certificate": {"signature": hex(2, 48), "signers": list(&|index| json!(index))},
    });
    let made = accepted("a full record", epochs.update_status(&with(&made, "/status", status)).await);
    let made = accepted("the same again", epochs.update_status(&with(&made, "/status/held", json!("100/100"))).await);
    let bytes = made.to_string().len();
    assert!(bytes < 100_000, "a KeyEpoch of a hundred nodes has {bytes} bytes");
}

/// What the types write, the API server takes and gives back unchanged.
/// seed: 001-32
#[tokio::test]
async fn the_types_and_the_schema_agree() {
    let client = apiserver::namespace("types").await;
    let api = Api::<KeyEpoch>::default_namespaced(client);
    let plan: KeyEpoch = serde_json::from_value(epoch(8)).expect("a plan");
    let made = api.create(&PostParams::default(), &plan).await.expect("created");
    assert_eq!(made.spec, plan.spec);
    let mut changed = made.clone();
    let status = KeyEpochStatus {
        phase: Some(Phase::Failed),
        culprits: vec![Culprit { index: 2, fault: Fault::Equivocation, evidence_digests: vec![Digest([7; 32])] }],
        timings: Some(Timings::default()),
        ..KeyEpochStatus::default()
    };
    changed.status = Some(status.clone());
    let kept = api.replace_status("keys-8", &PostParams::default(), &changed).await.expect("the status");
    assert_eq!(kept.status, Some(status));
}
