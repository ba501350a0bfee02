//! Reads that scenarios repeat while they wait. A process of `kubectl` for each would cost more than the fleets do.

use std::sync::LazyLock;
use std::sync::mpsc::channel;

use anyhow::{Context, Result, anyhow};
use kube::Client;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// The kinds that are waited for, by the names that `kubectl` knows, and where the API server has them.
const KINDS: [(&[&str], &str); 4] = [
    (&["pod", "pods"], "/api/v1/namespaces/NAMESPACE/pods"),
    (&["kmscluster", "kmsclusters", "kmsc"], "/apis/keyfleet.dev/v1alpha1/namespaces/NAMESPACE/kmsclusters"),
    (&["kmsnode", "kmsnodes", "kmsn"], "/apis/keyfleet.dev/v1alpha1/namespaces/NAMESPACE/kmsnodes"),
    (&["keyepoch", "keyepochs", "ke"], "/apis/keyfleet.dev/v1alpha1/namespaces/NAMESPACE/keyepochs"),
];

struct Reader {
    runtime: Runtime,
    client: Client,
}

static READER: LazyLock<Result<Reader, String>> = LazyLock::new(|| {
    let start = || {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(Client::try_default())?;
        anyhow::Ok(Reader { runtime, client })
    };
    start().map_err(|error| format!("{error:#}"))
});

/// The path of one object or of all of a kind in a namespace; `None` for anything that is asked less plainly.
fn path(words: &[String]) -> Option<String> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (namespace, kind, name) = match words.as_slice() {
        ["--namespace", namespace, kind] => (namespace, kind, None),
        ["--namespace", namespace, kind, name] if !name.starts_with('-') => (namespace, kind, Some(name)),
        _ => return None,
    };
    let (_, path) = KINDS.iter().find(|(names, _)| names.contains(kind))?;
    let path = path.replace("NAMESPACE", namespace);
    Some(name.map_or(path.clone(), |name| format!("{path}/{name}")))
}

/// Reads what `kubectl get --output json` with these words would print; `None` if they are more than a plain read.
pub(crate) fn read(words: &[String]) -> Option<Result<Value>> {
    let path = path(words)?;
    Some(ask(&path))
}

fn ask(path: &str) -> Result<Value> {
    let reader = READER.as_ref().map_err(|error| anyhow!("no way to the API server: {error}"))?;
    let (request, client) = (http::Request::get(path).body(Vec::new())?, reader.client.clone());
    // A scenario may run inside a runtime of its own, where blocking on this one would panic.
    let (tell, told) = channel();
    reader.runtime.spawn(async move { tell.send(client.request(request).await) });
    told.recv()?.with_context(|| format!("reading {path}"))
}
