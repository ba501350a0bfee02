//! `cargo xtask demo`: from a bare machine to a fleet that reshares its key, and the commands to look around.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use keyfleet_local_kubernetes::cluster::{self, Access};
use keyfleet_local_kubernetes::layout::{S3_ACCESS_KEY, S3_SECRET_KEY};
use serde_json::{Value, json};

use crate::installation::{self, Tool};
use crate::step::{self, Step};
use crate::target::{self, Wanted};
use crate::{image, workplace};

const CLUSTER: &str = "demo";
/// The fleet's name and namespace.
const FLEET: &str = "keys";
const NAMESPACE: &str = "demo";
/// ServiceAccount whose tokens may decrypt and sign.
const CALLER: &str = "app";
/// Text that is encrypted before the reshares and decrypted after them.
const TEXT: &str = "No one holds the key to this.\n";
/// Blocks between reshares; the chain makes one each second.
const INTERVAL_BLOCKS: u32 = 13;
/// Blocks that a phase of a round may last.
const DEADLINE_BLOCKS: u32 = 3;

/// Show it working: a fleet with blocks from a chain and backups in S3, a file encrypted and decrypted, two reshares
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Take the demo's cluster down
    #[arg(long)]
    down: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.down {
        let step = Step::begin(format!("Cluster {CLUSTER}"));
        let was_there = cluster::down(&target::layout(CLUSTER)?)?;
        step.done(if was_there { "down" } else { "was not there" });
        return Ok(());
    }
    let images = image::released()?;
    let (layout, access) = target::up(&Wanted { name: CLUSTER, nodes: 2, chain: true, images: &images })?;
    let tool = |name: &str| {
        let mut command = Command::new(layout.component(name));
        command.envs(access.environment());
        command
    };
    blocks(&access)?;
    installation::operator(&tool, &installation::settings(&images))?;
    fleet(&tool)?;
    let first = ready(&tool)?;
    let sealed = encrypt(&tool)?;
    reshares(&tool, first)?;
    decrypt(&access, &sealed)?;
    println!(
        "\nLook around:
  export PATH={}:$PATH
  eval \"$(cargo xtask dev env --name {CLUSTER})\"
  kubectl --namespace {NAMESPACE} get kmscluster,kmsnode,keyepoch,pods
  keyfleet --namespace {NAMESPACE} status {FLEET}
  keyfleet --namespace {NAMESPACE} decrypt --cluster {FLEET} --service-account {CALLER} {}
  keyfleet --namespace {NAMESPACE} epoch verify --help
  kubectl --namespace {NAMESPACE} describe kmscluster {FLEET}
  kubectl --namespace {NAMESPACE} logs {FLEET}-1
  kubectl --namespace {NAMESPACE} delete pod {FLEET}-2          # it comes back with its share
  kubectl --namespace {} logs deployment/{}
  helm --namespace {NAMESPACE} get notes {FLEET}
Remove it:
  cargo xtask demo --down",
        image::folder().display(),
        sealed.display(),
        installation::NAMESPACE,
        installation::OPERATOR,
    );
    Ok(())
}

/// Has the chain make a block each second, as a chain outside would.
fn blocks(access: &Access) -> Result<()> {
    let step = Step::begin("Starting the chain's clock");
    let chain = access.chain.as_deref().context("the demo's cluster has a chain")?;
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "evm_setIntervalMining", "params": [1]});
    let mut answer =
        ureq::post(chain).header("content-type", "application/json").send(request.to_string()).context("the chain")?;
    let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
    ensure!(answer["error"].is_null(), "the chain does not mine by itself: {}", answer["error"]);
    step.done("a block each second");
    Ok(())
}

/// Installs the cluster's chart, with what a platform has at hand: a caller, credentials of the bucket.
fn fleet(tool: &Tool<'_>) -> Result<()> {
    let spec = json!({
        "schedule": {
            "source": {"ethereum": {"chainId": 31337, "urls": ["http://chain.keyfleet-dev.svc:8545"]}},
            "intervalBlocks": INTERVAL_BLOCKS,
            "deadlines": {
                "dealingBlocks": DEADLINE_BLOCKS, "verifyingBlocks": DEADLINE_BLOCKS,
                "preparingBlocks": DEADLINE_BLOCKS, "certifyingBlocks": DEADLINE_BLOCKS,
            },
        },
        "replication": {"s3": {
            "bucket": "keyfleet", "prefix": CLUSTER, "endpoint": "http://s3.keyfleet-dev.svc:9000",
            "forcePathStyle": true, "credentialsSecret": "s3",
        }},
        "access": {"rules": [{
            "subjects": [format!("system:serviceaccount:{NAMESPACE}:{CALLER}")], "verbs": ["Derive", "Sign"],
            "identities": ["*"], "keyNames": ["*"],
        }]},
        "podTemplate": {"resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
    });
    let manifests = workplace::cache().join("demo.json");
    let of = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    let mut secret = of("Secret", "s3");
    secret["stringData"] = json!({"accessKeyId": S3_ACCESS_KEY, "secretAccessKey": S3_SECRET_KEY});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [namespace, of("ServiceAccount", CALLER), secret]});
    std::fs::write(&manifests, list.to_string())?;
    let mut apply = tool("kubectl");
    apply.args(["apply", "--server-side", "--filename"]).arg(&manifests);
    step::run("Preparing a namespace for the fleet", "demo-prepare", &mut apply)?;
    let mut install = tool("helm");
    install.args(["upgrade", "--install", FLEET, &installation::chart("keyfleet-cluster"), "--namespace", NAMESPACE]);
    install.args(["--set", "keyEncryptionKey.generate=true", "--set-json", &format!("spec={spec}")]);
    step::run("Installing the fleet's chart", "demo-install", &mut install)
}

/// Waits until the fleet is Ready, and returns its active epoch.
fn ready(tool: &Tool<'_>) -> Result<u64> {
    let mut wait = tool("kubectl");
    wait.args(["--namespace", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=180s"]);
    step::run("Waiting for four nodes to make a key", "demo-ready", wait.arg(format!("kmscluster/{FLEET}")))
        .with_context(|| stands(tool))?;
    active(tool)?.context("a fleet that is Ready has an active epoch")
}

/// Encrypts a file as an application does, with the public key alone, and returns where it is.
fn encrypt(tool: &Tool<'_>) -> Result<PathBuf> {
    let (plain, sealed) = (workplace::cache().join("demo.txt"), workplace::cache().join("demo.sealed"));
    std::fs::write(&plain, TEXT)?;
    let key = status(tool, "publicKey")?;
    let key = key.as_str().context("a fleet that is Ready has a public key")?;
    let mut encrypt = Command::new(image::folder().join("keyfleet"));
    encrypt.args(["encrypt", "--identity", "demo", "--public-key", key, "--to"]).arg(&sealed).arg(&plain);
    step::run("Encrypting a file, without asking anybody", "demo-encrypt", &mut encrypt)?;
    Ok(sealed)
}

/// Decrypts the file with the nodes' help, as the caller that the rules allow it.
fn decrypt(access: &Access, sealed: &Path) -> Result<()> {
    let opened = workplace::cache().join("demo.opened");
    let mut decrypt = Command::new(image::folder().join("keyfleet"));
    decrypt.args(["decrypt", "--namespace", NAMESPACE, "--cluster", FLEET, "--service-account", CALLER, "--to"]);
    decrypt.arg(&opened).arg(sealed).envs(access.environment());
    step::run("Decrypting it with three of the nodes", "demo-decrypt", &mut decrypt)?;
    ensure!(std::fs::read_to_string(&opened)? == TEXT, "what was decrypted is not what was encrypted");
    Ok(())
}

/// Waits until two later epochs have been active.
fn reshares(tool: &Tool<'_>, first: u64) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(180);
    let key = status(tool, "publicKey")?;
    let step = Step::begin("Waiting for two reshares");
    let (started, mut seen, mut count) = (Instant::now(), first, 0);
    while count < 2 {
        if started.elapsed() > LIMIT {
            step.failed();
            bail!("{count} of two reshares were seen\n{}", stands(tool));
        }
        if let Some(epoch) = active(tool)?.filter(|epoch| *epoch > seen) {
            (seen, count) = (epoch, count + 1);
            step.note(&format!("epoch {epoch} is active"));
        }
        sleep(Duration::from_millis(250));
    }
    ensure!(status(tool, "publicKey")? == key, "the public key changed");
    step.done("the key is shared anew, the public key is the same");
    Ok(())
}

fn active(tool: &Tool<'_>) -> Result<Option<u64>> {
    Ok(status(tool, "activeEpoch")?.as_u64())
}

/// A field of the fleet's status.
fn status(tool: &Tool<'_>, field: &str) -> Result<Value> {
    let words = ["--namespace", NAMESPACE, "get", "kmscluster", FLEET, "--output", "json"];
    let output = tool("kubectl").args(words).output()?;
    ensure!(output.status.success(), "kubectl get: {}", String::from_utf8_lossy(&output.stderr).trim());
    let object: Value = serde_json::from_slice(&output.stdout)?;
    Ok(object["status"][field].clone())
}

/// Where the fleet stands, for the message of a failure.
fn stands(tool: &Tool<'_>) -> String {
    let words = ["--namespace", NAMESPACE, "get", "kmsclusters,kmsnodes,keyepochs,pods"];
    let output = tool("kubectl").args(words).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
