//! The ways into pods, and the tokens that pods have.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::probe::{self, Probe};
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// A command that runs beside the scenario and ends with it.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn logs_exec_and_port_forward_reach_a_pod() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "access")?;
    let web = Probe::install(&namespace, "web", &["volume.enabled=false"])?;
    let name = web.ask(&["fetch", "http://localhost:8080/"])?;
    ensure!(name.starts_with("web-"), "exec did not run in the pod: {name:?}");
    let log = namespace.kubectl(&["logs", "deploy/web"])?;
    ensure!(log.contains("serving on 0.0.0.0:8080"), "the log is not the program's: {log:?}");

    let child = Command::new("kubectl")
        .args(["--namespace", &namespace.name, "port-forward", "deploy/web", ":8080"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut forward = Beside(child);
    let mut said = String::new();
    // Kept until the end: kubectl ends when nobody reads what it says.
    let mut output = BufReader::new(forward.0.stdout.take().context("stdout was asked for")?);
    output.read_line(&mut said)?;
    // Forwarding from 127.0.0.1:41235 -> 8080
    let address = said.split_whitespace().nth(2).with_context(|| format!("port-forward says {said:?}"))?;
    let answer = ureq::get(format!("http://{address}/")).call()?.body_mut().read_to_string()?;
    ensure!(answer == name, "through the forwarded port {answer:?} answers and not {name:?}");
    Ok(())
}

/// The keys that the cluster publishes verify a ServiceAccount's token.
#[test]
fn published_keys_verify_a_service_account_token() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "tokens")?;
    let audience = "keyfleet.dev/example/1";
    let mut pod = probe::pod("holder", &["serve"]);
    pod["spec"]["volumes"] = json!([{"name": "token", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "audience": audience, "expirationSeconds": 600}},
    ]}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "token", "mountPath": "/var/run/secrets/keyfleet"}]);
    namespace.apply(pod)?;
    namespace.kubectl(&["wait", "pod/holder", "--for=condition=Ready", "--timeout=120s"])?;
    let in_pod = |arguments: &[&str]| {
        namespace.kubectl(&[&["exec", "holder", "--", "/usr/local/bin/probe"], arguments].concat())
    };

    // All of it from inside the pod, with what every pod has: its own token and the cluster's authority.
    let own = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let discovery: Value = serde_json::from_str(&in_pod(&[
        "fetch",
        "https://kubernetes.default.svc/.well-known/openid-configuration",
        "--token",
        own,
    ])?)?;
    let keys: JwkSet =
        serde_json::from_str(&in_pod(&["fetch", "https://kubernetes.default.svc/openid/v1/jwks", "--token", own])?)?;
    let token = in_pod(&["token", "/var/run/secrets/keyfleet/token"])?;

    let header = decode_header(token.trim())?;
    let key = keys.find(header.kid.as_deref().context("the token names its key")?).context("the key is published")?;
    let key = DecodingKey::from_jwk(key)?;
    let mut wanted = Validation::new(header.alg);
    wanted.set_audience(&[audience]);
    wanted.set_issuer(&[discovery["issuer"].as_str().context("discovery names the issuer")?]);
    let claims = decode::<Value>(token.trim(), &key, &wanted)?.claims;
    let subject = format!("system:serviceaccount:{}:default", namespace.name);
    ensure!(claims["sub"] == subject.as_str(), "the token is {}'s and not {subject}'s", claims["sub"]);

    wanted.set_audience(&["keyfleet.dev/example/2"]);
    let refused = decode::<Value>(token.trim(), &key, &wanted).map(|token| token.claims);
    ensure!(refused.is_err(), "a token for one audience passes for another: {refused:?}");
    Ok(())
}

/// A container that is killed is started again at once, however often.
#[test]
fn a_killed_container_restarts_at_once_every_time() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "crashes")?;
    let web = Probe::install(&namespace, "web", &["volume.enabled=false"])?;
    // The usual back-off doubles from 10 s on: after five restarts more than five minutes would have passed, and the
    // wait below would have given up.
    wait::until("the container has been killed and started again five times", || {
        let Some(pod) = web.ready_pods()?.pop() else { return Ok(None) };
        if pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(5) {
            return Ok(Some(()));
        }
        // It ends without an answer, which is what the error says.
        let _ = web.ask(&["fetch", "http://localhost:8080/exit"]);
        Ok(None)
    })
}
