//! Faults that pass: what they stopped goes on, and what they left is cleared away.

use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::database::{Database, Phase, WriteError};
use keyfleet_litestream::format::Op;
use keyfleet_litestream::metrics::Metrics;
use keyfleet_litestream::recorder::Recorder;
use redb::backends::FileBackend;

use crate::s3::{Fault, Server};
use crate::support::{REMOTE, TABLE, entries, opened, options, put, reach, restore, value};

fn snapshots(server: &Server) -> usize {
    server.keys().iter().filter(|key| key.contains("/snap/")).count()
}

/// Writes entries until something holds; `failure` says what it means when that never comes.
async fn write_until(database: &Database, holds: impl Fn() -> bool, failure: &str) {
    for key in 1000..20_000 {
        if holds() {
            return;
        }
        put(database, REMOTE, key % 1000, value(key, 300)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{failure}: {:?}", database.status().borrow());
}

/// The folder is away for a while, so that nothing can be copied beside the file: the same as a full disk to a copy.
///
/// The idea is from benbjohnson/litestream#1310: staging fills the disk, and replication is wedged without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_failed_is_taken_again() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (here, away) = (folder.path().join("here"), folder.path().join("away"));
    std::fs::create_dir(&here).unwrap();
    let mut often = options(&here.join("state.redb"), server.location("p"));
    often.snapshot_segments = 3;
    let database = opened(often).await;
    std::fs::rename(&here, &away).unwrap();
    for key in 0..12 {
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
    }
    let while_away = snapshots(&server);
    assert_eq!(while_away, 1, "the test needs the copies to fail");
    std::fs::rename(&away, &here).unwrap();
    write_until(&database, || snapshots(&server) > while_away, "one copy that failed was the last of the term").await;

    // A snapshot that reached the disk and not the bucket is made up for as well.
    server.order("PUT", "p/snap/", Fault::Denied, 1);
    write_until(&database, || server.orders_left() == 0, "no snapshot met the refusal").await;
    let before = snapshots(&server);
    let last = "one snapshot that the bucket refused was the last of the term";
    write_until(&database, || snapshots(&server) > before, last).await;
    database.close(Duration::from_secs(30)).await.unwrap();
}

/// Neither a base whose copy fails nor an intent that cannot be written ends replication.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_that_failed_is_taken_again() {
    for at_the_base in [true, false] {
        let server = Server::start().await;
        let folder = tempfile::tempdir().unwrap();
        let (here, away) = (folder.path().join("here"), folder.path().join("away"));
        std::fs::create_dir(&here).unwrap();
        let mut small = options(&here.join("state.redb"), server.location("p"));
        small.queue_bytes = 100_000;
        let database = opened(small).await;
        put(&database, REMOTE, 0, value(0, 100)).await.unwrap();
        server.set_down(true);
        for key in 1..60 {
            put(&database, Ack::Local, key, value(key, 5000)).await.unwrap();
        }
        reach(&database, "closed", |phase| *phase == Phase::ChainClosed).await;
        if at_the_base {
            // Away from the moment when the new term is opened.
            let (from, to) = (here.clone(), away.clone());
            server.when("PUT", "p/seq/", move || std::fs::rename(from, to).unwrap());
            server.set_down(false);
        } else {
            std::fs::rename(&here, &away).unwrap();
            server.set_down(false);
        }
        let mut status = database.status();
        let told = status.wait_for(|status| {
            !server.is_down() && status.trouble.as_ref().is_some_and(|(.., what)| what.contains("file"))
                || matches!(status.phase, Phase::Refused(_))
        });
        let told = tokio::time::timeout(Duration::from_secs(60), told).await;
        assert!(matches!(told, Ok(Ok(_))), "the trouble is not told: {:?}", database.status().borrow());
        drop(told);
        std::fs::rename(&away, &here).unwrap();
        reach(&database, "shipping again", |phase| *phase == Phase::Shipping).await;
        let position = put(&database, REMOTE, 90, value(90, 100)).await.unwrap().position;
        assert_eq!(database.status().borrow().trouble, None, "trouble that is over is still reported");
        database.close(Duration::from_secs(30)).await.unwrap();
        let to = folder.path().join("restored.redb");
        assert_eq!(Some(restore(server.location("p"), &to).await.unwrap().position), position);
        assert_eq!(entries(&to).len(), 61);
    }
}

/// A number of retention that cannot be read is reported, asked for in pauses, and over once it is put right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_boundary_is_told_and_passes() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut doubting = options(&folder.path().join("state.redb"), server.location("p"));
    doubting.idle_grace = Duration::ZERO;
    let database = opened(doubting).await;
    put(&database, REMOTE, 1, value(1, 100)).await.unwrap();
    // Older than the grace of nothing.
    tokio::time::sleep(Duration::from_millis(5)).await;
    server.poke("p/boundary", b"<html>".to_vec());
    let short = Ack::Remote { timeout: Duration::from_millis(500) };
    let waited = put(&database, short, 2, value(2, 100)).await;
    assert!(waited.is_err(), "acknowledged although the lowest needed number cannot be read: {waited:?}");
    let trouble = database.status().borrow().trouble.clone();
    let (failures, _, what) = trouble.expect("a damaged boundary is no trouble to anyone");
    assert!(failures > 0 && what.contains("boundary"), "{what}");
    server.poke("p/boundary", b"1\n".to_vec());
    put(&database, REMOTE, 3, value(3, 100)).await.unwrap();
    assert_eq!(database.status().borrow().trouble, None, "trouble that is over is still reported");
}

/// Restores that were killed leave scratch files; the next one clears them away, and leaves a running one's alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_restore_left_is_cleared_away() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    put(&database, REMOTE, 1, value(1, 100)).await.unwrap();
    database.close(Duration::from_secs(30)).await.unwrap();
    let to = folder.path().join("k.redb");
    let left = folder.path().join("k.redb.restoring-a1b2c3d4e5f6");
    let (running, others) =
        (folder.path().join("k.redb.restoring-ffffffffffff"), folder.path().join("k.redb.restoring"));
    for file in [&left, &running, &others] {
        std::fs::write(file, vec![0; 10_000]).unwrap();
    }
    let lock = std::fs::File::open(&running).unwrap();
    lock.lock().unwrap();
    restore(server.location("p"), &to).await.unwrap();
    assert!(!left.exists(), "what a killed restore left stays for ever");
    assert!(running.exists(), "the file of a restore that runs was taken from it");
    assert!(others.exists(), "a file that is no scratch file was deleted");
}

/// Rejected transactions that were too large for the cache have written pages to the file. What they wrote is free space that the
/// next one writes anew: however many there are, the tape holds no more than the largest of them, and the queue's limit ends that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_transactions_leave_no_heap_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(folder.path().join("x")).unwrap();
    let (recorder, tape) = Recorder::new(FileBackend::new(file).unwrap());
    let redb = redb::Builder::new().set_cache_size(64 << 10).create_with_backend(recorder).unwrap();
    tape.start();
    for round in 0..10 {
        let txn = redb.begin_write().unwrap();
        for key in 0..1000 {
            txn.open_table(TABLE).unwrap().insert(key, value(round, 2000).as_slice()).unwrap();
        }
        txn.abort().unwrap();
        tape.settle();
    }
    let held: usize = tape.cut().iter().map(Op::size).sum();
    assert!(held > 1_000_000, "the test needs the transactions to be larger than the cache");
    assert!(held < 8_000_000, "ten rejected transactions of 2 MB left {held} bytes");

    let server = Server::start().await;
    let mut small = options(&folder.path().join("state.redb"), server.location("p"));
    (small.queue_bytes, small.cache_bytes) = (500_000, 64 << 10);
    let database = opened(small).await;
    for round in 0..3 {
        let rejected = database.write(Ack::Local, move |txn| -> Result<(), redb::Error> {
            for key in 0..1000 {
                txn.open_table(TABLE)?.insert(key, value(round, 2000).as_slice())?;
            }
            Err(redb::Error::LockPoisoned(std::panic::Location::caller()))
        });
        assert!(matches!(rejected.await, Err(WriteError::Rejected(_))), "the transaction was taken");
    }
    let position = put(&database, REMOTE, 1, value(1, 100)).await.unwrap().position;
    assert!(database.status().borrow().closed_chains > 0, "a transaction beyond the queue's limit was held in memory");
    let to = folder.path().join("restored.redb");
    assert_eq!(Some(restore(server.location("p"), &to).await.unwrap().position), position);
    assert_eq!(entries(&to).into_keys().collect::<Vec<_>>(), [1]);
}

/// Metrics are needed when the bucket is silent: a page asks it once, and does not wait for more.
///
/// The idea is from benbjohnson/litestream#1083: frozen metrics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_metrics_asks_a_silent_bucket_once() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    put(&database, REMOTE, 1, value(1, 100)).await.unwrap();
    server.order("GET", "p/", Fault::SlowDown, 100);
    let before = server.requests("GET");
    let metrics = Metrics::default();
    metrics.collect(&database).await;
    let page = metrics.page();
    assert!(page.lines().any(|line| line.contains("confirmed{") && line.ends_with(" 0")), "{page}");
    assert_eq!(server.requests("GET") - before, 1, "a page waited for request after request");
    assert!(page.lines().any(|line| line.contains("committed{")), "the page has no local numbers: {page}");
}
