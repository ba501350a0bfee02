//! Programs that the machine must have: installed as root where apt is, otherwise named.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::step;

/// A program, and the Debian package that has it.
struct Needed {
    program: &'static str,
    package: &'static str,
}

const CLUSTER: &[Needed] = &[
    Needed { program: "containerd", package: "containerd" },
    Needed { program: "ctr", package: "containerd" },
    Needed { program: "runc", package: "runc" },
    Needed { program: "/usr/lib/cni/ptp", package: "containernetworking-plugins" },
    Needed { program: "iptables", package: "iptables" },
    Needed { program: "nft", package: "nftables" },
    Needed { program: "conntrack", package: "conntrack" },
    Needed { program: "ethtool", package: "ethtool" },
    Needed { program: "socat", package: "socat" },
    Needed { program: "ip", package: "iproute2" },
    Needed { program: "unshare", package: "util-linux" },
];

/// Makes sure that the machine has what the local cluster runs on.
pub(crate) fn for_cluster() -> Result<()> {
    let mut packages: Vec<&str> =
        CLUSTER.iter().filter(|needed| !has(needed.program)).map(|needed| needed.package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let by_hand = format!("apt-get update && apt-get install --yes --no-install-recommends {list}");
    ensure!(
        has("apt-get"),
        "missing on this machine (names of Debian's packages): {list}. Install them with your system's own tool"
    );
    ensure!(is_root(), "missing on this machine: {list}. Install them with:\n  sudo sh -c '{by_hand}'");
    install(&packages)
}

/// Asks for the current list of Debian's packages.
pub(crate) fn update_packages() -> Result<()> {
    step::run("Looking up Debian's packages", "apt-update", apt().arg("update"))
}

fn install(packages: &[&str]) -> Result<()> {
    update_packages()?;
    let mut command = apt();
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    step::run(&format!("Installing {}", packages.join(" ")), "apt-install", &mut command)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // The packages' own services are not wanted: clusters start what they need for themselves.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command
}

/// Makes sure that `program` is there, which no package of ours brings.
pub(crate) fn require(program: &str, how_to_get_it: &str) -> Result<()> {
    if !has(program) {
        bail!("{program} is missing on this machine: {how_to_get_it}");
    }
    Ok(())
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t"))
}

fn has(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
