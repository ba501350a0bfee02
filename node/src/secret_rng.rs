//! Randomness that secrets are made of.

use rand::rand_core::{CryptoRng, UnwrapErr};
use rand::rngs::SysRng;

/// Returns the operating system's generator. Every secret is drawn from it, and from no generator in the process: one that lives on
/// holds the state from which what it gave out may be computed again, also after the secret itself was destroyed.
///
/// It panics where the system has no randomness to give: then no secret may be made.
pub(crate) fn secret_rng() -> impl CryptoRng {
    UnwrapErr(SysRng)
}
