//! `status` of frozen objects, as people and programs see it. `KEYFLEET_GOLDEN=write cargo test -p keyfleet-cli` rewrites what
//! is expected.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::PathBuf;

use keyfleet_cli::args::OutputFormat;
use keyfleet_cli::output::print;
use keyfleet_cli::status::report::{self, Objects};
use keyfleet_cli::status::{StatusReport, draw};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn report_of_frozen_objects() -> StatusReport {
    let all: Vec<Value> = serde_json::from_slice(&fs::read(golden("objects.json")).unwrap()).unwrap();
    fn of<K: DeserializeOwned>(all: &[Value], kind: &str) -> Vec<K> {
        let these = all.iter().filter(|object| object["kind"] == kind).cloned();
        these.map(|object| serde_json::from_value(object).unwrap()).collect()
    }
    let objects =
        Objects { clusters: of(&all, "KmsCluster"), nodes: of(&all, "KmsNode"), epochs: of(&all, "KeyEpoch") };
    StatusReport { fleets: report::report(&objects, "2026-03-01T12:00:00Z".parse().unwrap()) }
}

/// One screen says who is ready, which epoch is active, what comes next, what is wrong and what to do.
#[test]
fn one_screen_shows_state_problems_and_next_steps() {
    let report = report_of_frozen_objects();
    for (format, name) in
        [(OutputFormat::Table, "status.txt"), (OutputFormat::Json, "status.json"), (OutputFormat::Yaml, "status.yaml")]
    {
        let mut printed = Vec::new();
        print(&mut printed, format, &report, |out| draw(out, &report)).unwrap();
        let printed = anstream::adapter::strip_str(&String::from_utf8(printed).unwrap()).to_string();
        let path = golden(name);
        if std::env::var("KEYFLEET_GOLDEN").is_ok_and(|how| how == "write") {
            fs::write(&path, &printed).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            printed,
            expected,
            "{} differs; if that is meant: KEYFLEET_GOLDEN=write cargo test -p keyfleet-cli",
            path.display()
        );
    }
}

#[test]
fn a_healthy_fleet_needs_no_look() {
    let report = report_of_frozen_objects();
    let of = |name: &str| report.fleets.iter().find(|fleet| fleet.name == name).unwrap();
    assert_eq!(of("keys").attention, []);
    assert!(of("keys").ready && of("keys").round.is_none());
    let reasons: Vec<_> = of("ledger").attention.iter().map(|attention| attention.reason.as_str()).collect();
    assert_eq!(reasons, ["NotSeen", "OneMoreStops", "BucketMissing"], "each fault once, worst first");
    assert_eq!(of("new").attention[0].reason, "NotSeen", "an object that no operator has answered");
}
