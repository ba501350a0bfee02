//! Shared parts of the tests: a small database of numbered entries, and the keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_litestream::Ack;
use keyfleet_litestream::bucket::Location;
use keyfleet_litestream::database::{Database, Options, Phase, Receipt, WriteError};
use keyfleet_litestream::format::ReplicaName;
use keyfleet_litestream::keys::{KeyEncryptionKey, KeyRing};
use keyfleet_litestream::restore::{self, RestoreError, Restored};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

pub(crate) const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

pub(crate) fn keys() -> Arc<KeyRing> {
    Arc::new(KeyRing::with_key(KeyEncryptionKey::new("test", [7; 32]).unwrap()))
}

pub(crate) fn name() -> ReplicaName {
    ReplicaName::new("cluster/node-1/state").unwrap()
}

pub(crate) fn options(path: &Path, location: Location) -> Options {
    let mut options = Options::new(path, name(), location, keys());
    options.retry = crate::s3::retry();
    options.sync_interval = Duration::from_millis(20);
    options
}

/// Opens a database and waits until its base is in the bucket, so that every later commit is in a segment.
pub(crate) async fn opened(options: Options) -> Database {
    let database = Database::open(options).await.unwrap();
    reach(&database, "shipping", |phase| *phase == Phase::Shipping).await;
    database
}

pub(crate) const REMOTE: Ack = Ack::Remote { timeout: Duration::from_secs(30) };

/// Writes one entry.
pub(crate) async fn put(
    database: &Database,
    ack: Ack,
    key: u64,
    value: Vec<u8>,
) -> Result<Receipt<()>, WriteError<redb::Error>> {
    database
        .write(ack, move |txn| -> Result<(), redb::Error> {
            txn.open_table(TABLE)?.insert(key, value.as_slice())?;
            Ok(())
        })
        .await
}

/// Reads all entries of a file that no process has open.
pub(crate) fn entries(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    entries_of(&redb::Database::open(path).expect("a restored file opens"))
}

pub(crate) fn entries_of(database: &redb::Database) -> BTreeMap<u64, Vec<u8>> {
    let txn = database.begin_read().unwrap();
    match txn.open_table(TABLE) {
        Ok(table) => table
            .iter()
            .unwrap()
            .map(|entry| {
                let (key, value) = entry.unwrap();
                (key.value(), value.value().to_vec())
            })
            .collect(),
        Err(redb::TableError::TableDoesNotExist(_)) => BTreeMap::new(),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) async fn restore(location: Location, path: &Path) -> Result<Restored, RestoreError> {
    restore_with(location, path, restore::Options::default()).await
}

pub(crate) async fn restore_with(
    location: Location,
    path: &Path,
    options: restore::Options,
) -> Result<Restored, RestoreError> {
    let bucket = crate::s3::bucket(location).await;
    restore::restore(&bucket, &name(), &keys(), path, &options).await
}

/// Waits for a phase.
pub(crate) async fn reach(database: &Database, what: &str, is: impl Fn(&Phase) -> bool) {
    let mut status = database.status();
    let waited = tokio::time::timeout(Duration::from_secs(60), status.wait_for(|status| is(&status.phase))).await;
    assert!(matches!(waited, Ok(Ok(_))), "replication never was {what}: {:?}", database.status().borrow());
}

pub(crate) fn value(seed: u64, len: usize) -> Vec<u8> {
    use rand::{RngExt as _, SeedableRng as _};
    let mut bytes = vec![0; len];
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}
