//! What can be wrong with an object of a replica.

use crate::format::version::{REDB_FILE_FORMAT, VERSION};
use crate::keys::KeyError;
use crate::position::{Seq, Term};

/// Why an object is refused. None of these is repaired by trying again: the object is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// Not a replica object at all.
    #[error("not a replica object: the first four bytes are not `KFLS`")]
    Magic,
    /// Written by another version.
    #[error("format version {0} is not known to this version (which knows {VERSION})")]
    Version(u8),
    /// An unknown kind.
    #[error("unknown kind of object {0}")]
    Kind(u8),
    /// An unknown kind of wrap.
    #[error("unknown kind of key wrap {0}")]
    WrapKind(u8),
    /// Pages of a redb file format that is not ours.
    #[error("pages of redb file format {0}; this version replays format {REDB_FILE_FORMAT}")]
    RedbFormat(u16),
    /// A header that claims an impossible length.
    #[error("a header of {0} bytes is not possible")]
    HeaderLength(usize),
    /// Cut short.
    #[error("torn: {have} bytes where at least {need} are needed")]
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Fields that decode but are not what an encoder writes.
    #[error("header is not in canonical form")]
    NotCanonical,
    /// A replica name out of bounds.
    #[error("replica name `{0}` must have 1 to 255 bytes and no control characters")]
    Name(String),
    /// An unknown operation in a payload.
    #[error("unknown operation {0} in a payload")]
    Op(u8),
    /// The seal does not hold.
    #[error("the seal of term {term}, seq {seq} does not hold: torn, altered, or sealed under another key")]
    Seal {
        /// Claimed term.
        term: Term,
        /// Claimed number.
        seq: Seq,
    },
    /// The payload does not decompress to the length the header names.
    #[error("the payload does not decompress to the length that the header names")]
    Compression,
    /// Too large for this machine.
    #[error("{0} bytes do not fit this machine's memory")]
    TooLarge(u64),
    /// The key of the term could not be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}
