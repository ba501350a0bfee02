//! The pure core of Keyfleet: how n nodes make a BLS key that no one holds, hand it on from epoch to epoch, and use it.
//!
//! Nothing here reads a clock, a file, a socket or a random number of its own: randomness is an argument, blocks are
//! numbers, and what a protocol does is an answer that the caller carries out. So the same code runs in the pod, in the
//! operator and in the simulator, and a seed reproduces a whole fleet.
//!
//! | Where | What |
//! |---|---|
//! | [`curve`] | BLS12-381 on `blst`: points and scalars that are always valid; the only unsafe code |
//! | [`polynomial`] | Shamir and Feldman: shares, verification vectors, interpolation |
//! | [`identifiers`], [`identity`], [`prekey`] | indices and digests; who signs; one-time keys that shares are sealed to |
//! | [`plan`] | what a round agrees on before it starts, byte by byte, and what its record freezes |
//! | [`round`] | a node's side of a round: start reading at [`round::Participant`] |
//! | [`coordination`] | the operator's side of a round, as pure decisions |
//! | [`feed`] | what a node is fed, what it fetches from its peers, and what it hands out |
//! | [`purpose`] | what the key signs, kept apart; certificates |
//! | [`possession`] | proofs that a node holds its share now, and how long they are good |
//! | [`serving`] | signatures, identity-based encryption, encrypted derivation |
//!
//! A message from the network is unchecked until its type says otherwise: [`round::SignedMessage`] until it is a
//! [`round::VerifiedMessage`] or a [`round::Transcript`] hears it, [`prekey::SignedPrekey`] until its signature is verified, [`plan::Plan`] until it is a
//! [`plan::ValidPlan`]. Secrets are types of their own, wiped when dropped, without `Debug` and without serde.

#![warn(missing_docs)]

pub mod coordination;
pub mod curve;
mod encoding;
pub mod feed;
pub mod identifiers;
pub mod identity;
pub mod plan;
pub mod polynomial;
pub mod possession;
pub mod prekey;
pub mod purpose;
pub mod round;
pub mod serving;
#[cfg(feature = "transparent-group")]
mod verified_before;
mod weights;

pub use encoding::DecodeError;
