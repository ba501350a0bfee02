//! `cargo xtask bench fleet`: fleets of several sizes on the local Kubernetes, from the outside as their users see them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use keyfleet_local_kubernetes::cluster;
use serde_json::{Value, json};

use super::median;
use crate::installation::{self, Tool};
use crate::target::{self, Wanted};
use crate::{image, step, workplace};

const CLUSTER: &str = "bench";
const FLEET: &str = "keys";
/// Limit of one round; a longer one is a fault.
const LIMIT: Duration = Duration::from_secs(300);

/// Measures fleets of these sizes with `reshares` reshares each, then the cost of serving.
pub(super) fn run(sizes: &[u32], reshares: usize) -> Result<()> {
    let images = image::all(image::Profile::Release)?;
    let (layout, access) = target::up(&Wanted { name: CLUSTER, nodes: 2, chain: false, images: &images })?;
    let tool = |name: &str| {
        let mut command = Command::new(layout.component(name));
        command.envs(access.environment());
        command
    };
    let processors = std::thread::available_parallelism()?;
    println!(
        "\n`cargo xtask bench fleet --reshares {reshares}` on {processors} processors, release profile; medians, seconds and \
         MiB:\n"
    );
    let measured = fleets(&tool, &images, sizes, reshares);
    cluster::down(&layout)?;
    measured?;
    println!("\nReshares without Kubernetes, all nodes in one process:\n");
    let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
    example("rounds", &sizes)?;
    println!("\nServing:\n");
    example("serving", &[])
}

fn example(name: &str, arguments: &[String]) -> Result<()> {
    let mut command =
        workplace::cargo(&["run", "--release", "--quiet", "--package", "keyfleet-test-fleet", "--example", name, "--"]);
    ensure!(command.args(arguments).status()?.success(), "the example {name} failed");
    Ok(())
}

struct Measured {
    nodes: u32,
    ready: f64,
    reshare: f64,
    with_one_dead: f64,
    with_one_lying: f64,
    node_mib: f64,
    operator_mib: f64,
}

/// Prints the row of each fleet as soon as it is known.
fn fleets(tool: &Tool<'_>, images: &[image::Built], sizes: &[u32], reshares: usize) -> Result<()> {
    installation::operator(tool, &installation::settings(images))?;
    println!(
        "| nodes | threshold | apply → Ready | reshare | with one node dead | with one dealer that lies | memory a node | operator |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for nodes in sizes {
        let fleet = measure(tool, *nodes, reshares).with_context(|| format!("{nodes} nodes"))?;
        println!(
            "| {} | {} | {:.1} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            fleet.nodes,
            (2 * fleet.nodes).div_ceil(3),
            fleet.ready,
            fleet.reshare,
            fleet.with_one_dead,
            fleet.with_one_lying,
            fleet.node_mib,
            fleet.operator_mib
        );
    }
    Ok(())
}

fn measure(tool: &Tool<'_>, nodes: u32, reshares: usize) -> Result<Measured> {
    let fleet = Fleet { tool, namespace: format!("bench-{nodes}") };
    let ready = fleet.apply(nodes, &json!({}))?;
    let rounds = Rounds::watch(&fleet)?;
    let reshare = fleet.reshares(&rounds, reshares)?;
    let (node_mib, operator_mib) = (memory_mib("keyfleet-node")?, memory_mib("keyfleet-operator")?);
    fleet.lose_one()?;
    let with_one_dead = fleet.reshares(&rounds, reshares)?;
    drop(rounds);
    fleet.remove()?;

    let fleet = Fleet { tool, namespace: format!("bench-{nodes}-lies") };
    // From its second attempt on: a genesis has no source to lie about, and is measured above.
    let env = json!([
        {"name": "KEYFLEET_DANGER_DEALER", "value": "2:bad-share"}, {"name": "KEYFLEET_DANGER_FROM", "value": "2"},
    ]);
    let _ = fleet.apply(nodes, &json!({"image": "docker.io/keyfleet/node-faults:dev", "podTemplate": {"env": env}}))?;
    let rounds = Rounds::watch(&fleet)?;
    let with_one_lying = fleet.reshares(&rounds, reshares)?;
    drop(rounds);
    fleet.remove()?;
    Ok(Measured { nodes, ready, reshare, with_one_dead, with_one_lying, node_mib, operator_mib })
}

/// A fleet in a namespace of its own.
struct Fleet<'a> {
    tool: &'a Tool<'a>,
    namespace: String,
}

impl Fleet<'_> {
    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = (self.tool)("kubectl");
        command.args(["--namespace", &self.namespace]).args(arguments);
        let done = command.stdin(Stdio::null()).output()?;
        ensure!(done.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Applies a cluster and returns how long it took to be Ready, in seconds.
    fn apply(&self, nodes: u32, differs: &Value) -> Result<f64> {
        self.kubectl(&["create", "namespace", &self.namespace])?;
        self.kubectl(&["create", "secret", "generic", "keys-kek", &format!("--from-literal=key={}", "5a".repeat(32))])?;
        let mut spec = json!({
            "nodes": nodes,
            // No boundary comes by itself; deadlines are far longer than a round takes.
            "schedule": {"source": {"clock": {"blockMs": 1000}}, "intervalBlocks": 1_000_000, "deadlines": {
                "dealingBlocks": 60, "verifyingBlocks": 60, "preparingBlocks": 60, "certifyingBlocks": 60,
            }},
            "keyEncryption": {"active": {"id": "1", "secret": {"name": "keys-kek"}}},
            "podTemplate": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
        });
        for (key, value) in differs.as_object().into_iter().flatten() {
            match (&mut spec[key], value) {
                (Value::Object(into), Value::Object(from)) => into.extend(from.clone()),
                (into, from) => into.clone_from(from),
            }
        }
        let object = json!({
            "apiVersion": "keyfleet.dev/v1alpha1", "kind": "KmsCluster", "metadata": {"name": FLEET}, "spec": spec,
        });
        let file = workplace::cache().join("bench-fleet.json");
        fs::write(&file, object.to_string())?;
        let began = Instant::now();
        self.kubectl(&["apply", "--filename", &file.display().to_string()])?;
        self.kubectl(&["wait", "--for=condition=Ready", "kmscluster", FLEET, "--timeout=300s"])?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Asks for reshares, one after the other; the median of their lengths in seconds, from the plan to the activation.
    fn reshares(&self, rounds: &Rounds, count: usize) -> Result<f64> {
        let mut lengths = Vec::new();
        for _ in 0..count {
            // Any new value is a new request.
            let request = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
            rounds.forget();
            self.kubectl(&[
                "annotate",
                "--overwrite",
                "kmscluster",
                FLEET,
                &format!("keyfleet.dev/reshare={request}"),
            ])?;
            lengths.push(rounds.next()?);
        }
        lengths.sort_by(f64::total_cmp);
        Ok(median(&lengths))
    }

    /// Takes the last node away for good: no pod of it may come back.
    fn lose_one(&self) -> Result<()> {
        let pods = self.kubectl(&["get", "pods", "--output=name"])?;
        let count = pods.lines().count();
        self.kubectl(&["create", "quota", "one-dead", &format!("--hard=pods={}", count - 1)])?;
        self.kubectl(&["delete", "pod", &format!("{FLEET}-{count}"), "--wait=true"])?;
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        let step = step::Step::begin(format!("Removing {}", self.namespace));
        self.kubectl(&["delete", "namespace", &self.namespace, "--timeout=300s"])?;
        step.done("gone");
        Ok(())
    }
}

/// The `KeyEpoch`s of a fleet as they are written.
struct Rounds {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Rounds {
    fn watch(fleet: &Fleet<'_>) -> Result<Self> {
        let mut command = (fleet.tool)("kubectl");
        command.args(["--namespace", &fleet.namespace, "get", "keyepochs", "--watch-only"]);
        command.arg("--output=jsonpath={.spec.number} {.status.phase}{\"\\n\"}");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("stdout was asked for")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn forget(&self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// Waits for the next round to end and returns its length in seconds.
    fn next(&self) -> Result<f64> {
        let mut began: BTreeMap<u64, Instant> = BTreeMap::new();
        loop {
            let (at, line) = self.lines.recv_timeout(LIMIT).context("no round ended in time")?;
            let (number, phase) = line.split_once(' ').unwrap_or((&line, ""));
            let number = number.parse().with_context(|| format!("an epoch's number: {line:?}"))?;
            if phase.is_empty() || phase == "Dealing" {
                began.entry(number).or_insert(at);
            }
            ensure!(phase != "Failed", "attempt {number} failed");
            if let Some(began) = began.get(&number).filter(|_| ["Active", "Confirmed"].contains(&phase)) {
                return Ok((at - *began).as_secs_f64());
            }
        }
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The median of what the processes of a name hold for themselves, in MiB.
fn memory_mib(name: &str) -> Result<f64> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        // Linux keeps fifteen characters of a process's name.
        if read("comm").trim() != &name[..name.len().min(15)] {
            continue;
        }
        // Shared pages count by their share.
        let rollup = read("smaps_rollup");
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = pss.and_then(|pss| pss.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
        found.extend(kib.map(|kib| kib / 1024.0));
    }
    ensure!(!found.is_empty(), "no process {name} runs");
    found.sort_by(f64::total_cmp);
    Ok(median(&found))
}
