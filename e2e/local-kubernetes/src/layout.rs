//! Files and addresses of a cluster.
//!
//! The addresses are constants: a cluster's network is its own, so that any number of clusters use the same
//! ones without meeting.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The control plane's address on the bridge, and every node's gateway.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
/// The cluster's DNS Service.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The range of Services' addresses.
pub const SERVICES: &str = "10.96.0.0/16";
/// The range that every pod's address is in.
pub const PODS: &str = "10.244.0.0/16";
/// The API server's port on [`CONTROL_PLANE`].
pub const API_PORT: u16 = 6443;
/// The S3 server's port on [`CONTROL_PLANE`].
pub const S3_PORT: u16 = 9000;
/// The development chain's JSON-RPC port on [`CONTROL_PLANE`].
pub const CHAIN_PORT: u16 = 8545;
/// The access key of the S3 server's only account. Not a secret: the server is reachable from this machine alone.
pub const S3_ACCESS_KEY: &str = "keyfleet-dev";
/// The secret key that belongs to [`S3_ACCESS_KEY`].
pub const S3_SECRET_KEY: &str = "keyfleet-dev-secret";

/// The address of node `index` (from 1) on the bridge.
pub fn node_address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 0, 10 + index)
}

/// The range of the pods on node `index`.
pub fn node_pods(index: u8) -> String {
    format!("10.244.{index}.0/24")
}

/// The name of node `index` of a cluster, as `kubectl get nodes` shows it.
pub fn node_name(cluster: &str, index: u8) -> String {
    format!("{cluster}-{index}")
}

/// The folders that outlive a cluster, given by the caller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Folders {
    /// Holds a folder for each cluster, and its lock file.
    pub clusters: PathBuf,
    /// Holds a folder of logs for each cluster, kept after `down` and replaced by the next `up`.
    pub logs: PathBuf,
    /// The built programs: kubernetes, coredns, helm, versitygw, volumes.
    pub bin: PathBuf,
}

/// The files of one cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// The cluster's name.
    pub name: String,
    /// The folders that it shares with other clusters.
    pub folders: Folders,
}

impl Layout {
    /// The layout of the cluster `name`.
    ///
    /// # Errors
    /// The name is not usable in host names, paths and cgroups.
    pub fn new(folders: &Folders, name: &str) -> Result<Self> {
        let usable = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        ensure!(
            usable && (1..=30).contains(&name.len()) && name.as_bytes()[0].is_ascii_lowercase() && !name.ends_with('-'),
            "a cluster's name is 1 to 30 of a-z, 0-9 and '-', begins with a letter and does not end with '-': not {name:?}"
        );
        Ok(Self { name: name.to_owned(), folders: folders.clone() })
    }

    /// The folder that holds all of the cluster's state; it exists exactly while the cluster does.
    pub fn root(&self) -> PathBuf {
        self.folders.clusters.join(&self.name)
    }

    /// A file or folder in the cluster's folder.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    /// File with the [`Spec`](crate::spec::Spec), written before anything starts.
    pub fn spec(&self) -> PathBuf {
        self.at("spec.json")
    }

    /// File with the addresses of the cluster, written last: it exists once `up` has ended well.
    pub fn ready(&self) -> PathBuf {
        self.at("ready.json")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.at("kubeconfig")
    }

    /// Lock file, held while somebody brings this cluster up or down.
    pub fn lock(&self) -> PathBuf {
        self.folders.clusters.join(format!("{}.lock", self.name))
    }

    /// The folder of the cluster's logs.
    pub fn logs(&self) -> PathBuf {
        self.folders.logs.join(&self.name)
    }

    /// The log of one component.
    pub fn log(&self, component: &str) -> PathBuf {
        self.logs().join(format!("{component}.log"))
    }

    /// A built program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folders.bin.join(name)
    }

    /// A Kubernetes component: the one binary under the component's name.
    pub fn component(&self, name: &str) -> PathBuf {
        self.at("bin").join(name)
    }

    /// A name that no other cluster on this machine has, whatever folder it lives in: for cgroups.
    pub fn id(&self) -> String {
        let digest = Sha256::digest(self.root().as_os_str().as_encoded_bytes());
        format!("{}-{:02x}{:02x}{:02x}", self.name, digest[0], digest[1], digest[2])
    }

    /// The environment entry that every process of this cluster carries, and no other.
    pub fn mark(&self) -> (&'static str, PathBuf) {
        ("KEYFLEET_LOCAL_KUBERNETES", self.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(at: &str) -> Folders {
        Folders { clusters: PathBuf::from(at), logs: "l".into(), bin: "b".into() }
    }

    #[test]
    fn a_name_that_would_break_host_names_or_paths_is_refused() {
        for bad in ["", "-a", "a-", "A", "a/b", "..", "1a", "a_b", &"a".repeat(31)] {
            let refused = Layout::new(&folders("c"), bad).expect_err(bad).to_string();
            assert!(refused.contains("1 to 30"), "the refusal of {bad:?} does not say what is allowed: {refused}");
        }
        Layout::new(&folders("c"), "test-2").expect("a usable name");
    }

    #[test]
    fn clusters_of_one_name_in_two_folders_have_two_ids() {
        let id = |at| Layout::new(&folders(at), "dev").expect("a usable name").id();
        assert_ne!(id("/a"), id("/b"));
        assert_eq!(id("/a"), id("/a"));
    }
}
