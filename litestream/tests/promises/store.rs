//! Stores that are not what S3 is.

use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::clock::now_ms;
use keyfleet_litestream::database::{Database, Phase};
use keyfleet_litestream::retention::{self, Rules};

use crate::s3::{self, Fault, Server};
use crate::support::{REMOTE, entries, opened, options, put, reach, restore, value};

/// Fencing rests on the condition of a PUT: a store that parses it and takes the object all the same has two owners.
///
/// The idea is from pithings/mountx#19, coollabsio/maxio#20, chimera-nas/chimera#471, gaul/s3proxy#831 and
/// minio/minio#21603.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ignores_conditions_is_refused() {
    let server = Server::start().await;
    server.ignore_conditions();
    let folder = tempfile::tempdir().unwrap();
    let opened = Database::open(options(&folder.path().join("state.redb"), server.location("p"))).await;
    let error = opened.expect_err("a store without conditional writes was taken").to_string();
    assert!(error.contains("If-None-Match"), "it does not say why: {error}");
}

/// A store that begins to ignore conditions under a running writer, as behind another proxy, acknowledges no new term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_term_asks_the_store_again() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut small = options(&folder.path().join("state.redb"), server.location("p"));
    small.queue_bytes = 100_000;
    let database = opened(small).await;
    put(&database, REMOTE, 0, value(0, 100)).await.unwrap();
    server.set_down(true);
    for key in 1..60 {
        put(&database, Ack::Local, key, value(key, 5000)).await.unwrap();
    }
    reach(&database, "closed", |phase| *phase == Phase::ChainClosed).await;
    server.ignore_conditions();
    server.set_down(false);
    reach(&database, "refused", |phase| matches!(phase, Phase::Refused(_))).await;
    let short = Ack::Remote { timeout: Duration::from_millis(300) };
    assert!(put(&database, short, 90, value(90, 100)).await.is_err(), "a store without conditions acknowledged");
}

/// A proxy answers 200 with a page of its own, and nothing is stored.
///
/// The idea is from cvmfs/cvmfs#2965 and pgbackrest/pgbackrest#1438: check the ETag of a PUT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_s3s_acknowledges_nothing() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    put(&database, REMOTE, 1, value(1, 300)).await.unwrap();
    server.order("PUT", "p/seq/", Fault::Page, 3);
    let position = put(&database, REMOTE, 2, value(2, 300)).await.unwrap().position.unwrap();
    assert_eq!(server.orders_left(), 0, "the page never came: nothing is proven");
    database.close(Duration::from_secs(30)).await.unwrap();
    let to = folder.path().join("restored.redb");
    let restored = restore(server.location("p"), &to).await;
    let restored = restored.unwrap_or_else(|error| panic!("what was acknowledged is not there: {error}"));
    assert_eq!(restored.position, position);
    assert_eq!(entries(&to).len(), 2);
}

/// A prefix that a server makes another one of is refused before anything is sent; a folder whose listing lacks the base
/// acknowledges nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_that_a_server_changes_is_refused() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    for prefix in ["a//b", "a/../b", "./a", "a/.", "..", "/a", "a/"] {
        let opened = Database::open(options(&folder.path().join("state.redb"), server.location(prefix))).await;
        let error = opened.expect_err(&format!("`{prefix}` was taken")).to_string();
        assert!(error.contains("prefix"), "it does not say why: {error}");
    }
    assert!(server.keys().is_empty(), "something was sent to a prefix that was refused");

    server.order("LIST", "p/snap/", Fault::StaleList(Vec::new()), 8);
    let database = Database::open(options(&folder.path().join("state.redb"), server.location("p"))).await.unwrap();
    reach(&database, "refused", |phase| matches!(phase, Phase::Refused(_))).await;
    reach(&database, "shipping", |phase| *phase == Phase::Shipping).await;
    let position = put(&database, REMOTE, 1, value(1, 100)).await.unwrap().position;
    assert_eq!(server.orders_left(), 0, "acknowledged before a listing named the base");
    let _ = database.close(Duration::from_secs(30)).await.unwrap();
    let to = folder.path().join("restored.redb");
    assert_eq!(Some(restore(server.location("p"), &to).await.unwrap().position), position);
}

/// The idea is from aws/aws-sdk-php#1694, apache/arrow-rs-object-store#190 and s3tools/s3cmd#1177: a default retention of Object
/// Lock demands a checksum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_with_object_lock_takes_every_put() {
    let server = Server::start().await;
    server.demand_checksums();
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    let position = put(&database, REMOTE, 1, value(1, 300)).await.unwrap().position;
    database.snapshot(Duration::from_secs(30)).await.unwrap();
    let to = folder.path().join("restored.redb");
    assert_eq!(Some(restore(server.location("p"), &to).await.unwrap().position), position);
}

/// One object under a legal hold stops the deletion of no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_object_stops_no_other_deletion() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), server.location("p"))).await;
    for key in 0..9 {
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
    }
    database.snapshot(Duration::from_secs(30)).await.unwrap();
    let bucket = s3::bucket(server.location("p")).await;
    let rules =
        Rules { window_ms: 0, levels: Vec::new(), keep_at_least: 1, grace_ms: 3_600_000, pin_expiry_ms: 21_600_000 };
    retention::run(&bucket, &rules, now_ms() + 1000, false).await.unwrap();
    server.age(Duration::from_secs(7200));
    server.hold("seq/0000000000000002");
    let swept = retention::run(&bucket, &rules, now_ms() + 1000, false).await;
    let swept = swept.unwrap_or_else(|error| panic!("one held object stopped all others: {error}"));
    assert!(swept.deleted.len() > 5, "{:?}", swept.deleted);
    assert!(server.keys().iter().any(|key| key.contains("seq/0000000000000002")), "a held object was deleted");
    // An identity that may delete nothing at all makes no success of it.
    server.hold("p/");
    for key in 9..14 {
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
    }
    database.snapshot(Duration::from_secs(30)).await.unwrap();
    server.age(Duration::from_secs(7200));
    retention::run(&bucket, &rules, now_ms() + 1000, false).await.unwrap_or_default();
    server.age(Duration::from_secs(7200));
    let refused = retention::run(&bucket, &rules, now_ms() + 1000, false).await;
    assert!(refused.is_err(), "a sweep that deleted nothing of what it had to called itself a success: {refused:?}");
}
