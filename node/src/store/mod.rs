//! The state file: one redb file, one writer, replicated where the cluster says so.
//!
//! | table | row | value |
//! |---|---|---|
//! | `meta` | `schema`, `owner` | u32; cluster id and u32 node. Plain, so that a newer file is refused before a key is needed |
//! | `state` | `participant` | everything that rounds must not forget: pointer, attempts, outboxes, verdicts, pins. Sealed |
//! | `state` | `ledger` | [`KeyInventory`]. Sealed |
//! | `outbox` | u64 position | u64 attempt, digest; `next` and lineage are in `meta` |
//! | `shares` | u64 epoch | the share, sealed under the epoch's own data key |
//! | `access` | `rules`, `peers`, `keys/<issuer>` | what was last seen of rules, pins with addresses, issuers' keys. Sealed |
//! | `counters` | name | u64, only rising |
//! | `requests` | request id | digest of the request, answer; see [`journal`] |
//! | `audit` | u64 | hash-chained entries; see [`journal`] |
//!
//! [`backing`] is the file with or without its replica, [`bundles`] the second file, of what peers can give again.

pub mod backing;
pub mod bundles;
pub mod journal;
pub mod outbox;
pub(crate) mod replica;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_threshold::identifiers::{ClusterId, EpochNumber, NodeIndex};
use redb::{ReadableTable as _, TableDefinition, TableError};
use zeroize::Zeroizing;

use crate::keystores::inventory::{InventoryError, KeyInventory};
use crate::seal::row::OpenRowError;
use crate::seal::{DataKey, KeyMaterial, KeyName, Place};
use crate::secret_rng::secret_rng;

pub use backing::{Backing, CommitId};
pub use outbox::{Outbox, OutboxRow};

/// Version of the file's schema. A file with a higher one is refused.
pub const SCHEMA: u32 = 1;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const SHARES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("shares");
const OUTBOX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("outbox");
const ACCESS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("access");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Why the store does not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A newer program wrote the file.
    #[error("the state file has schema {found}, this program knows up to {SCHEMA}: run the newer image again")]
    NewerSchema {
        /// The file's.
        found: u32,
    },
    /// The volume is another node's.
    #[error("the state file belongs to {found}, not to {expected}: the wrong volume is mounted")]
    OtherOwner {
        /// The file's owner.
        found: String,
        /// Whom it was opened for.
        expected: String,
    },
    /// The file is damaged, or was written under another key.
    #[error(transparent)]
    Closed(#[from] OpenRowError),
    /// The file is damaged.
    #[error(transparent)]
    KeyInventory(#[from] InventoryError),
    /// A row that the program wrote itself is malformed.
    #[error("row `{0}` is malformed")]
    Malformed(&'static str),
    /// redb failed.
    #[error("the state file: {0}")]
    Redb(#[from] redb::Error),
    /// The replica did not acknowledge. The commit is local, and stays in the queue.
    #[error("ReplicaUnavailable: {0}")]
    Replica(String),
    /// The writer is gone.
    #[error("the state file is closed")]
    Stopped,
}

/// Turns each of redb's errors into the one of this crate.
pub(crate) fn redb_error(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Redb(error.into())
}

/// The state file of one node.
#[derive(Clone)]
pub struct Store {
    backing: Backing,
    cluster: ClusterId,
    node: NodeIndex,
}

/// Rows of one round's step: committed in one transaction.
pub struct RoundCommit {
    /// The participant's state.
    pub state: Vec<u8>,
    /// Positions of everything that is published.
    pub outbox: Outbox,
    /// Keys that live once this is committed.
    pub inventory: KeyInventory,
    /// New shares, each with the data key of its epoch.
    pub shares: Vec<(EpochNumber, KeyMaterial, Zeroizing<[u8; 32]>)>,
    /// The epochs whose share stays; rows of all others go.
    pub held: BTreeSet<EpochNumber>,
}

impl RoundCommit {
    /// Checks that each new share stays, and that the inventory names its data key: a row that no key opens, or that the
    /// same transaction removes, is a lost share.
    ///
    /// # Panics
    /// When one does not.
    fn invariant_shares_are_named(&self) {
        for (epoch, ..) in &self.shares {
            assert!(self.held.contains(epoch), "the commit writes the share of epoch {} and removes it", epoch.0);
            assert!(
                self.inventory.live.contains_key(&KeyName::Data(*epoch)),
                "the commit writes the share of epoch {} under a key that the inventory does not name",
                epoch.0
            );
        }
    }
}

/// Checks after a commit that the share rows are those of the epochs that are held: each new share has its row, and no row
/// is left of an epoch that is not held.
///
/// # Panics
/// When a row is missing or left over.
fn invariant_share_rows(rows: &[EpochNumber], written: &[EpochNumber], held: &BTreeSet<EpochNumber>) {
    for epoch in written {
        assert!(rows.contains(epoch), "the commit wrote the share of epoch {epoch}, and its row is not there");
    }
    for epoch in rows {
        assert!(held.contains(epoch), "the commit left the share of epoch {epoch}, which is not held");
    }
}

impl Store {
    /// Takes up a file: refuses one of a newer schema or another node, and initialises an empty one.
    ///
    /// # Errors
    /// Why it is refused; nothing was written then.
    pub async fn open(backing: Backing, cluster: ClusterId, node: NodeIndex) -> Result<Self, StoreError> {
        let store = Self { backing, cluster, node };
        let owner = [cluster.0.as_slice(), &node.value().to_be_bytes()].concat();
        let (found_schema, found_owner) = (store.row(META, "schema")?, store.row(META, "owner")?);
        if let Some(found) = found_schema {
            let found = found.as_slice().try_into().map(u32::from_be_bytes);
            let found = found.map_err(|_| StoreError::Malformed("meta/schema"))?;
            if found > SCHEMA {
                return Err(StoreError::NewerSchema { found });
            }
            return match found_owner {
                Some(found) if found == owner => Ok(store),
                found => {
                    let found = format!("owner {}", hex::encode(found.unwrap_or_default()));
                    Err(StoreError::OtherOwner { found, expected: format!("owner {}", hex::encode(owner)) })
                }
            };
        }
        store
            .backing
            .write(move |txn| {
                let mut meta = txn.open_table(META)?;
                meta.insert("schema", SCHEMA.to_be_bytes().as_slice())?;
                meta.insert("owner", owner.as_slice())?;
                // Readers need not ask whether a table is there.
                txn.open_table(STATE)?;
                txn.open_table(SHARES)?;
                txn.open_table(OUTBOX)?;
                txn.open_table(ACCESS)?;
                txn.open_table(COUNTERS)?;
                journal::create(txn)
            })
            .await?;
        Ok(store)
    }

    /// The file below.
    #[must_use]
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Returns true when a round was ever committed: then there is an inventory, and the node is not new.
    ///
    /// # Errors
    /// redb's.
    pub fn has_inventory(&self) -> Result<bool, StoreError> {
        Ok(self.row(STATE, "ledger")?.is_some())
    }

    /// The inventory, opened with the node's data key.
    ///
    /// # Errors
    /// When it does not open.
    pub fn inventory(&self, node_key: &KeyMaterial) -> Result<Option<KeyInventory>, StoreError> {
        let opened = self.open_row(STATE, "state", "ledger", node_key)?;
        opened.map(|bytes| Ok(KeyInventory::decode(&bytes)?)).transpose()
    }

    /// The participant's state.
    ///
    /// # Errors
    /// When it does not open.
    pub fn participant(&self, node_key: &KeyMaterial) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.open_row(STATE, "state", "participant", node_key)
    }

    /// The positions of what was said; `None` before the first commit.
    ///
    /// # Errors
    /// When a row is malformed.
    pub fn outbox(&self) -> Result<Option<Outbox>, StoreError> {
        let Some(head) = self.row(META, "outbox")? else { return Ok(None) };
        let txn = self.backing.begin_read()?;
        let mut rows = BTreeMap::new();
        for row in txn.open_table(OUTBOX).map_err(redb_error)?.iter().map_err(redb_error)? {
            let (position, value) = row.map_err(redb_error)?;
            rows.insert(position.value(), OutboxRow::decode(value.value())?);
        }
        Outbox::decode(&head, rows).map(Some)
    }

    /// The share of an epoch, opened with its data key.
    ///
    /// # Errors
    /// When it does not open.
    pub fn share(&self, epoch: EpochNumber, key: &KeyMaterial) -> Result<Option<Zeroizing<[u8; 32]>>, StoreError> {
        let txn = self.backing.begin_read()?;
        let table = txn.open_table(SHARES).map_err(redb_error)?;
        let Some(sealed) = table.get(epoch.0).map_err(redb_error)? else { return Ok(None) };
        let opened = DataKey(key).open(&self.share_place(epoch, &epoch.0.to_be_bytes()), sealed.value())?;
        let share = opened.as_slice().try_into().map_err(|_| StoreError::Malformed("shares"))?;
        Ok(Some(Zeroizing::new(share)))
    }

    /// The epochs that have a share row, ascending.
    ///
    /// # Errors
    /// redb's.
    pub fn share_epochs(&self) -> Result<Vec<EpochNumber>, StoreError> {
        let txn = self.backing.begin_read()?;
        let table = txn.open_table(SHARES).map_err(redb_error)?;
        table.iter().map_err(redb_error)?.map(|row| Ok(EpochNumber(row.map_err(redb_error)?.0.value()))).collect()
    }

    /// Commits a round's step: locally durable when this returns. [`Backing::acknowledged`] says when the replica has it.
    ///
    /// # Errors
    /// When it was not committed.
    pub async fn commit_round(&self, commit: RoundCommit, node_key: &KeyMaterial) -> Result<CommitId, StoreError> {
        commit.invariant_shares_are_named();
        commit.outbox.invariant_positions_are_given_out_once();
        let (state, inventory, shares) = self.seal_round(&commit, node_key);
        let written: Vec<_> = commit.shares.iter().map(|(epoch, ..)| *epoch).collect();
        let (held, kept, outbox) = (commit.held.clone(), commit.held, commit.outbox);
        let done = self
            .backing
            .write(move |txn| {
                let mut table = txn.open_table(STATE)?;
                table.insert("participant", state.as_slice())?;
                table.insert("ledger", inventory.as_slice())?;
                let mut table = txn.open_table(META)?;
                table.insert("outbox", outbox.encode_head().as_slice())?;
                let mut table = txn.open_table(OUTBOX)?;
                table.retain(|position, _| outbox.rows.contains_key(&position))?;
                for (position, row) in outbox.rows {
                    if table.get(position)?.is_none() {
                        table.insert(position, row.encode().as_slice())?;
                    }
                }
                let mut table = txn.open_table(SHARES)?;
                for (epoch, sealed) in &shares {
                    table.insert(epoch, sealed.as_slice())?;
                }
                table.retain(|epoch, _| kept.contains(&EpochNumber(epoch)))?;
                Ok(())
            })
            .await;
        let ((), id) = done?;
        invariant_share_rows(&self.share_epochs()?, &written, &held);
        Ok(id)
    }

    #[expect(clippy::type_complexity, reason = "three sealed parts of one transaction")]
    fn seal_round(&self, commit: &RoundCommit, node_key: &KeyMaterial) -> (Vec<u8>, Vec<u8>, Vec<(u64, Vec<u8>)>) {
        let rng = &mut secret_rng();
        let state = DataKey(node_key).seal(&self.node_place("state", "participant"), &commit.state, rng);
        let inventory = DataKey(node_key).seal(&self.node_place("state", "ledger"), &commit.inventory.encode(), rng);
        let shares = commit.shares.iter().map(|(epoch, key, share)| {
            let row = epoch.0.to_be_bytes();
            (epoch.0, DataKey(key).seal(&self.share_place(*epoch, &row), share.as_slice(), rng))
        });
        let shares = shares.collect();
        (state, inventory, shares)
    }

    /// Returns rules or an issuer's keys as they were seen last.
    ///
    /// # Errors
    /// When the row does not open.
    pub fn access(&self, row: &str, node_key: &KeyMaterial) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.open_row(ACCESS, "access", row, node_key)?.map(|bytes| bytes.to_vec()))
    }

    /// Remembers rules or an issuer's keys, so that a node that restarts while their source is away serves on.
    ///
    /// # Errors
    /// When it was not committed.
    pub async fn remember_access(&self, row: &str, value: &[u8], node_key: &KeyMaterial) -> Result<(), StoreError> {
        let sealed = DataKey(node_key).seal(&self.node_place("access", row), value, &mut secret_rng());
        let row = row.to_owned();
        let written = self.backing.write(move |txn| {
            txn.open_table(ACCESS)?.insert(row.as_str(), sealed.as_slice())?;
            Ok(())
        });
        written.await.map(|_| ())
    }

    /// Raises a counter; a lower value than the present one changes nothing. Answers what it then is.
    ///
    /// seed: 003-32
    ///
    /// # Errors
    /// When it was not committed.
    pub async fn raise_counter(&self, name: &'static str, to: u64) -> Result<u64, StoreError> {
        let raised = self.backing.write(move |txn| {
            let mut table = txn.open_table(COUNTERS)?;
            let now = table.get(name)?.map_or(0, |value| value.value());
            table.insert(name, now.max(to))?;
            Ok(now.max(to))
        });
        let (value, _) = raised.await?;
        assert!(value >= to, "the counter `{name}` fell to {value}, below {to}");
        Ok(value)
    }

    /// A counter; zero before it was first raised.
    ///
    /// # Errors
    /// redb's.
    pub fn counter(&self, name: &str) -> Result<u64, StoreError> {
        let txn = self.backing.begin_read()?;
        let table = txn.open_table(COUNTERS).map_err(redb_error)?;
        Ok(table.get(name).map_err(redb_error)?.map_or(0, |value| value.value()))
    }

    fn row(&self, table: TableDefinition<'_, &str, &[u8]>, row: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let txn = self.backing.begin_read()?;
        match txn.open_table(table) {
            Ok(table) => Ok(table.get(row).map_err(redb_error)?.map(|value| value.value().to_vec())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(redb_error(error)),
        }
    }

    fn open_row(
        &self,
        definition: TableDefinition<'_, &str, &[u8]>,
        table: &str,
        row: &str,
        key: &KeyMaterial,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Some(sealed) = self.row(definition, row)? else { return Ok(None) };
        Ok(Some(DataKey(key).open(&self.node_place(table, row), &sealed)?))
    }

    fn node_place<'a>(&self, table: &'a str, row: &'a str) -> Place<'a> {
        let (cluster, node) = (self.cluster, self.node);
        Place { cluster, node, table, row: row.as_bytes(), purpose: row, epoch: EpochNumber(0), schema: SCHEMA }
    }

    fn share_place<'a>(&self, epoch: EpochNumber, row: &'a [u8; 8]) -> Place<'a> {
        let (cluster, node) = (self.cluster, self.node);
        Place { cluster, node, table: "shares", row, purpose: "share", epoch, schema: SCHEMA }
    }
}

#[cfg(any(test, feature = "danger-faults"))]
impl Store {
    /// Pretends that a newer program wrote the file.
    ///
    /// # Errors
    /// When it was not committed.
    pub async fn danger_set_schema(&self, schema: u32) -> Result<(), StoreError> {
        let written = self.backing.write(move |txn: &redb::WriteTransaction| {
            txn.open_table(META)?.insert("schema", schema.to_be_bytes().as_slice())?;
            Ok(())
        });
        written.await.map(|_| ())
    }
}
