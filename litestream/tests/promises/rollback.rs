//! Buckets that are put back to an older state of themselves.

use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::chain::ChainError;
use keyfleet_litestream::database::{Database, OpenError, Phase, WriteError};
use keyfleet_litestream::layout;
use keyfleet_litestream::position::{Position, Seq};
use keyfleet_litestream::restore::{self, RestoreError};
use keyfleet_litestream::start::StartError;

use crate::s3::Server;
use crate::support::{REMOTE, entries, opened, options, put, reach, restore, restore_with, value};

/// The older state is valid in itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_rolled_back_below_the_floor_is_refused() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = Database::open(options(&path, server.location("p"))).await.unwrap();
    put(&database, REMOTE, 1, value(1, 100)).await.unwrap();
    let old = server.image();
    let floor = put(&database, REMOTE, 2, value(2, 100)).await.unwrap().position.unwrap();
    let _ = database.close(Duration::from_secs(30)).await.unwrap();

    server.roll_back(&old);
    let to = folder.path().join("restored.redb");
    let with_floor = restore::Options { floor: Some(floor), ..restore::Options::default() };
    let error = restore_with(server.location("p"), &to, with_floor.clone()).await.unwrap_err();
    assert!(matches!(error, RestoreError::Chain(ChainError::BelowFloor { .. })), "{error}");
    let mut above = options(&folder.path().join("fresh.redb"), server.location("p"));
    above.floor = Some(floor);
    let opened = Database::open(above).await;
    assert!(matches!(opened, Err(OpenError::Restore(RestoreError::Chain(ChainError::BelowFloor { .. })))));

    // Somebody writes on from the older state: as many objects, another history.
    let fork = Database::open(options(&folder.path().join("fork.redb"), server.location("p"))).await.unwrap();
    put(&fork, REMOTE, 9, value(9, 100)).await.unwrap();
    let _ = fork.close(Duration::from_secs(30)).await.unwrap();
    let error = restore_with(server.location("p"), &to, with_floor.clone()).await.unwrap_err();
    assert!(matches!(error, RestoreError::Chain(ChainError::ForkedBelowFloor { .. })), "{error}");

    // An override is explicit, and written down.
    let how = restore::Options { override_floor: Some("drill".into()), ..with_floor };
    let restored = restore_with(server.location("p"), &to, how).await.unwrap();
    assert!(restored.overridden.unwrap().starts_with("drill"));
    let note = std::fs::read_to_string(folder.path().join("restored.redb-litestream")).unwrap();
    assert!(note.contains("drill"), "the override is not recorded: {note}");

    // Everything deleted is not "no replica" to someone with a floor.
    server.roll_back(&Default::default());
    let error = restore_with(
        server.location("p"),
        &folder.path().join("n"),
        restore::Options { floor: Some(floor), ..restore::Options::default() },
    )
    .await
    .unwrap_err();
    assert!(matches!(error, RestoreError::ReplicaVanished(_)), "{error}");
    let again = Database::open(options(&path, server.location("p"))).await;
    assert!(matches!(again, Err(OpenError::Refused(StartError::ReplicaVanishedUnderFile(_)))), "{again:?}");
}

/// A writer adds nothing to a bucket that was rolled back under it, and goes on once that is put right.
///
/// The number after the last is free in an older bucket: taking it would leave a gap that no restore gets over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_adds_nothing_to_a_bucket_that_was_rolled_back() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    put(&database, REMOTE, 1, value(1, 100)).await.unwrap();
    let old = server.image();
    put(&database, REMOTE, 2, value(2, 100)).await.unwrap();
    let new = server.image();
    server.set_down(true);
    put(&database, Ack::Local, 3, value(3, 100)).await.unwrap();
    let mut status = database.status();
    status.wait_for(|status| status.trouble.is_some()).await.unwrap();
    server.roll_back(&old);
    server.set_down(false);
    reach(&database, "refused", |phase| matches!(phase, Phase::Refused(_))).await;
    let short = Ack::Remote { timeout: Duration::from_millis(200) };
    let waited = put(&database, short, 4, value(4, 100)).await;
    assert!(matches!(waited, Err(WriteError::Indeterminate { .. })), "an older bucket acknowledged: {waited:?}");
    assert_eq!(server.image(), old, "something was added to a bucket that lacks what it acknowledged");

    server.roll_back(&new);
    reach(&database, "shipping again", |phase| *phase == Phase::Shipping).await;
    put(&database, REMOTE, 5, value(5, 100)).await.unwrap();
    assert_eq!(database.status().borrow().phase, Phase::Shipping, "what is over is still reported");
    let _ = database.close(Duration::from_secs(30)).await.unwrap();
    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    assert_eq!(entries(&to).into_keys().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

/// A start beside a bucket that was rolled back keeps a file at the floor, and acknowledges nothing.
///
/// Older than the floor, older than the file's own term, gone, or away and then older: beside none of these is anything
/// acknowledged, and local work goes on where that was allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_beside_a_rolled_back_bucket_keeps_the_file() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = opened(options(&path, server.location("p"))).await;
    put(&database, REMOTE, 1, value(1, 100)).await.unwrap();
    let same_term = server.image();
    let _ = database.close(Duration::from_secs(30)).await.unwrap();
    let database = opened(options(&path, server.location("p"))).await;
    let floor = put(&database, REMOTE, 2, value(2, 100)).await.unwrap().position.unwrap();
    let _ = database.close(Duration::from_secs(30)).await.unwrap();
    let new = server.image();
    let mut broken = new.clone();
    broken.retain(|key, _| !key.ends_with(&layout::sequence(floor.seq)));
    let open = |floor, contradicted| {
        let mut options = options(&path, server.location("p"));
        options.permissions.unproven = true;
        options.permissions.contradicted = contradicted;
        options.floor = Some(floor);
        Database::open(options)
    };
    let mut key = 10;
    for (what, image) in [("an older term", &same_term), ("gone", &Default::default()), ("without its end", &broken)] {
        server.roll_back(image);
        assert!(open(floor, false).await.is_err(), "{what}: opened although that was not asked for");
        let higher = Position { seq: Seq(floor.seq.0 + 9), ..floor };
        assert!(open(higher, true).await.is_err(), "{what}: a file below the floor was opened");
        for away in [false, true] {
            server.roll_back(image);
            server.set_down(away);
            let database = open(floor, true).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            server.set_down(false);
            reach(&database, "refused", |phase| matches!(phase, Phase::Refused(_))).await;
            key += 1;
            put(&database, Ack::Local, key, value(key, 100)).await.unwrap();
            let short = Ack::Remote { timeout: Duration::from_millis(100) };
            let waited = put(&database, short, key, value(key, 100)).await;
            assert!(matches!(waited, Err(WriteError::Indeterminate { .. })), "{what}: acknowledged: {waited:?}");
            assert_eq!(&server.image(), image, "{what}: something was added to it");
            let _ = database.close(Duration::from_millis(10)).await;
        }
    }
    // The newest versions are back while the process runs: it goes on by itself, with all that it did meanwhile.
    let database = open(floor, true).await.unwrap();
    server.roll_back(&new);
    reach(&database, "in a new term", |phase| matches!(phase, Phase::Basing | Phase::Shipping)).await;
    put(&database, REMOTE, 99, value(99, 100)).await.unwrap();
    let _ = database.close(Duration::from_secs(30)).await.unwrap();
    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    let held: Vec<_> = entries(&to).into_keys().collect();
    assert_eq!(held, [vec![1, 2], (11..=key).collect(), vec![99]].concat());
}
