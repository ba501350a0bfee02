//! The cluster that a scenario runs on, and who may disturb it.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::reader;

/// Scenarios that only use the cluster run side by side; one that disturbs others (drains a node) runs alone.
static USE: RwLock<()> = RwLock::new(());

enum Hold {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// The cluster, for as long as a scenario holds it.
pub struct Cluster {
    _hold: Hold,
}

impl Cluster {
    /// The cluster, beside other scenarios.
    ///
    /// # Errors
    /// There is no cluster.
    pub fn shared() -> Result<Self> {
        reachable()?;
        // A scenario that failed while it held the cluster says so itself.
        Ok(Self { _hold: Hold::Shared { _guard: USE.read().unwrap_or_else(PoisonError::into_inner) } })
    }

    /// The cluster, for this scenario alone.
    ///
    /// # Errors
    /// There is no cluster.
    pub fn alone() -> Result<Self> {
        reachable()?;
        Ok(Self { _hold: Hold::Alone { _guard: USE.write().unwrap_or_else(PoisonError::into_inner) } })
    }

    /// Runs `kubectl` and returns what it prints.
    ///
    /// # Errors
    /// It fails: what it said is in the error.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        output(Command::new("kubectl").args(arguments))
    }

    /// Runs `helm` and returns what it prints.
    ///
    /// # Errors
    /// It fails: what it said is in the error.
    pub fn helm<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        output(Command::new("helm").args(arguments))
    }

    /// Reads an object or a list as `kubectl get` finds it.
    ///
    /// # Errors
    /// It is not there.
    pub fn get<S: AsRef<OsStr>>(&self, what: impl IntoIterator<Item = S>) -> Result<Value> {
        let what: Vec<_> = what.into_iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
        if let Some(read) = reader::read(&what) {
            return read;
        }
        let mut command = Command::new("kubectl");
        command.args(["get", "--output", "json"]).args(what);
        serde_json::from_str(&output(&mut command)?).context("kubectl prints JSON")
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// The API server refuses them.
    pub fn apply(&self, manifests: &Value) -> Result<String> {
        use std::io::Write;
        let mut child = Command::new("kubectl")
            .args(["apply", "--server-side", "--filename", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin was asked for")?.write_all(manifests.to_string().as_bytes())?;
        let done = child.wait_with_output()?;
        ensure!(done.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// The names of the nodes, in order.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let nodes = self.get(["nodes"])?;
        let items = nodes["items"].as_array().context("a list of nodes")?;
        let mut names: Vec<String> =
            items.iter().filter_map(|node| node["metadata"]["name"].as_str()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }
}

fn reachable() -> Result<()> {
    if std::env::var_os("KUBECONFIG").is_none() {
        bail!("no cluster to run on: run scenarios with `cargo xtask test --only NAME`, or with KUBECONFIG set");
    }
    Ok(())
}

/// Runs a command and returns what it prints.
///
/// # Errors
/// It fails: what it said is in the error.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !done.status.success() {
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        bail!("{command:?} ends with {}: {}{}", done.status, out, err.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
