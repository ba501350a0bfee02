//! The state file: rows that it keeps, owners that it refuses, and plain text that it does not show.

use super::*;

fn node(index: u32) -> NodeIndex {
    NodeIndex::new(index).unwrap()
}

async fn store(path: &std::path::Path) -> Result<Store, StoreError> {
    Store::open(Backing::local(path).unwrap(), ClusterId([1; 16]), node(1)).await
}

fn commit(epoch: u64, share: u8, held: &[u64]) -> RoundCommit {
    let (name, key) = (KeyName::Data(EpochNumber(epoch)), KeyMaterial::new([u8::try_from(epoch).unwrap(); 32]));
    let live = BTreeMap::from([(name, key.fingerprint(name))]);
    RoundCommit {
        state: vec![1, 2, 3],
        outbox: Outbox::begin(),
        inventory: KeyInventory { live, highest_epoch: epoch, ..KeyInventory::default() },
        shares: vec![(EpochNumber(epoch), key, Zeroizing::new([share; 32]))],
        held: held.iter().map(|epoch| EpochNumber(*epoch)).collect(),
    }
}

/// seed: 000-01, 001-12, 002-06, 003-01, 003-04, 003-05, 003-09, 003-10, 003-11, 003-13, 003-29, 003-31, 003-33
#[tokio::test]
async fn what_was_committed_is_there_after_a_restart_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key) = (folder.path().join("state.redb"), KeyMaterial::new([9; 32]));
    let first = store(&path).await.unwrap();
    assert!(!first.has_inventory().unwrap(), "a new file claims to be old");
    first.commit_round(commit(1, 0xa1, &[1]), &key).await.unwrap();
    first.commit_round(commit(2, 0xa2, &[1, 2]), &key).await.unwrap();
    first.commit_round(commit(3, 0xa3, &[2, 3]), &key).await.unwrap();
    drop(first);
    let again = store(&path).await.unwrap();
    assert_eq!(again.share_epochs().unwrap(), [EpochNumber(2), EpochNumber(3)], "an epoch that is not held has a row");
    assert_eq!(again.participant(&key).unwrap().unwrap().as_slice(), [1, 2, 3]);
    assert_eq!(again.inventory(&key).unwrap().unwrap().highest_epoch, 3);
    let share = again.share(EpochNumber(2), &KeyMaterial::new([2; 32])).unwrap().unwrap();
    assert_eq!(*share, [0xa2; 32]);
    assert!(again.share(EpochNumber(2), &KeyMaterial::new([3; 32])).is_err(), "another epoch's key opens it");
    assert!(again.inventory(&KeyMaterial::new([8; 32])).is_err(), "another node key opens the inventory");
}

/// seed: 000-01, 003-42
#[tokio::test]
async fn no_secret_is_readable_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let file = store(&path).await.unwrap();
    file.commit_round(commit(1, 0x5a, &[1]), &KeyMaterial::new([9; 32])).await.unwrap();
    drop(file);
    let bytes = std::fs::read(&path).unwrap();
    assert!(!bytes.windows(8).any(|window| window == [0x5a; 8]), "the share stands in the file as it is");
}

/// seed: 001-13, 003-14, 003-28
#[tokio::test]
async fn a_file_of_a_newer_program_or_of_another_node_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(store(&path).await.unwrap());
    let other = Store::open(Backing::local(&path).unwrap(), ClusterId([1; 16]), node(2)).await;
    assert!(matches!(other.err(), Some(StoreError::OtherOwner { .. })), "another node's file was taken up");
    let ours = store(&path).await.unwrap();
    ours.danger_set_schema(SCHEMA + 1).await.unwrap();
    drop(ours);
    let refused = store(&path).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("run the newer image"), "a newer schema gave: {refused}");
}

/// seed: 000-20, 000-22, 003-32
#[tokio::test]
async fn counters_only_move_forward() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let file = store(&path).await.unwrap();
    for (to, then) in [(100, 100), (110, 110), (120, 120), (120, 120), (110, 120)] {
        assert_eq!(file.raise_counter("boundary", to).await.unwrap(), then, "raised to {to}");
    }
    drop(file);
    assert_eq!(store(&path).await.unwrap().counter("boundary").unwrap(), 120, "a restart lost a counter");
}
