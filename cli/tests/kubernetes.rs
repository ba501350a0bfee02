//! The program beside a real API server, whose tokens four real nodes accept.
//!
//! Needs the environment variable `KEYFLEET_BIN`, the folder of the `kubernetes` binary.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../crds/tests/apiserver/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod apiserver;

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use keyfleet_crds::KmsCluster;
use keyfleet_test_fleet::serving::{FetchedKeys, Fleet, ISSUER, IssuerError, KeySource};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::process::Command;

/// Keys as the API server publishes them.
struct Published(Client);

#[async_trait]
impl KeySource for Published {
    async fn fetch(&self, _: &str) -> Result<FetchedKeys, IssuerError> {
        let request = http::Request::get("/openid/v1/jwks").body(Vec::new()).unwrap();
        let keys = self.0.request_text(request).await.unwrap();
        Ok(FetchedKeys { issuer: ISSUER.to_owned(), keys: serde_json::from_str(&keys).unwrap() })
    }
}

async fn create<K>(client: &Client, object: Value) -> K
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let object = serde_json::from_value(object).unwrap();
    Api::<K>::default_namespaced(client.clone()).create(&PostParams::default(), &object).await.unwrap()
}

async fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_kubectl-keyfleet"))
        .args(arguments)
        .current_dir(folder)
        .env("KUBECONFIG", folder.join("kubeconfig"))
        .env_remove("KUBERNETES_SERVICE_HOST")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// With a kubeconfig alone, data is encrypted and decrypted under tokens that are requested for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubeconfig_alone_encrypts_and_decrypts() {
    let client = apiserver::namespace("shop").await;
    let fleet = Fleet::start_with(4, Arc::new(Published(client.clone()))).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kubeconfig"), apiserver::kubeconfig("shop")).unwrap();
    std::fs::write(folder.path().join("plain"), b"a secret").unwrap();
    let run = async |arguments: &[&str]| run(folder.path(), arguments).await;

    let (code, _, said) = run(&["encrypt", "-i", "backups/1", "plain", "--to", "sealed"]).await;
    assert!(code == 1 && said.contains("namespace shop has no KmsCluster"), "{code} {said}");
    let spec = json!({ "keyEncryption": { "active": { "id": "1", "secret": { "name": "kek" } } } });
    let of = |name: &str| json!({ "apiVersion": "keyfleet.dev/v1alpha1", "kind": "KmsCluster", "metadata": { "name": name }, "spec": spec });
    create::<KmsCluster>(&client, of("keys")).await;
    let (code, _, said) = run(&["public-key"]).await;
    assert!(code == 1 && said.contains("there is no ConfigMap shop/keys-record"), "{code} {said}");
    let mut record = serde_json::to_value(fleet.record()).unwrap();
    record["format"] = 1.into();
    let data = json!({ "client.json": record.to_string() });
    create::<ConfigMap>(&client, json!({ "metadata": { "name": "keys-record" }, "data": data })).await;
    create::<ServiceAccount>(&client, json!({ "metadata": { "name": "checkout" } })).await;

    let (code, out, said) = run(&["public-key", "-o", "json"]).await;
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), record, "what --record takes");
    let (code, _, said) = run(&["encrypt", "-i", "backups/1", "plain", "--to", "sealed"]).await;
    assert_eq!((code, said.as_str()), (0, ""), "the only fleet of the namespace");

    let addresses: Vec<_> = fleet.callers.iter().map(|(node, at)| format!("--address={node}={at}")).collect();
    let with = |arguments: &[&'static str]| -> Vec<String> {
        arguments.iter().map(|argument| (*argument).to_owned()).chain(addresses.iter().cloned()).collect()
    };
    let ask = async |arguments: &[&'static str]| {
        let all = with(arguments);
        run(&all.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let (code, out, said) = ask(&["decrypt", "sealed", "--service-account", "checkout"]).await;
    assert_eq!((code, out.as_str(), said.as_str()), (0, "a secret", ""));
    let (code, out, said) = ask(&["decrypt", "sealed", "--service-account", "other/thief"]).await;
    assert_eq!((code, out.as_str()), (4, ""), "{said}");
    assert!(said.contains("ServiceAccount other/thief") && said.contains("not found"), "{said}");
    create::<ServiceAccount>(&client, json!({ "metadata": { "name": "checkout-2" } })).await;
    let (code, out, said) = ask(&["sign", "-k", "payroll", "--service-account", "checkout-2", "plain"]).await;
    assert_eq!((code, out.as_str()), (4, ""), "{said}");
    assert!(said.contains("system:serviceaccount:shop:checkout-2"), "{said}");
    let (code, _, said) = ask(&["decrypt", "sealed"]).await;
    assert!(code == 2 && said.contains("--service-account"), "{code} {said}");

    // There are no pods here: what a port-forward says reaches the person.
    let (code, _, said) = run(&["decrypt", "sealed", "--service-account", "checkout", "--timeout", "2s"]).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("0 of 3 needed answers") && said.contains("port-forward to pod keys-4: "), "{said}");

    let (code, out, said) = run(&["status", "--check"]).await;
    assert_eq!((code, said.as_str()), (6, ""));
    assert!(out.starts_with("shop/keys") && out.contains("NotSeen"), "{out}");
    assert!(!out.contains('\u{1b}'), "colour in a pipe");
    create::<KmsCluster>(&client, of("more")).await;
    let (code, _, said) = run(&["public-key"]).await;
    assert!(code == 2 && said.contains("2 KmsClusters (keys, more)"), "{code} {said}");
    let (code, _, said) = run(&["status", "less"]).await;
    assert!(code == 1 && said.contains("no KmsCluster less"), "{code} {said}");
    let (code, _, said) = run(&["status", "--context", "elsewhere"]).await;
    assert!(code == 1 && said.contains("elsewhere"), "{code} {said}");
}
