//! The command, as a person or an init container calls it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyfleet_litestream::keyspace;
use keyfleet_litestream::position::Seq;

use crate::s3::{ACCESS_KEY, SECRET_KEY, Server};
use crate::support::{REMOTE, entries, opened, options, put, value};

/// Exit code, standard output, standard error.
async fn call(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyfleet-litestream"));
    command.arg("--config").arg(folder.join("litestream.yml")).args(args).env("KEK", "07".repeat(32));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn configure(folder: &Path, server: &Server) {
    let location = server.location("p");
    let text = format!(
        "key-encryption: [{{id: test, key: \"${{KEK}}\"}}]\nretention: {{grace: 1h}}\ndbs:\n- path: {}\n  name: \
         cluster/node-1/state\n  replica: {{url: s3://fleet/p, endpoint: \"{}\", region: us-east-1, access-key-id: \
         {ACCESS_KEY}, secret-access-key: {SECRET_KEY}}}\n",
        folder.join("state.redb").display(),
        location.endpoint.unwrap()
    );
    std::fs::write(folder.join("litestream.yml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_outcome_of_a_restore_has_its_own_exit_code() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    configure(folder, &server);
    let (code, _, error) = call(folder, &["restore"]).await;
    assert_eq!(code, 3, "no replica: {error}");
    assert_eq!(call(folder, &["restore", "--if-replica-exists"]).await.0, 0);
    server.set_down(true);
    let (code, _, error) = call(folder, &["restore", "--if-replica-exists"]).await;
    assert_eq!(code, 1, "an outage is no absent replica: {error}");
    server.set_down(false);

    let database = opened(options(&folder.join("state.redb"), server.location("p"))).await;
    for key in 0..6 {
        put(&database, REMOTE, key, value(key, 400)).await.unwrap();
    }
    database.snapshot(Duration::from_secs(30)).await.unwrap();
    let position = put(&database, REMOTE, 6, value(6, 400)).await.unwrap().position.unwrap();
    let _ = database.close(Duration::from_secs(30)).await.unwrap();

    let out = folder.join("out.redb");
    let to = out.to_str().unwrap();
    let floor = position.to_string();
    let (code, answer, error) = call(folder, &["--json", "restore", "-o", to, "--at-least", &floor]).await;
    assert_eq!(code, 0, "{error}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["position"]["seq"], position.seq.0);
    assert_eq!(entries(&out).len(), 7);
    assert_eq!(call(folder, &["restore", "-o", to]).await.0, 1, "an existing file is in the way");
    assert_eq!(call(folder, &["restore", "-o", to, "--if-db-not-exists"]).await.0, 0);
    assert_eq!(call(folder, &["restore", "-o", to, "--replace"]).await.0, 0);
    let above = format!("{}:{}:{}", position.term, position.seq.0 + 1, position.hash);
    let (code, _, error) = call(folder, &["restore", "-o", to, "--replace", "--at-least", &above]).await;
    assert_eq!(code, 4, "below the floor: {error}");

    for command in ["snapshots", "segments", "status", "verify", "drill"] {
        let (code, text, error) = call(folder, &[command]).await;
        assert_eq!(code, 0, "{command}: {error}");
        assert!(!text.trim().is_empty(), "{command} says nothing");
        let (_, json, _) = call(folder, &["--json", command]).await;
        serde_json::from_str::<serde_json::Value>(&json).unwrap_or_else(|error| panic!("{command}: {error}: {json}"));
    }
    let (_, drill, _) = call(folder, &["--json", "drill"]).await;
    let drill: serde_json::Value = serde_json::from_str(&drill).unwrap();
    assert!(drill["other_route"].is_object(), "the drill compared nothing: {drill}");
    assert_eq!(call(folder, &["retention", "--dry-run"]).await.0, 0);

    let key = format!("p/{}", keyspace::sequence(Seq(position.seq.0 - 1)));
    let mut bytes = server.peek(&key).unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    server.poke(&key, bytes);
    let (code, text, _) = call(folder, &["verify"]).await;
    assert_eq!(code, 5, "an altered object passed verification: {text}");
    std::fs::write(folder.join("litestream.yml"), "dbs: []\nencryption: on\n").unwrap();
    let (code, _, error) = call(folder, &["status"]).await;
    assert!(code == 2 && error.contains("encryption"), "an unknown key passed: {error}");
}

/// seed: 003-43
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_at_rest_is_adopted_and_comes_back() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    configure(folder, &server);
    {
        let database = redb::Database::create(folder.join("state.redb")).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(crate::support::TABLE).unwrap().insert(1, &b"before"[..]).unwrap();
        txn.commit().unwrap();
    }
    let (code, text, error) = call(folder, &["replicate", "--once"]).await;
    assert!(code == 0 && text.contains("in the bucket"), "{text}{error}");
    let out = folder.join("out.redb");
    assert_eq!(call(folder, &["restore", "-o", out.to_str().unwrap()]).await.0, 0);
    assert_eq!(entries(&out)[&1], b"before");
}
