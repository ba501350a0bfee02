//! The CustomResourceDefinitions, from the types' schemas.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{KeyEpoch, KmsCluster, KmsNode};

/// Names stay within a DNS label.
const NAME_MAX_CHARS: usize = 63;

/// The three definitions.
///
/// # Panics
/// When a type has no structural schema: a fault of this crate that its tests find.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [KmsCluster::crd(), KmsNode::crd(), KeyEpoch::crd()].iter().map(tidied).collect()
}

/// Removes what schemars writes and Kubernetes does not accept:
/// - formats such as `uint32` that the API server does not know and warns about;
/// - texts of a fixed set without `maxLength`, which makes rules over them look expensive;
/// - `nullable` on optional fields: a null would pass for a value that was written once.
fn tidied(definition: &CustomResourceDefinition) -> CustomResourceDefinition {
    let mut json = serde_json::to_value(definition).expect("a definition is JSON");
    tidy(&mut json);
    bound_name(&mut json);
    serde_json::from_value(json).expect("tidying keeps a definition's shape")
}

/// Bounds `metadata.name`, the only thing a schema may say of metadata: without it rules over the name look expensive.
fn bound_name(definition: &mut Value) {
    for version in definition["spec"]["versions"].as_array_mut().into_iter().flatten() {
        version["schema"]["openAPIV3Schema"]["properties"]["metadata"] =
            json!({ "type": "object", "properties": { "name": { "type": "string", "maxLength": NAME_MAX_CHARS } } });
    }
}

fn tidy(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            if fields.get("type").is_some_and(Value::is_string) {
                let unsigned =
                    fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint"));
                if unsigned {
                    fields.insert("format".into(), "int64".into());
                    for bound in ["minimum", "maximum"] {
                        if let Some(value) = fields.get(bound).and_then(Value::as_f64).filter(|value| *value == 0.0) {
                            fields.insert(bound.into(), value.into());
                        }
                    }
                }
                fields.remove("nullable");
                if let Some(Value::Array(values)) = fields.get("enum") {
                    let longest = values.iter().filter_map(Value::as_str).map(str::len).max();
                    fields.insert("maxLength".into(), longest.into());
                }
            }
            if let Some(Value::String(description)) = fields.get_mut("description") {
                *description = description.split("\n\n").map(unwrapped).collect::<Vec<_>>().join("\n\n");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// A paragraph without the source's line breaks.
fn unwrapped(paragraph: &str) -> String {
    paragraph.split('\n').map(str::trim).collect::<Vec<_>>().join(" ")
}
