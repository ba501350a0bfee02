//! The schema of the values of `charts/keyfleet-cluster`: that of the kind, in the spelling of JSON Schema.

use keyfleet_crds::generate::definitions;
use serde_json::{Value, json};

/// `values.schema.json`.
pub(super) fn of_cluster() -> String {
    let cluster = definitions().into_iter().find(|definition| definition.spec.names.kind == "KmsCluster");
    let schema = cluster.and_then(|cluster| cluster.spec.versions.into_iter().next()?.schema?.open_api_v3_schema);
    let mut spec = serde_json::to_value(schema.expect("the kind has a schema")).expect("a schema is plain data")
        ["properties"]["spec"]
        .take();
    plain(&mut spec);
    // The chart names the Secret of the key-encryption key where the values do not.
    if let Some(required) = spec["required"].as_array_mut() {
        required.retain(|name| name != "keyEncryption");
    }
    let text = |description: &str| json!({ "type": "string", "description": description });
    let texts = |description: &str| json!({ "type": "object", "additionalProperties": { "type": "string" }, "description": description });
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "global": { "type": "object" },
            "name": text("The KmsCluster's name, at most 40 characters; the release's where it is empty"),
            "labels": texts("More labels of the KmsCluster"),
            "annotations": texts("Annotations of the KmsCluster"),
            "keyEncryptionKey": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "generate": { "type": "boolean", "description": "Make the Secret <name>-kek once, and keep it" },
                },
            },
            "spec": spec,
        },
    });
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// Takes away what only Kubernetes knows, and says that unknown fields are mistakes.
fn plain(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    if fields.remove("x-kubernetes-int-or-string").is_some() {
        fields.remove("anyOf");
        fields.insert("type".into(), json!(["integer", "string"]));
    }
    fields.retain(|key, _| !key.starts_with("x-kubernetes-") && key != "format");
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(plain);
        fields.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(key) {
            plain(inner);
        }
    }
}
