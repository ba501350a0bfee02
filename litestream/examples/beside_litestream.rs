//! Litestream itself and this crate side by side: the same records, the same server, and one way of measuring both.
//! Run by `cargo xtask bench litestream`, which builds Litestream and names its folder in `KEYFLEET_LITESTREAM`.
//!
//! The lag of a commit is the time from its return to the moment at which a listing of the bucket shows a new object with
//! it. The bytes are those of everything in the bucket. A restore is of everything committed, by a process of its own.

#![allow(dead_code, clippy::unwrap_used, clippy::cast_precision_loss, clippy::cast_possible_truncation)]

#[path = "../tests/promises/gateway.rs"]
mod gateway;
#[path = "../tests/promises/s3/mod.rs"]
mod s3;
#[path = "../tests/promises/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyfleet_litestream::Ack;
use keyfleet_litestream::bucket::{Bucket, Entry, Location};
use keyfleet_litestream::database::Database;
use redb::TableDefinition;

use support::{TABLE, value};

const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
/// Commits in a row, without a pause.
const BACKLOG: u64 = 2000;
/// Commits each of which is waited for in the bucket, before the next one a pause.
const SINGLE: u64 = 30;
/// Time without a new object after which the bytes of a bucket are counted.
const STILL: Duration = Duration::from_secs(5);

/// The values of one commit.
fn record(key: u64) -> (Vec<u8>, Vec<u8>) {
    (value(key, 5000 + (key as usize * 131) % 5000), value(key + (1 << 32), 60))
}

/// Side of the comparison.
trait Side {
    /// Commits the next records; how long each took, in milliseconds, and when the last returned, in microseconds since
    /// the Unix epoch.
    async fn commit(&mut self, count: u64) -> (Vec<f64>, u64);
    /// Ends writing and replicating.
    async fn end(self);
}

struct Ours {
    database: Database,
    next: u64,
}

impl Side for Ours {
    async fn commit(&mut self, count: u64) -> (Vec<f64>, u64) {
        let (mut took, mut last_us) = (Vec::new(), 0);
        for key in self.next..self.next + count {
            let (record, audit) = record(key);
            let began = Instant::now();
            let transaction = move |txn: &redb::WriteTransaction| -> Result<(), redb::Error> {
                txn.open_table(TABLE)?.insert(key, record.as_slice())?;
                txn.open_table(AUDIT)?.insert(key, audit.as_slice())?;
                Ok(())
            };
            self.database.write(Ack::Local, transaction).await.unwrap();
            last_us = now_us();
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        self.next += count;
        (took, last_us)
    }

    async fn end(self) {
        let _ = self.database.close(Duration::from_secs(60)).await.unwrap();
    }
}

/// SQLite's writer and Litestream beside it; both end when dropped.
struct Theirs {
    writer: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    replicate: Child,
}

impl Side for Theirs {
    async fn commit(&mut self, count: u64) -> (Vec<f64>, u64) {
        writeln!(self.orders, "{count}").unwrap();
        let mut line = String::new();
        let _ = self.answers.read_line(&mut line).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&line).expect("the writer failed");
        let took = answer["commit_ms"].as_array().unwrap().iter().map(|ms| ms.as_f64().unwrap());
        (took.collect(), answer["last_commit_unix_us"].as_u64().unwrap())
    }

    async fn end(self) {}
}

impl Drop for Theirs {
    fn drop(&mut self) {
        for child in [&mut self.replicate, &mut self.writer] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let gateway = gateway::Gateway::start().await;
    let folder = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into())).unwrap();
    let workload = folder.path().join("workload");
    let mut file = BufWriter::new(File::create(&workload).unwrap());
    let mut payload = 0;
    for key in 0..BACKLOG + SINGLE {
        let (record, audit) = record(key);
        for value in [record, audit] {
            file.write_all(&(value.len() as u32).to_le_bytes()).unwrap();
            file.write_all(&value).unwrap();
            payload += value.len();
        }
    }
    file.flush().unwrap();
    println!(
        "\n{BACKLOG} commits in a row and {SINGLE} single ones, of a 5-10 kB record and a 60 B row; one workload, one ruler\n"
    );
    // Litestream's own default, and an interval that a fleet would choose.
    for sync_interval_ms in [1000, 20] {
        println!("sync interval {sync_interval_ms} ms");
        let location = gateway.location(&format!("ours-{sync_interval_ms}"));
        let path = folder.path().join(format!("{sync_interval_ms}.redb"));
        let mut options = support::options(&path, location.clone());
        options.sync_interval = Duration::from_millis(sync_interval_ms);
        let ours = Ours { database: support::opened(options).await, next: 0 };
        let bucket = s3::bucket(location.clone()).await;
        measure("Keyfleet on redb", ours, &bucket, "seq/", payload, sync_interval_ms).await;
        let target = folder.path().join(format!("{sync_interval_ms}-restored"));
        restored("Keyfleet on redb", || {
            let (location, target) = (location.clone(), target.clone());
            let _ = std::fs::remove_file(&target);
            async move {
                let _ = support::restore(location, &target).await.unwrap();
            }
        })
        .await;

        let prefix = format!("sqlite-{sync_interval_ms}");
        let location = gateway.location(&prefix);
        let sqlite = Sqlite::prepare(folder.path(), &location, sync_interval_ms);
        let bucket = s3::bucket(location).await;
        // The first level of its objects: those of higher levels repeat it.
        measure("Litestream on SQLite", sqlite.start(&workload), &bucket, "0000/", payload, sync_interval_ms).await;
        restored("Litestream on SQLite", || async { sqlite.restore() }).await;
    }
}

async fn measure(
    name: &str,
    mut side: impl Side,
    bucket: &Bucket,
    folder: &str,
    payload: usize,
    sync_interval_ms: u64,
) {
    let (mut took, last_us) = side.commit(BACKLOG).await;
    let (p50, p99) = (percentile(&mut took, 0.5), percentile(&mut took, 0.99));
    println!("  {name:<22} commit                          p50 {p50:>8.3}  p99 {p99:>8.3} ms");
    let (_, newest_us) = settled(bucket).await;
    println!(
        "  {name:<22} lag of the last of the backlog  {:>12.0} ms",
        newest_us.saturating_sub(last_us) as f64 / 1e3
    );
    let mut lags = Vec::new();
    for commit in 0..SINGLE {
        // At changing distances from the interval's end.
        tokio::time::sleep(Duration::from_millis(sync_interval_ms + commit * sync_interval_ms / SINGLE)).await;
        let known: BTreeSet<String> = keys(bucket, folder).await;
        let (_, committed_us) = side.commit(1).await;
        while keys(bucket, folder).await.is_subset(&known) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lags.push(now_us().saturating_sub(committed_us) as f64 / 1e3);
    }
    let (p50, p99) = (percentile(&mut lags, 0.5), percentile(&mut lags, 0.99));
    println!("  {name:<22} lag of a single commit          p50 {p50:>8.0}  p99 {p99:>8.0} ms");
    let (objects, _) = settled(bucket).await;
    side.end().await;
    let shipped: u64 = objects.iter().map(|object| object.size).sum();
    println!(
        "  {name:<22} everything in the bucket        {:>8.2} x payload, {} objects",
        shipped as f64 / payload as f64,
        objects.len()
    );
}

async fn restored<F: Future<Output = ()>>(name: &str, mut restore: impl FnMut() -> F) {
    let mut took = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        restore().await;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    println!("  {name:<22} restore of all {} commits   p50 {:>8.0} ms", BACKLOG + SINGLE, percentile(&mut took, 0.5));
}

async fn keys(bucket: &Bucket, folder: &str) -> BTreeSet<String> {
    bucket.list(folder, None).await.unwrap().into_iter().map(|object| object.key).collect()
}

/// Lists the bucket once nothing has been added for a while, and the time at which the newest was first seen, in microseconds
/// since the Unix epoch. A listing is at most some 20 ms behind.
async fn settled(bucket: &Bucket) -> (Vec<Entry>, u64) {
    let (mut known, mut since, mut seen_us) = (Vec::new(), Instant::now(), 0);
    while since.elapsed() < STILL {
        let listed = bucket.list("", None).await.unwrap();
        if listed.len() > known.len() {
            (known, since, seen_us) = (listed, Instant::now(), now_us());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (known, seen_us)
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// A SQLite file with Litestream's configuration.
struct Sqlite {
    database: PathBuf,
    config: PathBuf,
    folder: PathBuf,
}

impl Sqlite {
    fn prepare(folder: &Path, location: &Location, sync_interval_ms: u64) -> Self {
        let prefix = &location.prefix;
        let sqlite = Self {
            database: folder.join(format!("{prefix}.db")),
            config: folder.join(format!("{prefix}.yml")),
            folder: folder.to_owned(),
        };
        let config = format!(
            "access-key-id: {}\nsecret-access-key: {}\ndbs:\n  - path: {}\n    monitor-interval: {sync_interval_ms}ms\n    \
             replica:\n      type: s3\n      bucket: {}\n      path: {prefix}\n      endpoint: {}\n      region: us-east-1\n      \
             force-path-style: true\n      sync-interval: {sync_interval_ms}ms\n",
            s3::ACCESS_KEY,
            s3::SECRET_KEY,
            sqlite.database.display(),
            location.bucket,
            location.endpoint.as_deref().unwrap(),
        );
        std::fs::write(&sqlite.config, config).unwrap();
        sqlite
    }

    fn start(&self, workload: &Path) -> Theirs {
        let log = File::create(self.config.with_extension("log")).unwrap();
        let mut replicate = litestream("replicate", &self.config);
        let replicate = replicate.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut writer = Command::new(program("load"));
        writer.arg("-database").arg(&self.database).arg("-workload").arg(workload);
        let mut writer = writer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the writer starts");
        Theirs {
            orders: writer.stdin.take().unwrap(),
            answers: BufReader::new(writer.stdout.take().unwrap()),
            writer,
            replicate: replicate.spawn().expect("litestream starts"),
        }
    }

    fn restore(&self) {
        let target = self.folder.join("restored.db");
        let _ = std::fs::remove_file(&target);
        let output = litestream("restore", &self.config).arg("-o").arg(&target).arg(&self.database).output().unwrap();
        assert!(output.status.success(), "the restore failed: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn litestream(what: &str, config: &Path) -> Command {
    let mut command = Command::new(program("litestream"));
    // A bundle of authorities in the environment is for other servers: this one speaks plain HTTP, and Litestream's client
    // takes none.
    command.env_remove("AWS_CA_BUNDLE").arg(what).arg("-config").arg(config);
    command
}

fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("KEYFLEET_LITESTREAM").expect("run this with `cargo xtask bench litestream`");
    PathBuf::from(folder).join(name)
}
