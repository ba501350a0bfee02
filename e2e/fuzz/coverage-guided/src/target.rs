//! The one program that libFuzzer drives: `KEYFLEET_FUZZ_TARGET` names which target takes the bytes.

#![no_main]

use std::sync::LazyLock;

use keyfleet_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("KEYFLEET_FUZZ_TARGET").expect("KEYFLEET_FUZZ_TARGET names a target");
    target(&name).unwrap_or_else(|| panic!("{name} is no target"))
});

fuzz_target!(|bytes: &[u8]| CHOSEN(bytes));
