//! A scenario's own corner of the cluster.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A namespace that goes with the scenario, whether that succeeds or fails. Everything in it runs under the `restricted`
/// profile of Pod Security admission, as it would with a careful platform team.
pub struct Namespace<'a> {
    /// The cluster that it is in.
    pub cluster: &'a Cluster,
    /// The namespace's name.
    pub name: String,
}

impl<'a> Namespace<'a> {
    /// Makes a namespace whose name begins with `purpose`.
    ///
    /// # Errors
    /// The cluster refuses it.
    pub fn create(cluster: &'a Cluster, purpose: &str) -> Result<Self> {
        let name = format!("{purpose}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let namespace = Self { cluster, name };
        namespace.make()?;
        Ok(namespace)
    }

    fn make(&self) -> Result<()> {
        let made = self.cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }));
        made?;
        // A pod is refused until a controller has made the account that it runs under: `kubectl` would be told so at once.
        wait::until(&format!("{} has a service account", self.name), || {
            self.get(&["serviceaccount", "default"]).map(Some)
        })
        .map(drop)
    }

    /// Deletes everything in it, and then there is an empty one of the same name.
    ///
    /// # Errors
    /// The cluster does not do it.
    pub fn renew(&self) -> Result<()> {
        self.cluster.kubectl(["delete", "namespace", &self.name, "--wait=true", "--timeout=150s"])?;
        self.make()
    }

    /// Runs `kubectl` in this namespace.
    ///
    /// # Errors
    /// It fails: what it said is in the error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(["--namespace", &self.name].iter().chain(arguments))
    }

    /// Runs `helm` in this namespace.
    ///
    /// # Errors
    /// It fails: what it said is in the error.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.helm(["--namespace", &self.name].iter().chain(arguments))
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        self.cluster.get(["--namespace", &self.name].iter().chain(what))
    }

    /// Applies a manifest in this namespace.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn apply(&self, mut manifest: Value) -> Result<String> {
        manifest["metadata"]["namespace"] = json!(self.name);
        self.cluster.apply(&manifest)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"];
        if let Err(error) = Command::new("kubectl").args(delete).output() {
            eprintln!("the namespace {} could not be deleted: {error}", self.name);
        }
    }
}
