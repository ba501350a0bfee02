//! Checked-in files are what the types say.
#![expect(clippy::disallowed_methods, reason = "a test reads what is checked in")]

use std::path::Path;

/// seed: 001-15
#[test]
fn generated_files_are_unchanged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for file in keyfleet_crds::generate::files() {
        let found = std::fs::read_to_string(root.join(&file.path)).unwrap_or_default();
        assert!(found == file.content, "{} differs from the types: run `cargo xtask codegen` and commit it", file.path);
    }
}

/// Client-side `kubectl apply` copies an object into an annotation, which may hold 262,144 bytes.
#[test]
fn every_definition_can_be_applied_from_the_client_side() {
    for definition in keyfleet_crds::generate::definitions() {
        let json = serde_json::to_string(&definition).unwrap();
        assert!(json.len() < 250_000, "{:?} has {} bytes of JSON", definition.metadata.name, json.len());
    }
}

/// Every field of ours has a description for the people who write it.
#[test]
fn every_field_is_described() {
    fn check(path: &str, schema: &serde_json::Value) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(field["description"].is_string(), "{path} has no description");
            check(&path, field);
            check(&format!("{path}[]"), &field["items"]);
        }
    }
    for definition in keyfleet_crds::generate::definitions() {
        let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        for part in ["spec", "status"] {
            check(&format!("{}.{part}", definition.spec.names.kind), &schema["openAPIV3Schema"]["properties"][part]);
        }
    }
}

/// Conditions are a map by type and every kind has a status subresource.
#[test]
fn conditions_are_a_map_and_kinds_have_a_status_subresource() {
    for definition in keyfleet_crds::generate::definitions() {
        let version = serde_json::to_value(&definition.spec.versions[0]).unwrap();
        let conditions = &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"];
        let kind = &definition.spec.names.kind;
        if kind == "KeyEpoch" {
            assert!(conditions.is_null(), "a KeyEpoch says all by its phase: nothing writes conditions");
        } else {
            assert_eq!(conditions["x-kubernetes-list-type"], "map", "{kind}");
            assert_eq!(conditions["x-kubernetes-list-map-keys"][0], "type", "{kind}");
        }
        assert!(version["subresources"]["status"].is_object(), "{kind}");
    }
}
