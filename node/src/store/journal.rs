//! The request ledger and the audit log: one transaction per batch of requests.
//!
//! An audit entry holds digests, never messages: time, caller, what was asked (a verb and the digest of the request), what
//! was answered. Each names the hash of the one before, so that none can be taken out or changed unnoticed. The answer of
//! a request id is kept for a while: the same id with the same request gets the same answer and no second entry; with
//! another request it is refused.

use keyfleet_threshold::identifiers::Digest;
use redb::{ReadableTable as _, TableDefinition, WriteTransaction};

use super::{Store, StoreError, redb_error};

const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
const REQUESTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("requests");

/// Time for which the answer of a request id is kept, in seconds.
pub const REMEMBERED_SECONDS: u64 = 600;

pub(super) fn create(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(AUDIT)?;
    txn.open_table(REQUESTS)?;
    Ok(())
}

/// Something that was asked for and answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Seconds since the Unix epoch.
    pub time_seconds: u64,
    /// Digest of issuer and subject.
    pub caller: Digest,
    /// Digest of verb and request.
    pub request: Digest,
    /// Digest of caller and the caller's request id, when it gave one.
    pub id: Option<Digest>,
    /// The answer; empty when it was refused.
    pub answer: Vec<u8>,
    /// True when the request was allowed.
    pub allowed: bool,
}

/// An entry of the audit log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditEntry {
    pub number: u64,
    /// Hash of the entry before; zeros in the first.
    pub previous: Digest,
    /// Seconds since the Unix epoch.
    pub time_seconds: u64,
    /// Digest of issuer and subject.
    pub caller: Digest,
    /// Digest of verb and request.
    pub request: Digest,
    /// Digest of the answer.
    pub answer: Digest,
    /// True when the request was allowed.
    pub allowed: bool,
}

impl AuditEntry {
    const BYTES: usize = 1 + 8 + 32 + 8 + 32 + 32 + 32 + 1;

    /// Version (1 byte), u64 number, previous, u64 time, caller, request, answer, allowed (1 byte).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend(self.number.to_be_bytes());
        out.extend(self.previous.0);
        out.extend(self.time_seconds.to_be_bytes());
        for digest in [&self.caller, &self.request, &self.answer] {
            out.extend(digest.0);
        }
        out.push(self.allowed.into());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let entry = Self {
            number: number_at(bytes, 1)?,
            previous: digest_at(bytes, 9)?,
            time_seconds: number_at(bytes, 41)?,
            caller: digest_at(bytes, 49)?,
            request: digest_at(bytes, 81)?,
            answer: digest_at(bytes, 113)?,
            allowed: *bytes.get(145)? == 1,
        };
        (bytes.len() == Self::BYTES && entry.encode() == bytes).then_some(entry)
    }

    /// Returns the hash that the next entry names.
    #[must_use]
    pub fn hash(&self) -> Digest {
        hash_of(&self.encode())
    }
}

fn hash_of(entry: &[u8]) -> Digest {
    Digest::of("KEYFLEET-V1-AUDIT", &[entry])
}

fn digest_at(bytes: &[u8], at: usize) -> Option<Digest> {
    Some(Digest(*bytes.get(at..at + 32)?.first_chunk()?))
}

fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..at + 8)?.first_chunk()?))
}

/// Finds an earlier request of this id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Earlier {
    /// Nothing.
    No,
    /// The same request was answered so.
    Answered(Vec<u8>),
    /// Another request was made under this id. The caller is at fault.
    OtherRequest,
}

impl Store {
    /// Finds an earlier request of this id.
    ///
    /// # Errors
    /// redb's.
    pub fn known_request(&self, id: &Digest, request: &Digest) -> Result<Earlier, StoreError> {
        let txn = self.backing.begin_read()?;
        let table = txn.open_table(REQUESTS).map_err(redb_error)?;
        let Some(row) = table.get(&id.0).map_err(redb_error)? else { return Ok(Earlier::No) };
        let known = row.value().get(8..40).map(|digest| digest == request.0);
        Ok(match (known, row.value().get(40..)) {
            (Some(true), Some(answer)) => Earlier::Answered(answer.to_vec()),
            _ => Earlier::OtherRequest,
        })
    }

    /// Writes a batch of records: locally durable when this returns.
    ///
    /// # Errors
    /// When it was not committed: then nothing may be answered.
    pub async fn record(&self, batch: Vec<Record>) -> Result<(), StoreError> {
        let written = self.backing.write(move |txn| {
            let mut audit = txn.open_table(AUDIT)?;
            // By the row's own number and bytes: an entry that the disk damaged is followed, never written over.
            let last = audit.last()?.map(|(number, bytes)| (number.value(), hash_of(bytes.value())));
            let (mut number, mut previous) = last.unwrap_or((0, Digest([0; 32])));
            let mut requests = txn.open_table(REQUESTS)?;
            let now = batch.iter().map(|record| record.time_seconds).max().unwrap_or(0);
            for record in batch {
                number += 1;
                let entry = AuditEntry {
                    number,
                    previous,
                    time_seconds: record.time_seconds,
                    caller: record.caller,
                    request: record.request,
                    answer: Digest::of("KEYFLEET-V1-ANSWER", &[&record.answer]),
                    allowed: record.allowed,
                };
                previous = entry.hash();
                let before = audit.insert(number, entry.encode().as_slice())?;
                assert!(before.is_none(), "entry {number} of the audit log is written over");
                if let (Some(id), true) = (record.id, record.allowed) {
                    let time = record.time_seconds.to_be_bytes();
                    let row = [time.as_slice(), &record.request.0, &record.answer].concat();
                    requests.insert(&id.0, row.as_slice())?;
                }
            }
            // Once in a while, not at every batch: a full scan.
            if number % 1024 < 8 {
                let horizon = now.saturating_sub(REMEMBERED_SECONDS);
                requests.retain(|_, row| {
                    row.first_chunk().is_some_and(|time: &[u8; 8]| u64::from_be_bytes(*time) >= horizon)
                })?;
            }
            Ok(())
        });
        written.await.map(|_| ())
    }

    /// The audit log, oldest first, with its chain checked.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] where an entry was changed or taken out.
    pub fn audit(&self) -> Result<Vec<AuditEntry>, StoreError> {
        let txn = self.backing.begin_read()?;
        let table = txn.open_table(AUDIT).map_err(redb_error)?;
        let (mut entries, mut previous) = (Vec::<AuditEntry>::new(), Digest([0; 32]));
        for row in table.iter().map_err(redb_error)? {
            let row = row.map_err(redb_error)?;
            let entry = AuditEntry::decode(row.1.value()).ok_or(StoreError::Malformed("audit"))?;
            if entry.previous != previous || entry.number != entries.len() as u64 + 1 {
                return Err(StoreError::Malformed("audit"));
            }
            previous = entry.hash();
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Backing;
    use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};

    fn record(byte: u8) -> Record {
        Record {
            time_seconds: 1_000 + u64::from(byte),
            caller: Digest([1; 32]),
            request: Digest([byte; 32]),
            id: Some(Digest([byte + 100; 32])),
            answer: vec![byte; 5],
            allowed: true,
        }
    }

    async fn store(path: &std::path::Path) -> Store {
        let node = NodeIndex::new(1).unwrap();
        Store::open(Backing::local(path).unwrap(), ClusterId([1; 16]), node).await.unwrap()
    }

    /// seed: 000-19
    #[tokio::test]
    async fn an_entry_that_was_changed_or_taken_out_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("state.redb")).await;
        store.record((1..5).map(record).collect()).await.unwrap();
        store.record(vec![record(5)]).await.unwrap();
        assert_eq!(store.audit().unwrap().len(), 5);
        let mut changed = store.audit().unwrap()[2].clone();
        changed.allowed = false;
        let tamper = store.backing().write(move |txn| {
            txn.open_table(AUDIT)?.insert(3, changed.encode().as_slice())?;
            Ok(())
        });
        tamper.await.unwrap();
        assert!(store.audit().is_err(), "a changed entry went unnoticed");
        let cut = store.backing().write(|txn| {
            txn.open_table(AUDIT)?.remove(3)?;
            Ok(())
        });
        cut.await.unwrap();
        assert!(store.audit().is_err(), "a missing entry went unnoticed");
    }

    /// A request id gives the same answer again, and serves one request only.
    ///
    /// seed: 000-21
    #[tokio::test]
    async fn a_request_id_serves_one_request_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("state.redb")).await;
        store.record(vec![record(1)]).await.unwrap();
        let known = |request: u8| store.known_request(&Digest([101; 32]), &Digest([request; 32])).unwrap();
        assert_eq!(known(1), Earlier::Answered(vec![1; 5]));
        assert_eq!(known(2), Earlier::OtherRequest);
        assert_eq!(store.known_request(&Digest([7; 32]), &Digest([1; 32])).unwrap(), Earlier::No);
    }

    /// An entry that the disk damaged is followed by the next one, never written over, and the check of the chain finds it.
    #[tokio::test]
    async fn a_damaged_last_entry_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("state.redb")).await;
        store.record(vec![record(1), record(2)]).await.unwrap();
        let damage = store.backing().write(|txn| {
            txn.open_table(AUDIT)?.insert(2, b"damaged".as_slice())?;
            Ok(())
        });
        damage.await.unwrap();
        store.record(vec![record(3)]).await.unwrap();
        assert!(store.audit().is_err(), "a damaged entry went unnoticed");
        let txn = store.backing().begin_read().unwrap();
        let numbers: Vec<u64> =
            txn.open_table(AUDIT).unwrap().iter().unwrap().map(|row| row.unwrap().0.value()).collect();
        assert_eq!(numbers, [1, 2, 3], "the entry after a damaged one has its own number");
    }
}
