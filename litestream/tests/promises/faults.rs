//! What holds when S3 misbehaves, on order.

use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::bucket::ErrorKind;
use keyfleet_litestream::chain::ChainError;
use keyfleet_litestream::database::{Database, OpenError, Phase, WriteError};
use keyfleet_litestream::format::seal::ObjectError;
use keyfleet_litestream::keyspace;
use keyfleet_litestream::metrics::Metrics;
use keyfleet_litestream::position::{Position, Seq};
use keyfleet_litestream::restore::{self, RestoreError};
use keyfleet_litestream::start::Refusal;

use crate::s3::{Fault, Server};
use crate::support::{REMOTE, entries, opened, options, put, reach, restore, restore_with, value};

/// A database with `count` acknowledged entries, closed, and the position reached.
async fn filled(server: &Server, folder: &std::path::Path, count: u64) -> Position {
    let database = opened(options(&folder.join("state.redb"), server.location("p"))).await;
    for key in 0..count {
        put(&database, REMOTE, key, value(key, 700)).await.unwrap();
    }
    database.close(Duration::from_secs(30)).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_a_put_delays_an_acknowledgement_and_loses_or_doubles_nothing() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    // The opening and the base meet faults as well.
    server.order("PUT", "p/seq/", Fault::LostAnswer, 1);
    server.order("PUT", "p/snap/", Fault::LostAnswer, 1);
    let database = opened(options(&path, server.location("p"))).await;
    let faults = [
        Fault::LostAnswer,
        Fault::LostRequest,
        Fault::Conflict,
        Fault::SlowDown,
        Fault::Expired,
        Fault::ClockSkew,
        Fault::Denied,
    ];
    for (key, fault) in faults.iter().enumerate() {
        server.order("PUT", "p/seq/", fault.clone(), 2);
        put(&database, REMOTE, key as u64, value(key as u64, 900)).await.unwrap();
        assert_eq!(server.orders_left(), 0, "{fault:?} never came: nothing is proven");
    }
    let status = database.status().borrow().clone();
    for kind in [ErrorKind::Transport, ErrorKind::Conflict, ErrorKind::SlowDown, ErrorKind::Credentials] {
        assert!(status.errors.iter().any(|(seen, _)| *seen == kind), "{kind:?} was not counted: {:?}", status.errors);
    }
    assert_eq!(status.trouble, None, "trouble that is over is still reported");
    let position = database.close(Duration::from_secs(30)).await.unwrap().unwrap();
    assert_eq!(position.seq, Seq(2 + faults.len() as u64), "a lost answer took a second number");
    let to = folder.path().join("restored.redb");
    assert_eq!(restore(server.location("p"), &to).await.unwrap().position, position);
    assert_eq!(entries(&to).len(), faults.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_survives_slow_truncated_and_refused_reads_and_listings_that_lie() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let before = server.keys();
    let position = filled(&server, folder.path(), 12).await;
    server.set_page(3);
    let cases = [
        ("GET", "p/seq/", Fault::Truncated),
        ("GET", "p/seq/", Fault::SlowBody),
        ("GET", "p/snap/", Fault::Truncated),
        ("GET", "p/", Fault::SlowDown),
        ("GET", "p/", Fault::LostAnswer),
        ("LIST", "p/seq/", Fault::StaleList(before)),
        ("LIST", "p/seq/", Fault::PartialList),
        ("LIST", "p/", Fault::SlowDown),
        ("GET", "p/", Fault::Expired),
    ];
    for (index, (operation, key, fault)) in cases.into_iter().enumerate() {
        server.order(operation, key, fault.clone(), 1);
        let to = folder.path().join(format!("{index}.redb"));
        let restored = restore(server.location("p"), &to).await.unwrap();
        assert_eq!(server.orders_left(), 0, "{fault:?} never came");
        assert_eq!(restored.position, position, "{fault:?} led to another state");
        assert_eq!(entries(&to).len(), 12, "{fault:?} lost entries");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_never_taken_for_an_absent_replica() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    filled(&server, folder.path(), 2).await;
    for fault in [Fault::Denied, Fault::ClockSkew] {
        server.order("GET", "p/", fault.clone(), 1);
        let error = restore(server.location("p"), &folder.path().join("x")).await.unwrap_err();
        assert!(matches!(error, RestoreError::Bucket(_)), "{fault:?} became {error}");
        server.order("GET", "p/", fault.clone(), 1);
        let opened = Database::open(options(&folder.path().join("y"), server.location("p"))).await;
        assert!(matches!(opened, Err(OpenError::Discover(_))), "{fault:?} opened something");
    }
    server.set_down(true);
    let error = restore(server.location("p"), &folder.path().join("x")).await.unwrap_err();
    assert!(matches!(error, RestoreError::Bucket(_)), "{error}");
    let opened = Database::open(options(&folder.path().join("y"), server.location("p"))).await;
    assert!(opened.is_err(), "an empty machine opened without its replica");
    assert!(!folder.path().join("x").exists() && !folder.path().join("y").exists(), "a failed start left a file");
}

/// seed: 003-38
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_missing_swapped_and_foreign_objects_each_have_their_own_error() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    filled(&server, folder.path(), 6).await;
    let good = server.image();
    let key = |seq| format!("p/{}", keyspace::sequence(Seq(seq)));
    let other = {
        let mut foreign = options(&folder.path().join("other.redb"), server.location("q"));
        foreign.replica = keyfleet_litestream::format::ReplicaName::new("cluster/node-2/state").unwrap();
        let database = opened(foreign).await;
        put(&database, REMOTE, 1, value(1, 100)).await.unwrap();
        let _ = database.close(Duration::from_secs(30)).await.unwrap();
        server.peek(&format!("q/{}", keyspace::sequence(Seq(3)))).unwrap().to_vec()
    };
    let object = good[&key(3)].to_vec();
    let flipped = |at: usize| {
        let mut bytes = object.clone();
        bytes[at] ^= 1;
        bytes
    };
    type Check = fn(&ChainError) -> bool;
    let cases: Vec<(&str, Option<Vec<u8>>, Check)> = vec![
        ("torn", Some(object[..object.len() / 2].to_vec()), |e| {
            matches!(e, ChainError::Object { error: ObjectError::Seal { .. }, .. })
        }),
        ("torn in the header", Some(object[..100].to_vec()), |e| {
            matches!(e, ChainError::Object { error: ObjectError::Truncated { .. }, .. })
        }),
        ("empty", Some(Vec::new()), |e| matches!(e, ChainError::Object { error: ObjectError::Truncated { .. }, .. })),
        ("altered", Some(flipped(object.len() - 20)), |e| {
            matches!(e, ChainError::Object { error: ObjectError::Seal { .. }, .. })
        }),
        ("altered in the salt", Some(flipped(170)), |e| {
            matches!(e, ChainError::Object { error: ObjectError::Seal { .. }, .. })
        }),
        ("missing", None, |e| matches!(e, ChainError::Missing { .. })),
        ("swapped", Some(good[&key(4)].to_vec()), |e| matches!(e, ChainError::Misplaced { .. })),
        ("foreign", Some(other), |e| matches!(e, ChainError::Foreign { .. })),
        ("of another version", Some([&object[..4], &[9], &object[5..]].concat()), |e| {
            matches!(e, ChainError::Object { error: ObjectError::Version(9), .. })
        }),
        ("no object", Some(b"<html>not found</html>".to_vec()), |e| {
            matches!(e, ChainError::Object { error: ObjectError::Magic, .. })
        }),
    ];
    for (what, bytes, is_expected) in cases {
        server.roll_back(&good);
        match bytes {
            Some(bytes) => server.poke(&key(3), bytes),
            None => server.remove(&key(3)),
        }
        let to = folder.path().join("refused.redb");
        match restore(server.location("p"), &to).await {
            Err(RestoreError::Chain(error)) => assert!(is_expected(&error), "{what}: got {error}"),
            other => panic!("{what} was not refused: {other:?}"),
        }
        assert!(!to.exists(), "{what}: a file got its name");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("restoring")), "scratch files left: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_rolled_back_to_a_valid_older_state_is_refused_below_the_floor() {
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
    assert!(matches!(again, Err(OpenError::Refused(Refusal::ReplicaVanishedUnderFile(_)))), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_away_blocks_no_local_commit_and_a_full_queue_closes_the_chain_until_it_is_back() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut options_small = options(&path, server.location("p"));
    options_small.queue_bytes = 300_000;
    let database = Database::open(options_small).await.unwrap();
    put(&database, REMOTE, 0, value(0, 1000)).await.unwrap();
    let term = database.status().borrow().term;

    server.set_down(true);
    let waited =
        put(&database, Ack::Remote { timeout: Duration::from_millis(200) }, 1, value(1, 1000)).await.unwrap_err();
    assert!(matches!(waited, WriteError::Indeterminate { .. }), "a timeout is indeterminate, not {waited:?}");
    for key in 2..60 {
        put(&database, Ack::Local, key, value(key, 5000)).await.unwrap();
    }
    reach(&database, "closed", |phase| *phase == Phase::ChainClosed).await;
    assert!(database.status().borrow().trouble.is_some(), "the trouble is not reported");

    server.set_down(false);
    let receipt = put(&database, REMOTE, 60, value(60, 1000)).await.unwrap();
    let status = database.status().borrow().clone();
    assert!(status.term > term, "a closed chain was resumed");
    assert_eq!(status.closed_chains, 1);
    let position = database.close(Duration::from_secs(30)).await.unwrap().unwrap();
    assert_eq!(receipt.position, Some(position));
    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    assert_eq!(entries(&to).len(), 61, "the new base lacks what was committed while S3 was away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_on_local_state_while_s3_is_away_and_proves_itself_before_it_acknowledges() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let floor = filled(&server, folder.path(), 3).await;
    let open = |floor| {
        let mut options = options(&path, server.location("p"));
        options.allow.unproven = true;
        options.floor = floor;
        Database::open(options)
    };
    server.set_down(true);
    let higher = Position { seq: Seq(floor.seq.0 + 1), ..floor };
    let refused = open(Some(higher)).await;
    assert!(matches!(refused, Err(OpenError::Refused(Refusal::LocalBelowFloor(_)))), "{refused:?}");

    let database = open(Some(floor)).await.unwrap();
    assert_eq!(database.status().borrow().phase, Phase::Unproven);
    put(&database, Ack::Local, 10, value(10, 100)).await.unwrap();
    let waited = put(&database, Ack::Remote { timeout: Duration::from_millis(100) }, 11, value(11, 100)).await;
    assert!(matches!(waited, Err(WriteError::Indeterminate { .. })), "{waited:?}");
    server.set_down(false);
    put(&database, REMOTE, 12, value(12, 100)).await.unwrap();
    let _ = database.close(Duration::from_secs(30)).await.unwrap();
    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    assert_eq!(entries(&to).into_keys().collect::<Vec<_>>(), [0, 1, 2, 10, 11, 12]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_worked_alone_on_a_stale_volume_is_fenced_when_s3_is_back() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    filled(&server, folder.path(), 3).await;
    let elsewhere = Database::open(options(&folder.path().join("new.redb"), server.location("p"))).await.unwrap();
    put(&elsewhere, REMOTE, 5, value(5, 100)).await.unwrap();
    let _ = elsewhere.close(Duration::from_secs(30)).await.unwrap();

    server.set_down(true);
    let mut alone = options(&path, server.location("p"));
    alone.allow.unproven = true;
    let database = Database::open(alone).await.unwrap();
    put(&database, Ack::Local, 6, value(6, 100)).await.unwrap();
    server.set_down(false);
    let waited = put(&database, REMOTE, 7, value(7, 100)).await;
    assert!(matches!(waited, Err(WriteError::Fenced { .. })), "a stale volume acknowledged: {waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_database_sends_no_request_and_none_lists_in_steady_state() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    put(&database, REMOTE, 0, value(0, 100)).await.unwrap();
    let (lists, gets, puts) = (server.requests("LIST"), server.requests("GET"), server.requests("PUT"));
    for key in 1..20 {
        put(&database, REMOTE, key, value(key, 100)).await.unwrap();
    }
    assert_eq!((server.requests("LIST"), server.requests("GET")), (lists, gets), "steady state reads or lists");
    assert_eq!(server.requests("PUT"), puts + 19, "more than one PUT for a commit that was waited for");
    // Metrics ask the bucket once for every position, and not again.
    let metrics = Metrics::default();
    metrics.collect(&database).await;
    let page = metrics.page();
    let durable = database.durable_position().unwrap().0.seq;
    assert!(page.lines().any(|line| line.contains("durable_seq{") && line.ends_with(&format!(" {durable}"))), "{page}");
    assert!(page.lines().any(|line| line.contains("confirmed{") && line.ends_with(" 1")), "{page}");
    let gets = gets + 1;
    metrics.collect(&database).await;
    let puts = server.requests("PUT");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let after = (server.requests("LIST"), server.requests("GET"), server.requests("PUT"));
    assert_eq!(after, (lists, gets, puts), "an idle database sent requests");
    // What was acknowledged and is gone shows in the metrics, whatever the process itself believes.
    reach(&database, "in a new term", |phase| matches!(phase, Phase::Basing | Phase::Shipping)).await;
    put(&database, REMOTE, 99, value(99, 100)).await.unwrap();
    let position = database.durable_position().unwrap().0;
    server.remove(&format!("p/{}", keyspace::sequence(position.seq)));
    metrics.collect(&database).await;
    let page = metrics.page();
    assert!(page.lines().any(|line| line.contains("confirmed{") && line.ends_with(" 0")), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_made_while_a_put_is_in_flight_share_the_next_one() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    put(&database, REMOTE, 0, value(0, 100)).await.unwrap();
    server.order("PUT", "p/seq/", Fault::SlowDown, 20);
    let before = database.durable_position().unwrap().0.seq;
    let writes: Vec<_> = (1..=50)
        .map(|key| {
            let database = database.clone();
            tokio::spawn(async move { put(&database, REMOTE, key, value(key, 200)).await.unwrap() })
        })
        .collect();
    for write in writes {
        write.await.unwrap();
    }
    let after = database.durable_position().unwrap().0.seq;
    assert!(after.0 - before.0 <= 10, "50 commits took {} objects", after.0 - before.0);
    // A commit that panics or says no harms nobody.
    let panicked = database.write(Ack::Local, |_| -> Result<(), ()> { panic!("on purpose") }).await;
    assert!(matches!(panicked, Err(WriteError::Panicked)));
    let rejected = database.write(Ack::Local, |_| Err::<(), _>("no")).await;
    assert!(matches!(rejected, Err(WriteError::Rejected("no"))));
    let position = put(&database, REMOTE, 51, value(51, 200)).await.unwrap().position;
    let to = folder.path().join("restored.redb");
    assert_eq!(Some(restore(server.location("p"), &to).await.unwrap().position), position);
    assert_eq!(entries(&to).len(), 52);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merged_segments_shorten_a_restore_and_a_broken_one_costs_nothing_but_time() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut merging = options(&folder.path().join("state.redb"), server.location("p"));
    merging.merge_segments = 8;
    let database = opened(merging).await;
    for key in 0..40 {
        put(&database, REMOTE, key, value(key, 500)).await.unwrap();
    }
    let position = database.close(Duration::from_secs(30)).await.unwrap().unwrap();
    let merged = || server.keys().into_iter().filter(|key| key.contains("/merged/")).collect::<Vec<_>>();
    for _ in 0..500 {
        if merged().len() >= 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let to = folder.path().join("short.redb");
    let short = restore(server.location("p"), &to).await.unwrap();
    assert_eq!((short.position, entries(&to).len()), (position, 40));
    assert!(short.objects < 15, "a restore of 41 segments read {} objects", short.objects);

    let key = merged().remove(1);
    let mut bytes = server.peek(&key).unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    server.poke(&key, bytes);
    let to = folder.path().join("long.redb");
    let long = restore(server.location("p"), &to).await.unwrap();
    assert_eq!((long.position, entries(&to).len()), (position, 40));
    assert!(long.objects > 40, "the broken merged segment was used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_that_start_at_once_never_both_acknowledge_in_one_term() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let starts: Vec<_> = (0..4)
        .map(|writer| {
            let path = folder.path().join(format!("{writer}.redb"));
            let options = options(&path, server.location("p"));
            tokio::spawn(async move {
                let database = Database::open(options).await.unwrap();
                let receipt = put(&database, REMOTE, writer, value(writer, 100)).await;
                (database, receipt)
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    let mut databases = Vec::new();
    for (writer, start) in starts.into_iter().enumerate() {
        let (database, receipt) = start.await.unwrap();
        match receipt {
            Ok(receipt) => acknowledged.push((receipt.position.unwrap(), writer as u64)),
            Err(WriteError::Fenced { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        databases.push(database);
    }
    acknowledged.sort_unstable_by_key(|(position, _)| position.seq);
    assert!(acknowledged.windows(2).all(|pair| pair[0].0.seq != pair[1].0.seq), "one number acknowledged twice");
    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    let found = entries(&to);
    for (position, writer) in acknowledged {
        assert!(found.contains_key(&writer), "{position} was acknowledged to writer {writer} and is lost");
    }
}

/// The number after the last is free in an older bucket: taking it would leave a gap that no restore gets over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_adds_nothing_to_a_bucket_that_was_rolled_back_under_it_and_goes_on_once_that_is_put_right() {
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

/// Older than the floor, older than the file's own term, gone, or away and then older: beside none of these is anything
/// acknowledged, and local work goes on where that was allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_beside_a_bucket_that_was_rolled_back_keeps_the_file_that_is_at_the_floor_and_acknowledges_nothing() {
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
    broken.retain(|key, _| !key.ends_with(&keyspace::sequence(floor.seq)));
    let open = |floor, contradicted| {
        let mut options = options(&path, server.location("p"));
        options.allow.unproven = true;
        options.allow.contradicted = contradicted;
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
