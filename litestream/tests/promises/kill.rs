//! kill -9 of a writing process, again and again. After each: what S3 alone restores has everything that was
//! acknowledged remotely, the local file everything that was acknowledged at all, and both are a prefix of what
//! was written.
//!
//! `KEYFLEET_KILLS=<n>` makes the loop longer (200 in the long run), `KEYFLEET_SEED=<n>` picks the moments.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::bucket::Location;
use keyfleet_litestream::database::Database;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use redb::ReadableTableMetadata as _;

use crate::s3::Server;
use crate::support::{REMOTE, TABLE, entries, options, put, restore, value};

const CHILD: &str = "KEYFLEET_KILL_CHILD";

fn entry(key: u64) -> Vec<u8> {
    value(key, 100 + (key as usize * 37) % 6000)
}

/// The process that gets killed: this test binary again, told by its environment where to write. Without that
/// it has nothing to do.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (path, endpoint) = told.split_once('|').expect("path|endpoint");
    let location = Location { endpoint: Some(endpoint.into()), ..Server::default().location("p") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut how = options(Path::new(path), location);
        how.snapshot_segments = 20;
        let database = Database::open(how).await.unwrap();
        let start = {
            let txn = database.begin_read().unwrap();
            txn.open_table(TABLE).map_or(0, |table| table.len().unwrap())
        };
        let mut out = std::io::stdout();
        for key in start.. {
            let (ack, word) = if key % 3 == 0 { (REMOTE, "remote") } else { (Ack::Local, "local") };
            put(&database, ack, key, entry(key)).await.unwrap();
            writeln!(out, "ack {word} {key}").and_then(|()| out.flush()).unwrap();
        }
    });
}

fn spawn(path: &Path, location: &Location) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child_that_writes_until_it_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{}|{}", path.display(), location.endpoint.as_deref().unwrap()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Reads acknowledgements until `lines` came, waits a little, kills, and reads what was still said.
fn run_and_kill(mut child: Child, lines: usize, pause: Duration) -> Vec<(bool, u64)> {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    let mut line = String::new();
    let mut killed = false;
    loop {
        line.clear();
        if out.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // The harness prints its own words on the first line.
        if let Some((_, said)) = line.split_once("ack ")
            && let Some((word, key)) = said.trim().split_once(' ')
        {
            acknowledged.push((word == "remote", key.parse().unwrap()));
        }
        if acknowledged.len() >= lines && !killed {
            std::thread::sleep(pause);
            child.kill().unwrap();
            killed = true;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(acknowledged.len() >= lines, "the writing process ended by itself after {} entries", acknowledged.len());
    acknowledged
}

/// Exactly the entries 0 to n, each with its value.
fn prefix_len(found: &BTreeMap<u64, Vec<u8>>, what: &str) -> u64 {
    for (expected, (key, bytes)) in found.iter().enumerate() {
        assert_eq!(*key, expected as u64, "{what}: an entry is missing in the middle");
        assert!(*bytes == entry(*key), "{what}: entry {key} has another value");
    }
    found.len() as u64
}

/// The local file recovers, too.
///
/// seed: 001-03, 003-23, 003-45
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_kill_s3_alone_restores_acknowledged_writes() {
    let seed = std::env::var("KEYFLEET_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let kills = std::env::var("KEYFLEET_KILLS").map_or(20, |kills| kills.parse().expect("a number"));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    // What callers were told. Local acknowledgements end with the volume that they were on.
    let (mut remote, mut local) = (0, 0);
    for kill in 0..kills {
        let (lines, pause) = (rng.random_range(1..40), Duration::from_micros(rng.random_range(0..4000)));
        let child = spawn(&path, &server.location("p"));
        let said = tokio::task::spawn_blocking(move || run_and_kill(child, lines, pause)).await.unwrap();
        for (is_remote, key) in said {
            local = local.max(key + 1);
            if is_remote {
                remote = remote.max(key + 1);
            }
        }
        let to = folder.path().join(format!("restored-{kill}.redb"));
        restore(server.location("p"), &to).await.unwrap_or_else(|error| panic!("seed {seed}, kill {kill}: {error}"));
        let restored = prefix_len(&entries(&to), "restored");
        assert!(restored >= remote, "seed {seed}, kill {kill}: {remote} acknowledged, {restored} restored");
        std::fs::remove_file(&to).unwrap();
        std::fs::remove_file(keyfleet_litestream::meta::PositionFile::path(&to)).unwrap();

        let kept = prefix_len(&entries(&path), "local");
        assert!(kept >= local, "seed {seed}, kill {kill}: {local} acknowledged locally, {kept} in the file");
        assert!(kept >= restored, "seed {seed}, kill {kill}: S3 has more than was ever committed");
        if rng.random_ratio(1, 4) {
            // The volume is lost as well.
            for file in std::fs::read_dir(folder.path()).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
            }
            local = restored;
        } else {
            local = kept;
        }
    }
}
