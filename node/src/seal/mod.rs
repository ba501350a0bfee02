//! Sealing: how a secret looks at rest.
//!
//! ```text
//! key-encryption key ──wraps──▶ key (identity, prekey secret, dealer seed, data key): in two key stores
//!                                            data key ──seals──▶ rows of the state file
//! ```
//!
//! A share is a row of the state file, sealed under the data key of its epoch; destroying that one key destroys every copy
//! of the share, in the file, in its replica and in backups of both. [`name`] says which keys there are, [`wrap`] how a
//! key store holds one, [`row`] how a row is sealed.

pub mod name;
pub mod row;
pub mod wrap;

pub use name::{Fingerprint, KeyMaterial, KeyName};
pub use row::{DataKey, Place};
pub use wrap::{KeyEncryptionKey, KeyRing};
