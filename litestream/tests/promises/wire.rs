//! Promises kept over the wire, against the server with faults and against a real one.

use std::time::Duration;

use keyfleet_litestream::authorities::Authorities;
use keyfleet_litestream::bucket::{Created, Location};
use keyfleet_litestream::database::{Database, Phase, WriteError};
use keyfleet_litestream::position::{Position, Seq};
use keyfleet_litestream::restore::{self, RestoreError, Target};
use keyfleet_litestream::retention::{self, Rules};
use keyfleet_litestream::{Ack, layout};

use crate::gateway::{Gateway, Tls};
use crate::s3::{self, Server};
use crate::support::{REMOTE, entries, opened, options, put, reach, restore, restore_with, value};

/// Runs a promise against both servers.
macro_rules! on_both_servers {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        mod in_memory {
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let server = super::Server::start().await;
                super::$name(server.location("p/one")).await;
            })*
        }
        mod versitygw {
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let gateway = super::Gateway::start().await;
                super::$name(gateway.location("p/one")).await;
            })*
        }
    };
}

on_both_servers! {
    /// seed: 001-04
    what_was_acknowledged_is_restored_on_a_new_machine;
    of_many_creators_of_one_key_exactly_one_wins;
    /// seed: 001-09
    a_new_owner_fences_the_old_one_and_the_old_volume_is_set_aside;
    /// seed: 001-05
    every_point_in_time_can_be_restored;
    /// seed: 001-07
    several_databases_in_one_process_do_not_mix;
    no_replica_is_a_proven_answer_of_its_own;
    a_closed_database_is_opened_again_under_a_new_term;
    retention_takes_what_is_not_needed_and_nothing_else;
}

async fn what_was_acknowledged_is_restored_on_a_new_machine(location: Location) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = Database::open(options(&path, location.clone())).await.unwrap();
    let mut position = None;
    for key in 0..30 {
        let receipt = put(&database, REMOTE, key, value(key, 6000)).await.unwrap();
        position = receipt.position;
    }
    assert_eq!(database.durable_position().unwrap().0, position.unwrap());
    // The machine is lost: nothing is closed, nothing flushed.
    let elsewhere = folder.path().join("elsewhere.redb");
    let restored = restore(location, &elsewhere).await.unwrap();
    assert_eq!(Some(restored.position), position, "the restored state is not the acknowledged one");
    let found = entries(&elsewhere);
    assert_eq!(found.len(), 30, "acknowledged entries are missing");
    assert!(found.iter().all(|(key, bytes)| *bytes == value(*key, 6000)), "an entry has another value");
}

async fn of_many_creators_of_one_key_exactly_one_wins(location: Location) {
    let bucket = s3::bucket(location).await;
    for round in 0..20 {
        let key = format!("race/{round}");
        let tasks: Vec<_> = (0..8_u8)
            .map(|writer| {
                let (bucket, key) = (bucket.clone(), key.clone());
                tokio::spawn(async move {
                    loop {
                        match bucket.create(&key, &[writer; 100]).await {
                            Ok(created) => return created,
                            Err(error) => assert!(error.kind.is_transient(), "{error}"),
                        }
                    }
                })
            })
            .collect();
        let mut winners = 0;
        for task in tasks {
            winners += usize::from(task.await.unwrap() == Created::Yes);
        }
        assert_eq!(winners, 1, "round {round}: the server is not atomic, fencing cannot hold on it");
    }
}

async fn a_new_owner_fences_the_old_one_and_the_old_volume_is_set_aside(location: Location) {
    let folder = tempfile::tempdir().unwrap();
    let old_path = folder.path().join("old.redb");
    let old = Database::open(options(&old_path, location.clone())).await.unwrap();
    put(&old, REMOTE, 1, value(1, 500)).await.unwrap();

    let new_path = folder.path().join("new.redb");
    let new = Database::open(options(&new_path, location.clone())).await.unwrap();
    assert!(new.started().restored.is_some(), "a new machine must restore");
    put(&new, REMOTE, 2, value(2, 500)).await.unwrap();

    let late = put(&old, REMOTE, 3, value(3, 500)).await;
    assert!(matches!(late, Err(WriteError::Fenced { .. })), "the old owner acknowledged after it lost: {late:?}");
    let refused = put(&old, Ack::Local, 4, value(4, 500)).await;
    assert!(matches!(refused, Err(WriteError::Fenced { .. })), "a fenced writer went on: {refused:?}");
    let _ = old.close(Duration::from_millis(1)).await;
    let _ = new.close(Duration::from_secs(30)).await.unwrap();

    // The old volume comes back with a fork of its own.
    let back = Database::open(options(&old_path, location.clone())).await.unwrap();
    let (aside, _) = back.started().set_aside.clone().expect("a stale volume is set aside");
    assert!(aside.exists(), "what is set aside is never deleted");
    let _ = back.close(Duration::from_secs(30)).await.unwrap();
    let keys: Vec<u64> = entries(&old_path).into_keys().collect();
    assert_eq!(keys, [1, 2], "the acknowledged history is 1 and 2");
    assert!(entries(&aside).contains_key(&3), "the fork is still there to look at");
}

async fn every_point_in_time_can_be_restored(location: Location) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = Database::open(options(&path, location.clone())).await.unwrap();
    let mut points: Vec<(u64, Position)> = Vec::new();
    for key in 0..8 {
        let receipt = put(&database, REMOTE, key, value(key, 300)).await.unwrap();
        points.push((keyfleet_litestream::clock::now_ms(), receipt.position.unwrap()));
        tokio::time::sleep(Duration::from_millis(5)).await;
        if key == 4 {
            database.snapshot(Duration::from_secs(30)).await.unwrap();
        }
    }
    for (key, (time_ms, position)) in points.iter().enumerate() {
        for (what, target) in [("seq", Target::Seq(position.seq)), ("time", Target::Time(*time_ms))] {
            let to = folder.path().join(format!("{what}-{key}.redb"));
            let how = restore::Options { target, ..restore::Options::default() };
            restore_with(location.clone(), &to, how).await.unwrap();
            let found: Vec<u64> = entries(&to).into_keys().collect();
            let expected: Vec<u64> = (0..=key as u64).collect();
            assert_eq!(found, expected, "restored to {what} of entry {key}");
        }
    }
    let before = restore::Options { target: Target::Time(1), ..restore::Options::default() };
    let error = restore_with(location.clone(), &folder.path().join("x"), before).await.unwrap_err();
    assert!(matches!(error, RestoreError::NoSnapshot { .. }), "{error}");
    let ahead = restore::Options { target: Target::Seq(Seq(9999)), ..restore::Options::default() };
    let error = restore_with(location, &folder.path().join("x"), ahead).await.unwrap_err();
    assert!(matches!(error, RestoreError::Ahead { .. }), "{error}");
    assert!(!folder.path().join("x").exists(), "a refused restore left a file");
}

async fn retention_takes_what_is_not_needed_and_nothing_else(location: Location) {
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), location.clone())).await;
    for key in 0..9 {
        put(&database, REMOTE, key, value(key, 300)).await.unwrap();
        if key % 3 == 2 {
            database.snapshot(Duration::from_secs(30)).await.unwrap();
        }
    }
    let bucket = s3::bucket(location.clone()).await;
    let none = Rules { window_ms: 0, levels: Vec::new(), keep_at_least: 1, grace_ms: 0, pin_expiry_ms: 60_000 };
    // The clock is ahead of the snapshots' own times by a second.
    let later = || keyfleet_litestream::clock::now_ms() + 1000;
    let raised = retention::run(&bucket, &none, later(), false).await.unwrap();
    assert!(raised.deleted.is_empty(), "deleted before the lowest needed number was raised: {:?}", raised.deleted);
    let swept = retention::run(&bucket, &none, later(), false).await.unwrap();
    assert!(swept.deleted.len() > 6, "{:?}", swept.deleted);
    let again = retention::run(&bucket, &none, later(), false).await.unwrap();
    assert!(again.deleted.is_empty(), "what was deleted is still there: {:?}", again.deleted);
    let position = put(&database, REMOTE, 9, value(9, 300)).await.unwrap().position.unwrap();
    let to = folder.path().join("restored.redb");
    assert_eq!(restore(location, &to).await.unwrap().position, position);
    assert_eq!(entries(&to).len(), 10);
}

async fn several_databases_in_one_process_do_not_mix(location: Location) {
    let folder = tempfile::tempdir().unwrap();
    let place = |index: u64| Location { prefix: format!("{}/{index}", location.prefix), ..location.clone() };
    let mut databases = Vec::new();
    for index in 0..3 {
        let path = folder.path().join(format!("{index}.redb"));
        databases.push(Database::open(options(&path, place(index))).await.unwrap());
    }
    for key in 0..30 {
        put(&databases[key as usize % 3], Ack::Local, key, value(key, 200)).await.unwrap();
    }
    for (index, database) in (0..).zip(databases) {
        let position = database.close(Duration::from_secs(30)).await.unwrap();
        let to = folder.path().join(format!("restored-{index}.redb"));
        assert_eq!(Some(restore(place(index), &to).await.unwrap().position), position);
        let found: Vec<u64> = entries(&to).into_keys().collect();
        let expected: Vec<u64> = (0..30).filter(|key| key % 3 == index).collect();
        assert_eq!(found, expected, "database {index} has another one's entries");
    }
}

async fn no_replica_is_a_proven_answer_of_its_own(location: Location) {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("x.redb");
    let error = restore(location.clone(), &to).await.unwrap_err();
    assert!(matches!(error, RestoreError::NoReplica), "{error}");
    let nowhere = Location { bucket: "no-such-bucket".into(), ..location.clone() };
    if location.endpoint.is_some() {
        match restore(nowhere, &to).await.unwrap_err() {
            // The server in memory has every bucket.
            RestoreError::NoReplica => {}
            RestoreError::Bucket(error) => {
                assert_eq!(error.kind, keyfleet_litestream::bucket::ErrorKind::NoBucket, "{error}");
            }
            other => panic!("{other}"),
        }
    }
    std::fs::write(&to, b"something").unwrap();
    assert!(matches!(restore(location, &to).await.unwrap_err(), RestoreError::TargetExists(_)));
}

async fn a_closed_database_is_opened_again_under_a_new_term(location: Location) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut last = None;
    for round in 0..4 {
        let database = Database::open(options(&path, location.clone())).await.unwrap();
        assert!(database.started().set_aside.is_none(), "round {round}: the newest state was set aside");
        put(&database, Ack::Local, round, value(round, 100)).await.unwrap();
        reach(&database, "shipping", |phase| *phase == Phase::Shipping).await;
        let position = database.close(Duration::from_secs(30)).await.unwrap().unwrap();
        if let Some(last) = last.replace(position) {
            assert!(position.seq > last.seq && position.term > last.term, "{position} does not follow {last}");
        }
    }
    let bucket = s3::bucket(location.clone()).await;
    assert!(bucket.get(&layout::sequence(Seq(1))).await.unwrap().is_some());
    let to = folder.path().join("restored.redb");
    assert_eq!(restore(location, &to).await.unwrap().position, last.unwrap());
    assert_eq!(entries(&to).len(), 4);
}

/// The certificate of a self-hosted store is signed by an authority that no system knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let gateway = Gateway::with_tls().await;
    let folder = tempfile::tempdir().unwrap();
    let database = opened(options(&folder.path().join("state.redb"), gateway.location("p"))).await;
    let position = put(&database, REMOTE, 1, value(1, 100)).await.unwrap().position.unwrap();
    database.close(Duration::from_secs(30)).await.unwrap();
    let to = folder.path().join("restored.redb");
    assert_eq!(restore(gateway.location("p"), &to).await.unwrap().position, position);

    let stranger = Authorities::from_pem(Tls::new("localhost").authority.as_bytes()).unwrap();
    for (whom, authorities) in [("the system", None), ("another authority", Some(stranger))] {
        let location = Location { authorities, ..gateway.location("p") };
        let refused = restore(location, &folder.path().join("stranger.redb")).await;
        let refused = refused.expect_err(&format!("a server that {whom} does not vouch for was trusted"));
        assert!(matches!(&refused, RestoreError::Bucket(_)), "{refused:?}");
        assert!(refused.to_string().to_lowercase().contains("certificate"), "it does not say why: {refused}");
    }
}
