//! `kubectl-keyfleet`: \`keyfleet\` under the name by which kubectl finds it.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyfleet_cli::main()
}
