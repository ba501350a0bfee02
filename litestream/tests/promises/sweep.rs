//! Retention over the wire.

use std::time::Duration;

use keyfleet_litestream::clock::now_ms;
use keyfleet_litestream::database::{Database, WriteError};
use keyfleet_litestream::position::Seq;
use keyfleet_litestream::restore::{self, Target};
use keyfleet_litestream::retention::{self, Level, Rules};

use crate::s3::{self, Server};
use crate::support::{REMOTE, entries, opened, options, put, restore, restore_with, value};

const HOUR: Duration = Duration::from_secs(3600);

/// Rules that keep the newest state alone.
fn strict() -> Rules {
    Rules { window_ms: 0, levels: Vec::new(), keep_at_least: 1, grace_ms: 3_600_000, pin_expiry_ms: 21_600_000 }
}

async fn filled(server: &Server, folder: &std::path::Path) -> Database {
    let database = opened(options(&folder.join("state.redb"), server.location("p"))).await;
    for key in 0..12 {
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
        if key % 4 == 3 {
            database.snapshot(Duration::from_secs(30)).await.unwrap();
        }
    }
    database
}

/// Retention raises the lowest needed number first, and deletes a grace later what no kept restore point needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_raises_the_number_first_and_deletes_a_grace_later() {
    let server = Server::start().await;
    server.set_versioned();
    let folder = tempfile::tempdir().unwrap();
    let database = filled(&server, folder.path()).await;
    let bucket = s3::bucket(server.location("p")).await;
    let all = server.keys().len();

    let first = retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    assert_eq!(first.deleted, Vec::<String>::new(), "deleted in the run that raised the number");
    assert!(first.lowest_needed > Some(Seq(1)));
    server.age(HOUR / 2);
    let early = retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    assert_eq!(early.deleted, Vec::<String>::new(), "deleted before the grace was over");
    server.age(HOUR);
    let dry = retention::run(&bucket, &strict(), now_ms(), true).await.unwrap();
    assert_eq!(server.keys().len(), all + 1, "a dry run deleted something");
    let swept = retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    assert_eq!(swept.deleted, dry.deleted, "the dry run promised something else");
    assert!(swept.deleted.len() > 8, "{:?}", swept.deleted);
    let again = retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    assert_eq!(again.deleted, Vec::<String>::new(), "versions or markers were left behind");

    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    assert_eq!(entries(&to).len(), 12, "retention took a part of the newest state");
    let position = put(&database, REMOTE, 12, value(12, 10)).await.unwrap().position.unwrap();
    let old = restore::Options { target: Target::Seq(Seq(3)), ..restore::Options::default() };
    assert!(restore_with(server.location("p"), &folder.path().join("old"), old).await.is_err());
    let to = folder.path().join("after.redb");
    assert_eq!(restore(server.location("p"), &to).await.unwrap().position, position);
}

/// Levels keep their restore points, a pin the objects that a running restore needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_and_pins_keep_what_restores_need() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = filled(&server, folder.path()).await;
    let bucket = s3::bucket(server.location("p")).await;
    drop(database);
    let pin = keyfleet_litestream::layout::pin(now_ms(), Seq(4), [1; 8]);
    retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    server.age(2 * HOUR);
    bucket.create(&pin, b"restore\n").await.unwrap();
    let swept = retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    let lowest = server.keys().iter().filter_map(|key| keyfleet_litestream::layout::parse_sequence(&key[2..])).min();
    assert_eq!(lowest, Some(Seq(4)), "deleted under a running restore: {:?}", swept.deleted);
    // The restore died; its pin expires.
    server.age(7 * HOUR);
    let levels = Rules { levels: vec![Level { every_ms: 86_400_000, keep: 30 }], ..strict() };
    let swept = retention::run(&bucket, &levels, now_ms(), false).await.unwrap();
    assert!(swept.deleted.contains(&pin), "a dead restore's pin stays for ever");
    let kept = swept.kept.first().copied().unwrap();
    let old = restore::Options { target: Target::Seq(kept), ..restore::Options::default() };
    let to = folder.path().join("level.redb");
    let restored = restore_with(server.location("p"), &to, old).await.unwrap();
    assert_eq!(restored.position.seq, kept, "a kept restore point cannot be restored");
}

/// A successor used the zombie's next number, and retention deleted that object since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_zombie_that_wakes_late_acknowledges_nothing() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut sleepy = options(&folder.path().join("zombie.redb"), server.location("p"));
    // Idle for longer than this, a writer reads the lowest needed number first.
    sleepy.idle_grace = Duration::from_millis(50);
    let zombie = opened(sleepy).await;
    put(&zombie, REMOTE, 1, value(1, 100)).await.unwrap();

    let successor = opened(options(&folder.path().join("new.redb"), server.location("p"))).await;
    for key in 2..6 {
        put(&successor, REMOTE, key, value(key, 100)).await.unwrap();
    }
    successor.snapshot(Duration::from_secs(30)).await.unwrap();
    let bucket = s3::bucket(server.location("p")).await;
    retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    server.age(2 * HOUR);
    let swept = retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    let next = zombie.durable_position().unwrap().0.seq.next();
    let number = keyfleet_litestream::layout::sequence(next);
    assert!(swept.deleted.contains(&number), "the trace needs the zombie's next number to be free again");

    tokio::time::sleep(Duration::from_millis(60)).await;
    let late = put(&zombie, REMOTE, 9, value(9, 100)).await;
    assert!(matches!(late, Err(WriteError::Fenced { .. })), "a zombie acknowledged: {late:?}");
    // Its stray object does not disturb the replica.
    let position = put(&successor, REMOTE, 10, value(10, 100)).await.unwrap().position.unwrap();
    let to = folder.path().join("restored.redb");
    assert_eq!(restore(server.location("p"), &to).await.unwrap().position, position);
}

/// A number that every run raised anew would never be old enough for anything to be deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_more_often_than_the_grace_delete_all_the_same() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    let bucket = s3::bucket(server.location("p")).await;
    let rules = Rules { grace_ms: 3 * 86_400_000, ..strict() };
    let (mut deleted, mut most) = (0, 0);
    for day in 0..12 {
        for key in 0..4 {
            put(&database, REMOTE, key, value(day, 300)).await.unwrap();
        }
        database.snapshot(Duration::from_secs(30)).await.unwrap();
        let swept = retention::run(&bucket, &rules, now_ms(), false).await.unwrap();
        deleted += swept.deleted.len();
        most = most.max(server.keys().len());
        server.age(24 * HOUR);
    }
    assert!(deleted > 20, "a job that runs daily with a grace of three days deleted {deleted} objects in twelve days");
    // Graces of three days that follow each other: at most a week of days with five objects each is there at a time.
    assert!(most < 50, "the replica grew to {most} objects");
    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    assert_eq!(entries(&to).len(), 4);
}

/// An identity that may not see versions would leave them behind for ever, below markers, and call it a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_may_not_list_versions_deletes_nothing() {
    let server = Server::start().await;
    server.set_versioned();
    let folder = tempfile::tempdir().unwrap();
    let database = filled(&server, folder.path()).await;
    drop(database);
    let bucket = s3::bucket(server.location("p")).await;
    retention::run(&bucket, &strict(), now_ms(), false).await.unwrap();
    server.age(2 * HOUR);
    let all = server.keys();
    server.deny_versions(true);
    let refused = retention::run(&bucket, &strict(), now_ms(), false).await;
    assert!(refused.is_err(), "versions were left behind without a word: {refused:?}");
    assert_eq!(server.keys(), all, "something was deleted all the same");
    server.deny_versions(false);
    assert!(!retention::run(&bucket, &strict(), now_ms(), false).await.unwrap().deleted.is_empty());
}
