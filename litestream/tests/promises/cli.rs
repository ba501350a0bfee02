//! The command, as a person or an init container calls it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyfleet_litestream::layout;
use keyfleet_litestream::position::Seq;

use crate::s3::{ACCESS_KEY, SECRET_KEY, Server};
use crate::support::{REMOTE, entries, opened, options, put, value};

/// Exit code, standard output, standard error.
pub(crate) async fn call(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyfleet-litestream"));
    command.arg("--config").arg(folder.join("litestream.yml")).args(args).env("KEK", "07".repeat(32));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

pub(crate) fn configure(folder: &Path, server: &Server) {
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
    assert!(drill[0]["other_route"].is_object(), "the drill compared nothing: {drill}");
    assert!(drill[0]["local"]["same"].is_object(), "the local file was not compared: {drill}");
    assert_eq!(call(folder, &["retention", "--dry-run"]).await.0, 0);

    let key = format!("p/{}", layout::sequence(Seq(position.seq.0 - 1)));
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

/// A configuration of two databases, `one` and `two`.
fn configure_two(folder: &Path, server: &Server) {
    let endpoint = server.location("p").endpoint.unwrap();
    let db = |name: &str| {
        format!(
            "- path: {}\n  name: {name}\n  replica: {{url: s3://fleet/{name}, endpoint: \"{endpoint}\", region: us-east-1, \
             access-key-id: {ACCESS_KEY}, secret-access-key: {SECRET_KEY}}}\n",
            folder.join(format!("{name}.redb")).display()
        )
    };
    let text = format!("key-encryption: [{{id: test, key: \"${{KEK}}\"}}]\ndbs:\n{}{}", db("one"), db("two"));
    std::fs::write(folder.join("litestream.yml"), text).unwrap();
}

/// A file at rest, not made through the library.
pub(crate) fn file(path: &Path, rows: u64) {
    let database = redb::Database::create(path).unwrap();
    let txn = database.begin_write().unwrap();
    for key in 0..rows {
        txn.open_table(crate::support::TABLE).unwrap().insert(key, value(key, 40).as_slice()).unwrap();
    }
    txn.commit().unwrap();
}

/// seed: 001-07
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_answers_for_several_databases_in_one_list() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    configure_two(folder, &server);
    file(&folder.join("one.redb"), 5);
    file(&folder.join("two.redb"), 9);
    let list = async |args: &[&str]| {
        let (code, text, error) = call(folder, &[&["--json"], args].concat()).await;
        let list: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}{error}"));
        let paths = [&list[0]["path"], &list[1]["path"]].map(|path| path.as_str().unwrap_or_default().to_owned());
        assert!(paths[0].ends_with("one.redb") && paths[1].ends_with("two.redb"), "{args:?}: {list}");
        assert_eq!(list.as_array().map(Vec::len), Some(2), "{args:?}: {list}");
        (code, list)
    };
    let (code, reached) = list(&["replicate", "--once"]).await;
    assert_eq!(code, 0, "{reached}");
    for command in ["status", "snapshots", "segments", "verify", "drill", "retention"] {
        let (code, answers) = list(&[command]).await;
        assert_eq!(code, 0, "{command}: {answers}");
        assert!(answers[0]["error"].is_null() && answers[1]["error"].is_null(), "{command}: {answers}");
    }
    let (_, drilled) = list(&["drill"]).await;
    let rows =
        |at: usize| drilled[at]["tables"].as_array().unwrap().iter().map(|t| t["rows"].as_u64().unwrap()).sum::<u64>();
    // One more is the library's own, of where the file stands.
    assert_eq!((rows(0), rows(1)), (6, 10), "{drilled}");

    // One of them is gone; the other is answered for all the same.
    for key in server.keys().iter().filter(|key| key.starts_with("one/")) {
        server.remove(key);
    }
    let (code, drilled) = list(&["drill"]).await;
    assert_eq!(code, 3, "no replica has its own exit code: {drilled}");
    assert!(drilled[0]["error"].as_str().is_some_and(|error| error.contains("no replica")), "{drilled}");
    assert!(drilled[1]["local"]["same"].is_object(), "{drilled}");
}

/// Bytes and counts are the same, one row is not: what a recording that missed a write would come to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_finds_one_row_that_differs() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    configure(folder, &server);
    let path = folder.join("state.redb");
    let database = opened(options(&path, server.location("p"))).await;
    for key in 0..50 {
        put(&database, REMOTE, key, value(key, 100)).await.unwrap();
    }
    let (code, text, error) = call(folder, &["drill"]).await;
    assert_eq!(code, 0, "{text}{error}");
    assert!(text.contains("a process has it open"), "a file in use was called compared: {text}");
    let _ = database.close(Duration::from_secs(30)).await.unwrap();
    let (code, text, error) = call(folder, &["drill"]).await;
    assert!(code == 0 && text.contains("the same rows as the local file"), "{text}{error}");

    // An older copy of the file is compared at its own commit.
    let kept = folder.join("kept.redb");
    std::fs::copy(&path, &kept).unwrap();
    let database = opened(options(&path, server.location("p"))).await;
    put(&database, REMOTE, 99, value(99, 100)).await.unwrap();
    let _ = database.close(Duration::from_secs(30)).await.unwrap();
    let newest = folder.join("newest.redb");
    std::fs::rename(&path, &newest).unwrap();
    std::fs::copy(&kept, &path).unwrap();
    let (code, text, error) = call(folder, &["drill"]).await;
    assert!(code == 0 && text.contains("the same rows as the local file"), "{text}{error}");

    // As many rows of as many bytes, and one bit otherwise.
    for file in [&kept, &newest] {
        std::fs::copy(file, &path).unwrap();
        let bare = redb::Database::open(&path).unwrap();
        let txn = bare.begin_write().unwrap();
        let mut other = value(7, 100);
        other[50] ^= 1;
        txn.open_table(crate::support::TABLE).unwrap().insert(7, other.as_slice()).unwrap();
        txn.commit().unwrap();
        drop(bare);
        let (code, text, error) = call(folder, &["drill"]).await;
        assert_eq!(code, 5, "a row that differs passed the drill: {text}{error}");
        assert!(error.contains("table `entries`") && error.contains("not the same"), "{error}");
    }
}
