//! Error of an object of a replica.

use crate::format::version::{REDB_FILE_FORMAT, VERSION};
use crate::keys::KeyError;
use crate::position::{Seq, Term};

/// Error of an object. Trying again repairs nothing: the object is wrong, or whoever serves it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// File that is not an object of a replica.
    #[error("not a replica object: the first four bytes are not `KFLS`")]
    Magic,
    /// Object of another version of the format.
    #[error(
        "format version {0} is not read by this program, which knows {VERSION} alone: restore it with the program that wrote it, \
         or begin a new replica under another prefix"
    )]
    Version(u8),
    /// Unknown kind of object.
    #[error("unknown kind of object {0}")]
    Kind(u8),
    /// Unknown kind of wrap.
    #[error("unknown kind of key wrap {0}")]
    WrapKind(u8),
    /// Pages of a redb file format that is not ours.
    #[error("pages of redb file format {0}; this version replays format {REDB_FILE_FORMAT}")]
    RedbFormat(u16),
    /// Header that claims an impossible length.
    #[error("a header of {0} bytes is not possible")]
    HeaderLength(usize),
    /// Object that is cut short.
    #[error("torn: {have} bytes where at least {need} are needed")]
    Truncated {
        /// Length found, in bytes.
        have: usize,
        /// Least length needed, in bytes.
        need: usize,
    },
    /// Fields that decode but are not what an encoder writes.
    #[error("header is not in canonical form")]
    NotCanonical,
    /// Name of a replica that is empty, too long, or has control characters.
    #[error("replica name `{0}` must have 1 to 255 bytes and no control characters")]
    Name(String),
    /// Unknown operation in a payload.
    #[error("unknown operation {0} in a payload")]
    Op(u8),
    /// Seal that does not hold.
    #[error("the seal of term {term}, seq {seq} does not hold: torn, altered, or sealed under another key")]
    Seal {
        /// Term that the header claims.
        term: Term,
        /// Number that the header claims.
        seq: Seq,
    },
    /// Payload that does not decompress to the length that the header names.
    #[error("the payload does not decompress to the length that the header names")]
    Compression,
    /// Length in bytes that does not fit this machine's memory.
    #[error("{0} bytes do not fit this machine's memory")]
    TooLarge(u64),
    /// Key of the term that cannot be unwrapped.
    #[error(transparent)]
    Key(#[from] KeyError),
}
