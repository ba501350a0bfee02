//! Keyfleet on a cluster, as an administrator installs it: with helm, from the charts of this checkout.

use std::process::Command;

use anyhow::Result;

use crate::image::Built;
use crate::{step, workplace};

/// The operator's release, and the name of its Deployment.
pub(crate) const OPERATOR: &str = "keyfleet-operator";
/// The operator's namespace.
pub(crate) const NAMESPACE: &str = "keyfleet-system";

/// Starts a tool on the cluster: `helm` or `kubectl`.
pub(crate) type Tool<'a> = dyn Fn(&str) -> Command + 'a;

/// A chart of this checkout.
pub(crate) fn chart(name: &str) -> String {
    workplace::checkout().join("charts").join(name).display().to_string()
}

/// Returns the operator's settings as `helm --set` takes them: the images of this checkout, and their digests, so that new
/// images under the old names roll the operator.
pub(crate) fn settings(images: &[Built]) -> String {
    let digest = |name: &str| {
        let image = images.iter().find(|image| image.name.contains(&format!("/{name}:")));
        image.map(|image| image.digest.as_str()).unwrap_or_default()
    };
    let note = format!("podAnnotations.keyfleet\\.dev/images={}-{}", digest("operator"), digest("node"));
    let tag = |name: &str| {
        let image = images.iter().find(|image| image.name.contains(&format!("/{name}:")));
        image.and_then(|image| image.name.rsplit(':').next()).unwrap_or_default().to_owned()
    };
    format!("image.tag={},nodeImage.tag={},{note}", tag("operator"), tag("node"))
}

/// Installs the operator, or upgrades it, and waits until it is ready.
pub(crate) fn operator(tool: &Tool<'_>, settings: &str) -> Result<()> {
    let mut install = tool("helm");
    install.args(["upgrade", "--install", OPERATOR, &chart(OPERATOR), "--namespace", NAMESPACE, "--create-namespace"]);
    install.args(["--set", settings, "--wait", "--timeout", "120s"]);
    step::run("Installing the operator's chart", "install-operator", &mut install)?;
    let mut label = tool("kubectl");
    label.args(["label", "--overwrite", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]);
    step::run("Holding the operator to the restricted profile", "label-namespace", &mut label)
}
