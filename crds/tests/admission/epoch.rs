//! Rules of the `KeyEpoch`: a plan, and the record of its round.

use keyfleet_crds::epoch::status::{Culprit, Fault, Phase, Timings};
use keyfleet_crds::values::Digest;
use keyfleet_crds::{KeyEpoch, KeyEpochStatus};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::apiserver::{self, with};
use crate::{ID, Objects, accepted, hex, refused};

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
            "planVersion": 2, "clusterId": ID, "number": number, "kind": "Reshare", "block": 100,
            "source": {"number": 1, "planDigest": hex(0x70, 32), "vectorDigest": hex(0x71, 32)},
            "oldThreshold": 3, "threshold": 3, "minHolders": 3,
            "dealers": members(&|_| json!({})),
            "receivers": members(&|index| json!({"prekey": prekey(1, 0x80 + index)})),
            "expected": [1, 2, 3],
            "deadlines": {"dealingBlocks": 2, "verifyingBlocks": 2, "preparingBlocks": 2, "certifyingBlocks": 2},
            "expectedPublicKey": hex(0xa1, 96),
        },
    })
}

fn prekey(number: u64, byte: u8) -> Value {
    json!({"number": number, "publicKey": hex(byte, 48), "signature": hex(byte, 64)})
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
    for (what, pointer, value) in
        [("another threshold", "/spec/minHolders", json!(4)), ("fewer expected", "/spec/expected", json!([1, 2]))]
    {
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
async fn the_record_is_frozen_field_by_field_and_moves_forward() {
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
    let kept = |record: &Value, numbers: Value| with(record, "/status/kept", numbers);
    let says = ["status.kept does not ascend"];
    refused("kept epochs of a round", epochs.update_status(&kept(&record, json!([1]))).await, &says);
    let certificate = json!({"signature": hex(0xb1, 48), "signers": [1, 2]});
    record = accepted("certificate", epochs.update_status(&with(&record, "/status/certificate", certificate)).await);

    for (what, numbers) in [("a falling list", json!([5, 2])), ("a later epoch", json!([2, 9])), ("itself", json!([8]))]
    {
        refused(what, epochs.update_status(&kept(&record, numbers)).await, &says);
    }
    refused("an epoch twice", epochs.update_status(&kept(&record, json!([2, 2]))).await, &["Duplicate value"]);
    let many: Vec<u64> = (1..=15).collect();
    refused("more than any retention", epochs.update_status(&kept(&record, json!(many))).await, &["at most 14 items"]);
    for numbers in [json!([1, 2, 7]), json!([7]), json!([])] {
        record = accepted("another list", epochs.update_status(&kept(&record, numbers)).await);
    }

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
    plan["spec"]["receivers"] =
        list(&|index| json!({"index": index, "identityKey": hex(index, 32), "prekey": prekey(9, index)}));
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
    // Of these, 28 kB are the receivers' signed prekeys, which the nodes' own statuses carried before, 2.8 kB each.
    assert!(bytes < 120_000, "a KeyEpoch of a hundred nodes has {bytes} bytes");
}

/// The API server takes everything that the types write, and gives it back unchanged.
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
