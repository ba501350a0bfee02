//! Uses of the key: signatures, identity-based encryption and derivation, each through any t of the nodes.
//!
//! - [`signature`]: partial signatures, checked in batch with culprits named, and combined
//! - [`ibe`]: encryption to an identity, offline, and the key that opens it
//! - [`stream`]: data of any size under such a key, in authenticated chunks
//! - [`derivation`]: partial keys that travel encrypted to the caller and are verified while encrypted
//!
//! Every vector belongs to one epoch, and partials of two epochs never combine: callers pass them one epoch at a time.

pub mod derivation;
pub mod ibe;
pub mod signature;
pub mod stream;
