//! Points in time: across terms, retention and clocks.

use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::clock::now_ms;
use keyfleet_litestream::database::{Database, WriteError};
use keyfleet_litestream::layout;
use keyfleet_litestream::restore::{self, RestoreError, Restored, Target};
use keyfleet_litestream::retention::{self, Level, Rules};

use crate::cli::{call, configure};
use crate::s3::{self, Fault, Server};
use crate::support::{REMOTE, entries, opened, options, put, restore, restore_with, value};

const HOUR: u64 = 3_600_000;

/// Restores to `target`. Returns the numbers of the entries found.
async fn entries_at(server: &Server, target: Target) -> Result<(Vec<u64>, Restored), RestoreError> {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("then.redb");
    let how = restore::Options { target, ..restore::Options::default() };
    let restored = restore_with(server.location("p"), &to, how).await?;
    Ok((entries(&to).into_keys().collect(), restored))
}

/// Returns a time that lies before everything that is done from now on, and after all that was done.
async fn between() -> u64 {
    tokio::time::sleep(Duration::from_millis(3)).await;
    let time_ms = now_ms();
    tokio::time::sleep(Duration::from_millis(3)).await;
    time_ms
}

/// A database that was quiet and restarted has every time of the quiet: after a clean end, after a crash, and after openings
/// that nothing followed.
///
/// The idea is from benbjohnson/litestream#564 and cloudnative-pg/cloudnative-pg#10422: recovery fails at the boundary of two
/// timelines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_between_two_terms_is_restored() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("state.redb");
    let mut points = Vec::new();
    for key in 0..4 {
        let database = opened(options(&path, server.location("p"))).await;
        points.push((between().await, key));
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
        points.push((between().await, key + 1));
        if key % 2 == 0 {
            database.close(Duration::from_secs(30)).await.unwrap();
        } else {
            drop(database);
            std::fs::remove_file(&path).unwrap();
        }
        points.push((between().await, key + 1));
    }
    // The newest term was opened, and its writer died before its base.
    server.order("PUT", "p/snap/", Fault::Denied, 1000);
    let bare = Database::open(options(&path, server.location("p"))).await.unwrap();
    drop(bare);
    points.push((between().await, 4));
    for (time_ms, count) in points {
        let found = entries_at(&server, Target::Time(time_ms)).await;
        let (found, _) =
            found.unwrap_or_else(|error| panic!("the time after {count} entries is out of reach: {error}"));
        assert_eq!(found, (0..count).collect::<Vec<_>>(), "the time after {count} entries is another state");
    }
    configure(folder, &server);
    let time = jiff::Timestamp::from_millisecond(i64::try_from(between().await).unwrap()).unwrap().to_string();
    let out = folder.join("out.redb");
    let (code, _, error) = call(folder, &["restore", "-o", out.to_str().unwrap(), "--timestamp", &time]).await;
    assert_eq!(code, 0, "a quiet database is called broken: {error}");
}

/// A base that is gone from the bucket is reported, and no older state is given in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_whose_base_is_gone_is_refused() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    for key in 0..2 {
        let database = opened(options(&path, server.location("p"))).await;
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
        database.close(Duration::from_secs(30)).await.unwrap();
    }
    let time_ms = between().await;
    let bases: Vec<String> = server.keys().into_iter().filter(|key| key.contains("/snap/")).collect();
    server.remove(bases.last().unwrap());
    let found = entries_at(&server, Target::Time(time_ms)).await;
    assert!(matches!(found, Err(RestoreError::Chain(_))), "an older state was given for the time asked: {found:?}");
}

/// The idea is from benbjohnson/litestream#1056 and #1084: a timestamp fails for a point that a snapshot holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_that_a_level_keeps_is_restored_by_its_time() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    for key in 0..6 {
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
    }
    database.snapshot(Duration::from_secs(30)).await.unwrap();
    let bucket = s3::bucket(server.location("p")).await;
    let levels = vec![Level { every_ms: 24 * HOUR, keep: 30 }];
    let rules = Rules { window_ms: 0, levels, keep_at_least: 1, grace_ms: HOUR, pin_expiry_ms: 6 * HOUR };
    retention::run(&bucket, &rules, now_ms(), false).await.unwrap();
    server.age(Duration::from_secs(7200));
    let swept = retention::run(&bucket, &rules, now_ms(), false).await.unwrap();
    assert!(!swept.deleted.is_empty(), "nothing was collected behind the kept point");
    let kept = swept.kept[0];
    let (_, by_seq) = entries_at(&server, Target::Seq(kept)).await.unwrap();
    let by_time = entries_at(&server, Target::Time(by_seq.time_ms)).await;
    let (_, by_time) = by_time.unwrap_or_else(|error| panic!("a kept point is out of reach by its time: {error}"));
    assert_eq!(by_time.position, by_seq.position, "the time of a kept point leads elsewhere");

    // A gap that nothing collected is an error as before.
    let newest = database.durable_position().unwrap().0;
    for key in 6..9 {
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
    }
    server.remove(&format!("p/{}", layout::sequence(newest.seq.next())));
    let gap = entries_at(&server, Target::Time(between().await - 2)).await;
    assert!(matches!(gap, Err(RestoreError::Chain(_))), "a gap was passed over: {gap:?}");
}

/// The first thing that somebody does who restores to a time is to start the program on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_is_adopted_where_that_was_asked_for() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("state.redb");
    configure(folder, &server);
    // Its process hangs on another machine, and knows nothing of what follows.
    let running = opened(options(&folder.join("elsewhere.redb"), server.location("p"))).await;
    put(&running, REMOTE, 1, value(1, 300)).await.unwrap();
    let good = between().await;
    let bad = put(&running, REMOTE, 2, value(2, 300)).await.unwrap().position.unwrap();
    let time = jiff::Timestamp::from_millisecond(i64::try_from(good).unwrap()).unwrap().to_string();
    let (code, _, error) =
        call(folder, &["restore", "--replace", "--timestamp", &time, "--adopt", "entry 2 was a mistake"]).await;
    assert_eq!(code, 0, "{error}");
    // A floor is not lowered by it.
    let mut floored = options(&path, server.location("p"));
    floored.floor = Some(bad);
    let refused = Database::open(floored).await;
    assert!(refused.is_err(), "a state below the floor was adopted: {refused:?}");

    let database = opened(options(&path, server.location("p"))).await;
    assert!(database.started().set_aside.is_none(), "the restored file was set aside: {:?}", database.started());
    let late = put(&running, REMOTE, 3, value(3, 300)).await;
    assert!(matches!(late, Err(WriteError::Fenced { .. })), "the newer state was written on: {late:?}");
    put(&database, REMOTE, 4, value(4, 300)).await.unwrap();
    database.close(Duration::from_secs(30)).await.unwrap();
    let to = folder.join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    assert_eq!(entries(&to).into_keys().collect::<Vec<_>>(), [1, 4], "the adopted state is not the newest");
    // Both histories stay points of the replica.
    let (found, _) = entries_at(&server, Target::Seq(bad.seq)).await.unwrap();
    assert_eq!(found, [1, 2]);

    // A state that was restored before somebody else went on is no answer to what they wrote.
    let (code, _, error) = call(folder, &["restore", "--replace", "--timestamp", &time, "--adopt", "again"]).await;
    assert_eq!(code, 0, "{error}");
    let other = opened(options(&folder.join("other.redb"), server.location("p"))).await;
    put(&other, REMOTE, 5, value(5, 300)).await.unwrap();
    other.close(Duration::from_secs(30)).await.unwrap();
    let overtaken = Database::open(options(&path, server.location("p"))).await;
    assert!(overtaken.is_err(), "what was written since was thrown away: {overtaken:?}");
    assert_eq!(entries(&path).into_keys().collect::<Vec<_>>(), [1], "the restored file was touched");
}

/// The writer's clock is three hours ahead of the store's: nothing in the bucket claims a time that the store has not seen.
///
/// The idea is from pgbackrest/pgbackrest#1226 and #1739: clock jumps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_far_ahead_spoils_no_time() {
    let server = Server::start().await;
    server.set_clock(-3 * 3600);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = opened(options(&path, server.location("p"))).await;
    put(&database, REMOTE, 1, value(1, 300)).await.unwrap();
    server.set_clock(-2 * 3600);
    // An hour went by, and the store was heard of.
    database.probe().await.unwrap();
    put(&database, Ack::Local, 2, value(2, 300)).await.unwrap();
    put(&database, REMOTE, 3, value(3, 300)).await.unwrap();
    database.snapshot(Duration::from_secs(30)).await.unwrap();
    database.close(Duration::from_secs(30)).await.unwrap();
    // The clock is put right; the file remembers the times that it claimed.
    server.set_clock(0);
    let database = opened(options(&path, server.location("p"))).await;
    put(&database, REMOTE, 4, value(4, 300)).await.unwrap();
    let now = now_ms();
    for (back, expected) in [(150, vec![1]), (60, vec![1, 2, 3])] {
        let found = entries_at(&server, Target::Time(now - back * 60_000)).await;
        let (found, _) = found.unwrap_or_else(|error| panic!("{back} minutes ago is out of reach: {error}"));
        assert_eq!(found, expected, "{back} minutes ago is another state");
    }
    let (found, _) = entries_at(&server, Target::Time(now + 60_000)).await.unwrap();
    assert_eq!(found, [1, 2, 3, 4], "the newest state is out of reach by its time");
}

/// A machine was paused, and its clocks with it. Meanwhile another took over, and retention freed the next number.
///
/// The idea is from slatedb/slatedb#352: a zombie writes after the garbage collection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_stood_still_acknowledges_nothing() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let paused = opened(options(&folder.path().join("paused.redb"), server.location("p"))).await;
    put(&paused, REMOTE, 1, value(1, 300)).await.unwrap();
    let next = format!("p/{}", layout::sequence(paused.durable_position().unwrap().0.seq.next()));

    let other = opened(options(&folder.path().join("other.redb"), server.location("p"))).await;
    for key in 2..5 {
        put(&other, REMOTE, key, value(key, 300)).await.unwrap();
    }
    other.snapshot(Duration::from_secs(30)).await.unwrap();
    let bucket = s3::bucket(server.location("p")).await;
    let rules = Rules { window_ms: 0, levels: Vec::new(), keep_at_least: 1, grace_ms: HOUR, pin_expiry_ms: 6 * HOUR };
    for _ in 0..2 {
        retention::run(&bucket, &rules, now_ms() + 1000, false).await.unwrap();
        server.age(Duration::from_secs(7200));
        retention::run(&bucket, &rules, now_ms() + 1000, false).await.unwrap();
    }
    assert!(server.peek(&next).is_none(), "the test needs the paused writer's next number to be free");
    server.set_clock(86_400);
    let late = put(&paused, Ack::Remote { timeout: Duration::from_secs(10) }, 9, value(9, 300)).await;
    assert!(late.is_err(), "a writer that was paused acknowledged: {late:?}");
    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    assert_eq!(entries(&to).into_keys().collect::<Vec<_>>(), [1, 2, 3, 4]);
}
