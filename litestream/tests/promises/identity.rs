//! Files and replicas that belong together, and those that do not.

use std::time::Duration;

use keyfleet_litestream::bucket::Location;
use keyfleet_litestream::database::{Database, Options};
use keyfleet_litestream::format::ReplicaName;
use keyfleet_litestream::restore;

use crate::cli::{call, configure};
use crate::s3::Server;
use crate::support::{REMOTE, entries, opened, options, put, restore, restore_with, value};

/// Two paths were exchanged, or a volume was attached to the wrong pod: both files are in term 1 and have as many commits, so
/// that counting tells nothing.
///
/// The idea is from pgbackrest/pgbackrest#1851, #2167 and #383: an archive refuses another system's files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_replica_sends_nothing() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let named = |file: &str, location: Location, name: &str| Options {
        replica: ReplicaName::new(name).unwrap(),
        ..options(&folder.path().join(file), location)
    };
    // In the second round the two replicas even have one name, as a copy of a bucket has.
    for (round, other) in ["cluster/node-2/state", "cluster/node-1/state"].into_iter().enumerate() {
        let (a, b) = (server.location(&format!("a{round}")), server.location(&format!("b{round}")));
        let (file_a, file_b) = (format!("a{round}.redb"), format!("b{round}.redb"));
        for (file, location, name, key) in [(&file_a, &a, "cluster/node-1/state", 1), (&file_b, &b, other, 2)] {
            let database = opened(named(file, location.clone(), name)).await;
            put(&database, REMOTE, key, value(key, 300)).await.unwrap();
            database.close(Duration::from_secs(30)).await.unwrap();
        }
        let before = server.image();
        let wrong = Database::open(named(&file_b, a.clone(), "cluster/node-1/state")).await;
        let error = wrong.expect_err("another replica's file was taken").to_string();
        assert!(error.contains("another replica"), "it does not say why: {error}");
        assert_eq!(server.image(), before, "a byte left for the wrong replica");
        assert_eq!(entries(&folder.path().join(&file_b)).into_keys().collect::<Vec<_>>(), [2], "the file was touched");
        let right = opened(named(&file_a, a, "cluster/node-1/state")).await;
        assert!(right.started().set_aside.is_none(), "the right file was set aside");
        right.close(Duration::from_secs(30)).await.unwrap();
    }
}

/// The file goes while the bucket is being asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_vanishes_is_no_empty_database() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = opened(options(&path, server.location("p"))).await;
    put(&database, REMOTE, 1, value(1, 300)).await.unwrap();
    database.close(Duration::from_secs(30)).await.unwrap();
    let (gone, kept) = (path.clone(), folder.path().join("kept.redb"));
    let moved = kept.clone();
    server.when("GET", "p/boundary", move || std::fs::rename(gone, moved).unwrap());
    let opened_without = Database::open(options(&path, server.location("p"))).await;
    assert!(opened_without.is_err(), "a database was made in the place of a file that vanished");
    // Another file in its place is as wrong.
    std::fs::rename(&kept, &path).unwrap();
    let (gone, moved) = (path.clone(), kept.clone());
    server.when("GET", "p/boundary", move || {
        std::fs::rename(&gone, moved).unwrap();
        drop(redb::Database::create(&gone).unwrap());
    });
    let opened_other = Database::open(options(&path, server.location("p"))).await;
    assert!(opened_other.is_err(), "a file that took the place of the one looked at was shipped");
    let to = folder.path().join("restored.redb");
    restore(server.location("p"), &to).await.unwrap();
    assert_eq!(entries(&to).into_keys().collect::<Vec<_>>(), [1], "an empty database is the newest state");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_moves_no_file_that_a_process_has_open() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = opened(options(&path, server.location("p"))).await;
    put(&database, REMOTE, 1, value(1, 300)).await.unwrap();
    let how = restore::Options { replace: true, ..restore::Options::default() };
    let moved = restore_with(server.location("p"), &path, how.clone()).await;
    assert!(moved.is_err(), "a file was moved away under the process that has it open");
    put(&database, REMOTE, 2, value(2, 300)).await.unwrap();
    database.close(Duration::from_secs(30)).await.unwrap();
    assert_eq!(entries(&path).into_keys().collect::<Vec<_>>(), [1, 2]);
    restore_with(server.location("p"), &path, how).await.unwrap();
}

/// A wrong letter in a path is no database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_without_a_file_is_not_replicated() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), &server);
    let (code, text, error) = call(folder.path(), &["replicate", "--once"]).await;
    assert_ne!(code, 0, "a replica of nothing was made: {text}");
    assert!(error.contains("state.redb"), "it does not name the path: {error}");
    assert!(server.keys().is_empty() && !folder.path().join("state.redb").exists(), "something was made all the same");
}
