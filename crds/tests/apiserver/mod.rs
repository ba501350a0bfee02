//! A real API server with its etcd, shared by all tests of one file.
//!
//! A shell is the parent of both servers and waits on a pipe that this process holds. However the tests end, the pipe
//! closes, and the shell stops the servers and removes their folder.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::Value;

const TOKEN: &str = "administrator";
const PATIENCE: Duration = Duration::from_secs(120);

struct Server {
    url: String,
    folder: PathBuf,
    _shell: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();
static AUTHORIZATION: OnceLock<&str> = OnceLock::new();

/// From now on accounts may do what Roles say, and only that. Before the first [`namespace`].
#[allow(dead_code, reason = "not every file of tests asks for it")]
pub(crate) fn authorize_by_roles() {
    AUTHORIZATION.get_or_init(|| "RBAC");
}

/// A client of the shared server that shows `token`. After the first [`namespace`].
#[allow(dead_code, reason = "not every file of tests asks for it")]
pub(crate) fn client(token: &str, namespace: &str) -> Client {
    client_of(SERVER.get().expect("the server runs"), token, namespace)
}

/// The shared server's address. After the first [`namespace`].
#[allow(dead_code, reason = "not every file of tests asks for it")]
pub(crate) fn url() -> &'static str {
    &SERVER.get().expect("the server runs").url
}

fn client_of(server: &Server, token: &str, namespace: &str) -> Client {
    let mut config = Config::new(server.url.parse().expect("a URL made here"));
    config.accept_invalid_certs = true; // The server signs its own certificate, in a folder of ours.
    config.auth_info.token = Some(token.to_owned().into());
    config.default_namespace = namespace.to_owned();
    Client::try_from(config).expect("a client of the test's server")
}

/// A client of the shared server, the kinds applied, in a fresh namespace of that name.
pub(crate) async fn namespace(name: &str) -> Client {
    let server = SERVER.get_or_init(start);
    let client = client_of(server, TOKEN, name);
    wait("the API server to be ready", server, async || client.apiserver_version().await.is_ok()).await;
    apply_kinds(&client, server).await;
    let new =
        Namespace { metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }, ..Namespace::default() };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    wait("the namespace", server, async || namespaces.create(&PostParams::default(), &new).await.is_ok()).await;
    client
}

/// A kubeconfig of the shared server's administrator, for programs that are tested as processes.
pub(crate) fn kubeconfig(namespace: &str) -> String {
    let server = SERVER.get_or_init(start);
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": server.url, "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "test", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": namespace } }],
    })
    .to_string()
}

async fn apply_kinds(client: &Client, server: &Server) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in keyfleet_crds::generate::definitions() {
        let name = definition.metadata.name.clone().expect("a definition has a name");
        let applied = definitions.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&definition)).await;
        if let Err(error) = applied {
            panic!("the API server refuses the definition of {name}: {error}");
        }
    }
    for plural in ["kmsclusters", "kmsnodes", "keyepochs"] {
        let resource = kube::core::ApiResource {
            group: keyfleet_crds::GROUP.into(),
            version: keyfleet_crds::VERSION.into(),
            api_version: format!("{}/{}", keyfleet_crds::GROUP, keyfleet_crds::VERSION),
            kind: String::new(),
            plural: plural.into(),
        };
        let api: Api<kube::core::DynamicObject> = Api::all_with(client.clone(), &resource);
        wait(plural, server, async || api.list(&ListParams::default()).await.is_ok()).await;
    }
}

async fn wait(what: &str, server: &Server, done: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !done().await {
        if start.elapsed() > PATIENCE {
            let log = std::fs::read_to_string(server.folder.join("kube-apiserver.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            panic!("waited {PATIENCE:?} for {what}; the API server's last words, newest first:\n{}", tail.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn start() -> Server {
    let binary = std::env::var_os("KEYFLEET_BIN").map(|folder| PathBuf::from(folder).join("kubernetes"));
    let Some(binary) = binary.filter(|binary| binary.is_file()) else {
        panic!(
            "these tests need a real API server: KEYFLEET_BIN must name the folder of the `kubernetes` binary. \
             Run them with: cargo xtask test --only crds"
        );
    };
    let folder = tempfile::Builder::new().prefix("keyfleet-crds-").tempdir().expect("a temporary folder").keep();
    for name in ["etcd", "kube-apiserver"] {
        symlink(&binary, folder.join(name)).expect("a link in our own folder");
    }
    std::fs::write(folder.join("tokens.csv"), format!("{TOKEN},administrator,1,system:masters\n"))
        .expect("our own folder");
    // Held until all three are known, so that they differ.
    let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [etcd, peer, api] = sockets.map(|socket| socket.local_addr().expect("a bound socket has an address").port());
    let script = format!(
        "cd '{folder}'
        ./etcd --data-dir etcd-data --unsafe-no-fsync --listen-client-urls http://127.0.0.1:{etcd} \
            --advertise-client-urls http://127.0.0.1:{etcd} --listen-peer-urls http://127.0.0.1:{peer} \
            --initial-advertise-peer-urls http://127.0.0.1:{peer} --initial-cluster default=http://127.0.0.1:{peer} \
            >etcd.log 2>&1 </dev/null & etcd=$!
        ./kube-apiserver --etcd-servers http://127.0.0.1:{etcd} --bind-address 127.0.0.1 --secure-port {api} \
            --endpoint-reconciler-type none --cert-dir certificates --token-auth-file tokens.csv \
            --authorization-mode {authorization} --service-cluster-ip-range 10.0.0.0/24 \
            --service-account-issuer https://kubernetes.default.svc \
            --service-account-key-file certificates/apiserver.key \
            --service-account-signing-key-file certificates/apiserver.key >kube-apiserver.log 2>&1 </dev/null & api=$!
        read -r _
        kill -9 $api $etcd
        wait
        cd / && rm -rf '{folder}'",
        folder = folder.display(),
        authorization = AUTHORIZATION.get_or_init(|| "AlwaysAllow"),
    );
    let shell = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
    Server { url: format!("https://127.0.0.1:{api}"), folder, _shell: shell.expect("a shell") }
}

/// `object` with the value at a JSON pointer replaced, inserted, or (by null) removed.
pub(crate) fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = object.clone();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let mut at = &mut changed;
    for step in parent.split('/').skip(1) {
        at = match at {
            Value::Array(items) => &mut items[step.parse::<usize>().expect("an index of a list")],
            other => &mut other[step],
        };
    }
    match (at, value) {
        (Value::Array(items), value) => items[key.parse::<usize>().expect("an index of a list")] = value,
        (at, Value::Null) => {
            at.as_object_mut().expect("a parent is an object").remove(key);
        }
        (at, value) => at[key] = value,
    }
    changed
}
