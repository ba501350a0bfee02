//! The objects of a replica, byte by byte (`docs/formats.md`, "Replica objects").
//!
//! | Kind | Key in the bucket | Content |
//! |---|---|---|
//! | opening | `seq/<seq>` | the beginning of a writer's term |
//! | segment | `seq/<seq>` | the commits that follow |
//! | snapshot | `snap/<covered seq>-<hash>` | the whole file at that point |
//! | merged | `merged/<first>-<last>-<hash>` | the same as a run of segments, in one object |
//!
//! [`header`] is the clear, authenticated part; [`payload`] the content; [`seal`] binds the two; [`error`] has the
//! reasons to refuse an object, [`version`] the versions that are read.

pub mod error;
pub mod header;
pub mod payload;
pub mod seal;
pub mod version;

pub use error::ObjectError;
pub use header::{Header, Kind, ReplicaName};
pub use payload::{Commit, Op};
pub use seal::Sealed;
pub use version::{REDB_FILE_FORMAT, VERSION};
