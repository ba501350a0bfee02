//! Callers in pods while the API server is away.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::control_plane::{Container, WithoutApiServer};
use keyfleet_scenarios::fleet::{CALLER, Fleet, NAME, command, every};
use keyfleet_scenarios::{probe, wait};
use serde_json::{Value, json};

const CLI: &str = "/usr/local/bin/keyfleet";
const MOUNT: &str = "/var/run/secrets/keyfleet.dev";

/// A pod with what `pod-volume` prints and nothing else of Kubernetes: no token for the API server.
fn caller(fleet: &Fleet<'_>) -> Result<Container> {
    let namespace = &fleet.namespace;
    let volume = command(&["pod-volume", "--cluster", NAME, "--namespace", &namespace.name, "--output", "json"], b"")?;
    let mut volumes: Vec<Value> = serde_json::from_slice(&volume).context("pod-volume prints JSON")?;
    volumes.push(json!({"name": "data", "configMap": {"name": "data"}}));
    // The image has no program that only waits; this one waits for the end of its input.
    let mut pod = probe::pod("caller", &["encrypt", "--identity", "orders/1"]);
    let container = &mut pod["spec"]["containers"][0];
    container["name"] = json!("caller");
    container["image"] = json!("keyfleet/cli:dev");
    container["stdin"] = json!(true);
    container["volumeMounts"] = json!([
        {"name": "keyfleet", "mountPath": MOUNT, "readOnly": true}, {"name": "data", "mountPath": "/data", "readOnly": true},
    ]);
    pod["spec"]["volumes"] = json!(volumes);
    pod["spec"]["serviceAccountName"] = json!(CALLER);
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    namespace.apply(pod)?;
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/caller", "--timeout=120s"])?;
    Container::of(namespace, "caller", "caller")
}

/// A caller in a pod is served while the API server is away, also by a node whose container restarts meanwhile.
///
/// seed: 002-13
#[test]
fn callers_in_pods_are_served_without_the_api_server() -> Result<()> {
    let cluster = Cluster::alone()?;
    let fleet = Fleet::ready(&cluster, "callers", &every(60))?;
    let mut sealed = tempfile::NamedTempFile::new()?;
    sealed.write_all(&fleet.encrypt("orders/1", b"secret")?)?;
    let from = format!("--from-file=sealed={}", sealed.path().display());
    fleet.namespace.kubectl(&["create", "configmap", "data", &from])?;
    let caller = caller(&fleet)?;
    let ask = |more: &[&str]| {
        let opened = caller.run(&[&[CLI, "decrypt", "/data/sealed", "--timeout", "30s"], more].concat())?;
        ensure!(opened == "secret", "other data came out: {opened:?}");
        Ok(())
    };
    ask(&[]).context("with the API server")?;
    let node = Container::of(&fleet.namespace, &fleet.node(2), "node")?;
    let before = node.id()?;
    // Threshold three: without node 2 these would not do.
    let with_node_2: Vec<String> = (1..=3)
        .map(|index| format!("--address={index}={NAME}-{index}.{NAME}-nodes.{}.svc:7443", fleet.namespace.name))
        .collect();
    let with_node_2: Vec<&str> = with_node_2.iter().map(String::as_str).collect();

    let away = WithoutApiServer::new(&cluster)?;
    let (stop, served, failed) = (AtomicBool::new(false), AtomicU32::new(0), Mutex::new(None));
    // A request that failed ends every wait.
    let served_on = |from: u32| {
        wait::until("the caller is served on", || {
            let failed = failed.lock().is_ok_and(|failed| failed.is_some());
            Ok((failed || served.load(Ordering::Acquire) > from + 1).then_some(()))
        })
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                if let Err(error) = ask(&[]) {
                    *failed.lock().expect("nobody panics while it is held") = Some(error);
                    return;
                }
                served.fetch_add(1, Ordering::AcqRel);
            }
        });
        let restarted = served_on(0).and_then(|()| {
            node.kill()?;
            let restarted = || Ok(node.id().ok().filter(|id| *id != before));
            wait::until("the kubelet starts the node's container again", restarted)?;
            wait::until("the node that restarted serves", || ask(&with_node_2).map(Some))?;
            served_on(served.load(Ordering::Acquire))
        });
        stop.store(true, Ordering::Release);
        restarted
    })?;
    let failed = failed.into_inner().ok().flatten();
    if let Some(failed) = failed {
        return Err(failed.context("a request failed while the API server was away"));
    }
    ensure!(
        cluster.kubectl(["get", "--raw", "/readyz", "--request-timeout=3s"]).is_err(),
        "the API server was not away"
    );
    away.end()?;
    ask(&[]).context("after the API server came back")
}
