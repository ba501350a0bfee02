//! Control groups of the kubelets' containers, on machines with version 1 and with version 2.
//!
//! Version 1 has a tree for each controller; version 2 has one tree, in which controllers are passed down level by
//! level. A cluster's groups are `<tree>/keyfleet/<cluster id>/<node>`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::layout::Layout;

const MOUNT: &str = "/sys/fs/cgroup";

/// Version of this machine's control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One tree for each controller.
    V1,
    /// One tree for all.
    V2,
}

/// Returns the version that this machine has.
pub fn version() -> Version {
    // A mixed machine has the unified tree elsewhere and without controllers: that is version 1.
    if Path::new(MOUNT).join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 }
}

/// The path, within every tree, below which node `index` keeps its groups: the kubelet's `cgroupRoot`.
pub fn node_root(layout: &Layout, index: u8) -> String {
    format!("/keyfleet/{}/{index}", layout.id())
}

/// Makes the groups below which a node's kubelet makes its own.
///
/// # Errors
/// The trees cannot be written: not root, or mounted read-only.
pub fn create(layout: &Layout, index: u8) -> Result<()> {
    let path = node_root(layout, index);
    for tree in trees()? {
        let mut group = tree.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if version() == Version::V2 {
                pass_down_controllers(&group)?;
            }
            let parent = group.clone();
            group.push(part);
            fs::create_dir_all(&group).with_context(|| format!("making the control group {}", group.display()))?;
            inherit_cpuset(&parent, &group)?;
        }
    }
    Ok(())
}

/// The processes in the cluster's groups.
///
/// # Errors
/// The trees cannot be read.
pub fn processes(layout: &Layout) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for tree in trees()? {
        for group in deepest_first(&tree.join("keyfleet").join(layout.id()))? {
            let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(listed.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Removes the cluster's groups; they must be empty of processes.
///
/// # Errors
/// A group is still in use.
pub fn remove(layout: &Layout) -> Result<()> {
    for tree in trees()? {
        for group in deepest_first(&tree.join("keyfleet").join(layout.id()))? {
            match fs::remove_dir(&group) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing the control group {}", group.display()));
                }
                _ => {}
            }
        }
        // The last cluster takes the shared parent along; while another is there this fails, as it should.
        let _ = fs::remove_dir(tree.join("keyfleet"));
    }
    Ok(())
}

/// The groups that are left of the cluster.
///
/// # Errors
/// The trees cannot be read.
pub fn remaining(layout: &Layout) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for tree in trees()? {
        left.extend(deepest_first(&tree.join("keyfleet").join(layout.id()))?);
    }
    Ok(left)
}

fn trees() -> Result<Vec<PathBuf>> {
    if version() == Version::V2 {
        return Ok(vec![MOUNT.into()]);
    }
    let mut trees = Vec::new();
    for entry in fs::read_dir(MOUNT).with_context(|| format!("reading {MOUNT}: are control groups mounted?"))? {
        let path = entry?.path();
        // Controllers that share a tree are links to it.
        if path.is_dir() && !path.is_symlink() {
            trees.push(path);
        }
    }
    Ok(trees)
}

fn pass_down_controllers(group: &Path) -> Result<()> {
    let available = fs::read_to_string(group.join("cgroup.controllers"))?;
    for controller in available.split_whitespace() {
        let control = group.join("cgroup.subtree_control");
        fs::write(&control, format!("+{controller}"))
            .with_context(|| format!("passing the controller {controller} down in {}", group.display()))?;
    }
    Ok(())
}

/// Version 1 gives a new cpuset no processors and no memory: it can hold no process until it has both.
fn inherit_cpuset(parent: &Path, group: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if version() == Version::V1 && group.join(file).exists() {
            fs::write(group.join(file), fs::read(parent.join(file))?)?;
        }
    }
    Ok(())
}

fn deepest_first(group: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(|| format!("reading {}", group.display())),
    };
    let mut groups = Vec::new();
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            groups.extend(deepest_first(&entry.path())?);
        }
    }
    groups.push(group.to_owned());
    Ok(groups)
}
