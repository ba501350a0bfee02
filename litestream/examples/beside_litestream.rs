//! Litestream itself beside the figures of `figures`: SQLite with as many records of the same sizes, the same run of
//! `cargo xtask bench litestream`, which builds Litestream and names its folder in `KEYFLEET_LITESTREAM`.

#![allow(dead_code, clippy::unwrap_used, clippy::cast_precision_loss, clippy::cast_possible_truncation)]

#[path = "../tests/promises/gateway.rs"]
mod gateway;
#[path = "../tests/promises/s3.rs"]
mod s3;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyfleet_litestream::bucket::{Bucket, Entry};

/// As many commits as `figures` makes.
const COMMITS: u32 = 2000;

/// Litestream while it replicates; ends when dropped.
struct Replicating(Child);

impl Drop for Replicating {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("KEYFLEET_LITESTREAM").expect("run this with `cargo xtask bench litestream`");
    PathBuf::from(folder).join(name)
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let gateway = gateway::Gateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    println!("\nLitestream v0.5.18 on SQLite (WAL, synchronous=FULL), {COMMITS} commits of records of the same sizes");
    // Its own defaults, and the shortest interval that the figures above use.
    for sync_interval in ["1s", "20ms"] {
        measure(&gateway, folder.path(), sync_interval).await;
    }
}

async fn measure(gateway: &gateway::Gateway, folder: &Path, sync_interval: &str) {
    let prefix = format!("sqlite-{sync_interval}");
    let location = gateway.location(&prefix);
    let database = folder.join(format!("{prefix}.db"));
    let config = folder.join(format!("{prefix}.yml"));
    let endpoint = location.endpoint.clone().unwrap();
    std::fs::write(
        &config,
        format!(
            "access-key-id: {}\nsecret-access-key: {}\ndbs:\n  - path: {}\n    monitor-interval: {sync_interval}\n    replica:\n      \
             type: s3\n      bucket: {}\n      path: {prefix}\n      endpoint: {endpoint}\n      region: us-east-1\n      \
             force-path-style: true\n      sync-interval: {sync_interval}\n",
            s3::ACCESS_KEY,
            s3::SECRET_KEY,
            database.display(),
            location.bucket,
        ),
    )
    .unwrap();
    let bucket = s3::bucket(location).await;

    // A bundle of authorities in the environment is for other servers: this one speaks plain HTTP, and Litestream's client
    // takes none.
    let litestream = || {
        let mut command = Command::new(program("litestream"));
        command.env_remove("AWS_CA_BUNDLE");
        command
    };
    let log = std::fs::File::create(folder.join(format!("{prefix}.log"))).unwrap();
    let replicate = litestream()
        .args(["replicate", "-config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("litestream starts");
    let _replicating = Replicating(replicate);
    let records = COMMITS.to_string();
    let load = Command::new(program("load")).args(["-records", &records, "-database"]).arg(&database).output().unwrap();
    assert!(load.status.success(), "the writer failed: {}", String::from_utf8_lossy(&load.stderr));
    let said: serde_json::Value = serde_json::from_slice(&load.stdout).unwrap();
    let last_commit_ms = said["last_commit_unix_ms"].as_u64().unwrap();
    println!(
        "{:<58} p50 {:>7.3}  p99 {:>7.3} ms",
        format!("SQLite commit, sync-interval {sync_interval}"),
        said["commit_p50_ms"].as_f64().unwrap(),
        said["commit_p99_ms"].as_f64().unwrap()
    );

    let (objects, newest_ms) = settled(&bucket).await;
    let shipped: u64 = objects.iter().map(|object| object.size).sum();
    println!("{:<58} {} ms", "lag: last commit to its object in the bucket", newest_ms.saturating_sub(last_commit_ms));
    let payload = said["payload_bytes"].as_u64().unwrap();
    println!(
        "{:<58} {:.2} in {} objects",
        "bytes in the bucket / payload",
        shipped as f64 / payload as f64,
        objects.len()
    );
    for round in 0..3 {
        let began = Instant::now();
        let restored = litestream()
            .args(["restore", "-config"])
            .arg(&config)
            .arg("-o")
            .arg(folder.join(format!("{prefix}-{round}.db")))
            .arg(&database)
            .output()
            .unwrap();
        assert!(restored.status.success(), "the restore failed: {}", String::from_utf8_lossy(&restored.stderr));
        println!(
            "{:<58} {:.0} ms",
            format!("restore of {} objects", objects.len()),
            began.elapsed().as_secs_f64() * 1e3
        );
    }
}

/// The replica's objects once nothing has been added for as long as ten times the longest interval, and when the newest
/// was first seen, in milliseconds since the Unix epoch. A listing is at most some 20 ms behind.
async fn settled(bucket: &Bucket) -> (Vec<Entry>, u64) {
    let (mut known, mut since, mut seen_ms) = (Vec::new(), Instant::now(), 0);
    while since.elapsed() < Duration::from_secs(10) {
        let listed = bucket.list("", None).await.unwrap();
        if listed.len() > known.len() {
            (known, since, seen_ms) = (listed, Instant::now(), keyfleet_litestream::now_ms());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (known, seen_ms)
}
