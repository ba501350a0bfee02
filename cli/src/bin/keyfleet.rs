//! `keyfleet`.

use std::process::ExitCode;

/// A transparent group is for simulations: nothing that is shipped compiles with it.
const _: () = assert!(!keyfleet_threshold::curve::IS_TRANSPARENT);

fn main() -> ExitCode {
    keyfleet_cli::main()
}
