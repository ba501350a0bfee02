//! Faults of S3, on order.

use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::bucket::ErrorKind;
use keyfleet_litestream::chain::ChainError;
use keyfleet_litestream::database::{Database, OpenError, Phase, WriteError};
use keyfleet_litestream::format::error::ObjectError;
use keyfleet_litestream::layout;
use keyfleet_litestream::position::{Position, Seq};
use keyfleet_litestream::restore::RestoreError;
use keyfleet_litestream::start::StartError;

use crate::s3::{Fault, Server};
use crate::support::{REMOTE, entries, opened, options, put, reach, restore, value};

/// A database with `count` acknowledged entries, closed, and the position reached.
async fn filled(server: &Server, folder: &std::path::Path, count: u64) -> Position {
    let database = opened(options(&folder.join("state.redb"), server.location("p"))).await;
    for key in 0..count {
        put(&database, REMOTE, key, value(key, 700)).await.unwrap();
    }
    database.close(Duration::from_secs(30)).await.unwrap().unwrap()
}

/// No fault of a PUT loses a commit, or stores one twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_a_put_only_delays_an_acknowledgement() {
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

/// Reads are slow, truncated and refused; listings are stale and lack entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_survives_faulty_reads_and_listings() {
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

/// Torn, missing, swapped and foreign objects.
///
/// seed: 003-38
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_wrong_object_has_its_own_error() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    filled(&server, folder.path(), 6).await;
    let good = server.image();
    let key = |seq| format!("p/{}", layout::sequence(Seq(seq)));
    let other = {
        let mut foreign = options(&folder.path().join("other.redb"), server.location("q"));
        foreign.replica = keyfleet_litestream::format::ReplicaName::new("cluster/node-2/state").unwrap();
        let database = opened(foreign).await;
        put(&database, REMOTE, 1, value(1, 100)).await.unwrap();
        let _ = database.close(Duration::from_secs(30)).await.unwrap();
        server.peek(&format!("q/{}", layout::sequence(Seq(3)))).unwrap().to_vec()
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

/// A full queue closes the chain until S3 is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_away_blocks_no_local_commit() {
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

/// When S3 is back, the node proves its state before it acknowledges a write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_on_local_state_while_s3_is_away() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let floor = filled(&server, folder.path(), 3).await;
    let open = |floor| {
        let mut options = options(&path, server.location("p"));
        options.permissions.unproven = true;
        options.floor = floor;
        Database::open(options)
    };
    server.set_down(true);
    let higher = Position { seq: Seq(floor.seq.0 + 1), ..floor };
    let refused = open(Some(higher)).await;
    assert!(matches!(refused, Err(OpenError::Refused(StartError::LocalBelowFloor(_)))), "{refused:?}");

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

/// The node worked alone while S3 was away; it is fenced when S3 is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_worked_on_a_stale_volume_is_fenced() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    filled(&server, folder.path(), 3).await;
    let elsewhere = Database::open(options(&folder.path().join("new.redb"), server.location("p"))).await.unwrap();
    put(&elsewhere, REMOTE, 5, value(5, 100)).await.unwrap();
    let _ = elsewhere.close(Duration::from_secs(30)).await.unwrap();

    server.set_down(true);
    let mut alone = options(&path, server.location("p"));
    alone.permissions.unproven = true;
    let database = Database::open(alone).await.unwrap();
    put(&database, Ack::Local, 6, value(6, 100)).await.unwrap();
    server.set_down(false);
    let waited = put(&database, REMOTE, 7, value(7, 100)).await;
    assert!(matches!(waited, Err(WriteError::Fenced { .. })), "a stale volume acknowledged: {waited:?}");
}

/// Both writers start at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_never_acknowledge_in_one_term() {
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
