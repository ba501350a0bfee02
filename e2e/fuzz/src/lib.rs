//! Hostile input: bytes for every decoder, and messages for a round under way.
//!
//! A [target](TARGETS) takes bytes and panics when a promise about them is broken. `cargo xtask fuzz` looks for such bytes, guided
//! by coverage; what it found worth keeping lies in `corpora/` and is run again by `cargo test -p keyfleet-fuzz`. A new input that
//! breaks something belongs there, too, under a name that says what it broke.

pub mod decoders;
pub mod rounds;

/// Function that takes hostile bytes.
///
/// # Panics
/// When a promise about them is broken.
pub type Target = fn(&[u8]);

/// The targets by name, which is the name of their folder of `corpora/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("plan", decoders::plan),
    ("message", decoders::message),
    ("state", decoders::state),
    ("vector", decoders::vector),
    ("certificate", decoders::certificate),
    ("prekey", decoders::prekey),
    ("ciphertext", decoders::ciphertext),
    ("encrypted-key", decoders::encrypted_key),
    ("report", decoders::report),
    ("follow-item", decoders::follow_item),
    ("key-epoch", decoders::key_epoch),
    ("record", decoders::record),
    ("replica-object", decoders::replica_object),
    ("rounds", rounds::play),
];

/// Returns the target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
