//! Header: the clear part of every object. All of it is associated data of the seal.

use std::fmt;

use crate::format::error::ObjectError;
use crate::format::version::{REDB_FILE_FORMAT, VERSION};
use crate::keys::{Wrap, WrapKind};
use crate::position::{CommitNo, DatabaseId, Digest, Seq, Term};

/// First bytes of every object.
pub(crate) const MAGIC: [u8; 4] = *b"KFLS";
/// Length of the fixed part, before the replica's name, in bytes.
pub(crate) const FIXED_LEN: usize = 236;
/// Greatest length of a header, in bytes. A reader that wants headers alone asks for this much.
pub(crate) const MAX_LEN: usize = 64 * 1024;

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Beginning of a term.
    Opening = 1,
    /// Commits.
    Segment = 2,
    /// Whole file.
    Snapshot = 3,
    /// Operations of a run of segments, in one object.
    Merged = 4,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opening => "opening",
            Self::Segment => "segment",
            Self::Snapshot => "snapshot",
            Self::Merged => "merged segment",
        })
    }
}

/// Name of a replica: the owner and the database, for example `<cluster id>/<node>/state`. Every object carries it,
/// so that no replica's object can stand in for another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaName(String);

impl ReplicaName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ObjectError::Name`] unless the name has 1 to 255 bytes and no control characters.
    pub fn new(name: impl Into<String>) -> Result<Self, ObjectError> {
        let name = name.into();
        if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
            return Err(ObjectError::Name(name));
        }
        Ok(Self(name))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Fields of a header. Those that an object's kind does not use are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Kind of the object.
    pub kind: Kind,
    /// Name of the replica.
    pub replica: ReplicaName,
    /// Database whose history it is.
    pub database: DatabaseId,
    /// Term of the object.
    pub term: Term,
    /// Number of the object; of a snapshot and of a merged segment, the last number covered.
    pub seq: Seq,
    /// First number covered; differs from `seq` in merged segments only.
    pub first_seq: Seq,
    /// First commit carried; of an opening and a snapshot, the last commit included.
    pub first_commit: CommitNo,
    /// Last commit carried or included.
    pub last_commit: CommitNo,
    /// Time of the last commit, in milliseconds since the Unix epoch. Never falls along a chain, and is never ahead of the
    /// clock of the server that took the object by more than two seconds.
    pub time_ms: u64,
    /// Digest of the object numbered `first_seq` − 1; zero in snapshots and at the very beginning.
    pub prev: Digest,
    /// Digest of the object numbered `seq`: in snapshots and merged segments.
    pub covers: Digest,
    /// Random bytes by which a writer knows its own object again.
    pub nonce: [u8; 16],
    /// Random bytes from which the object's key is derived.
    pub salt: [u8; 32],
    /// Length of the database file after this object, in bytes.
    pub file_len: u64,
    /// Length of the payload before compression, in bytes.
    pub plain_len: u64,
    /// Wraps of the term's key: in openings and snapshots.
    pub wraps: Vec<Wrap>,
}

impl Header {
    /// Encodes the header.
    ///
    /// # Panics
    /// Panics on a name or a list of wraps that is too long for the format. This crate's constructors make neither.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend(MAGIC);
        out.push(VERSION);
        out.push(self.kind as u8);
        out.extend(REDB_FILE_FORMAT.to_be_bytes());
        out.extend([0; 4]); // the header's length, below
        for number in [
            self.term.0,
            self.seq.0,
            self.first_seq.0,
            self.first_commit.0,
            self.last_commit.0,
            self.time_ms,
            self.file_len,
            self.plain_len,
        ] {
            out.extend(number.to_be_bytes());
        }
        out.extend(self.prev.0);
        out.extend(self.covers.0);
        out.extend(self.nonce);
        out.extend(self.salt);
        out.extend(self.database.0);
        // Reserved, zero: 236 bytes of fixed part leave room for fields without a new layout.
        out.resize(FIXED_LEN, 0);
        out.push(u8::try_from(self.replica.0.len()).expect("a replica's name has at most 255 bytes"));
        out.extend(self.replica.0.as_bytes());
        out.push(u8::try_from(self.wraps.len()).expect("a term has at most 255 wraps"));
        for wrap in &self.wraps {
            out.push(wrap.kind as u8);
            out.push(u8::try_from(wrap.key_id.len()).expect("a key's name has at most 64 bytes"));
            out.extend(wrap.key_id.as_bytes());
            out.extend(u16::try_from(wrap.data.len()).expect("a wrap has 80 bytes").to_be_bytes());
            out.extend(&wrap.data);
        }
        let len = u32::try_from(out.len()).expect("a header is at most 64 KiB");
        out[8..12].copy_from_slice(&len.to_be_bytes());
        out
    }

    /// Reads the header at the start of an object. Returns it and its length in bytes.
    ///
    /// # Errors
    /// [`ObjectError`] for another file, another version, a header that is cut short or not in canonical form.
    pub fn decode(object: &[u8]) -> Result<(Self, usize), ObjectError> {
        if object.len() < 12 {
            return Err(ObjectError::Truncated { have: object.len(), need: 12 });
        }
        if object[..4] != MAGIC {
            return Err(ObjectError::Magic);
        }
        if object[4] != VERSION {
            return Err(ObjectError::Version(object[4]));
        }
        let kind = match object[5] {
            1 => Kind::Opening,
            2 => Kind::Segment,
            3 => Kind::Snapshot,
            4 => Kind::Merged,
            other => return Err(ObjectError::Kind(other)),
        };
        let redb_format = u16::from_be_bytes([object[6], object[7]]);
        if redb_format != REDB_FILE_FORMAT {
            return Err(ObjectError::RedbFormat(redb_format));
        }
        let len = u32::from_be_bytes([object[8], object[9], object[10], object[11]]) as usize;
        if !(FIXED_LEN..=MAX_LEN).contains(&len) {
            return Err(ObjectError::HeaderLength(len));
        }
        if object.len() < len {
            return Err(ObjectError::Truncated { have: object.len(), need: len });
        }
        let mut read = Reader { bytes: &object[..len], at: 12 };
        let mut numbers = [0; 8];
        for number in &mut numbers {
            *number = read.u64()?;
        }
        let [term, seq, first_seq, first_commit, last_commit, time_ms, file_len, plain_len] = numbers;
        let (prev, covers) = (Digest(read.array()?), Digest(read.array()?));
        let (nonce, salt, database) = (read.array()?, read.array()?, DatabaseId(read.array()?));
        read.take(FIXED_LEN - read.at)?;
        let name_len = usize::from(read.u8()?);
        let replica = ReplicaName::new(read.text(name_len)?)?;
        let mut wraps = Vec::new();
        for _ in 0..read.u8()? {
            let kind = match read.u8()? {
                1 => WrapKind::KeyEncryptionKey,
                2 => WrapKind::Recipient,
                other => return Err(ObjectError::WrapKind(other)),
            };
            let id_len = usize::from(read.u8()?);
            let key_id = read.text(id_len)?;
            let data_len = usize::from(u16::from_be_bytes(read.array()?));
            wraps.push(Wrap { kind, key_id, data: read.take(data_len)?.to_vec() });
        }
        let header = Self {
            kind,
            replica,
            database,
            term: Term(term),
            seq: Seq(seq),
            first_seq: Seq(first_seq),
            first_commit: CommitNo(first_commit),
            last_commit: CommitNo(last_commit),
            time_ms,
            prev,
            covers,
            nonce,
            salt,
            file_len,
            plain_len,
            wraps,
        };
        // One header has one encoding: reserved bytes are zero, nothing trails.
        if header.encode() != object[..len] {
            return Err(ObjectError::NotCanonical);
        }
        Ok((header, len))
    }
}

/// Reader of big-endian fields. Refuses to run past the end.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], ObjectError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(ObjectError::Truncated { have: self.bytes.len(), need: self.at.saturating_add(len) })?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ObjectError> {
        Ok(self.take(N)?.try_into().expect("take returns exactly N bytes"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ObjectError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ObjectError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ObjectError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn text(&mut self, len: usize) -> Result<String, ObjectError> {
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| ObjectError::NotCanonical)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }
}
