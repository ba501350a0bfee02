//! The machine underneath: what is on it before a local cluster and after. Looked at with the machine's own tools, not
//! with those that take clusters down.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cluster::output;
use crate::fleet::Fleet;

/// `cargo xtask`, the program that is under test, with `arguments`.
///
/// # Errors
/// The test was not started by it.
pub fn xtask(arguments: &[&str]) -> Result<Command> {
    let program = std::env::var_os("KEYFLEET_XTASK").context("run this with `cargo xtask test --only NAME`")?;
    let mut command = Command::new(program);
    // As `cargo xtask` would start it, and not as a part of this test.
    command.args(arguments).env("CARGO_MANIFEST_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask"));
    Ok(command)
}

/// The folder of the local cluster that scenarios run on.
///
/// # Errors
/// It is another cluster.
pub fn cluster_folder() -> Result<PathBuf> {
    let config = PathBuf::from(std::env::var_os("KUBECONFIG").context("there is a cluster")?);
    let folder = config.parent().context("a kubeconfig is in a folder")?.to_owned();
    ensure!(folder.join("volumes").is_dir(), "{} is not a local cluster's: this runs there alone", folder.display());
    Ok(folder)
}

/// Where a node's volume is on this machine.
///
/// # Errors
/// It has none, or the cluster is another one.
pub fn volume(fleet: &Fleet<'_>, index: u32) -> Result<PathBuf> {
    let claim = fleet.namespace.get(&["pvc", &format!("{}-state", fleet.node(index))])?;
    let name = claim["spec"]["volumeName"].as_str().context("the claim is bound")?.to_owned();
    let path = cluster_folder()?.join("volumes").join(name);
    ensure!(path.is_dir(), "{} is not there: this runs on the local cluster alone", path.display());
    // The state file is in the volume's root or in a folder of it.
    let below = fs::read_dir(&path)?.flatten().map(|entry| entry.path()).find(|path| path.join("state.redb").exists());
    Ok(if path.join("state.redb").exists() { path } else { below.context("the volume holds a state file")? })
}

/// Everything on the machine that belongs to the cluster `name`, or could have been left by it.
///
/// # Errors
/// The machine cannot be looked at.
pub fn inventory(name: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, lines: &str| found.extend(lines.lines().map(|line| format!("{kind}: {line}")));
    add("interface", &output(Command::new("ip").args(["-brief", "link"]))?);
    add("route", &output(Command::new("ip").args(["route", "show", "table", "all"]))?);
    add("packet filter", &output(Command::new("nft").args(["list", "ruleset"]))?);
    add("mount", &fs::read_to_string("/proc/self/mounts")?);
    add("process", &processes(name)?.join("\n"));
    for folder in ["/run", "/var/lib", "/var/log", "/opt", "/etc", "/var/run", "/usr/libexec", "/mnt"] {
        add("file", &entries(Path::new(folder)).join("\n"));
    }
    for group in control_groups(Path::new("/sys/fs/cgroup"), name) {
        found.insert(format!("control group: {}", group.display()));
    }
    Ok(found)
}

/// The processes that name the cluster's folder in their arguments or environment, or are in its control groups.
fn processes(name: &str) -> Result<Vec<String>> {
    let (folder, group) = (format!("/clusters/{name}"), format!("/keyfleet/{name}-"));
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&text).replace('\0', " ")
        };
        let named = |text: &str| {
            text.split(&folder).skip(1).any(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-'))
        };
        let arguments = read("cmdline");
        if named(&arguments) || named(&read("environ")) || read("cgroup").contains(&group) {
            found.push(format!("{} {arguments}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Vec<String> {
    let listed = fs::read_dir(folder).into_iter().flatten().flatten();
    listed.map(|entry| entry.path().display().to_string()).collect()
}

fn control_groups(mount: &Path, name: &str) -> Vec<PathBuf> {
    let mut trees: Vec<PathBuf> =
        fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    trees.push(mount.to_owned());
    let clusters = trees.iter().flat_map(|tree| fs::read_dir(tree.join("keyfleet")).into_iter().flatten().flatten());
    let prefix = format!("{name}-");
    clusters
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&prefix)))
        .collect()
}
