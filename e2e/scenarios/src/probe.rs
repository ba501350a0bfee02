//! The probe: a restricted, non-root program in a pod that a scenario asks what it sees.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::namespace::Namespace;

/// The folder of the probe's chart.
pub fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/probe")
}

/// A release of the probe's chart.
pub struct Probe<'a> {
    namespace: &'a Namespace<'a>,
    release: String,
}

impl<'a> Probe<'a> {
    /// Installs the chart under the name `release` with `settings` (as for `helm --set`) and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn install(namespace: &'a Namespace<'a>, release: &str, settings: &[&str]) -> Result<Self> {
        let chart = chart().display().to_string();
        let mut arguments = vec!["install", release, &chart, "--wait", "--timeout", "120s"];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        namespace.helm(&arguments)?;
        Ok(Self { namespace, release: release.to_owned() })
    }

    /// Runs the probe's program in one of its pods.
    ///
    /// # Errors
    /// It fails: what it said is in the error.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let deployment = format!("deploy/{}", self.release);
        let program = ["exec", &deployment, "--", "/usr/local/bin/probe"];
        Ok(self.namespace.kubectl(&[&program, arguments].concat())?.trim_end().to_owned())
    }

    /// The pods of the release that are ready, as the API server has them.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn ready_pods(&self) -> Result<Vec<Value>> {
        let selector = format!("--selector=app.kubernetes.io/instance={}", self.release);
        let pods = self.namespace.get(&["pods", &selector])?;
        let items = pods["items"].as_array().context("a list of pods")?;
        Ok(items
            .iter()
            .filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
            .cloned()
            .collect())
    }
}

/// Returns true when a pod's condition `Ready` is true.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A pod that runs the probe with `arguments`, outside of any chart.
pub fn pod(name: &str, arguments: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "probe", "image": "keyfleet/probe:dev", "imagePullPolicy": "IfNotPresent", "args": arguments,
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}
