//! A fleet in a namespace of its own, and the verbs of those who work with it: the platform's engineer with `kubectl`, an
//! application with `keyfleet`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::namespace::Namespace;
use crate::wait;

/// The `KmsCluster`'s name.
pub const NAME: &str = "keys";
/// The ServiceAccount whose tokens the access rules allow everything.
pub const CALLER: &str = "app";

/// A fleet. It goes with its namespace.
pub struct Fleet<'a> {
    /// Where it is.
    pub namespace: Namespace<'a>,
}

/// Returns a `spec` for scenarios: blocks of one second, rules that allow [`CALLER`] everything, boundaries one hour apart
/// (a scenario about boundaries sets [`every`]; others request rounds), and phases long enough for a busy machine.
///
/// Merges `differs` into it, as `kubectl patch --type merge` would.
pub fn spec(namespace: &str, differs: &Value) -> Value {
    let mut spec = json!({
        "schedule": {"source": {"clock": {"blockMs": 1000}}, "intervalBlocks": 3600, "deadlines": deadlines(10)},
        "keyEncryption": {"active": {"id": "1", "secret": {"name": "keys-kek"}}},
        "access": {"rules": [{
            "subjects": [format!("system:serviceaccount:{namespace}:{CALLER}")],
            "verbs": ["Derive", "Sign"], "identities": ["*"], "keyNames": ["*"],
        }]},
        "podTemplate": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
    });
    merge(&mut spec, differs);
    spec
}

/// Returns the part of a spec that puts `blocks` (more than twelve) between two boundaries.
pub fn every(blocks: u64) -> Value {
    json!({"schedule": {"intervalBlocks": blocks, "deadlines": deadlines(3)}})
}

fn deadlines(blocks: u32) -> Value {
    json!({"dealingBlocks": blocks, "verifyingBlocks": blocks, "preparingBlocks": blocks, "certifyingBlocks": blocks})
}

/// Replicas in the bucket of the local cluster, under the namespace's own prefix.
pub fn replication(namespace: &str) -> Value {
    json!({"replication": {"s3": {
        "bucket": "keyfleet", "prefix": namespace, "region": "us-east-1", "endpoint": "http://s3.keyfleet-dev.svc:9000",
        "credentialsSecret": "s3", "forcePathStyle": true,
    }}})
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => into.clone_from(from),
    }
}

impl<'a> Fleet<'a> {
    /// A namespace with everything but the `KmsCluster`: a caller, a key-encryption key, credentials of the bucket.
    ///
    /// # Errors
    /// The cluster refuses it.
    pub fn prepare(cluster: &'a Cluster, purpose: &str) -> Result<Self> {
        let fleet = Self { namespace: Namespace::create(cluster, purpose)? };
        fleet.furnish()?;
        Ok(fleet)
    }

    /// Creates everything that [`Fleet::prepare`] promises in the namespace.
    fn furnish(&self) -> Result<()> {
        self.namespace.kubectl(&["create", "serviceaccount", CALLER])?;
        self.secret("keys-kek", &[("key", &"5a".repeat(32))])?;
        self.secret("s3", &[("accessKeyId", "keyfleet-dev"), ("secretAccessKey", "keyfleet-dev-secret")])?;
        Ok(())
    }

    /// The namespace is lost with everything in it, and there is a new one of the same name.
    ///
    /// # Errors
    /// The cluster does not do it.
    pub fn lose_everything(&self) -> Result<()> {
        self.namespace.renew()?;
        self.furnish()
    }

    /// A fleet that is Ready, its spec differing from [`spec`] by `differs`.
    ///
    /// # Errors
    /// It does not become Ready.
    pub fn ready(cluster: &'a Cluster, purpose: &str, differs: &Value) -> Result<Self> {
        let fleet = Self::prepare(cluster, purpose)?;
        fleet.apply(differs)?;
        fleet.wait_ready()?;
        Ok(fleet)
    }

    /// Applies the `KmsCluster`, its spec differing from [`spec`] by `differs`.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn apply(&self, differs: &Value) -> Result<String> {
        self.namespace.apply(json!({
            "apiVersion": "keyfleet.dev/v1alpha1", "kind": "KmsCluster", "metadata": {"name": NAME},
            "spec": spec(&self.namespace.name, differs),
        }))
    }

    /// Changes the spec of the `KmsCluster`.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn patch(&self, spec: &Value) -> Result<String> {
        let patch = json!({ "spec": spec }).to_string();
        self.namespace.kubectl(&["patch", "kmscluster", NAME, "--type=merge", "--patch", &patch])
    }

    /// Makes a Secret.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn secret(&self, name: &str, data: &[(&str, &str)]) -> Result<String> {
        let data: serde_json::Map<String, Value> =
            data.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.namespace
            .apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}))
    }

    /// Waits as a person would, with `kubectl wait`.
    ///
    /// # Errors
    /// It does not become Ready; the error says where it stands.
    pub fn wait_ready(&self) -> Result<()> {
        let ready = ["wait", "--for=condition=Ready", "kmscluster", NAME, "--timeout=180s"];
        self.namespace.kubectl(&ready).map(drop).with_context(|| self.stands())
    }

    /// The `KmsCluster`.
    ///
    /// # Errors
    /// It is not there.
    pub fn object(&self) -> Result<Value> {
        self.namespace.get(&["kmscluster", NAME])
    }

    /// Returns the fleet's public key, in hexadecimal.
    ///
    /// # Errors
    /// The fleet has no key yet.
    pub fn public_key(&self) -> Result<String> {
        let object = self.object()?;
        object["status"]["publicKey"].as_str().map(str::to_owned).context("the fleet has no public key")
    }

    /// A condition's status, reason and message.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn condition(&self, type_: &str) -> Result<Option<(String, String, String)>> {
        let object = self.object()?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = conditions.iter().find(|condition| condition["type"] == type_);
        Ok(found.map(|found| (text(&found["status"]), text(&found["reason"]), text(&found["message"]))))
    }

    /// The `KeyEpoch`s, ascending by number.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn epochs(&self) -> Result<Vec<Value>> {
        let list = self.namespace.get(&["keyepochs"])?;
        let mut epochs = list["items"].as_array().cloned().unwrap_or_default();
        epochs.sort_by_key(|epoch| epoch["spec"]["number"].as_u64());
        Ok(epochs)
    }

    /// Waits until an epoch of at least this number is active, and returns the newest.
    ///
    /// # Errors
    /// No such epoch is active in time; the error shows the state of the fleet.
    pub fn wait_active(&self, number: u64) -> Result<u64> {
        let active = || Ok(self.object()?["status"]["activeEpoch"].as_u64().filter(|active| *active >= number));
        wait::until(&format!("epoch {number} or a later one is active"), active).with_context(|| self.stands())
    }

    /// Waits for a later epoch than the one that is active now.
    ///
    /// # Errors
    /// As [`Fleet::wait_active`].
    pub fn wait_next(&self) -> Result<u64> {
        let now = self.object()?["status"]["activeEpoch"].as_u64().context("no epoch is active")?;
        self.wait_active(now + 1)
    }

    /// Waits until an epoch is in a phase.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_phase(&self, number: u64, phases: &[&str]) -> Result<Value> {
        wait::until(&format!("epoch {number} is {}", phases.join(" or ")), || {
            let in_phase = |epoch: &Value| {
                let phase = epoch["status"]["phase"].as_str().unwrap_or_default();
                epoch["spec"]["number"] == number && phases.contains(&phase)
            };
            Ok(self.epochs()?.into_iter().find(in_phase))
        })
        .with_context(|| self.stands())
    }

    /// The name of a node: of its `KmsNode`, and of its Pod.
    #[must_use]
    pub fn node(&self, index: u32) -> String {
        format!("{NAME}-{index}")
    }

    /// Waits until a node's pod is ready again, another one than `not` if that is a Pod's uid.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_pod(&self, index: u32, not: Option<&str>) -> Result<Value> {
        let name = self.node(index);
        wait::until(&format!("{name} is ready"), || {
            let pod = self.namespace.get(&["pod", &name])?;
            let other = not.is_none_or(|uid| pod["metadata"]["uid"] != uid);
            Ok((other && crate::probe::is_ready(&pod)).then_some(pod))
        })
        .with_context(|| self.stands())
    }

    /// Encrypts as an application does: with the public key alone.
    ///
    /// # Errors
    /// The command fails.
    pub fn encrypt(&self, identity: &str, data: &[u8]) -> Result<Vec<u8>> {
        let key = self.public_key()?;
        command(&["encrypt", "--identity", identity, "--public-key", &key], data)
    }

    /// Decrypts as the caller, through the API server.
    ///
    /// # Errors
    /// The command fails: what it said is in the error.
    pub fn decrypt(&self, sealed: &[u8], more: &[&str]) -> Result<Vec<u8>> {
        self.call(&["decrypt", "--cluster", NAME], sealed, more)
    }

    /// Signs as the caller.
    ///
    /// # Errors
    /// The command fails: what it said is in the error.
    pub fn sign(&self, key_name: &str, message: &[u8], more: &[&str]) -> Result<String> {
        let signature = self.call(&["sign", "--cluster", NAME, "--key-name", key_name], message, more)?;
        Ok(String::from_utf8(signature)?.trim().to_owned())
    }

    /// Checks an epoch from the messages that its nodes signed, as an auditor does: what `epoch verify` found.
    ///
    /// # Errors
    /// It does not verify, or the nodes refuse the caller.
    pub fn audit(&self, number: u64) -> Result<Value> {
        let words = ["epoch", "verify", &number.to_string(), "--transcript", "--cluster", NAME, "--output", "json"];
        Ok(serde_json::from_slice(&self.call(&words, b"", &[])?)?)
    }

    /// Does `what` beside a client that asks for signatures without a pause.
    ///
    /// # Errors
    /// `what` fails, or any request of the client.
    pub fn never_failing(&self, what: impl FnOnce() -> Result<()>) -> Result<()> {
        let (asked, stop) = (AtomicU32::new(0), AtomicBool::new(false));
        let failed = thread::scope(|scope| {
            let client = scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    if let Err(error) = self.sign("receipts", b"paid", &["--timeout", "30s"]) {
                        return Some(format!("{error:#}"));
                    }
                    asked.fetch_add(1, Ordering::AcqRel);
                    // Each request is a process of its own: without a pause it would be the whole load of the machine.
                    thread::sleep(Duration::from_millis(150));
                }
                None
            });
            let done = what();
            stop.store(true, Ordering::Release);
            let failed = client.join().ok().flatten();
            done.map(|()| failed)
        })?;
        ensure!(failed.is_none(), "a client's request failed: {failed:?}");
        ensure!(asked.load(Ordering::Acquire) > 0, "the client asked nothing");
        Ok(())
    }

    fn call(&self, words: &[&str], input: &[u8], more: &[&str]) -> Result<Vec<u8>> {
        let mut all = words.to_vec();
        all.extend(["--namespace", &self.namespace.name]);
        if !more.contains(&"--service-account") {
            all.extend(["--service-account", CALLER]);
        }
        all.extend(more);
        command(&all, input)
    }

    /// Where the fleet stands, for the message of a failure.
    #[must_use]
    pub fn stands(&self) -> String {
        let seen = self.namespace.kubectl(&["get", "kmsclusters,kmsnodes,keyepochs,pods"]);
        let conditions = self.object().map(|object| {
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let line =
                |one: &Value| format!("{}={} {}: {}\n", one["type"], one["status"], one["reason"], one["message"]);
            format!("{}: {}\n{}", object["status"]["phase"], object["status"]["reason"], {
                conditions.iter().map(line).collect::<String>()
            })
        });
        format!("{}\n{}", seen.unwrap_or_default(), conditions.unwrap_or_default())
    }
}

/// Runs `keyfleet`.
///
/// # Errors
/// It fails: its exit code and what it said are in the error.
pub fn command(words: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program()?)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin was asked for")?;
    // A program that refuses its arguments reads nothing.
    let _ = stdin.write_all(input);
    drop(stdin);
    let done = child.wait_with_output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("keyfleet {} ends with {}: {}", words.join(" "), done.status, said.trim());
    }
    Ok(done.stdout)
}

fn program() -> Result<PathBuf> {
    let program = std::env::var_os("KEYFLEET_CLI").map(PathBuf::from);
    let program = program.context("KEYFLEET_CLI does not name the program: run scenarios with `cargo xtask test`")?;
    ensure!(program.exists(), "{} does not exist", program.display());
    Ok(program)
}
