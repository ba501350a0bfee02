//! Prints the figures of `docs/benchmarks.md`: local commits beside plain redb in the same run, bytes shipped,
//! remote acknowledgement, lag, restores. Against versitygw; needs `KEYFLEET_BIN`, as the tests do.

#![allow(dead_code, clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_precision_loss)]
#![allow(clippy::cast_possible_wrap)]

#[path = "../tests/promises/gateway.rs"]
mod gateway;
#[path = "../tests/promises/s3/mod.rs"]
mod s3;
#[path = "../tests/promises/support.rs"]
mod support;

use std::time::{Duration, Instant};

use keyfleet_litestream::database::Database;
use keyfleet_litestream::{Ack, layout};
use redb::TableDefinition;

use support::{REMOTE, TABLE, opened, options, restore, value};

const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
const COMMITS: u64 = 2000;

fn record(key: u64) -> Vec<u8> {
    value(key, 5000 + (key as usize * 131) % 5000)
}

fn percentiles(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<58} p50 {:>7.3}  p99 {:>7.3}  max {:>7.3} ms", at(0.5), at(0.99), at(1.0));
    at(0.99)
}

fn plain(database: &redb::Database, key: u64) -> Duration {
    let record = record(key);
    let began = Instant::now();
    let txn = database.begin_write().unwrap();
    txn.open_table(TABLE).unwrap().insert(key, record.as_slice()).unwrap();
    txn.open_table(AUDIT).unwrap().insert(key, &[7; 60][..]).unwrap();
    txn.commit().unwrap();
    began.elapsed()
}

async fn replicated(database: &Database, ack: Ack, key: u64) -> Duration {
    let record = record(key);
    let began = Instant::now();
    database
        .write(ack, move |txn| -> Result<(), redb::Error> {
            txn.open_table(TABLE)?.insert(key, record.as_slice())?;
            txn.open_table(AUDIT)?.insert(key, &[7; 60][..])?;
            Ok(())
        })
        .await
        .unwrap();
    began.elapsed()
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let gateway = gateway::Gateway::start().await;
    let folder = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into())).unwrap();

    // Plain and replicated commits take turns, so that both see the same disk and the same neighbours.
    let bare = redb::Database::create(folder.path().join("plain.redb")).unwrap();
    let database = opened(options(&folder.path().join("state.redb"), gateway.location("one"))).await;
    let (mut plain_times, mut local_times) = (Vec::new(), Vec::new());
    for key in 0..COMMITS {
        plain_times.push(plain(&bare, key));
        local_times.push(replicated(&database, Ack::Local, key).await);
    }
    println!("{COMMITS} commits of a 5-10 kB record and a 60 B row, one-phase");
    let plain_p99 = percentiles("plain redb", plain_times);
    let local_p99 = percentiles("recorded, sealed and shipped beside it; Ack::Local", local_times);
    println!("{:<58} {:.2}", "p99 replicated / plain", local_p99 / plain_p99);
    let lag = Instant::now();
    let _ = database.close(Duration::from_secs(60)).await.unwrap();
    println!("{:<58} {:.0} ms", "flush of the rest at close", lag.elapsed().as_secs_f64() * 1e3);
    let bucket = s3::bucket(gateway.location("one")).await;
    let payload: usize = (0..COMMITS).map(|key| record(key).len() + 60).sum();
    let grouped: u64 = bucket.list(layout::SEQUENCE, None).await.unwrap().iter().map(|entry| entry.size).sum();
    println!("{:<58} {:.2}", "bytes shipped / payload, commits grouped", grouped as f64 / payload as f64);

    // One object for every commit.
    let path = folder.path().join("remote.redb");
    let mut each = options(&path, gateway.location("two"));
    each.snapshot_segments = u64::MAX;
    let database = opened(each).await;
    let mut remote_times = Vec::new();
    for key in 0..400 {
        remote_times.push(replicated(&database, REMOTE, key).await);
    }
    percentiles("Ack::Remote, one PUT to versitygw each", remote_times);
    let bucket = s3::bucket(gateway.location("two")).await;
    let payload: usize = (0..400).map(|key| record(key).len() + 60).sum();
    let single: u64 = bucket.list(layout::SEQUENCE, None).await.unwrap().iter().map(|entry| entry.size).sum();
    println!("{:<58} {:.2}", "bytes shipped / payload, one object per commit", single as f64 / payload as f64);
    // Lag with a sync interval of 20 ms: from a local commit to its acknowledgement when nobody hurries it.
    let mut lags = Vec::new();
    for key in 400..450 {
        let began = Instant::now();
        let commit = database
            .write(Ack::Local, move |txn| -> Result<(), redb::Error> {
                txn.open_table(TABLE)?.insert(key, record(key).as_slice())?;
                Ok(())
            })
            .await
            .unwrap()
            .commit;
        let mut status = database.status();
        let _ = status.wait_for(|status| status.durable.is_some_and(|(_, durable)| durable >= commit)).await;
        lags.push(began.elapsed());
    }
    percentiles("lag of Ack::Local with a sync interval of 20 ms", lags);
    let _ = database.close(Duration::from_secs(60)).await.unwrap();
    for round in 0..3 {
        let began = Instant::now();
        let restored = restore(gateway.location("two"), &folder.path().join(format!("r{round}"))).await.unwrap();
        println!(
            "{:<58} {:.0} ms",
            format!("restore of {} objects, checked", restored.objects),
            began.elapsed().as_secs_f64() * 1e3
        );
    }

    // 8 MiB of data in one snapshot.
    let database = opened(options(&folder.path().join("large.redb"), gateway.location("three"))).await;
    for part in 0..8 {
        database
            .write(Ack::Local, move |txn| -> Result<(), redb::Error> {
                let mut table = txn.open_table(TABLE)?;
                for key in 0..128 {
                    table.insert(part * 128 + key, value(key, 8192).as_slice())?;
                }
                Ok(())
            })
            .await
            .unwrap();
    }
    database.snapshot(Duration::from_secs(60)).await.unwrap();
    let _ = database.close(Duration::from_secs(60)).await.unwrap();
    for round in 0..3 {
        let began = Instant::now();
        let restored = restore(gateway.location("three"), &folder.path().join(format!("l{round}"))).await.unwrap();
        println!(
            "{:<58} {:.0} ms",
            format!("restore of 8 MiB ({} MiB file, {} objects)", restored.file_len >> 20, restored.objects),
            began.elapsed().as_secs_f64() * 1e3
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown");
    println!("{:<58} {}", "peak memory of this process", peak.trim_start_matches("VmHWM:").trim());
}
