//! `keyfleet`.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyfleet_cli::main()
}
