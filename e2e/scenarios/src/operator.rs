//! The operator, installed once for all scenarios by `cargo xtask test`, and the accounts that have rights.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::{Cluster, output};

/// Where it is.
pub const NAMESPACE: &str = "keyfleet-system";
/// The operator's Deployment.
pub const DEPLOYMENT: &str = "keyfleet-operator";
/// The release of its chart.
pub const RELEASE: &str = "keyfleet-operator";
/// The operator's ServiceAccount.
pub const ACCOUNT: &str = "keyfleet-operator";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A chart of this checkout.
pub fn chart(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../charts").join(name)
}

/// Installs a chart as the operator's release or upgrades it to it, and waits until it is ready.
///
/// # Errors
/// It does not become ready.
pub fn install(cluster: &Cluster, chart: &str) -> Result<String> {
    let settings = std::env::var("KEYFLEET_OPERATOR_SETTINGS")
        .context("KEYFLEET_OPERATOR_SETTINGS is not set: run scenarios with `cargo xtask test --only NAME`")?;
    let release = ["upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE, "--create-namespace"];
    cluster.helm(release.iter().chain(&["--set", &settings, "--wait", "--timeout", "120s"]))
}

/// A ServiceAccount as the API server knows it by its token: no impersonation, no administrator behind it.
pub struct Account {
    kubeconfig: PathBuf,
}

impl Account {
    /// The account `name` of a namespace.
    ///
    /// # Errors
    /// There is no such account.
    pub fn of(cluster: &Cluster, namespace: &str, name: &str) -> Result<Self> {
        let token = cluster.kubectl(["--namespace", namespace, "create", "token", name])?;
        let own = cluster.kubectl(["config", "view", "--raw", "--minify", "--flatten", "--output", "json"])?;
        let own: Value = serde_json::from_str(&own).context("kubectl prints JSON")?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "account",
            "clusters": [{"name": "account", "cluster": own["clusters"][0]["cluster"]}],
            "users": [{"name": "account", "user": {"token": token.trim()}}],
            "contexts": [{"name": "account", "context": {"cluster": "account", "user": "account", "namespace": namespace}}],
        });
        let file = format!("keyfleet-account-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let kubeconfig = std::env::temp_dir().join(file);
        fs::write(&kubeconfig, config.to_string())?;
        Ok(Self { kubeconfig })
    }

    /// Runs `kubectl` as the account, in its namespace.
    ///
    /// # Errors
    /// It fails: what it said is in the error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(Command::new("kubectl").env("KUBECONFIG", &self.kubeconfig).args(arguments))
    }

    /// Sends a new object as the account; the API server decides, and makes nothing.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn create(&self, object: &Value) -> Result<String> {
        let file = self.kubeconfig.with_extension(format!("{}.json", COUNTER.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, object.to_string())?;
        let said = self.kubectl(&["create", "--dry-run=server", "--filename", &file.display().to_string()]);
        fs::remove_file(file)?;
        said
    }

    /// Sends an object back as the account, to `path` of the API; the API server decides, and changes nothing.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn update(&self, path: &str, object: &Value) -> Result<String> {
        let file = self.kubeconfig.with_extension(format!("{}.json", COUNTER.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, object.to_string())?;
        // As it is: kubectl's own verbs read first, and would be refused for that.
        let said = self.kubectl(&[
            "replace",
            "--raw",
            &format!("{path}?dryRun=All"),
            "--filename",
            &file.display().to_string(),
        ]);
        fs::remove_file(file)?;
        said
    }

    /// The rules that the API server knows of the account in a namespace, without those that everybody has of themselves.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn rules(&self, namespace: &str) -> Result<Vec<Value>> {
        let file = self.kubeconfig.with_extension("review.json");
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
        });
        fs::write(&file, review.to_string())?;
        let said = self.kubectl(&[
            "create",
            "--validate=false",
            "--output",
            "json",
            "--filename",
            &file.display().to_string(),
        ]);
        fs::remove_file(file)?;
        let said: Value = serde_json::from_str(&said?).context("kubectl prints JSON")?;
        let rules = said["status"]["resourceRules"].as_array().cloned().context("a list of rules")?;
        let of_oneself = |rule: &Value| {
            let resources = rule["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
            resources.iter().all(|one| one.as_str().is_some_and(|one| one.starts_with("selfsubject")))
        };
        Ok(rules.into_iter().filter(|rule| !of_oneself(rule)).collect())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.kubeconfig);
    }
}
