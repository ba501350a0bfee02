//! The samples are what the types and rules accept.
#![expect(clippy::disallowed_methods, reason = "a test reads the samples")]

use std::path::Path;

use keyfleet_crds::KmsCluster;
use kube::core::cel::{validate_cel, validate_cel_update};
use serde_json::Value;

fn samples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples");
    let entries = std::fs::read_dir(folder).expect("manifests/samples is there");
    let mut samples: Vec<(String, String)> = entries
        .map(|entry| {
            let entry = entry.expect("a readable folder");
            let text = std::fs::read_to_string(entry.path()).expect("a readable sample");
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        // Others show what callers apply.
        .filter(|(_, text)| text.lines().any(|line| line == "kind: KmsCluster"))
        .collect();
    samples.sort();
    assert!(samples.len() >= 2, "the samples are gone");
    samples
}

/// Every field that a sample sets survives parsing with its value: none is misspelt, none is dropped.
fn assert_within(path: &str, part: &Value, whole: &Value) {
    match part {
        Value::Object(fields) => {
            for (key, value) in fields {
                assert_within(&format!("{path}.{key}"), value, &whole[key]);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| assert_within(&format!("{path}[{at}]"), item, &whole[at]));
        }
        _ => assert_eq!(part, whole, "{path} was dropped or changed"),
    }
}

#[test]
fn samples_hold_known_fields_only_and_keep_every_rule() {
    for (name, text) in samples() {
        let sample: KmsCluster = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let written: Value = serde_yaml::from_str(&text).unwrap();
        assert_within(&name, &written["spec"], &serde_json::to_value(&sample.spec).unwrap());
        validate_cel(&sample).unwrap_or_else(|error| panic!("{name}: {error}"));
        validate_cel_update(&sample, &sample).unwrap_or_else(|error| panic!("{name} applied again: {error}"));
    }
}

#[test]
fn the_smallest_sample_has_the_defaults_of_the_contract() {
    let (_, text) = samples().into_iter().find(|(name, _)| name == "smallest.yaml").unwrap();
    let spec = serde_yaml::from_str::<KmsCluster>(&text).unwrap().spec;
    assert_eq!((spec.nodes, spec.effective_threshold(), spec.effective_min_holders()), (4, 3, 3));
    assert_eq!(spec.schedule.source.clock.as_ref().unwrap().block_ms, 12_000);
    assert_eq!(spec.schedule.interval_blocks, 50);
    assert_eq!(spec.schedule.deadlines.total_blocks(), 8, "2 blocks a phase");
    assert_eq!((spec.epochs.retention, spec.epochs.confirm_after_seconds), (2, 24 * 60 * 60));
    assert_eq!(spec.deletion_policy, keyfleet_crds::cluster::DeletionPolicy::Retain);
    assert!(spec.access.rules.is_empty(), "nobody may do anything until a rule says so");
}

#[test]
fn the_threshold_by_default_is_two_thirds_rounded_up() {
    let (_, text) = samples().remove(1);
    let mut spec = serde_yaml::from_str::<KmsCluster>(&text).unwrap().spec;
    for (nodes, threshold) in [(3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (10, 7), (20, 14), (100, 67)] {
        spec.nodes = nodes;
        assert_eq!(spec.effective_threshold(), threshold, "of {nodes}");
    }
}
