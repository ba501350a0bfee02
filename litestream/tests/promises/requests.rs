//! Number of requests that replication and a restore need.

use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::database::{Phase, WriteError};
use keyfleet_litestream::layout;
use keyfleet_litestream::metrics::Metrics;

use crate::s3::{Fault, Server};
use crate::support::{REMOTE, entries, opened, options, put, reach, restore, value};

/// A database in steady state lists nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_database_sends_no_request() {
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
    server.remove(&format!("p/{}", layout::sequence(position.seq)));
    metrics.collect(&database).await;
    let page = metrics.page();
    assert!(page.lines().any(|line| line.contains("confirmed{") && line.ends_with(" 0")), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_during_a_put_share_the_next_one() {
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

/// A broken merged segment costs time, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merged_segments_shorten_a_restore() {
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
