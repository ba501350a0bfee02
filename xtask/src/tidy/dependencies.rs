//! Directions of the crates' dependencies, dev-dependencies included.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Finding;
use crate::workplace;

/// Crates that stay free of others, however far down: package, and beginnings of the names that it must not reach.
const FREE_OF: [(&str, &[&str]); 3] = [
    ("keyfleet-client", &["kube", "k8s-openapi", "schemars"]),
    ("keyfleet-planner", &["kube-client", "kube-runtime", "tokio"]),
    ("keyfleet-threshold", &["kube", "k8s-openapi", "tokio"]),
];

/// Package of the workspace.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Package {
    pub(super) name: String,
    /// Path of its manifest from the checkout's root.
    pub(super) manifest: String,
    /// Packages of the workspace that it depends on, for its tests too.
    pub(super) uses: BTreeSet<String>,
    /// Those of them that only its tests use.
    pub(super) tests_use: BTreeSet<String>,
}

/// Finds circles, product crates that depend on `e2e/`, and crates that reach what they must not.
///
/// # Errors
/// Cargo does not describe the workspace.
pub(super) fn check(found: &mut Vec<Finding>) -> Result<()> {
    let packages = packages(workplace::checkout())?;
    directions(&packages, found);
    for (package, free_of) in FREE_OF {
        if let Some(package) = packages.iter().find(|one| one.name == package) {
            reach(package, free_of, &tree(&package.name)?, found);
        }
    }
    Ok(())
}

/// Reads the workspace's packages.
///
/// # Errors
/// Cargo does not describe the workspace.
pub(super) fn packages(checkout: &std::path::Path) -> Result<Vec<Package>> {
    let mut cargo = workplace::cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let output = cargo.current_dir(checkout).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo prints JSON")?;
    let all = metadata["packages"].as_array().context("cargo lists packages")?;
    let names: BTreeSet<&str> = all.iter().filter_map(|package| package["name"].as_str()).collect();
    let root = format!("{}/", checkout.display());
    Ok(all.iter().map(|package| read(package, &names, &root)).collect())
}

fn read(package: &Value, names: &BTreeSet<&str>, root: &str) -> Package {
    let dependencies = || package["dependencies"].as_array().into_iter().flatten();
    let named = |used: &Value| used["name"].as_str().filter(|name| names.contains(name)).map(str::to_owned);
    let uses: BTreeSet<String> = dependencies().filter_map(named).collect();
    let built = dependencies().filter(|used| used["kind"].as_str() != Some("dev"));
    let built: BTreeSet<String> = built.filter_map(named).collect();
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    Package {
        name: package["name"].as_str().unwrap_or_default().to_owned(),
        manifest: manifest.trim_start_matches(root).to_owned(),
        tests_use: uses.difference(&built).cloned().collect(),
        uses,
    }
}

fn directions(packages: &[Package], found: &mut Vec<Finding>) {
    let edges = packages.iter().map(|package| (package.name.clone(), package.uses.clone())).collect();
    for circle in circles(&edges) {
        let package = packages.iter().find(|package| package.name == circle[0]);
        let text = format!(
            "the crates {} depend on each other in a circle: move what both need below them",
            circle.join(", ")
        );
        found.push(Finding::new(package.map_or("Cargo.toml", |package| &package.manifest), 1, text));
    }
    let is_e2e = |name: &String| packages.iter().any(|one| one.name == *name && one.manifest.starts_with("e2e/"));
    for package in packages.iter().filter(|package| !package.manifest.starts_with("e2e/") && package.name != "xtask") {
        for used in package.uses.difference(&package.tests_use).filter(|used| is_e2e(used)) {
            let text = format!("depends on {used}, which is for tests: make it a dev-dependency");
            found.push(Finding::new(&package.manifest, 1, text));
        }
    }
}

/// Lists the crates that a package is built with, one a line.
fn tree(package: &str) -> Result<String> {
    let words = ["tree", "--package", package, "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let output = workplace::cargo(&words).output()?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn reach(package: &Package, free_of: &[&str], tree: &str, found: &mut Vec<Finding>) {
    let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for name in reached {
        if free_of.iter().any(|banned| name == *banned || name.starts_with(&format!("{banned}-"))) {
            let text = format!(
                "reaches {name}, which {} stays free of: see `cargo tree --package {} --invert {name}`",
                package.name, package.name
            );
            found.push(Finding::new(&package.manifest, 1, text));
        }
    }
}

/// Returns the circles of a graph: sets of names that reach each other, sorted.
pub(super) fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = edges.keys().map(|from| (from, reached(edges, from))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (from, all) in &reach {
        let circle = all.iter().filter(|to| reach.get(*to).is_some_and(|back| back.contains(from)));
        let circle: Vec<String> = circle.map(|name| (*name).clone()).collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn reached<'a>(edges: &'a BTreeMap<String, BTreeSet<String>>, from: &String) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&String> = edges.get(from).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(edges.get(next).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: &str, uses: &[&str]) -> Package {
        let uses = uses.iter().map(|name| (*name).to_owned()).collect();
        Package { name: name.into(), manifest: format!("{folder}/Cargo.toml"), uses, tests_use: BTreeSet::new() }
    }

    /// Tests of a product crate may use what is below `e2e/`, as long as that makes no circle.
    #[test]
    fn tests_may_use_test_crates_without_a_circle() {
        let mut found = Vec::new();
        let mut cli = package("cli", "cli", &["fleet"]);
        cli.tests_use.insert("fleet".to_owned());
        let (fleet, node) = (package("fleet", "e2e/fleet", &["node"]), package("node", "node", &[]));
        directions(&[cli, fleet.clone(), node], &mut found);
        assert!(found.is_empty(), "a dev-dependency without a circle is no breach");
        let mut node = package("node", "node", &["fleet"]);
        node.tests_use.insert("fleet".to_owned());
        directions(&[fleet, node], &mut found);
        assert_eq!(found.len(), 1, "a circle through tests is one");
    }

    #[test]
    fn circles_and_uses_of_test_crates_are_found() {
        let mut found = Vec::new();
        let fleet = package("fleet", "e2e/fleet", &["node"]);
        directions(&[package("api", "api", &["node"]), package("node", "node", &["api", "fleet"]), fleet], &mut found);
        let texts: Vec<_> = found.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(found.len(), 2, "{texts:?}");
        assert!(texts[0].contains("api, fleet, node depend on each other"), "{texts:?}");
        assert!(found[1].path == "node/Cargo.toml" && texts[1].contains("depends on fleet"), "{texts:?}");
    }

    #[test]
    fn one_way_dependencies_pass() {
        let mut found = Vec::new();
        let fleet = package("fleet", "e2e/fleet", &["node", "api"]);
        directions(&[package("api", "api", &[]), package("node", "node", &["api"]), fleet], &mut found);
        assert!(found.is_empty());
    }

    #[test]
    fn a_crate_that_is_reached_far_down_is_found() {
        let mut found = Vec::new();
        let tree = "keyfleet-client v0.1.0 (/x)\nkube v5.0.0\nkube-core v5.0.0 (*)\nkubernetes-names v1.0.0";
        reach(&package("keyfleet-client", "client", &[]), &["kube"], tree, &mut found);
        assert_eq!(found.len(), 2, "kube and kube-core, and nothing that only begins alike");
    }
}
