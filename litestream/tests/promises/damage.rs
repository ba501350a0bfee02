//! Damaged files: what they become, and what they do not.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use keyfleet_litestream::database::Database;
use keyfleet_litestream::restore;

use crate::cli::{call, configure};
use crate::s3::Server;
use crate::support::{REMOTE, entries, opened, options, put, restore, restore_with, value};

const ENTRIES: u64 = 60;

async fn filled(server: &Server, path: &Path) {
    let database = opened(options(path, server.location("p"))).await;
    for key in 0..ENTRIES {
        put(&database, REMOTE, key, value(key, 900)).await.unwrap();
    }
    database.close(Duration::from_secs(30)).await.unwrap();
}

/// Flips one bit of every copy of an entry's value in a file.
fn flip(path: &Path, key: u64) {
    let bytes = std::fs::read(path).unwrap();
    let wanted = &value(key, 900)[100..200];
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let found: Vec<usize> =
        bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted).map(|(at, _)| at).collect();
    assert!(!found.is_empty(), "the value is not in the file");
    for at in found {
        file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    }
}

/// Damage to a file at rest is found before anything of it is sent; the file is set aside, and the replica's state takes its
/// place. redb refuses some of these files, and opens others without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_becomes_no_base() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 4] = [
        ("a flipped bit", |path| flip(path, 7)),
        ("cut", |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("cut to a few bytes", |path| std::fs::File::options().write(true).open(path).unwrap().set_len(5).unwrap()),
        ("a zeroed header", |path| {
            std::fs::File::options().write(true).open(path).unwrap().write_all_at(&[0; 512], 0).unwrap();
        }),
    ];
    for (what, damage) in cases {
        let server = Server::start().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        filled(&server, &path).await;
        damage(&path);
        let database = Database::open(options(&path, server.location("p"))).await;
        let database =
            database.unwrap_or_else(|error| panic!("{what}: no start, although the replica is whole: {error}"));
        let (aside, why) = database.started().set_aside.clone().unwrap_or_else(|| panic!("{what}: the file was kept"));
        assert!(aside.exists() && why.contains("damaged"), "{what}: {why}");
        put(&database, REMOTE, 1000, value(1000, 900)).await.unwrap();
        database.close(Duration::from_secs(30)).await.unwrap();
        let to = folder.path().join("restored.redb");
        let restored = restore(server.location("p"), &to).await;
        restored.unwrap_or_else(|error| panic!("{what}: the newest state is damaged: {error}"));
        let found = entries(&to);
        assert_eq!(found.len() as u64, ENTRIES + 1, "{what}");
        assert!(found.iter().all(|(key, bytes)| *bytes == value(*key, 900)), "{what}: an entry has another value");
    }
}

/// Without a replica to restore from, a damaged file is left where it is and a person must look.
///
/// The idea is from cberner/redb#913: opening a file that is no database corrupts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_program_stays_as_it_is() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    filled(&server, &folder.path().join("real.redb")).await;
    let text = b"somebody's letters, and no database at all".repeat(200);
    std::fs::write(&path, &text).unwrap();
    for prefix in ["p", "nowhere"] {
        let opened = Database::open(options(&path, server.location(prefix))).await;
        assert!(opened.is_err(), "another program's file was taken");
        assert_eq!(std::fs::read(&path).unwrap(), text, "another program's file was changed");
    }
    let damaged = folder.path().join("damaged.redb");
    std::fs::copy(folder.path().join("real.redb"), &damaged).unwrap();
    flip(&damaged, 7);
    let before = server.image();
    let mut fresh = options(&damaged, server.location("nowhere"));
    fresh.permissions.new_replica = true;
    assert!(Database::open(fresh).await.is_err(), "a damaged file began a replica");
    assert_eq!(server.image(), before, "a damaged file was sent");
    assert!(damaged.exists(), "the only copy was moved away");
}

/// The newest snapshot was taken of a file with a damaged page: the one before it leads to the same state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_falls_back_to_an_older_snapshot() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let database = opened(options(&path, server.location("p"))).await;
    for key in 0..ENTRIES {
        put(&database, REMOTE, key, value(key, 900)).await.unwrap();
    }
    flip(&path, 7);
    database.snapshot(Duration::from_secs(30)).await.unwrap();
    put(&database, REMOTE, ENTRIES, value(ENTRIES, 900)).await.unwrap();
    let to = folder.path().join("restored.redb");
    let restored = restore(server.location("p"), &to).await;
    let restored = restored.unwrap_or_else(|error| panic!("the snapshot before it was not tried: {error}"));
    assert_eq!(restored.skipped.len(), 1, "what was skipped is not told");
    let found = entries(&to);
    assert_eq!(found.len() as u64, ENTRIES + 1);
    assert!(found.iter().all(|(key, bytes)| *bytes == value(*key, 900)), "an entry has another value");
}

/// A file that only its owner could read stays so, and a new one is made so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_file_is_its_owners_alone() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    filled(&server, &path).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let fresh = folder.path().join("fresh.redb");
    restore(server.location("p"), &fresh).await.unwrap();
    assert_eq!(mode(&fresh), 0o600, "a restored file can be read by others");
    assert_eq!(mode(&folder.path().join("fresh.redb-litestream")), 0o600, "so can the note beside it");
    for kept in [0o600, 0o640] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(kept)).unwrap();
        let how = restore::Options { replace: true, ..restore::Options::default() };
        restore_with(server.location("p"), &path, how).await.unwrap();
        assert_eq!(mode(&path), kept, "a restore changed the file's mode");
    }
}

/// The idea is from benbjohnson/litestream#1039 and #400: what is not there is a success to the exit code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_no_replica_fails() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), &server);
    for command in ["verify", "status", "snapshots", "segments", "drill", "retention"] {
        let (code, text, error) = call(folder.path(), &[command]).await;
        assert_eq!(code, 3, "{command} of an emptied bucket: {text}{error}");
    }
}
