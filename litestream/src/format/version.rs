//! Versions that every object names, so that a reader refuses what it does not know.

/// Version of the object format: the one that this code writes, and the only one that it reads.
pub const VERSION: u8 = 2;
/// Version of redb's file format: payloads are pages of it.
pub const REDB_FILE_FORMAT: u16 = 3;
