//! Callers in pods while the API server is away.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::control_plane::{Container, WithoutApiServer};
use keyfleet_scenarios::fleet::{CALLER, Fleet, NAME, command};
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

/// seed: 002-13
#[test]
fn without_the_api_server_a_caller_in_a_pod_is_served_throughout_also_by_a_node_whose_container_restarts() -> Result<()>
{
    let cluster = Cluster::alone()?;
    let fleet = Fleet::ready(&cluster, "callers", &json!({"schedule": {"intervalBlocks": 60}}))?;
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
    let (stop, served) = (AtomicBool::new(false), AtomicU32::new(0));
    let failed = thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                ask(&[])?;
                served.fetch_add(1, Ordering::AcqRel);
            }
            Ok(())
        });
        let restarted = (|| {
            wait::until("a caller is served without the API server", || {
                Ok((served.load(Ordering::Acquire) > 1).then_some(()))
            })?;
            node.kill()?;
            let restarted = || Ok(node.id().ok().filter(|id| *id != before));
            wait::until("the kubelet starts the node's container again", restarted)?;
            wait::until("the node that restarted serves", || ask(&with_node_2).map(Some))?;
            let so_far = served.load(Ordering::Acquire);
            wait::until("the caller is served on", || Ok((served.load(Ordering::Acquire) > so_far + 1).then_some(())))
        })();
        stop.store(true, Ordering::Release);
        let client: Result<()> = client.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the client panicked")));
        restarted.map(|()| client.err())
    })?;
    ensure!(
        cluster.kubectl(["get", "--raw", "/readyz", "--request-timeout=3s"]).is_err(),
        "the API server was not away"
    );
    away.end()?;
    ensure!(
        failed.is_none(),
        "a request failed while the API server was away: {:#}",
        failed.unwrap_or_else(|| anyhow::anyhow!(""))
    );
    // The fleet goes on where it was.
    fleet.namespace.kubectl(&["annotate", "kmscluster", NAME, "keyfleet.dev/reshare=now"])?;
    fleet.wait_next()?;
    ask(&[]).context("after the API server came back and a reshare")
}
