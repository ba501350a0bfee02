//! A memory of verified signatures, for simulations alone: n simulated nodes verify one message in one thread.
//!
//! A verification depends on key, message and signature and on nothing else, so its result may be remembered. It exists under
//! the feature `transparent-group` only, which no product binary compiles with.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::identifiers::Digest;

/// Results that are kept; then all are forgotten at once.
const RESULTS_MAX: usize = 1 << 16;

thread_local! {
    static RESULTS: RefCell<BTreeMap<Digest, bool>> = RefCell::default();
}

/// Returns the result of `verify` for this key, message digest and signature; calls it the first time only.
pub(crate) fn remember(key: &[u8; 32], digest: &Digest, signature: &[u8; 64], verify: impl FnOnce() -> bool) -> bool {
    let name = Digest::of("simulated-verification", &[key, &digest.0, signature]);
    RESULTS.with_borrow_mut(|results| {
        if results.len() >= RESULTS_MAX {
            results.clear();
        }
        *results.entry(name).or_insert_with(verify)
    })
}
